"""Transformations of elements in pixels, and the scale that maps the places of an array to pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

#: A spot may lie this many pitches from where a similarity of the array puts it, and a little more on a large section
#: (next line): pixels are rounded, and a microscope's image is somewhat distorted.
_OFF_PITCHES = 1.0
#: The same as a share of the section's width.
_OFF_SHARE = 0.02


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
    um_per_px
        The scale in µm per pixel.
    residual
        Root mean square of the distances that remain, in µm.

    Raises
    ------
    ValueError
        If there are fewer than three points, or all lie on a line.
    """
    scale, residual = _fit(um, pixels)
    return scale, float(np.sqrt(np.mean(np.sum(residual**2, axis=1))))


def off_the_array(um: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Which points lie elsewhere in the image than on the array, bool (n,).

    Parameters
    ----------
    um, pixels
        The same points in both units, shape (n, 2), in µm on a lattice.
    """
    _, residual = _fit(um, pixels)
    steps = np.diff(np.unique(um[:, 0])), np.diff(np.unique(um[:, 1]))
    pitch = max(step.min() if len(step) else 0.0 for step in steps)
    allowed = _OFF_PITCHES * pitch + _OFF_SHARE * float(np.ptp(um, axis=0).max())
    return np.hypot(residual[:, 0], residual[:, 1]) > allowed


def _fit(um: np.ndarray, pixels: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale of the best similarity, and what remains of every point in µm, (n, 2)."""
    a, b = pixels - pixels.mean(axis=0), um - um.mean(axis=0)
    if len(a) < 3 or np.linalg.matrix_rank(a) < 2:
        msg = "the spots lie on a line: their pitch fixes no scale; give um_per_px"
        raise ValueError(msg)
    u, singular, vt = np.linalg.svd(a.T @ b)
    scale = float(singular.sum() / np.sum(a**2))
    return scale, scale * a @ (u @ vt) - b
