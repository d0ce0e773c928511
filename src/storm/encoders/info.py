"""What is known of a tile encoder: its description, and one with particular weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from storm._checks import check_positive, check_whole

if TYPE_CHECKING:
    import numpy as np

#: One number for each of red, green and blue.
Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """Description of a tile encoder: everything that is needed to feed it, and how to build it.

    Attributes
    ----------
    name
        Name in the registry.
    dim
        Length of the embedding.
    tile_px
        Side of the input tile, in pixels.
    field_um
        Side of the tissue field that the input tile shows, in µm.
    mean, std
        Mean and standard deviation per channel with which values in [0, 1] are normalised; ``None`` if the network
        takes values in [0, 1] as they are. See :meth:`normalise`.
    licence
        Licence of the weights.
    gated
        Whether the weights can be downloaded only after accepting their maker's terms.
    build
        Returns the module with its weights, which maps tiles (B, 3, tile_px, tile_px) to embeddings (B, dim).
    maker
        Who published the encoder.
    pooling
        How tokens become one vector: ``"cls"`` (class token), ``"cls+mean"`` (class token concatenated with the mean of
        the patch tokens), ``"attention"``, or ``"own"`` (the network pools by itself).
    patch_px
        Side of a token's patch, in pixels; ``None`` if the network has no patch tokens.
    prefix_tokens
        Number of tokens before the patch tokens: the class token, then registers.
    any_size
        Whether other input sizes are possible (for a transformer, multiples of ``patch_px``).
    native_um_per_px
        µm per pixel of the training images; ``None`` if the encoder was not trained at one scale.
    n_parameters
        Number of parameters that are used for an embedding.
    gflop
        Cost of one tile of ``tile_px``, in 10⁹ floating-point operations (a multiply-add counts as two).
    hub_id
        Repository on the Hugging Face hub; ``None`` if the weights are elsewhere or there are none.
    page
        Address where licence and terms are read and accepted.
    citation
        Publication to cite.
    needs
        Optional package without which the network cannot be built.
    architecture
        Returns the module without its weights; ``None`` if that is not possible.
    convert
        Maps a published state dict to the names of ``architecture``.
    dense
        Given the module and the side of its tiles in pixels, returns a function that embeds many overlapping fields of
        one block of tissue at once. That function takes values in [0, 1], shape (3, H, W), and the upper left corners
        x, y of the fields, shape (b, 2), and returns embeddings, shape (b, dim). ``None`` if there is none; the patch
        tokens of a transformer are used instead, see :mod:`storm.encoders.dense`.

    Raises
    ------
    TypeError, ValueError
        If a field has a value that cannot be right, such as a negative size; the text names the field.
    """

    name: str
    dim: int
    tile_px: int
    field_um: float
    mean: Channels | None
    std: Channels | None
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
    dense: Callable[[Any, int], Callable[[Tensor, np.ndarray], Tensor]] | None = None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {self.dim} numbers from {self.tile_px} px of {self.field_um:g} µm, "
            f"licence {self.licence!r}{', gated' if self.gated else ''})"
        )

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            msg = f"name={self.name!r} of a tile encoder must be text that is not empty"
            raise TypeError(msg)
        of = f" of tile encoder {self.name!r}"
        check_whole(self.dim, name=f"dim{of}")
        check_whole(self.tile_px, name=f"tile_px{of}")
        check_positive(self.field_um, name=f"field_um{of}", unit="µm")
        if self.patch_px is not None:
            check_whole(self.patch_px, name=f"patch_px{of}")
        if self.native_um_per_px is not None:
            check_positive(self.native_um_per_px, name=f"native_um_per_px{of}", unit="µm")
        _check_channels(self.mean, name=f"mean{of}", least=-float("inf"))
        _check_channels(self.std, name=f"std{of}", least=0.0)

    @property
    def sha256(self) -> str | None:
        """Checksum of the weights; ``None`` for a description, which has none. See :class:`LoadedEncoder`."""
        return None

    @property
    def modified(self) -> bool:
        """Whether the weights differ from the published ones; false for a description, which has none."""
        return False

    @property
    def um_per_px(self) -> float:
        """µm per pixel of the input tile."""
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
        """Input size that shows a field at the µm per pixel of the encoder's training images.

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
            If the encoder was not trained at one scale, or accepts one input size only.
        """
        if self.native_um_per_px is None or not self.any_size:
            why = "was not trained at one scale" if self.native_um_per_px is None else "takes one input size only"
            msg = f"tile encoder {self.name!r} {why}; use its own {self.tile_px} px, or give tile_px as a number"
            raise ValueError(msg)
        step = self.patch_px or 1
        return max(step, step * round(field_um / self.native_um_per_px / step))


# the text of EncoderInfo serves both
@dataclass(frozen=True, kw_only=True, repr=False)
class LoadedEncoder(EncoderInfo):
    """A tile encoder with particular weights: its description, and the checksum of these weights.

    Returned by :func:`storm.encoders.load_encoder`, :func:`storm.encoders.wrap_encoder` and
    :func:`storm.encoders.with_weights`, whose weights are in memory. A model read from a folder has one whose weights
    are looked for, and compared with the checksum, when ``build`` is called for the first time.

    Attributes
    ----------
    sha256
        Checksum of the weights.
    modified
        Whether the weights differ from the published ones: fine-tuned, or random.
    """

    sha256: str | None = None
    modified: bool = False

    @classmethod
    def of(
        cls, info: EncoderInfo, build: Callable[[], nn.Module], *, sha256: str | None, modified: bool = False
    ) -> LoadedEncoder:
        """An encoder that has a description's facts and the given weights.

        Parameters
        ----------
        info
            The description.
        build
            Returns the module with its weights.
        sha256, modified
            See the attributes.

        Returns
        -------
        LoadedEncoder
        """
        facts = {field.name: getattr(info, field.name) for field in fields(EncoderInfo)}
        return cls(**{**facts, "build": build, "sha256": sha256, "modified": modified})


def _check_channels(values: Any, *, name: str, least: float) -> None:
    if values is None:
        return
    numbers = isinstance(values, tuple | list) and len(values) == 3
    if not numbers or not all(isinstance(v, Real) and not isinstance(v, bool) for v in values):
        msg = f"{name} must be three numbers (red, green, blue) or None, not {values!r}"
        raise TypeError(msg)
    if not all(least < v < float("inf") for v in values):
        msg = f"{name}={values!r} must be three finite numbers{'' if least else ' above 0'}"
        raise ValueError(msg)
