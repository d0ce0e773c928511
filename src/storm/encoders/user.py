"""A user's own tile encoder: a module or a callable, wrapped with what must be known of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from torch import Tensor, nn

from storm._checks import check_positive
from storm.encoders.digest import state_digest
from storm.encoders.registry import TIMM, EncoderInfo


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
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    licence: str = "the user's own",
    patch_px: int | None = None,
    any_size: bool = False,
    native_um_per_px: float | None = None,
    citation: str | None = None,
) -> EncoderInfo:
    """Make a tile encoder of one's own module or callable.

    Parameters
    ----------
    module
        Takes tiles (B, 3, tile_px, tile_px), float32, normalised with ``mean`` and ``std``; returns (B, dim).
    name
        Its name, used in keys: ``obsm["X_<name>"]``.
    dim
        Size of the embedding.
    tile_px
        Side of its input, in pixels.
    field_um
        Side of the tissue field that the input shows, in µm.
    mean, std
        Normalisation of the channels, in [0, 1]; ``None`` if the module takes values in [0, 1] as they are.
    licence
        Licence of its weights.
    patch_px
        Side of a token's patch, for a transformer.
    any_size
        Whether it takes other input sizes.
    native_um_per_px
        µm per pixel that it was trained at.
    citation
        What to cite.

    Returns
    -------
    EncoderInfo
        :func:`storm.tl.encode_tiles` takes it; :func:`register` makes it known by name. The checksum is that of the
        module as it is now: wrap it again after training it. A callable has none that outlives the session.

    Raises
    ------
    TypeError
        If ``module`` cannot be called.
    ValueError
        If a number is not positive, or only one of ``mean`` and ``std`` is given.
    """
    if not callable(module):
        msg = f"module is a torch module or a callable, not {type(module).__name__}"
        raise TypeError(msg)
    if not name or name.startswith(TIMM):
        msg = f"name={name!r} cannot be used; give a name of its own"
        raise ValueError(msg)
    for key, value in (("dim", dim), ("tile_px", tile_px), ("field_um", field_um)):
        check_positive(value, name=key)
    if (mean is None) != (std is None):
        msg = "mean and std belong together; give both, or neither"
        raise ValueError(msg)
    wrapped = module if isinstance(module, nn.Module) else _Called(module)
    return EncoderInfo(
        name=name,
        maker="user",
        dim=dim,
        tile_px=tile_px,
        field_um=float(field_um),
        mean=mean and tuple(mean),
        std=std and tuple(std),
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


def _digest(module: nn.Module) -> str:
    # A callable's code cannot be compared: no two sessions have the same.
    return state_digest(module, also=repr(module)) if module.state_dict() else f"session-{uuid.uuid4().hex}"
