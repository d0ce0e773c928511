"""Transformations of elements in pixels, and the scale that maps the places of an array to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np


def in_pixels(um_per_px: float) -> dict[str, Any]:
    """Transformations of something in pixels: to itself (``"global"``), and to µm (``"um"``)."""
    from spatialdata.transformations import Identity, Scale

    return {"global": Identity(), "um": Scale([um_per_px, um_per_px], axes=("x", "y"))}


def fit_scale(um: np.ndarray, pixels: np.ndarray) -> tuple[float, float]:
    """µm per pixel of the similarity (rotation or reflection, scale, shift) that maps pixels to µm best.

    Least squares with one scale for both axes (S. Umeyama, IEEE PAMI 13, 1991).

    Parameters
    ----------
    um, pixels
        The same points in both units, shape (n, 2).

    Returns
    -------
    um_per_px, root mean square of the residual distance in µm
    """
    a, b = pixels - pixels.mean(axis=0), um - um.mean(axis=0)
    if len(a) < 3 or np.linalg.matrix_rank(a) < 2:
        msg = "the spots lie on a line: their pitch fixes no scale; give um_per_px"
        raise ValueError(msg)
    u, singular, vt = np.linalg.svd(a.T @ b)
    scale = float(singular.sum() / np.sum(a**2))
    residual = scale * a @ (u @ vt) - b
    return scale, float(np.sqrt(np.mean(np.sum(residual**2, axis=1))))
