"""Normalisations for the encoders, always on copies, so that the user's matrix stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from storm.data.rows import large_empty

#: Counts per spot after normalisation, before log1p.
TARGET_SUM = 1e4
#: Spots at which a section's own statistics weigh as much as the training statistics.
PRIOR_SPOTS = 20
#: Standard deviations beyond which a standardised tile feature is an artefact (a fold, a pen mark) and is clipped.
CLIP = 6.0
#: Values that are processed at a time.
_BLOCK = 2**22


def log_normalise(
    counts: csr_matrix, *, target_sum: float = TARGET_SUM, library: np.ndarray | None = None
) -> csr_matrix:
    """log1p of counts per 10,000.

    Parameters
    ----------
    counts
        Raw counts, shape (n, g).
    target_sum
        Counts per spot after normalisation.
    library
        Columns whose counts add up to the library size of a spot, bool, shape (g,); ``None`` for all of them.

    Returns
    -------
    csr_matrix
        float32, shape (n, g); a row without counts in the library stays empty.
    """
    counts = csr_matrix(counts, dtype=np.float32, copy=True)
    total = np.asarray((counts if library is None else counts[:, library]).sum(axis=1)).ravel()
    factor = np.divide(np.float32(target_sum), total, out=np.zeros_like(total), where=total > 0)
    counts.data = np.log1p(counts.data * np.repeat(factor, np.diff(counts.indptr)))
    if library is not None:
        counts.eliminate_zeros()
    return counts


def standardise(
    values: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    within: bool,
    isotropic: bool = False,
    clip: float | None = None,
) -> np.ndarray:
    """Standardise features, by the section's own statistics or by those of the training sections.

    Standardising by the section's own mean and spread removes effects of stain and scanner. These are averaged with the
    training statistics, which have the weight of twenty spots, so that a handful of spots does not lose its features.

    Parameters
    ----------
    values
        Features, shape (n, d); rows of NaN are left out of the statistics and stay NaN.
    mean, std
        Training statistics, shape (d,).
    within
        Whether to use the section's own statistics.
    isotropic
        Whether to divide all features by one number, the root mean square of their spreads, which keeps their relative
        sizes.
    clip
        Standard deviations at which values are clipped; ``None`` to keep them all.

    Returns
    -------
    ndarray
        float32, shape (n, d); in a scratch file where it is large.
    """
    if within:
        mean, std = pooled([moments(values)], np.zeros((1, values.shape[1])), mean, std)
    if isotropic:
        std = np.sqrt(np.mean(np.square(std)))
    out, scale = large_empty(values.shape), np.maximum(std, 1e-6)
    for rows in row_blocks(values.shape):
        block = (values[rows] - mean) / scale
        out[rows] = block if clip is None else np.clip(block, -clip, clip)
    return out


def row_blocks(shape: tuple[int, int]) -> Iterator[slice]:
    """Slices of rows with a few million values each."""
    step = max(1, _BLOCK // max(1, shape[1]))
    return (slice(start, start + step) for start in range(0, shape[0], step))


@dataclass(frozen=True)
class Moments:
    """Statistics of some rows of features.

    Attributes
    ----------
    n
        Number of rows without NaN.
    mean, variance
        Of these rows, float64, shape (d,).
    """

    n: int
    mean: np.ndarray
    variance: np.ndarray


def moments(values: np.ndarray) -> Moments:
    """Number, mean and variance of the rows without NaN, in double precision and in two passes."""
    n, total, square = 0, np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for rows in row_blocks(values.shape):
        known = _known(values[rows])
        n, total = n + len(known), total + known.sum(axis=0)
    mean = total / max(n, 1)
    for rows in row_blocks(values.shape):
        square += np.square(_known(values[rows]) - mean).sum(axis=0)
    return Moments(n, mean, square / max(n, 1))


def pooled(
    sections: Sequence[Moments], shifts: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of the rows of several sections together, after what is technical about each was subtracted.

    Parameters
    ----------
    sections
        Moments of each section.
    shifts
        What is subtracted from each, shape (sections, d).
    mean, std
        Training statistics, shape (d,), which weigh as much as twenty rows, as in :func:`standardise`.

    Returns
    -------
    mean, std : ndarray
        Float64, shape (d,).
    """
    n = np.array([own.n for own in sections], dtype=np.float64)
    share = n / max(n.sum(), 1)
    means = np.stack([own.mean for own in sections]) - shifts
    middle = share @ means
    variance = share @ (np.stack([own.variance for own in sections]) + np.square(means - middle))
    own = n.sum() / (n.sum() + PRIOR_SPOTS)
    return own * middle + (1 - own) * mean, np.sqrt(own * variance + (1 - own) * np.square(std))


def _known(block: np.ndarray) -> np.ndarray:
    return block[np.isfinite(block).all(axis=1)].astype(np.float64)
