"""Weights of tile encoders: from a folder or file, from the hub's cache on this machine, or from the hub.

Nothing is downloaded unless the caller asks for it, and nothing is unpickled: a ``.bin`` file is read as tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from storm._logging import logger
from storm.encoders.digest import state_digest
from storm.encoders.hub import NAMES, cached_weights, download_weights, how_to_get
from storm.encoders.info import EncoderInfo, LoadedEncoder
from storm.encoders.registry import as_info

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def load_encoder(
    encoder: str | EncoderInfo,
    *,
    weights: str | Path | None = None,
    download: bool = False,
    token: str | None = None,
) -> EncoderInfo:
    """Load a tile encoder's weights. Nothing is downloaded unless ``download=True``.

    Parameters
    ----------
    encoder
        Name in the registry (:func:`storm.encoders.list`), ``"timm:<model>"``, or a description.
    weights
        File (``.safetensors``; or a ``.bin``, ``.pt`` or ``.pth`` that holds tensors only), or a folder with such a
        file. By default the hub's cache on this machine (``HF_HOME``), which can be shared on a cluster.
    download
        Fetch the weights from the hub if they are not on this machine.
    token
        Access token for gated weights; by default ``HF_TOKEN``, or the token stored by ``hf auth login``.

    Returns
    -------
    LoadedEncoder
        The encoder with the checksum of its weights, for :func:`storm.tl.encode_tiles`; ``build`` returns the loaded
        module, on the CPU, in evaluation mode and float32. An encoder without weights is returned as it is.

    Raises
    ------
    FileNotFoundError
        If the weights were not found; the text names the licence page and the ways to get them.
    PermissionError
        If the hub refuses the download: terms not accepted, or no valid token.
    ConnectionError
        If the hub cannot be reached.
    TypeError
        If ``encoder`` or ``weights`` has another type than those above.
    ValueError
        If the encoder is unknown, or the file does not hold finite weights of this architecture.
    ImportError
        If the encoder needs a package that is not installed.

    Examples
    --------
    Weights of a gated model are read from a file that you have, or downloaded if you say so:

    >>> import storm
    >>> storm.encoders.load_encoder("h0-mini", weights="h0-mini/model.safetensors")  # doctest: +SKIP
    >>> storm.encoders.load_encoder("stain-texture").dim
    89
    """
    info = as_info(encoder)
    if info.architecture is None:
        if weights is not None:
            msg = f"tile encoder {info.name!r} has no weights to load; leave weights out"
            raise ValueError(msg)
        return info
    if info.needs is not None:
        with torch.device("meta"):
            info.architecture()  # raises if the package is missing, before any file is looked for
    path: Path | None
    if weights is not None:
        path = find_weights(weights, name=info.name)
    else:
        path = cached_weights(info) or (download_weights(info, token) if download else None)
    if path is None:
        raise FileNotFoundError(how_to_get(info, "its weights are not on this machine"))
    module = build_with(info, read_state(path))
    digest = state_digest(inner_module(module))
    logger.info("tile encoder %r with weights %s (sha256 %s…)", info.name, path, digest[:12])
    return LoadedEncoder.of(info, lambda: module, sha256=digest)


def with_weights(encoder: str | EncoderInfo, module: nn.Module) -> LoadedEncoder:
    """A registered encoder with your own weights: fine-tuned, or random.

    Parameters
    ----------
    encoder
        Name in the registry, ``"timm:<model>"``, or a description.
    module
        Module made by the description's ``architecture()``, with any weights.

    Returns
    -------
    LoadedEncoder
        With ``modified=True``: a model with this encoder stores these weights in a file of their own. The checksum is
        that of the weights as they are now.

    Raises
    ------
    TypeError
        If ``encoder`` is neither a name nor a description.
    ValueError
        If the encoder is unknown or has no weights, or the module has another architecture.

    Examples
    --------
    A registered encoder with weights of one's own, such as after training it further:

    >>> import storm
    >>> encoder = storm.encoders.get_encoder("timm:resnet18")
    >>> trained = storm.encoders.with_weights(encoder, encoder.architecture())
    >>> trained.modified
    True
    """
    info = as_info(encoder)
    if info.architecture is None:
        msg = f"tile encoder {info.name!r} has no weights to replace; use storm.encoders.wrap_encoder"
        raise ValueError(msg)
    with torch.device("meta"):
        wanted = inner_module(info.architecture()).state_dict()
    check_fit(info, wanted, inner_module(module).state_dict())
    return LoadedEncoder.of(info, lambda: module, sha256=state_digest(inner_module(module)), modified=True)


def inner_module(module: nn.Module) -> nn.Module:
    """The network whose tensors have the published names: without the pooling that is wrapped around it."""
    return getattr(module, "backbone", module)


def find_weights(path: str | Path, *, name: str = "") -> Path:
    """Find the file of weights at a path: the file, a folder that holds it, or a repository in the hub's cache.

    Raises
    ------
    FileNotFoundError
        If the path does not exist or holds no weights.
    TypeError
        If ``path`` is not a path.
    ValueError
        If there are several files of weights and none has one of the usual names.
    """
    if not isinstance(path, str | Path):
        msg = f"weights={path!r} of tile encoder {name!r} must be the path of a file or folder"
        raise TypeError(msg)
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
    candidates = sorted(p for folder in folders for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    candidates = [p for p in candidates if p.suffix == ".safetensors"] or candidates
    if len(candidates) == 1:
        return candidates[0]
    content = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
    if candidates:
        msg = f"weights={str(path)!r} holds several files of weights ({content}); give one of them"
        raise ValueError(msg)
    msg = f"weights={str(path)!r} holds no weights ({', '.join(NAMES)}), but {content}"
    raise FileNotFoundError(msg)


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors in a file of weights, by name.

    Raises
    ------
    ValueError
        If the file is neither safetensors nor a file of nothing but tensors.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            msg = f"{str(path)!r} is not a readable safetensors file ({error}); copy or download it again"
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
        msg = f"{str(path)!r} holds a {type(state).__name__} instead of a state dict (names and tensors)"
        raise ValueError(msg)
    return dict(state)


def build_with(info: EncoderInfo, state: Mapping[str, Tensor]) -> nn.Module:
    """An encoder's network with given weights, on the CPU, in evaluation mode.

    Torch's random numbers are left alone.

    Parameters
    ----------
    info
        The encoder, which has an ``architecture``.
    state
        Its weights, under the published names.

    Raises
    ------
    ValueError
        If names, shapes or types do not fit the architecture, or a weight is NaN or infinite.
    """
    assert info.architecture is not None
    state = info.convert(state) if info.convert else dict(state)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    # Without memory of its own first: a giant transformer is then held once, not twice, and not drawn at random.
    with torch.device("meta"):
        module = info.architecture()
    inner = inner_module(module)
    check_fit(info, inner.state_dict(), state)
    inner.load_state_dict(state, assign=True)
    if any(tensor.is_meta for tensor in (*inner.parameters(), *inner.buffers())):
        # Buffers that are computed, not stored.
        with torch.random.fork_rng(devices=[]):
            module = info.architecture()
        inner_module(module).load_state_dict(state, assign=True)
    return module.requires_grad_(False).eval()


def check_fit(info: EncoderInfo, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise unless a state fits an architecture and is finite.

    Parameters
    ----------
    info
        The encoder, for the error text.
    own
        State of the architecture, whose values do not matter.
    state
        Weights to compare with it.

    Raises
    ------
    ValueError
        If names, shapes or types differ, or a weight is NaN or infinite.
    """
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shared = [name for name in own if name in state]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in shared
        if own[k].shape != state[k].shape
    ]
    types = [f"{k} {state[k].dtype} instead of {own[k].dtype}" for k in shared if _kind(own[k]) != _kind(state[k])]
    if missing or unknown or shapes or types:
        msg = (
            f"these weights do not fit tile encoder {info.name!r}: missing {missing[:4]}, unknown {unknown[:4]}, of "
            f"another shape {shapes[:4]}, of another type {types[:4]}; are they those of {info.hub_id or info.name!r}?"
        )
        raise ValueError(msg)
    damaged = [k for k in shared if state[k].is_floating_point() and not bool(torch.isfinite(state[k]).all())]
    if damaged:
        msg = f"weights of tile encoder {info.name!r} are NaN or infinite in {damaged[:4]}; download them again"
        raise ValueError(msg)


def _kind(tensor: Tensor) -> str:
    """Kind of number that a tensor holds; precision does not matter."""
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else "whole"
