"""Tile encoders by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What must be known of a tile encoder to feed it.

    Attributes
    ----------
    name
        Name in the registry.
    dim
        Size of the embedding.
    tile_px
        Side of its input, in pixels.
    field_um
        Side of the tissue field that its input shows, in µm.
    mean, std
        Normalisation of the channels, applied to values in [0, 1]; ``None`` for an encoder that takes them as they are.
    licence
        Licence of the weights.
    gated
        Whether the weights need an agreement with their maker.
    build
        Makes the module: tensors (B, 3, tile_px, tile_px) in, (B, dim) out.
    """

    name: str
    dim: int
    tile_px: int
    field_um: float
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    licence: str
    gated: bool
    build: Callable[[], nn.Module]

    @property
    def um_per_px(self) -> float:
        """µm per pixel of the input."""
        return self.field_um / self.tile_px


_REGISTRY: dict[str, EncoderInfo] = {}


def register(info: EncoderInfo) -> EncoderInfo:
    """Add a tile encoder under its name.

    Parameters
    ----------
    info
        The encoder.

    Returns
    -------
    EncoderInfo
        The same, so that it can be assigned.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if info.name in _REGISTRY:
        msg = f"a tile encoder named {info.name!r} is registered already"
        raise ValueError(msg)
    _REGISTRY[info.name] = info
    return info


def get_encoder(name: str) -> EncoderInfo:
    """The tile encoder of a name.

    Parameters
    ----------
    name
        Name in the registry; :func:`list_encoders` lists them.

    Returns
    -------
    EncoderInfo

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in _REGISTRY:
        msg = f"tile encoder {name!r} is unknown; there are {sorted(_REGISTRY)}"
        raise ValueError(msg)
    return _REGISTRY[name]


def list_encoders() -> list[str]:
    """Names of the registered tile encoders.

    Returns
    -------
    list of str
    """
    return sorted(_REGISTRY)
