"""Principal components of a table too large to be copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

#: Rows that are read at once.
_BLOCK = 16_384


def blocks(values: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a table of numbers, a few thousand at a time.

    Parameters
    ----------
    values
        Anything with a shape (n, d) whose rows can be sliced: an array in memory or on disk, a data frame.

    Yields
    ------
    part : slice
        Which rows.
    block : ndarray
        Their values, float32 or float64.
    """
    rows = getattr(values, "iloc", values)
    for start in range(0, values.shape[0], _BLOCK):
        part = slice(start, min(start + _BLOCK, values.shape[0]))
        block = np.asarray(rows[part])
        yield part, block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)


def finite_rows(values: Any) -> np.ndarray:
    """Which rows hold finite numbers only, bool, shape (n,)."""
    known = np.empty(values.shape[0], dtype=bool)
    for part, block in blocks(values):
        # A sum is finite unless a member is not, or it overflows: the second look is for those few rows.
        with np.errstate(over="ignore", invalid="ignore"):
            good = np.isfinite(block.sum(axis=1))
        good[~good] = np.isfinite(block[~good]).all(axis=1)
        known[part] = good
    return known


def principal_components(
    values: Any, keep: np.ndarray, n_components: int, *, fit: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Scores of the leading principal components, by the covariance.

    Two passes over the rows, in blocks: the working set is one block, the covariance and the result.

    Parameters
    ----------
    values
        Shape (n, d); see :func:`blocks`.
    keep
        Rows to use, bool, shape (n,).
    n_components
        At most d.
    fit
        Those of them that the components are of, bool, shape (n,); by default all.

    Returns
    -------
    scores : ndarray
        Around the mean of the rows of the fit, float32, shape (kept rows, n_components). The sign of a component is
        such that its largest loading is positive.
    share : float
        Part of the variance that they hold.
    """
    width = values.shape[1]
    total, products, shift = np.zeros(width), np.zeros((width, width)), None
    fit = keep if fit is None else keep & fit
    for part, block in blocks(values):
        rows = _kept(block, fit[part])
        if not len(rows):
            continue
        if shift is None:
            # About the mean, so that little is lost when the squares of the means are subtracted.
            shift = rows.mean(axis=0)
        rows = rows - shift
        total += rows.sum(axis=0, dtype=np.float64)
        products += rows.T @ rows
    n = int(fit.sum())
    mean = total / n
    covariance = products / n - np.outer(mean, mean)
    variance, axes = np.linalg.eigh(covariance)
    axes = with_signs(axes[:, ::-1][:, :n_components])
    scores = np.empty((int(keep.sum()), n_components), dtype=np.float32)
    at = 0
    for part, block in blocks(values):
        rows = _kept(block, keep[part])
        scores[at : at + len(rows)] = (rows - shift) @ axes.astype(rows.dtype) - mean @ axes
        at += len(rows)
    return scores, float(variance[::-1][:n_components].sum() / max(variance.sum(), np.finfo(float).tiny))


def with_signs(axes: np.ndarray) -> np.ndarray:
    """Principal axes, shape (d, k), with the sign that makes the largest loading of each positive.

    The sign of a principal axis is arbitrary, and differs between solvers and machines. This choice makes it the same
    everywhere.
    """
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])


def _kept(block: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return block if keep.all() else block[keep]
