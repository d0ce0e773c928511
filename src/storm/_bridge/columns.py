"""Results of sections in one table that have some parts in common, and others not: columns side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from storm.data.normalise import row_blocks
from storm.data.rows import large_empty


def merged(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The parts of two results in one order.

    Parameters
    ----------
    one, other
        Number of columns of each part, in the order of the columns.

    Returns
    -------
    dict
        All parts, each as wide as the wider one. Those of ``other`` alone stand before what follows them there.
    """
    names, theirs = list(one), list(other)
    for k, name in enumerate(theirs):
        if name not in names:
            following = next((after for after in theirs[k + 1 :] if after in names), None)
            names.insert(len(names) if following is None else names.index(following), name)
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in names}


def spread(values: np.ndarray, own: Mapping[str, int], whole: Mapping[str, int]) -> np.ndarray:
    """A result with columns for all parts: zeros in those that it has not, NaN in rows that are NaN.

    Parameters
    ----------
    values
        Shape (n, sum of ``own``).
    own, whole
        Number of columns of each of its parts, and of all.

    Returns
    -------
    ndarray
        Float32, shape (n, sum of ``whole``); ``values`` itself where the parts are the same.
    """
    if dict(own) == dict(whole):
        return values
    begins = dict(zip(whole, np.cumsum([0, *whole.values()]).tolist(), strict=False))
    columns = np.concatenate([begins[name] + np.arange(width) for name, width in own.items()])
    out = large_empty((len(values), sum(whole.values())))
    for rows in row_blocks(out.shape):
        block = values[rows]
        out[rows] = np.where(np.isnan(block).any(axis=1, keepdims=True), np.float32(np.nan), np.float32(0))
        out[rows, columns] = block
    return out
