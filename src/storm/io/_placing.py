"""Transformations of elements in pixels, and the scale that maps the places of an array to pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storm._logging import warn

#: A spot may lie this many pitches from where a similarity of the array puts it, and a little more on a large section
#: (next line): pixels are rounded, and a microscope's image is somewhat distorted.
_OFF_PITCHES = 1.0
#: The same as a share of the section's width.
_OFF_SHARE = 0.02
#: If a larger share of the spots, ...
_ASTRAY = 0.01
#: ... and more than this number, lie elsewhere, array and pixels do not belong together; fewer are errors of the spots.
_FEW = 2


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


def off_the_array(um: np.ndarray, pixels: np.ndarray, *, pitch_um: float) -> np.ndarray:
    """Which points lie elsewhere in the image than on the array, bool (n,).

    Parameters
    ----------
    um, pixels
        The same points in both units, shape (n, 2).
    pitch_um
        Distance between neighbouring points in µm.
    """
    _, residual = _fit(um, pixels)
    allowed = _OFF_PITCHES * pitch_um + _OFF_SHARE * float(np.ptp(um, axis=0).max())
    return np.hypot(residual[:, 0], residual[:, 1]) > allowed


def check_array(um: np.ndarray, pixels: np.ndarray, *, pitch_um: float, path: Path | str) -> None:
    """Compare the places of spots on the array with their places in the image.

    Parameters
    ----------
    um, pixels
        The same points in both units, shape (n, 2).
    pitch_um
        Distance between neighbouring points in µm.
    path
        The file or folder with both, or another name of them, for the report.

    Raises
    ------
    ValueError
        If more than 1 % of the spots (and more than two) lie elsewhere than the others imply.

    Warns
    -----
    UserWarning
        If fewer do.
    """
    astray = off_the_array(um, pixels, pitch_um=pitch_um)
    if not astray.any():
        return
    text = (
        f"{path}: {int(astray.sum())} of {len(astray)} spots lie in the image elsewhere than on the array: array "
        f"coordinates and pixels of the table of positions do not belong together"
    )
    if astray.sum() > max(_FEW, _ASTRAY * len(astray)):
        raise ValueError(text)
    warn(text)


def _fit(um: np.ndarray, pixels: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale of the best similarity, and what remains of every point in µm, (n, 2)."""
    a, b = pixels - pixels.mean(axis=0), um - um.mean(axis=0)
    if len(a) < 3 or np.linalg.matrix_rank(a) < 2:
        msg = "the spots lie on a line: their pitch fixes no scale; give um_per_px"
        raise ValueError(msg)
    u, singular, vt = np.linalg.svd(a.T @ b)
    scale = float(singular.sum() / np.sum(a**2))
    return scale, scale * a @ (u @ vt) - b
