"""What every expression encoder is: counts and gene names in, one vector per spot out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_matrix

from storm.data.genes import GeneMatch


@runtime_checkable
class ExpressionEncoder(Protocol):
    """A frozen encoder of expression.

    Attributes
    ----------
    name
        What it is called in provenance.
    dim
        Size of the embedding.
    needs_centres
        Whether a spot's embedding depends on where its neighbours are.
    """

    name: str
    dim: int
    needs_centres: bool

    def match(self, genes: Sequence[str]) -> GeneMatch:
        """How the table's genes meet those that the encoder knows."""
        ...

    def encode(self, counts: csr_matrix, genes: Sequence[str], *, centres: np.ndarray | None = None) -> np.ndarray:
        """Embed the spots of one section.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g); not changed.
        genes
            Name of each column, shape (g,).
        centres
            x and y in µm, shape (n, 2); encoders that do not need them ignore them.

        Returns
        -------
        ndarray
            float32, shape (n, dim); NaN for a spot without counts.
        """
        ...


def check_counts(counts: csr_matrix, genes: Sequence[str]) -> csr_matrix:
    """Raw counts as a float32 CSR matrix of their own.

    Raises
    ------
    ValueError
        If the shapes disagree, or values are negative or not finite.
    """
    counts = csr_matrix(counts, dtype=np.float32, copy=True)
    counts.sum_duplicates()
    if counts.shape[1] != len(genes):
        msg = f"counts have {counts.shape[1]} columns, but there are {len(genes)} gene names"
        raise ValueError(msg)
    if not np.isfinite(counts.data).all() or (counts.data < 0).any():
        msg = "counts hold negative or non-finite values; give raw counts, not scaled expression"
        raise ValueError(msg)
    return counts


def blank_empty(embedding: np.ndarray, counts: csr_matrix) -> np.ndarray:
    """The embedding with NaN in the rows of spots without counts."""
    embedding[np.asarray(counts.sum(axis=1)).ravel() == 0] = np.nan
    return embedding
