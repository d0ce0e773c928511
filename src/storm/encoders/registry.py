"""Tile encoders by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from storm.encoders.info import EncoderInfo

if TYPE_CHECKING:
    import pandas as pd

#: What :func:`encoder_table` shows, in this order, beside the name.
_COLUMNS = (
    "maker", "dim", "tile_px", "field_um", "um_per_px", "native_um_per_px", "patch_px", "prefix_tokens", "pooling",
    "n_parameters", "gflop", "licence", "gated", "mean", "std", "hub_id", "page", "needs", "citation",
)  # fmt: skip

_REGISTRY: dict[str, EncoderInfo] = {}
#: Families of encoders, too many to be registered one by one: the prefix of their names, and who describes a member.
_FAMILIES: dict[str, Callable[[str], EncoderInfo]] = {}


def register(info: EncoderInfo) -> EncoderInfo:
    """Register a tile encoder under its name.

    Parameters
    ----------
    info
        The encoder.

    Returns
    -------
    EncoderInfo
        ``info`` itself, so that it can be assigned.

    Raises
    ------
    TypeError
        If ``info`` is not an :class:`EncoderInfo`.
    ValueError
        If the name is taken.

    Examples
    --------
    >>> import torch
    >>> import storm
    >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    >>> mine = storm.encoders.wrap_encoder(network, name="mine", dim=12, tile_px=32, field_um=55.0)
    >>> _ = storm.encoders.register(mine)
    >>> "mine" in storm.encoders.list_encoders()
    True
    """
    if not isinstance(info, EncoderInfo):
        msg = f"info is a {type(info).__name__}; register takes a storm.encoders.EncoderInfo"
        raise TypeError(msg)
    if info.name in _REGISTRY or _family(info.name) is not None:
        msg = f"a tile encoder named {info.name!r} is registered already"
        raise ValueError(msg)
    _REGISTRY[info.name] = info
    return info


def register_family(prefix: str, describe: Callable[[str], EncoderInfo]) -> None:
    """Register a family of tile encoders whose members are described only when they are asked for.

    Parameters
    ----------
    prefix
        Beginning of the members' names, for example ``"timm:"``.
    describe
        Maps a whole name, prefix included, to the description of that encoder.

    Raises
    ------
    ValueError
        If the prefix is empty or registered already.

    Examples
    --------
    Encoders of which there are too many for a list, described when they are asked for:

    >>> import storm
    >>> from dataclasses import replace
    >>> def describe(name):
    ...     return replace(storm.encoders.get_encoder("timm:resnet18"), name=name)

    >>> storm.encoders.register_family("ours", describe)
    >>> storm.encoders.get_encoder("ours:small").dim
    512
    """
    if not prefix or prefix in _FAMILIES:
        msg = f"prefix={prefix!r} is empty or taken; families are registered for {sorted(_FAMILIES)}"
        raise ValueError(msg)
    _FAMILIES[prefix] = describe


def check_own_name(name: Any) -> None:
    """Raise unless ``name`` can be the name of a user's own encoder: text, not empty, outside all families.

    Raises
    ------
    TypeError
        If it is not text.
    ValueError
        If it is empty or has the prefix of a family.
    """
    if not isinstance(name, str):
        msg = f"name={name!r} is a {type(name).__name__}; give the encoder's name as text"
        raise TypeError(msg)
    if not name or _family(name) is not None:
        msg = f"name={name!r} cannot be used: it is empty or begins with one of {sorted(_FAMILIES)}; choose another"
        raise ValueError(msg)


def get_encoder(name: str) -> EncoderInfo:
    """Tile encoder registered under a name.

    Parameters
    ----------
    name
        Name in the registry (:func:`list_encoders` lists them), in upper or lower case; or ``"timm:<model>"`` for a
        model of timm.

    Returns
    -------
    EncoderInfo

    Raises
    ------
    TypeError
        If ``name`` is not text.
    ValueError
        If no encoder has that name.

    Examples
    --------
    >>> import storm
    >>> encoder = storm.encoders.get_encoder("h0-mini")
    >>> encoder.dim, encoder.tile_px, encoder.field_um
    (768, 224, 55.0)
    """
    if not isinstance(name, str):
        msg = f"a tile encoder is given by its name, one of {sorted(_REGISTRY)} or 'timm:<model>', not by {name!r}"
        raise TypeError(msg)
    if (family := _family(name)) is not None:
        return _FAMILIES[family](name)
    for key in (name, name.lower()):
        if key in _REGISTRY:
            return _REGISTRY[key]
    msg = f"tile encoder {name!r} is unknown; there are {sorted(_REGISTRY)}, and any model of timm as 'timm:<model>'"
    raise ValueError(msg)


def as_info(encoder: str | EncoderInfo) -> EncoderInfo:
    """Description of an encoder that was given by name or by its description.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        As :func:`get_encoder`.
    """
    return encoder if isinstance(encoder, EncoderInfo) else get_encoder(encoder)


def _family(name: str) -> str | None:
    return next((prefix for prefix in _FAMILIES if name.startswith(prefix)), None)


def list_encoders() -> list[str]:
    """Names of the registered tile encoders; :func:`storm.encoders.list` describes them.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import storm
    >>> "uni2-h" in storm.encoders.list_encoders()
    True
    """
    return sorted(_REGISTRY)


def encoder_table() -> pd.DataFrame:
    """Table of the registered tile encoders.

    Returns
    -------
    DataFrame
        One row per encoder, indexed by name: maker, length of the embedding, input size and field, µm per pixel,
        tokens and pooling, number of parameters, GFLOP, licence and where to accept it, mean and standard deviation of
        the channels, and citation. Any model of timm can be used as well, as ``"timm:<model>"``.

    Examples
    --------
    >>> import storm
    >>> storm.encoders.list().loc["h0-mini", "maker"]
    'Bioptimus'
    """
    import pandas as pd

    rows = [[getattr(_REGISTRY[name], column) for column in _COLUMNS] for name in list_encoders()]
    table = pd.DataFrame(rows, index=pd.Index(list_encoders(), name="encoder"), columns=list(_COLUMNS))
    return table.astype({"n_parameters": "Int64", "patch_px": "Int64", "prefix_tokens": "Int64", "gflop": float})
