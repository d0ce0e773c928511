"""What varies within a section by itself: principal components of its own expression, averaged over windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_matrix

from storm.data.components import with_signs
from storm.data.normalise import log_normalise
from storm.data.windows import Windows
from storm.model.readout import BANDWIDTH

#: Components, and most variable genes that they are of.
N_COMPONENTS, N_GENES = 10, 300
#: Spots on which genes are chosen and axes are fitted, evenly spaced in the table; more of them change little.
_FIT_SPOTS = 50_000
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
    # In spatial order, on which the sample does not depend; rows without a place are not of this section.
    placed = windows.rows()
    full = placed[np.asarray(counts.sum(axis=1)).ravel()[placed] > 0]  # zeros may be stored
    axes, genes, mean = _axes(counts, full, n_components, n_genes)
    scores = np.full((counts.shape[0], axes.shape[1]), np.nan, dtype=np.float32)
    for rows in _blocks(full):
        scores[rows] = log_normalise(counts[rows])[:, genes] @ axes - mean @ axes
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


def _axes(counts: csr_matrix, rows: np.ndarray, n_components: int, n_genes: int) -> tuple[np.ndarray, ...]:
    """Loadings (chosen genes, k), the genes' columns, and their means."""
    rows = rows[:: max(1, -(-len(rows) // _FIT_SPOTS))]
    n, total, square = max(len(rows), 1), np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for part in _blocks(rows):
        block = log_normalise(counts[part]).astype(np.float64)
        total += np.asarray(block.sum(axis=0)).ravel()
        square += np.asarray(block.multiply(block).sum(axis=0)).ravel()
    variance = square / n - np.square(total / n)
    genes = np.sort(np.argsort(-variance, kind="stable")[:n_genes])
    mean = total[genes] / n
    products = np.zeros((len(genes), len(genes)))
    for part in _blocks(rows):
        block = log_normalise(counts[part])[:, genes].toarray() - mean
        products += block.T @ block
    _, axes = np.linalg.eigh(products)
    return with_signs(axes[:, ::-1][:, :n_components]), genes, mean


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
