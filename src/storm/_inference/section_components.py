"""What varies within a section by itself: principal components of its own expression, averaged over windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from storm.data.expression_axes import fit_axes
from storm.data.normalise import TARGET_SUM
from storm.data.windows import Windows
from storm.model.readout import BANDWIDTH

#: Components, and most variable genes that they are of.
N_COMPONENTS, N_GENES = 10, 300
_BLOCK = 8192


def own_components(
    counts: csr_matrix, windows: Windows, *, n_components: int = N_COMPONENTS, n_genes: int = N_GENES
) -> np.ndarray:
    """Leading principal components of a section's own log1p-normalised expression, averaged over each window.

    No model takes part and no vocabulary: genes that a model has never seen count as well. The weights over a window
    are those of the ``"window"`` read-out, a Gaussian of the distance.

    Parameters
    ----------
    counts
        Raw counts, shape (n, g).
    windows
        Windows of the n spots.
    n_components, n_genes
        At most g.

    Returns
    -------
    ndarray
        Float32, shape (n, min(n_components, g)), with a mean square of 1 per row; NaN where no spot of a window has
        counts.
    """
    sections = [(counts, windows.rows())]
    axes = fit_axes(sections, target_sum=TARGET_SUM, n_genes=n_genes, n_components=n_components)
    scores = axes.scores(counts)
    averaged = window_mean(scores, windows)
    size = np.sqrt(np.nanmean(np.square(averaged).sum(axis=1))) if np.isfinite(averaged).any() else 1.0
    return averaged / np.float32(max(size, 1e-8))


def window_mean(values: np.ndarray, windows: Windows) -> np.ndarray:
    """Mean over each window with Gaussian weights of the distance, over the members whose values are known.

    Parameters
    ----------
    values
        Shape (n, d); rows of NaN are not known.
    windows
        Windows of the n spots.

    Returns
    -------
    ndarray
        Float32, shape (n, d); NaN where a spot has no place or its window no known member.
    """
    known = np.isfinite(values).all(axis=1)
    values = np.where(known[:, None], values, 0).astype(np.float32)
    out = np.full(values.shape, np.nan, dtype=np.float32)
    for rows in _blocks(windows.rows()):
        members = windows.index[rows]
        weights = np.exp(-np.square(windows.offsets_of(rows)).sum(axis=-1) / (2 * BANDWIDTH**2))
        weights = np.where((members >= 0) & known[members], weights, 0).astype(np.float32)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total > 0, total, np.nan)
        out[rows] = np.einsum("nl,nld->nd", weights, values[members])
    return out


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
