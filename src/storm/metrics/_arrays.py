"""Coordinates and labels as the metrics want them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import ArrayLike


def missing(labels: ArrayLike, *, unlabelled: Collection[Any] = ()) -> np.ndarray:
    """Which labels are missing (``None``, NaN, ``pandas.NA``) or one of ``unlabelled``, shape (n,), bool."""
    import pandas as pd

    values = np.asarray(labels, dtype=object)
    gone = np.asarray(pd.isna(values), dtype=bool)
    for name in unlabelled:
        gone |= values == name
    return gone


def codes(labels: ArrayLike, *, name: str) -> tuple[np.ndarray, int]:
    """Labels as integers 0…K-1, shape (n,), and K.

    Raises
    ------
    ValueError
        If ``labels`` are not one-dimensional, empty, or some are missing.
    """
    import pandas as pd

    values = np.asarray(labels)
    if values.ndim != 1 or values.size == 0:
        msg = f"{name} is one label per spot, shape (n,) with n > 0; got shape {values.shape}"
        raise ValueError(msg)
    integers, levels = pd.factorize(values)  # hashes: keeps mixed types apart and needs no order among them
    n_missing = int((integers < 0).sum())
    if n_missing:
        msg = (
            f"{name} holds {n_missing} missing labels of {values.size}; leave those spots out, "
            "or use score_domains, which does so and counts them"
        )
        raise ValueError(msg)
    return integers.astype(np.int64), len(levels)


def coordinates(coords: ArrayLike, *, n: int) -> np.ndarray:
    """Coordinates as float64, shape (n, d).

    Raises
    ------
    ValueError
        If the shape is not (n, d) or a coordinate is not finite.
    """
    xy = np.asarray(coords, dtype=np.float64)
    if xy.ndim != 2 or len(xy) != n:
        msg = f"coords have shape {xy.shape}, expected ({n}, 2): one row per label"
        raise ValueError(msg)
    bad = int((~np.isfinite(xy).all(axis=1)).sum())
    if bad:
        msg = f"coords hold {bad} rows that are not finite of {n}; leave those spots out"
        raise ValueError(msg)
    return xy


def place_order(xy: np.ndarray) -> np.ndarray:
    """Order of points by small squares of the plane, shape (n,): trees are built and asked faster in it."""
    plane = xy[:, :2] - xy[:, :2].min(axis=0)
    extent = plane.max(axis=0)
    # About 32 points to a square, were they spread evenly.
    per_side = max(1, int(np.sqrt(len(xy) / 32)))
    square = (plane * (per_side / np.where(extent > 0, extent, 1.0))).astype(np.int64)
    return np.argsort(square[:, 0] * (per_side + 1) + square[:, -1], kind="stable")
