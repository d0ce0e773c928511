"""Compiled graph attention over edges that are sorted by the node that they point to.

Each edge is looked at while it lies in the processor's cache; torch's operations would write every step for all edges
to memory and read it again. Loops run over all heads at once where they can, and the exponential in between is NumPy's,
so that a processor takes several values at a time. All numbers are float32.
"""

from __future__ import annotations

import numba
import numpy as np

_compiled = numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})


def attend(both, length, edge, vectors, heads, slope, source, begin):
    """Weighted mean of each node's incoming edges by GATv2.

    Parameters
    ----------
    both
        Nodes as sources, and beside that as targets, shape (s, 2 · heads · width).
    length, source
        Length of each edge, and the node that it comes from, shape (e,).
    edge
        What an edge of length 1 adds, shape (heads · width,).
    vectors
        Attention vectors of the heads, one after the other, shape (heads · width,).
    heads
        Number of heads.
    slope
        Negative slope of the leaky rectifier, below 1.
    begin
        First edge of each node, shape (s + 1,); each node has at least one.

    Returns
    -------
    ndarray
        Shape (s, heads · width).
    """
    weights = _scores(both, length, edge, vectors, heads, slope, source, begin)
    np.exp(weights, out=weights)
    return _weighted(both, weights, source, begin)


@_compiled
def _scores(both, length, edge, vectors, heads, slope, source, begin):
    """Scores of the edges less the largest of their target, so that exp does not overflow, shape (e, heads)."""
    size = len(edge)
    width = size // heads
    # A branch, as in max(value, slope * value), would keep the compiler from taking several values at a time.
    linear, bent = np.float32((1 + slope) / 2), np.float32((1 - slope) / 2)
    scores = np.empty((len(source), heads), dtype=np.float32)
    terms, most = np.empty(size, dtype=np.float32), np.empty(heads, dtype=np.float32)
    for target in range(len(begin) - 1):
        mine = both[target]
        most[:] = -np.inf
        for k in range(begin[target], begin[target + 1]):
            other, far, own = both[source[k]], length[k], scores[k]
            for w in range(size):
                value = other[w] + mine[size + w] + far * edge[w]
                terms[w] = vectors[w] * (linear * value + bent * abs(value))
            for head in range(heads):
                total = np.float32(0)
                for w in range(head * width, (head + 1) * width):
                    total += terms[w]
                own[head] = total
                most[head] = max(most[head], total)
        for k in range(begin[target], begin[target + 1]):
            for head in range(heads):
                scores[k, head] -= most[head]
    return scores


@_compiled
def _weighted(both, weights, source, begin):
    """Means of the sources of each node's edges, shape (s, heads · width)."""
    heads, size = weights.shape[1], both.shape[1] // 2
    width = size // heads
    out = np.zeros((len(begin) - 1, size), dtype=np.float32)
    wide, total = np.empty(size, dtype=np.float32), np.empty(heads, dtype=np.float32)
    for target in range(len(begin) - 1):
        result = out[target]
        total[:] = 0
        for k in range(begin[target], begin[target + 1]):
            other, own = both[source[k]], weights[k]
            for head in range(heads):
                total[head] += own[head]
                wide[head * width : (head + 1) * width] = own[head]
            for w in range(size):
                result[w] += wide[w] * other[w]
        for head in range(heads):
            for w in range(head * width, (head + 1) * width):
                result[w] /= total[head]
    return out
