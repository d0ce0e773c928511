"""The network's hyper-parameters: one frozen dataclass that survives a round trip through json."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from storm._checks import check_choice, check_positive, check_whole

#: Density of an expression value in eq. 3.
Likelihood = Literal["gaussian", "nb"]
#: Largest size: products of two of them are still whole numbers of 64 bits.
_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class StormConfig:
    """Shape of a STORM network (paper, Methods: *STORM model design*).

    Parameters
    ----------
    he_dim
        Length of the tile encoder's embedding; 768 for H0-mini.
    st_dim
        Length of the expression encoder's embedding; 64 for Novae.
    width, depth, heads, mlp_ratio
        Token width, number of blocks, attention heads and hidden size of an expert relative to the width. The paper
        does not state them; ours are in :mod:`storm.model.build`.
    dropout
        Dropout probability in attention and experts during training.
    slope_scale
        Factor of the geometric ALiBi slopes, per window pitch. 1 is the ALiBi paper's choice for words, nearly flat
        over a 5 × 5 window.
    n_genes
        Number of genes that the ST decoder predicts, the union of all panels; 0 for a network without an ST decoder.
    decoder_width, decoder_depth, decoder_heads
        Shape of the two modality-specific decoders (paper: an MLP followed by two Transformer blocks).
        ``decoder_depth=0`` builds none.
    st_likelihood
        Density of eq. 3 for expression: ``"gaussian"`` on log1p-normalised values, or ``"nb"`` on counts.
    """

    he_dim: int = 768
    st_dim: int = 64
    width: int = 768
    depth: int = 6
    heads: int = 12
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    slope_scale: float = 4.0
    n_genes: int = 0
    decoder_width: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 4
    st_likelihood: Likelihood = "gaussian"

    def __post_init__(self) -> None:
        for name in ("he_dim", "st_dim", "width", "depth", "heads", "decoder_width", "decoder_heads"):
            check_whole(getattr(self, name), name=name)
        for name in ("n_genes", "decoder_depth"):
            check_whole(getattr(self, name), name=name, least=0)
        too_large = {name: value for name, value in asdict(self).items() if isinstance(value, int) and value > _MOST}
        if too_large:
            msg = f"{too_large} cannot be the size of a network; the largest size is {_MOST}"
            raise ValueError(msg)
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, width) % getattr(self, heads):
                msg = f"{width}={getattr(self, width)} is not a multiple of {heads}={getattr(self, heads)}"
                raise ValueError(msg)
        check_positive(self.mlp_ratio, name="mlp_ratio")
        for name, limit in (("slope_scale", math.inf), ("dropout", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < limit:
                msg = f"{name}={value!r} must be a number of at least 0 and below {limit}"
                raise ValueError(msg)
        # A network without decoders has a decoder width all the same, which may then be narrow.
        for size in (self.width, self.decoder_width) if self.decoder_depth else (self.width,):
            if not 1 <= size * self.mlp_ratio <= _MOST:
                msg = f"mlp_ratio={self.mlp_ratio!r} gives {size * self.mlp_ratio} hidden units at a width of {size}"
                raise ValueError(msg)
        check_choice(self.st_likelihood, get_args(Likelihood), name="st_likelihood")

    def sizes(self) -> dict[str, int]:
        """The fields that are the side of a tensor or a number of layers, and the hidden sizes of the experts."""
        names = ["he_dim", "st_dim", "width", "depth", "heads", "decoder_depth"]
        names += ["n_genes", "decoder_width", "decoder_heads"] if self.decoder_depth else []
        widths = [name for name in names if name.endswith("width")]
        return {name: getattr(self, name) for name in names} | {
            f"{name} × mlp_ratio": int(getattr(self, name) * self.mlp_ratio) for name in widths
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StormConfig:
        """Configuration from :meth:`to_dict`'s result.

        Raises
        ------
        TypeError, ValueError
            If a field is unknown to this version of storm or has an impossible value.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"the configuration has fields that this version of storm does not know: {unknown}; update storm"
            raise ValueError(msg)
        return cls(**values)
