"""How far values lie from those that something was learned from."""

from __future__ import annotations

import numpy as np

from storm._checks import check_whole

#: Nearest reference values whose mean distance is taken.
N_NEAREST = 10
#: Reference values that are kept; more of them change little.
MAX_REFERENCE = 5000
#: p up to which a value is called unlike the reference, and the share of such values beyond which all together are:
#: five times as many as among values that are like it.
UNUSUAL, FIVEFOLD = 0.05, 0.25
#: Queries at a time.
_BLOCK = 8192


def reference_rows(groups: np.ndarray, *, limit: int = MAX_REFERENCE) -> np.ndarray:
    """Rows to keep as a reference: evenly spaced within each group, from each group about as many.

    Parameters
    ----------
    groups
        Group of each row, such as its section, integers of shape (n,).
    limit
        Rows in all, at most.

    Returns
    -------
    ndarray
        Rows, ascending.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    share = max(1, limit // max(len(members), 1))
    kept = [rows[np.linspace(0, len(rows) - 1, min(share, len(rows))).round().astype(int)] for rows in members]
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=int)


def distances(values: np.ndarray, reference: np.ndarray, *, k: int = N_NEAREST) -> np.ndarray:
    """Mean Euclidean distance to the k nearest reference values.

    Parameters
    ----------
    values
        Shape (n, d); a row of NaN has no distance.
    reference
        Shape (m, d), finite.
    k
        At most m are used.

    Returns
    -------
    ndarray
        Float64, shape (n,); NaN for rows of NaN, or without a reference.
    """
    from sklearn.neighbors import NearestNeighbors

    check_whole(k, name="k")
    out = np.full(len(values), np.nan)
    if not len(reference):
        return out
    known = np.flatnonzero(np.isfinite(values).all(axis=1))
    search = NearestNeighbors(n_neighbors=min(k, len(reference)), algorithm="brute").fit(reference)
    for start in range(0, len(known), _BLOCK):
        rows = known[start : start + _BLOCK]
        out[rows] = search.kneighbors(values[rows])[0].mean(axis=1)
    return out


def left_out_distances(
    values: np.ndarray, groups: np.ndarray, reference: np.ndarray, *, k: int = N_NEAREST
) -> np.ndarray:
    """Distance of each value to the reference values of other groups.

    Values of one section resemble each other: distances within it would make every new section look unusual.

    Parameters
    ----------
    values
        Shape (n, d), finite.
    groups
        Group of each value, shape (n,).
    reference
        Rows of the values that are the reference, shape (m,).
    k
        As in :func:`distances`.

    Returns
    -------
    ndarray
        Shape (n,); NaN where there is no other group.
    """
    out = np.full(len(values), np.nan)
    for group in np.unique(groups):
        others = reference[groups[reference] != group]
        own = np.flatnonzero(groups == group)
        out[own] = distances(values[own], values[others], k=k)
    return out
