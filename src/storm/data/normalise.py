"""Normalisations that the encoders need, done on copies: the user's matrix is never touched."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

#: Counts per spot after normalisation, before log1p.
TARGET_SUM = 1e4
#: Spots at which a section's own statistics weigh as much as the training statistics.
_PRIOR_SPOTS = 20


def log_normalise(counts: csr_matrix, *, target_sum: float = TARGET_SUM) -> csr_matrix:
    """log1p of counts per 10,000.

    Parameters
    ----------
    counts
        Raw counts, shape (n, g).
    target_sum
        Counts per spot after normalisation.

    Returns
    -------
    csr_matrix
        float32, shape (n, g); a row without counts stays empty.
    """
    counts = csr_matrix(counts, dtype=np.float32, copy=True)
    total = np.asarray(counts.sum(axis=1)).ravel()
    factor = np.divide(np.float32(target_sum), total, out=np.zeros_like(total), where=total > 0)
    counts.data = np.log1p(counts.data * np.repeat(factor, np.diff(counts.indptr)))
    return counts


def standardise(
    values: np.ndarray, mean: np.ndarray, std: np.ndarray, *, within: bool, isotropic: bool = False
) -> np.ndarray:
    """Standardise features, by the section's own statistics or by those of the training sections.

    A section's own mean and spread take its stain and scanner out of the features. They are blended with the training
    statistics, which count as twenty spots, so that a handful of spots does not standardise itself away.

    Parameters
    ----------
    values
        Features, shape (n, d); rows of NaN are left out of the statistics and stay NaN.
    mean, std
        Training statistics, shape (d,).
    within
        Use the section's own statistics.
    isotropic
        Divide by one number, the root mean square of the spreads, where the features' relative size means something.

    Returns
    -------
    ndarray
        float32, shape (n, d).
    """
    if within:
        known = values[np.isfinite(values).all(axis=1)].astype(np.float64)
        n = len(known)
        if n:
            own = n / (n + _PRIOR_SPOTS)
            centre = own * known.mean(axis=0) + (1 - own) * mean
            spread = np.sqrt(own * known.var(axis=0) + (1 - own) * np.square(std))
            mean, std = centre, spread
    if isotropic:
        std = np.sqrt(np.mean(np.square(std)))
    return ((values - mean) / np.maximum(std, 1e-6)).astype(np.float32)
