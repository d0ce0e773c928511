"""An order of points in which successive points are close to each other."""

from __future__ import annotations

import numpy as np


def spatial_order(points: np.ndarray) -> np.ndarray:
    """Order along a Z-shaped curve through the plane (Morton 1966).

    Searches and gathers in this order find most of their data in the cache, and any run of the order is one patch of
    the section, or a few.

    Parameters
    ----------
    points
        x and y, shape (n, 2), finite.

    Returns
    -------
    ndarray
        Rows of ``points`` in this order, shape (n,), int64.
    """
    low = points.min(axis=0)
    extent = float((points.max(axis=0) - low).max())
    if extent == 0:
        return np.arange(len(points))
    steps = ((points - low) * (65535 / extent)).astype(np.uint32)
    return np.argsort(_spread(steps[:, 0]) | (_spread(steps[:, 1]) << 1), kind="stable")


def _spread(bits: np.ndarray) -> np.ndarray:
    """The 16 low bits of each number with a zero between them, uint32."""
    bits = (bits | (bits << 8)) & 0x00FF00FF
    bits = (bits | (bits << 4)) & 0x0F0F0F0F
    bits = (bits | (bits << 2)) & 0x33333333
    return (bits | (bits << 1)) & 0x55555555
