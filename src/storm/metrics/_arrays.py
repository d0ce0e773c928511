"""Checks of the labels and coordinates that the metrics are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike

    #: Labels of any spelling: a list, an array, a column of a data frame, categorical or nullable.
    Labels = ArrayLike | Sequence[Any] | pd.Series | pd.Categorical | pd.api.extensions.ExtensionArray


def as_labels(labels: Labels, *, name: str) -> np.ndarray:
    """Labels as an object array, shape (n,), in which every missing one is ``None``.

    ``None``, NaN, ``pandas.NA``, ``NaT`` and the nulls of categorical, nullable and arrow columns are all missing.

    Raises
    ------
    ValueError
        If there is not one label per spot, or none at all.
    """
    import pandas as pd

    values = np.array(labels, dtype=object)
    if values.ndim != 1 or values.size == 0:
        msg = f"{name} is one label per spot, shape (n,) with n > 0; got shape {values.shape}"
        raise ValueError(msg)
    values[np.asarray(pd.isna(values), dtype=bool)] = None
    return values


def missing(labels: Labels, *, name: str, unlabelled: Collection[Any] | str = ()) -> np.ndarray:
    """Which labels are missing or one of ``unlabelled``, shape (n,), bool."""
    values = as_labels(labels, name=name)
    names = (unlabelled,) if isinstance(unlabelled, str) else tuple(unlabelled)
    return np.array([value is None or value in names for value in values], dtype=bool)


def codes(labels: Labels, *, name: str) -> tuple[np.ndarray, list[Any]]:
    """Labels as integers, and what they stand for.

    Returns
    -------
    codes : ndarray
        Integers from 0 to K - 1, shape (n,), int64.
    levels : list
        The K different labels, in the order in which they first occur.

    Raises
    ------
    ValueError
        If ``labels`` are not one-dimensional, empty, of a kind that cannot be compared, or some are missing.
    """
    import pandas as pd

    values = as_labels(labels, name=name)
    try:
        # Hashing keeps mixed types apart and needs no order among them.
        integers, levels = pd.factorize(values)
    except TypeError as error:
        msg = f"{name} holds labels that cannot be compared with each other ({error}); give text or numbers"
        raise ValueError(msg) from error
    n_missing = int((integers < 0).sum())
    if n_missing:
        advice = ", or use score_domains, which does so and counts them" if name.startswith("labels") else ""
        msg = f"{name} holds {n_missing} missing labels of {values.size}; leave those spots out{advice}"
        raise ValueError(msg)
    return integers.astype(np.int64), list(levels)


def coordinates(coords: ArrayLike, *, n: int, finite: bool = True) -> np.ndarray:
    """Coordinates as float64, shape (n, d).

    Parameters
    ----------
    coords
        One row per spot, shape (n, d).
    n
        Number of spots.
    finite
        Whether a row that is not finite is an error.

    Raises
    ------
    ValueError
        If the shape is not (n, d), d > 0, the values are not real numbers, or one is not finite.
    """
    values = np.asarray(coords)
    try:
        xy = values.astype(np.float64) if values.dtype.kind in "biufO" else None
    except (TypeError, ValueError):
        xy = None
    if xy is None:
        msg = f"coords hold {values.dtype}, not numbers; give x and y of each spot, shape ({n}, 2)"
        raise ValueError(msg)
    if xy.ndim != 2 or len(xy) != n or not xy.shape[1]:
        msg = f"coords have shape {xy.shape}, expected ({n}, 2): one row per label"
        raise ValueError(msg)
    bad = int((~np.isfinite(xy).all(axis=1)).sum())
    if finite and bad:
        msg = f"coords hold {bad} rows that are not finite of {n}; leave those spots out"
        raise ValueError(msg)
    return xy


def place_order(xy: np.ndarray) -> np.ndarray:
    """Order of points by small squares of the plane, shape (n,), in which trees are built and queried faster."""
    plane = xy[:, :2] - xy[:, :2].min(axis=0)
    extent = plane.max(axis=0)
    # About 32 points to a square, were they spread evenly.
    per_side = max(1, int(np.sqrt(len(xy) / 32)))
    square = (plane * (per_side / np.where(extent > 0, extent, 1.0))).astype(np.int64)
    return np.argsort(square[:, 0] * (per_side + 1) + square[:, -1], kind="stable")
