"""Weights on disk: safetensors, checked by sha256 before a single byte of them is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from storm._files import replacing

Module = TypeVar("Module", bound=nn.Module)

#: Types of number that weights may have, as safetensors names them. All become float32.
_REAL = ("F64", "F32", "F16", "BF16")


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
    with replacing(path) as scratch:
        save_file(state, scratch)
        # safetensors writes files that only their owner can read; a cluster's users share an installation.
        scratch.chmod(0o644)
    return sha256(path)


def read_weights(path: str | Path, *, expected: str, real: bool = True) -> dict[str, Tensor]:
    """Read a state from safetensors.

    Parameters
    ----------
    path
        The file.
    expected
        Its sha256.
    real
        Whether the file holds weights: finite real numbers, which are returned as float32. If false, tensors are
        returned as they are.

    Returns
    -------
    dict of str to Tensor
        On the CPU, in memory of their own: the file may be replaced afterwards.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its checksum is another one, it is not a safetensors file, or weights are whole or complex numbers, NaN or
        infinite.
    """
    path = Path(path)
    _check_file(path, expected=expected)
    return _read(path, real=real)


def _read(path: Path, *, real: bool) -> dict[str, Tensor]:
    if real:
        other = {name: kind for name, (kind, _) in read_header(path).items() if kind not in _REAL}
        if other:
            msg = f"{path.name!r} holds {_some(other)} where real numbers are needed ({', '.join(_REAL)}); {_ADVICE}"
            raise ValueError(msg)
    try:
        state = {name: _own(tensor) if real else tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    if real:
        damaged = [name for name, tensor in state.items() if not np.isfinite(tensor.numpy()).all()]
        if damaged:
            msg = f"{path.name!r} holds weights that are NaN or infinite, in {damaged[:5]}; {_ADVICE}"
            raise ValueError(msg)
    return state


def read_header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of a safetensors file, without reading the tensors.

    Raises
    ------
    ValueError
        If the file is not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise _unreadable(Path(path), error) from error


def load_weights(module: nn.Module, path: str | Path, *, expected: str) -> None:
    """Fill a module from a safetensors file; every tensor must have its counterpart.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_weights`, and if names or shapes do not fit the module.
    """
    state = read_weights(path, expected=expected)
    check_fit(module, state, name=Path(path).name)
    module.load_state_dict(state)


def build_from(
    make: Callable[[], Module], path: str | Path, *, expected: str, sizes: Mapping[str, int] | None = None
) -> Module:
    """Build a module whose tensors are those of a safetensors file.

    The module is compared with the header of the file before memory is allocated for it, and no random number is
    drawn. Nothing here runs on several threads, so that it also works in a process that was forked after torch had
    started threads, where torch itself would wait for them forever.

    Parameters
    ----------
    make
        Returns the module. It is called on torch's meta device: buffers that are not stored have to be made on the CPU.
    path
        The file.
    expected
        Its sha256.
    sizes
        Declared sizes by name, each of which is the side of a tensor or a number of layers. One that is larger than
        every side of a tensor and the number of tensors is refused before ``make`` is called.

    Returns
    -------
    Module
        On the CPU, in evaluation mode, without gradients.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_weights`, and if names, shapes or sizes do not fit the module.
    """
    path = Path(path)
    _check_file(path, expected=expected)
    shapes = {name: shape for name, (_, shape) in read_header(path).items()}
    largest = max((max(shape, default=1) for shape in shapes.values() if 0 not in shape), default=0)
    check_sizes(sizes or {}, largest=max(largest, len(shapes)), name=path.name)
    with torch.device("meta"):
        module = make()
    check_fit(module, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, name=path.name)
    return fill(module, _read(path, real=True), name=path.name)


def check_sizes(sizes: Mapping[str, int], *, largest: int, name: str) -> None:
    """Raise if a declared size is larger than anything in the file.

    Raises
    ------
    ValueError
        Names the sizes.
    """
    wrong = {key: size for key, size in sizes.items() if size > largest}
    if wrong:
        listed = ", ".join(f"{key}={size}" for key, size in wrong.items())
        msg = (
            f"{name!r} does not fit the network: {listed} is larger than any side of its tensors ({largest}); {_OTHER}"
        )
        raise ValueError(msg)


def fill(module: Module, state: Mapping[str, Tensor], *, name: str) -> Module:
    """Let a module have the tensors of a state, which it does not copy; in evaluation mode, without gradients.

    Parameters
    ----------
    module
        The module, which may be on torch's meta device.
    state
        Its tensors.
    name
        Where they are from, for the error.

    Raises
    ------
    ValueError
        If names or shapes do not fit the module.
    """
    check_fit(module, state, name=name)
    module.load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def check_fit(module: nn.Module, state: Mapping[str, Tensor], *, name: str) -> None:
    """Raise unless a state has the names and shapes of a module's.

    Raises
    ------
    ValueError
        Names what is missing, unknown or of another shape.
    """
    own = module.state_dict()
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if missing or unknown or shapes:
        msg = (
            f"{name!r} does not fit the network: missing {missing[:5]}, unknown {unknown[:5]}, of another shape "
            f"{shapes[:5]}; {_OTHER}"
        )
        raise ValueError(msg)


_ADVICE = "install the package or copy the model's folder again"
_OTHER = "the configuration beside it describes another network"


def _check_file(path: Path, *, expected: str) -> None:
    if not path.is_file():
        msg = f"there is no weights file {path.name!r} in {str(path.parent)!r}; copy the model's folder as a whole"
        raise FileNotFoundError(msg)
    if (actual := sha256(path)) != expected:
        msg = (
            f"{path.name!r} is corrupted or was exchanged: its sha256 is {actual[:12]}…, but the model's configuration "
            f"lists {str(expected)[:12]}…; {_ADVICE}"
        )
        raise ValueError(msg)


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path.name!r} is not a readable safetensors file ({error}); pickled weights are never loaded")


def _own(tensor: Tensor) -> Tensor:
    """A tensor as float32 in memory of its own, copied by numpy, which starts no threads."""
    if tensor.dtype == torch.bfloat16:
        return tensor.float()
    # The values of float64 that float32 cannot hold become infinite, and are refused as such.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.array(tensor.numpy(), dtype=np.float32, copy=True))


def _some(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} in {name!r}" for name, kind in list(kinds.items())[:5])
