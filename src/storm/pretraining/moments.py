"""Mean and spread of tile embeddings by section, while the tile encoder changes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from storm.data.normalise import PRIOR_SPOTS


def moments(blocks: Iterable[np.ndarray], dim: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Compute number, mean and variance of embeddings, block by block.

    Parameters
    ----------
    blocks
        Embeddings, shape (·, dim); rows with a NaN do not count.
    dim
        Size of an embedding.

    Returns
    -------
    n : int
    mean, variance : ndarray
        float64, shape (dim,); zeros without any row.
    """
    n, mean, square = 0, np.zeros(dim), np.zeros(dim)
    for block in blocks:
        known = block[np.isfinite(block).all(axis=1)].astype(np.float64)
        if not len(known):
            continue
        # Block by block around its own mean: nothing is lost where the mean is large against the spread.
        own, both = known.mean(axis=0), n + len(known)
        square += np.square(known - own).sum(axis=0) + np.square(own - mean) * (n * len(known) / both)
        mean += (own - mean) * (len(known) / both)
        n = both
    return n, mean, square / max(n, 1)


def pooled(n: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the spots of several sections.

    Parameters
    ----------
    n
        Spots of each section, shape (S,).
    mean, variance
        Of each section, shape (S, dim).

    Returns
    -------
    mean, std : ndarray
        Shape (dim,).
    """
    share = (n / n.sum())[:, None]
    centre = (share * mean).sum(axis=0)
    return centre, np.sqrt((share * (variance + np.square(mean - centre))).sum(axis=0))


def standardisers(
    n: np.ndarray, mean: np.ndarray, variance: np.ndarray, *, overall: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What each section's embeddings are standardised with; :func:`storm.data.normalise.standardise` does the same.

    Parameters
    ----------
    n, mean, variance
        As in :func:`pooled`.
    overall
        Mean and standard deviation over the training sections.

    Returns
    -------
    centre, scale : ndarray
        Shape (S, dim).
    """
    own = (n / (n + PRIOR_SPOTS))[:, None]
    centre = own * mean + (1 - own) * overall[0]
    scale = np.sqrt(own * variance + (1 - own) * np.square(overall[1]))
    return centre, np.maximum(scale, 1e-6)
