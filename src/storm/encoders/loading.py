"""Weights of tile encoders: from a folder or file, from the hub's cache on this machine, from the hub when asked.

Nothing is fetched unless the caller says so, and nothing is unpickled: a ``.bin`` file is read as tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from storm._logging import logger
from storm.encoders.digest import state_digest
from storm.encoders.hub import NAMES, cached_weights, download_weights, how_to_get
from storm.encoders.registry import EncoderInfo, get_encoder

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def load_encoder(
    encoder: str | EncoderInfo,
    *,
    weights: str | Path | None = None,
    download: bool = False,
    token: str | None = None,
) -> EncoderInfo:
    """Load a tile encoder's weights. Nothing is downloaded unless ``download`` says so.

    Parameters
    ----------
    encoder
        Name in the registry (:func:`storm.encoders.list`), ``"timm:<model>"``, or a description.
    weights
        File (``.safetensors``; or a ``.bin``, ``.pt`` or ``.pth`` that holds tensors only) or folder with such a file.
        ``None``: the hub's cache on this machine (``HF_HOME``), which a cluster can share.
    download
        Fetch the weights from the hub if they are not on this machine.
    token
        The user's access token for gated weights; ``None`` takes ``HF_TOKEN`` or what ``hf auth login`` stored.

    Returns
    -------
    EncoderInfo
        With the checksum of its weights; its ``build`` gives the loaded module, on the CPU, in evaluation mode and
        float32. :func:`storm.tl.encode_tiles` takes it as it is.

    Raises
    ------
    FileNotFoundError
        If the weights are not where they were looked for; the text names the licence page and the ways to get them.
    PermissionError
        If the hub refuses them: terms not accepted, or no valid token.
    ConnectionError
        If the hub cannot be reached.
    ValueError
        If the encoder is unknown, or a file is not what it should be.
    ImportError
        If the encoder needs a package that is not installed.
    """
    info = get_encoder(encoder) if isinstance(encoder, str) else encoder
    if info.architecture is None:
        if weights is not None:
            msg = f"tile encoder {info.name!r} has no weights to load; leave weights out"
            raise ValueError(msg)
        return info
    if info.needs is not None:
        with torch.device("meta"):
            info.architecture()  # says what is missing before anything is looked for
    if weights is not None:
        path = find_weights(weights, name=info.name)
    else:
        path = cached_weights(info) or (download_weights(info, token) if download else None)
    if path is None:
        raise FileNotFoundError(how_to_get(info, "its weights are not on this machine"))
    module = build_with(info, read_state(path))
    digest = state_digest(inner_module(module))
    logger.info("tile encoder %r with weights %s (sha256 %s…)", info.name, path, digest[:12])
    return replace(info, build=lambda: module, sha256=digest)


def with_weights(encoder: str | EncoderInfo, module: nn.Module) -> EncoderInfo:
    """A known encoder with weights of one's own: fine-tuned, or random.

    Parameters
    ----------
    encoder
        Name in the registry, ``"timm:<model>"``, or a description.
    module
        What the description's ``architecture()`` made, with any weights.

    Returns
    -------
    EncoderInfo
        Its ``modified`` is true: a model with it keeps these weights in a file of their own. Its checksum is that of
        the weights as they are now.

    Raises
    ------
    ValueError
        If the encoder is unknown, has no weights, or the module is another architecture.
    """
    info = get_encoder(encoder) if isinstance(encoder, str) else encoder
    if info.architecture is None:
        msg = f"tile encoder {info.name!r} has no weights that could be one's own; use storm.encoders.wrap_encoder"
        raise ValueError(msg)
    with torch.device("meta"):
        wanted = inner_module(info.architecture()).state_dict()
    _check_fit(info, wanted, inner_module(module).state_dict())
    return replace(info, build=lambda: module, sha256=state_digest(inner_module(module)), modified=True)


def inner_module(module: nn.Module) -> nn.Module:
    """The network whose tensors have the published names: without the pooling that is put around it."""
    return getattr(module, "backbone", module)


def find_weights(path: str | Path, *, name: str = "") -> Path:
    """The file of weights at a path, which may be the file, a folder that holds it, or a repository in the hub's cache.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If there are several and none has the usual name.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        msg = f"weights={str(path)!r} of tile encoder {name!r}: there is no such file or folder"
        raise FileNotFoundError(msg)
    folders = [path, *sorted(path.glob("snapshots/*"))]
    for folder in folders:
        for usual in NAMES:
            if (folder / usual).is_file():
                return folder / usual
    found = sorted(p for folder in folders for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    found = [p for p in found if p.suffix == ".safetensors"] or found
    if len(found) == 1:
        return found[0]
    there = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
    if found:
        msg = f"weights={str(path)!r} holds several files of weights ({there}); give one of them"
        raise ValueError(msg)
    msg = f"weights={str(path)!r} holds no weights ({', '.join(NAMES)}), but {there}"
    raise FileNotFoundError(msg)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a file of weights, by name.

    Raises
    ------
    ValueError
        If it is neither safetensors nor a file of nothing but tensors.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            msg = f"{str(path)!r} is no readable safetensors file ({error}); copy or download it again"
            raise ValueError(msg) from error
    from pickle import UnpicklingError

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:120]
        msg = (
            f"{str(path)!r} holds more than tensors, or is damaged, and is not loaded, because a pickle can run any "
            f"code; convert it to safetensors where you trust it ({why})"
        )
        raise ValueError(msg) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        msg = f"{str(path)!r} holds no state dict (names and tensors), but {type(state).__name__}"
        raise ValueError(msg)
    return dict(state)


def build_with(info: EncoderInfo, state: Mapping[str, Tensor]) -> nn.Module:
    """An encoder's network with given weights, on the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        If names or shapes do not fit the architecture.
    """
    state = info.convert(state) if info.convert else dict(state)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    # Without memory of its own first: a giant transformer is then held once, not twice, and not drawn at random.
    with torch.device("meta"):
        module = info.architecture()
    inner = inner_module(module)
    _check_fit(info, inner.state_dict(), state)
    inner.load_state_dict(state, assign=True)
    if any(tensor.is_meta for tensor in (*inner.parameters(), *inner.buffers())):
        # Buffers that are computed, not stored.
        module = info.architecture()
        inner_module(module).load_state_dict(state)
    return module.requires_grad_(False).eval()


def _check_fit(info: EncoderInfo, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    if missing or unknown or shapes:
        msg = (
            f"these weights do not fit tile encoder {info.name!r}: missing {missing[:4]}, unknown {unknown[:4]}, of "
            f"another shape {shapes[:4]}; are they those of {info.hub_id or info.name!r}?"
        )
        raise ValueError(msg)
