"""Tile encoders by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: What :func:`encoder_table` shows, in this order, beside the name.
_COLUMNS = (
    "maker", "dim", "tile_px", "field_um", "um_per_px", "native_um_per_px", "patch_px", "prefix_tokens", "pooling",
    "n_parameters", "gflop", "licence", "gated", "mean", "std", "hub_id", "page", "needs", "citation",
)  # fmt: skip

#: Models of timm by name, ``"timm:vit_small_patch16_224"``, are described when they are asked for.
TIMM = "timm:"


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
        Makes the module, with its weights: tensors (B, 3, tile_px, tile_px) in, (B, dim) out.
    maker
        Who made it.
    pooling
        How tokens become one vector: ``"cls"`` (class token), ``"cls+mean"`` (class token beside the mean of the patch
        tokens), ``"attention"``, or ``"own"`` (the network does it itself).
    patch_px
        Side of a token's patch, in pixels; ``None`` where there are no tokens.
    prefix_tokens
        Tokens before the patch tokens: the class token, then registers.
    any_size
        Whether other input sizes are possible (multiples of ``patch_px`` for a transformer).
    native_um_per_px
        µm per pixel that it was trained at; ``None`` if it has none.
    n_parameters
        Number of parameters of what is run.
    gflop
        Cost of one tile of ``tile_px``, in 10⁹ floating-point operations (a multiply-add is two).
    hub_id
        Repository on the Hugging Face hub, ``None`` if the weights are elsewhere or there are none.
    page
        Where licence and terms are read and accepted.
    citation
        The work to cite.
    needs
        Optional package without which it cannot run.
    architecture
        Makes the module without its weights, ``None`` where there is no such thing.
    convert
        Turns a published state into the architecture's.
    sha256
        Checksum of the weights, once they are loaded.
    modified
        Whether the weights are not the published ones: fine-tuned, or random.
    dense
        Makes, of the module and the side of its tiles in pixels, a function that embeds many overlapping fields of one
        block of tissue at once: values in [0, 1] (3, H, W) and upper left corners x, y (b, 2) in, (b, dim) out.
        ``None`` where there is none; a transformer's patch tokens then do, see :mod:`storm.encoders.dense`.
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
    maker: str = ""
    pooling: str = "own"
    patch_px: int | None = None
    prefix_tokens: int | None = None
    any_size: bool = False
    native_um_per_px: float | None = None
    n_parameters: int | None = None
    gflop: float | None = None
    hub_id: str | None = None
    page: str | None = None
    citation: str | None = None
    needs: str | None = None
    architecture: Callable[[], nn.Module] | None = None
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    sha256: str | None = None
    modified: bool = False
    dense: Callable[[nn.Module, int], Callable[[Tensor, np.ndarray], Tensor]] | None = None

    @property
    def um_per_px(self) -> float:
        """µm per pixel of the input."""
        return self.field_um / self.tile_px

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise the channels of tiles as the network expects it.

        Parameters
        ----------
        x
            Values in [0, 1], shape (…, 3, H, W), on any device.

        Returns
        -------
        Tensor
            ``(x - mean) / std`` per channel, of the same shape, dtype and device.
        """
        if self.mean is not None:
            x = x - torch.tensor(self.mean, dtype=x.dtype, device=x.device).view(3, 1, 1)
        if self.std is not None:
            x = x / torch.tensor(self.std, dtype=x.dtype, device=x.device).view(3, 1, 1)
        return x

    def native_px(self, field_um: float) -> int:
        """Input size that shows a field at the µm per pixel of the encoder's training.

        Parameters
        ----------
        field_um
            Side of the field, in µm.

        Returns
        -------
        int
            In pixels: the multiple of ``patch_px`` nearest to ``field_um / native_um_per_px``.

        Raises
        ------
        ValueError
            If the encoder has no scale of its own, or only one input size.
        """
        if self.native_um_per_px is None or not self.any_size:
            why = "was not trained at one scale" if self.native_um_per_px is None else "takes one input size only"
            msg = f"tile encoder {self.name!r} {why}; use its own {self.tile_px} px, or give tile_px as a number"
            raise ValueError(msg)
        step = self.patch_px or 1
        return max(step, step * round(field_um / self.native_um_per_px / step))


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
    if info.name in _REGISTRY or info.name.startswith(TIMM):
        msg = f"a tile encoder named {info.name!r} is registered already"
        raise ValueError(msg)
    _REGISTRY[info.name] = info
    return info


def get_encoder(name: str) -> EncoderInfo:
    """The tile encoder of a name.

    Parameters
    ----------
    name
        Name in the registry (:func:`list_encoders` lists them), in any case of letters; or ``"timm:<model>"`` for a
        model of timm.

    Returns
    -------
    EncoderInfo

    Raises
    ------
    ValueError
        If there is none.
    """
    if name.startswith(TIMM):
        from storm.encoders.timm import describe

        return describe(name)
    for key in (name, name.lower()):
        if key in _REGISTRY:
            return _REGISTRY[key]
    msg = f"tile encoder {name!r} is unknown; there are {sorted(_REGISTRY)}, and any model of timm as 'timm:<model>'"
    raise ValueError(msg)


def list_encoders() -> list[str]:
    """Names of the registered tile encoders; :func:`storm.encoders.list` tells more of them.

    Returns
    -------
    list of str
    """
    return sorted(_REGISTRY)


def encoder_table() -> pd.DataFrame:
    """The registered tile encoders with all that is known of them.

    Returns
    -------
    DataFrame
        One row per encoder, under its name: maker, size of the embedding, input size and field, µm per pixel, tokens
        and pooling, parameters, GFLOP, licence and where to accept it, mean and std, and what to cite. Any model of
        timm can be used besides, as ``"timm:<model>"``.
    """
    import pandas as pd

    rows = [[getattr(_REGISTRY[name], column) for column in _COLUMNS] for name in list_encoders()]
    table = pd.DataFrame(rows, index=pd.Index(list_encoders(), name="encoder"), columns=list(_COLUMNS))
    return table.astype({"n_parameters": "Int64", "patch_px": "Int64", "prefix_tokens": "Int64", "gflop": float})
