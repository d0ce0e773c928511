"""A user's own tile encoder: a module or a callable, wrapped with its description."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from storm._checks import check_positive, check_whole
from storm.encoders.digest import state_digest
from storm.encoders.info import Channels, LoadedEncoder
from storm.encoders.registry import check_own_name


class _Called(nn.Module):
    """A callable as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def wrap_encoder(
    module: nn.Module | Callable[[Tensor], Tensor],
    *,
    name: str,
    dim: int,
    tile_px: int,
    field_um: float,
    mean: Channels | None = None,
    std: Channels | None = None,
    licence: str = "the user's own",
    patch_px: int | None = None,
    any_size: bool = False,
    native_um_per_px: float | None = None,
    citation: str | None = None,
) -> LoadedEncoder:
    """Make a tile encoder from your own module or callable.

    Parameters
    ----------
    module
        Maps tiles (B, 3, tile_px, tile_px), float32, normalised with ``mean`` and ``std``, to embeddings (B, dim).
    name
        Name of the encoder, used in keys: ``obsm["X_<name>"]``.
    dim
        Length of the embedding.
    tile_px
        Side of the input tile, in pixels.
    field_um
        Side of the tissue field that the input tile shows, in µm.
    mean, std
        Mean and standard deviation per channel for values in [0, 1]; ``None`` if the module takes values in [0, 1] as
        they are.
    licence
        Licence of the weights.
    patch_px
        Side of a token's patch in pixels, for a transformer.
    any_size
        Whether the module accepts other input sizes.
    native_um_per_px
        µm per pixel of the training images.
    citation
        Publication to cite.

    Returns
    -------
    LoadedEncoder
        For :func:`storm.tl.encode_tiles`; :func:`register` makes it available by name. The checksum is that of the
        module as it is now: wrap it again after training it. The checksum of a callable is valid for this session only.

    Raises
    ------
    TypeError
        If ``module`` is not callable, ``name`` is not text, or ``mean`` or ``std`` is not three numbers.
    ValueError
        If a number is not positive, or only one of ``mean`` and ``std`` is given.

    Examples
    --------
    >>> import torch
    >>> import storm
    >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    >>> encoder = storm.encoders.wrap_encoder(network, name="colours", dim=12, tile_px=32, field_um=55.0)
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.encode_tiles(sdata, encoder)
    >>> sdata["table"].obsm["X_colours"].shape
    (150, 12)
    """
    if not callable(module):
        msg = f"module must be a torch module or a callable, not {type(module).__name__}"
        raise TypeError(msg)
    check_own_name(name)
    dim, tile_px = check_whole(dim, name="dim"), check_whole(tile_px, name="tile_px")
    check_positive(field_um, name="field_um", unit="µm")
    if (mean is None) != (std is None):
        msg = "mean and std belong together; give both, or neither"
        raise ValueError(msg)
    wrapped = module if isinstance(module, nn.Module) else _Called(module)
    return LoadedEncoder(
        name=name,
        maker="user",
        dim=dim,
        tile_px=tile_px,
        field_um=float(field_um),
        mean=_channels(mean),
        std=_channels(std),
        licence=licence,
        gated=False,
        build=lambda: wrapped,
        patch_px=patch_px,
        any_size=any_size,
        native_um_per_px=native_um_per_px,
        n_parameters=sum(p.numel() for p in wrapped.parameters()),
        citation=citation,
        sha256=_digest(wrapped),
    )


def _channels(values: Any) -> Channels | None:
    """Lists and arrays of three numbers as a tuple; anything else is left to the description, which refuses it."""
    if values is None or np.shape(values) != (3,) or np.asarray(values).dtype.kind not in "fiu":
        return values
    red, green, blue = np.asarray(values, dtype=np.float64).tolist()
    return red, green, blue


def _digest(module: nn.Module) -> str:
    # A callable's code cannot be compared: no two sessions have the same.
    return state_digest(module, also=repr(module)) if module.state_dict() else f"session-{uuid.uuid4().hex}"
