"""The network's hyper-parameters: one frozen dataclass that survives a round trip through json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class StormConfig:
    """Shape of a STORM network (paper, Methods: *STORM model design*).

    Parameters
    ----------
    he_dim
        Size of the tile encoder's embedding; 768 for H0-mini.
    st_dim
        Size of the expression encoder's embedding; 64 for Novae.
    width, depth, heads, mlp_ratio
        Token width, number of blocks, attention heads and hidden size of an expert relative to the width. The paper
        does not state them; ours are in :mod:`storm.model.build`.
    dropout
        Dropout of attention and experts while training.
    slope_scale
        Factor on the geometric ALiBi slopes, per window pitch. 1 is the ALiBi paper's choice for words, nearly flat
        over a 5 × 5 window.
    n_genes
        Genes that the ST decoder predicts, the union of all panels; 0 for a network without an ST decoder.
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
    st_likelihood: Literal["gaussian", "nb"] = "gaussian"

    def __post_init__(self) -> None:
        for name in ("he_dim", "st_dim", "width", "depth", "heads", "decoder_width", "decoder_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                msg = f"{name}={value!r} must be a whole number of at least 1"
                raise ValueError(msg)
        for name in ("n_genes", "decoder_depth"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                msg = f"{name}={getattr(self, name)!r} must be a whole number of at least 0"
                raise ValueError(msg)
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, width) % getattr(self, heads):
                msg = f"{width}={getattr(self, width)} is not a multiple of {heads}={getattr(self, heads)}"
                raise ValueError(msg)
        if self.mlp_ratio <= 0 or self.slope_scale < 0 or not 0 <= self.dropout < 1:
            msg = (
                f"mlp_ratio={self.mlp_ratio} must be positive, slope_scale={self.slope_scale} not negative, "
                f"dropout={self.dropout} in [0, 1)"
            )
            raise ValueError(msg)
        if self.st_likelihood not in ("gaussian", "nb"):
            msg = f"st_likelihood={self.st_likelihood!r} is not an option; choose 'gaussian' or 'nb'"
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StormConfig:
        """Configuration from :meth:`to_dict`'s result.

        Raises
        ------
        ValueError
            If it holds a field that this version does not know.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            msg = f"the configuration has fields that this version of storm does not know: {unknown}; update storm"
            raise ValueError(msg)
        return cls(**values)
