"""The alignment of an H&E image that was taken afterwards to the platform's own pixels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.scale import TOLERANCE
from storm._logging import logger
from storm.io._scale import given_scale

if TYPE_CHECKING:
    from storm.io._open import Opened

_POINTS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
#: µm per pixel of any H&E that shows nuclei.
_PLAUSIBLE_UM = (0.05, 5.0)
#: Factor by which the scale in a scanner's file may differ from that of an alignment.
_SCANNER = 1.25


def read_alignment(alignment: str | Path | np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the affine map from pixels of the H&E to pixels of the platform, x before y.

    Parameters
    ----------
    alignment
        The matrix, 3 × 3 or 2 × 3, as an array or in a csv file without header (as Xenium Explorer writes it); or a
        csv of key points with the columns fixedX, fixedY (platform) and alignmentX, alignmentY (H&E).

    Returns
    -------
    ndarray
        The map, shape (3, 3).
    dict
        Number of key points and their residual distance in pixels, if it was fitted to such.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not such a matrix or table, cannot be inverted, or mirrors the image.
    """
    facts: dict[str, Any] = {}
    if isinstance(alignment, str | Path):
        name = f"alignment={str(alignment)!r}"
        rows = _rows(Path(alignment))
        if set(_POINTS) <= {cell.strip() for cell in rows[0]}:
            matrix, facts = _fit(_key_points(rows, name), name)
        else:
            matrix = _numbers(rows, name)
    else:
        name = "alignment"
        try:
            matrix = np.asarray(alignment, dtype=np.float64)
        except (TypeError, ValueError) as error:
            msg = f"alignment is a 3 × 3 array of numbers or a csv file, not {alignment!r}"
            raise ValueError(msg) from error
    return check_matrix(matrix, name), facts


def check_matrix(matrix: np.ndarray, name: str) -> np.ndarray:
    """Raise unless a matrix is an affine map (3, 3) or (2, 3) that keeps the orientation; return it as (3, 3)."""
    if matrix.shape not in ((3, 3), (2, 3)):
        msg = f"{name} has shape {matrix.shape}; an affine matrix of x and y is 3 × 3 (or 2 × 3, without its last row)"
        raise ValueError(msg)
    if not np.isfinite(matrix).all():
        msg = f"{name} holds values that are not finite: {matrix.tolist()}"
        raise ValueError(msg)
    if len(matrix) == 2:
        matrix = np.vstack([matrix, [0.0, 0.0, 1.0]])
    if not np.allclose(matrix[2], [0, 0, 1], atol=1e-9):
        msg = (
            f"the last row of {name} is {matrix[2].tolist()}, not 0, 0, 1: a perspective, or the matrix is transposed; "
            f"give the affine matrix that maps pixels of the H&E (x, y, 1) to pixels of the platform"
        )
        raise ValueError(msg)
    determinant = float(np.linalg.det(matrix[:2, :2]))
    if determinant <= 0:
        what = "flips the image (a mirror)" if determinant < 0 else "cannot be inverted"
        msg = (
            f"the determinant of {name} is {determinant:.4g}: it {what}. A section is not mirrored by laying it on "
            f"another microscope: flip the image file first and align it anew, or correct the signs of the matrix "
            f"{matrix[:2].tolist()}"
        )
        raise ValueError(msg)
    return matrix


def check_alignment_scale(
    matrix: np.ndarray, opened: Opened, *, platform_um: float, um_per_px: float | None
) -> tuple[float, str]:
    """µm per pixel of the H&E that an alignment implies, compared with the argument and the file's own metadata.

    Parameters
    ----------
    matrix
        From pixels of the H&E to pixels of the platform.
    opened
        The H&E.
    platform_um
        µm per pixel of the platform.
    um_per_px
        µm per pixel of the H&E as the user gave them, or ``None``.

    Returns
    -------
    µm per pixel of the H&E, and their source.

    Raises
    ------
    ValueError
        If they disagree (by 5 % with the argument, by 25 % with the file), or no microscope has such pixels.
    """
    implied = float(np.sqrt(np.linalg.det(matrix[:2, :2]))) * platform_um
    given, source = given_scale(um_per_px)
    for other, who, tolerance in ((given, source, TOLERANCE), (opened.um_per_px, opened.source, _SCANNER)):
        if other is None or 1 / tolerance < implied / other < tolerance:
            continue
        inverse = platform_um**2 / implied
        hint = (
            "; its inverse would fit: the matrix has to map pixels of the H&E to pixels of the platform"
            if 1 / tolerance < inverse / other < tolerance
            else f" (factor {max(implied / other, other / implied):.3g}); was it made for a resized image?"
        )
        msg = (
            f"the alignment implies {implied:.4g} µm per pixel of {opened.path.name} ({platform_um:g} µm per pixel of "
            f"the platform), but they are {other:.4g} by {who}{hint}"
        )
        raise ValueError(msg)
    if not _PLAUSIBLE_UM[0] <= implied <= _PLAUSIBLE_UM[1]:
        msg = (
            f"the alignment implies {implied:.4g} µm per pixel of {opened.path.name}, which no H&E scan has "
            f"({_PLAUSIBLE_UM[0]:g} to {_PLAUSIBLE_UM[1]:g}); the matrix has to map pixels of the H&E to pixels of the "
            f"platform ({platform_um:g} µm each)"
        )
        raise ValueError(msg)
    stretch = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if stretch[0] / stretch[1] > _SCANNER:
        logger.warning("the alignment stretches the H&E %.2f times more along one axis", stretch[0] / stretch[1])
    return implied, f"the alignment, and {platform_um:g} µm per pixel of the platform"


def check_on_image(centres_px: np.ndarray, opened: Opened, matrix: np.ndarray) -> float:
    """Share of the cells that lie on the H&E.

    Parameters
    ----------
    centres_px
        x and y of the cells in pixels of the platform, shape (n, 2).
    opened
        The H&E.
    matrix
        Map from pixels of the H&E to pixels of the platform, shape (3, 3).

    Returns
    -------
    The share, 0 to 1.

    Raises
    ------
    ValueError
        If none lies on it.
    """
    centres_px = centres_px[np.isfinite(centres_px).all(axis=1)]
    back = np.linalg.inv(matrix)
    on_he = centres_px @ back[:2, :2].T + back[:2, 2]
    inside = ((on_he >= 0) & (on_he < opened.size)).all(axis=1)
    if len(on_he) and not inside.any():
        low, high = on_he.min(axis=0), on_he.max(axis=0)
        msg = (
            f"no cell lies on {opened.path.name} ({opened.size[0]} × {opened.size[1]} px): by the alignment the cells "
            f"span x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f} of its pixels. Is it the matrix of "
            f"this image, at this resolution, from pixels of the H&E to pixels of the platform?"
        )
        raise ValueError(msg)
    return float(inside.mean()) if len(on_he) else 0.0


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        msg = f"the alignment file {path} does not exist"
        raise FileNotFoundError(msg)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        msg = f"alignment={str(path)!r} is not a csv file"
        raise ValueError(msg) from error
    if not rows:
        msg = f"alignment={str(path)!r} is empty"
        raise ValueError(msg)
    return rows


def _numbers(rows: list[list[str]], name: str) -> np.ndarray:
    try:
        return np.array([[float(cell) for cell in row] for row in rows])
    except ValueError as error:
        msg = (
            f"{name} is neither a 3 × 3 matrix of numbers without header nor a table of key points with the columns "
            f"{', '.join(_POINTS)}; its first row is {rows[0][:6]}"
        )
        raise ValueError(msg) from error


def _key_points(rows: list[list[str]], name: str) -> tuple[np.ndarray, np.ndarray]:
    columns = [[cell.strip() for cell in rows[0]].index(key) for key in _POINTS]
    try:
        points = np.array([[float(row[k]) for k in columns] for row in rows[1:]]).reshape(-1, 4)
    except (ValueError, IndexError) as error:
        msg = f"{name}: a key point is not a number: {error}"
        raise ValueError(msg) from error
    return points[:, :2], points[:, 2:]


def _fit(points: tuple[np.ndarray, np.ndarray], name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Affine map of least squares from key points."""
    fixed, moving = points
    design = np.column_stack([moving, np.ones(len(moving))])
    if len(moving) < 3 or np.linalg.matrix_rank(design) < 3:
        msg = f"{name} holds {len(moving)} key points; an affine map needs three or more that do not lie on a line"
        raise ValueError(msg)
    solved = np.linalg.lstsq(design, fixed, rcond=None)[0]
    residual = float(np.sqrt(np.mean(np.sum((design @ solved - fixed) ** 2, axis=1))))
    matrix = np.vstack([solved.T, [0.0, 0.0, 1.0]])
    return matrix, {"key_points": len(moving), "key_points_residual_px": residual}
