"""Weights on disk: safetensors, checked by sha256 before a single byte of them is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def sha256(path: str | Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(module: nn.Module, path: str | Path) -> str:
    """Write a module's state and return the file's sha256."""
    return save_state(module.state_dict(), path)


def save_state(state: Mapping[str, Tensor], path: str | Path) -> str:
    """Write tensors, whole or not at all, and return the file's sha256."""
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    scratch = path.with_name(path.name + ".part")
    save_file(state, scratch)
    # safetensors writes files that only their owner can read; a cluster's users share an installation.
    scratch.chmod(0o644)
    scratch.replace(path)
    return sha256(path)


def read_weights(path: str | Path, *, expected: str | None = None) -> dict[str, Tensor]:
    """Read a state from safetensors.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the checksum is another one, or the file is no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"there is no weights file {path.name!r} in {str(path.parent)!r}; copy the model's folder as a whole"
        raise FileNotFoundError(msg)
    if expected is not None and (found := sha256(path)) != expected:
        msg = (
            f"{path.name!r} is corrupted or was exchanged: its sha256 is {found[:12]}…, the model's configuration says "
            f"{expected[:12]}…; install the package or copy the model's folder again"
        )
        raise ValueError(msg)
    try:
        return load_file(path)
    except SafetensorError as error:
        msg = f"{path.name!r} is no readable safetensors file ({error}); pickled weights are never loaded"
        raise ValueError(msg) from error


def load_weights(module: nn.Module, path: str | Path, *, expected: str | None = None) -> None:
    """Fill a module from a safetensors file; every tensor must have its counterpart.

    Raises
    ------
    ValueError
        As :func:`read_weights`, and if names or shapes do not fit the module.
    """
    state = read_weights(path, expected=expected)
    own = module.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [name for name in set(own) & set(state) if own[name].shape != state[name].shape]
    if missing or unknown or shapes:
        msg = (
            f"{Path(path).name!r} does not fit the network: missing {missing[:5]}, unknown {unknown[:5]}, "
            f"of another shape {sorted(shapes)[:5]}; the configuration beside it describes another network"
        )
        raise ValueError(msg)
    module.load_state_dict(state)
