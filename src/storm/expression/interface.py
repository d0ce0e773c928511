"""The interface of all expression encoders: counts and gene names in, one vector per spot out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.sparse import csr_matrix

from storm.data.genes import GeneMatch
from storm.data.normalise import log_normalise

#: Number of spots that are embedded at a time.
_ROWS = 16_384


@runtime_checkable
class ExpressionEncoder(Protocol):
    """A frozen encoder of expression."""

    @property
    def name(self) -> str:
        """Name of the encoder in provenance."""
        ...

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        ...

    @property
    def needs_centres(self) -> bool:
        """Whether a spot's embedding depends on where its neighbours are."""
        ...

    def match(self, genes: Sequence[str] | np.ndarray) -> GeneMatch:
        """Match the genes of a table, given by name, with those of the encoder."""
        ...

    def encode(
        self, counts: csr_matrix, genes: Sequence[str] | np.ndarray, *, centres: np.ndarray | None = None
    ) -> np.ndarray:
        """Embed the spots of one section.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g); not changed.
        genes
            Name of each column, shape (g,).
        centres
            x and y of each spot in µm, shape (n, 2); ignored unless ``needs_centres``.

        Returns
        -------
        ndarray
            float32, shape (n, dim); NaN for a spot without counts.
        """
        ...


def check_counts(counts: csr_matrix, genes: Sequence[str] | np.ndarray) -> csr_matrix:
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


def by_blocks(
    counts: csr_matrix,
    genes: Sequence[str] | np.ndarray,
    encode: Callable[[csr_matrix], np.ndarray],
    *,
    dim: int,
    library: np.ndarray | None = None,
) -> np.ndarray:
    """Embed spots that do not depend on each other, so many at a time that copies of their counts stay small.

    Parameters
    ----------
    counts
        Raw counts, shape (n, g); not changed.
    genes
        Name of each column, shape (g,).
    encode
        From log1p-normalised expression (m, g) to embeddings (m, dim).
    dim
        Size of the embedding.
    library
        Columns whose counts add up to the library size, bool, shape (g,); ``None`` for all of them.

    Returns
    -------
    ndarray
        float32, shape (n, dim); NaN for a spot without counts in the library.

    Raises
    ------
    ValueError
        As :func:`check_counts`.
    """
    out = np.empty((counts.shape[0], dim), dtype=np.float32)
    for start in range(0, len(out), _ROWS):
        block = check_counts(counts[start : start + _ROWS], genes)
        embedding = np.asarray(encode(log_normalise(block, library=library)), dtype=np.float32)
        out[start : start + _ROWS] = blank_empty(embedding, block if library is None else block[:, library])
    return out


def blank_empty(embedding: np.ndarray, counts: csr_matrix) -> np.ndarray:
    """The embedding with NaN in the rows of spots without counts."""
    embedding[np.asarray(counts.sum(axis=1)).ravel() == 0] = np.nan
    return embedding
