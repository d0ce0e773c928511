"""An H&E image on a platform whose own pixels are those of another image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.io._alignment import check_alignment_scale, check_on_image, read_alignment
from storm.io._open import open_image

if TYPE_CHECKING:
    from xarray import DataTree


def find_alignment(image: Path, folder: Path, alignment: str | Path | np.ndarray | None) -> str | Path | np.ndarray:
    """The alignment that was given, or the one that lies beside the image under the vendor's name.

    Raises
    ------
    ValueError
        If neither exists.
    """
    if alignment is not None:
        return alignment
    name = image.name.removesuffix(image.suffix).removesuffix(".ome") + "alignment.csv"
    for place in (image.parent, folder):
        if (place / name).is_file():
            return place / name
    msg = (
        f"the position of {image.name} on the section is not known: pass alignment= (a 3 × 3 matrix from its pixels to "
        f"the platform's pixels, as an array or csv, or a csv of key points); no {name} lies beside it. An image that "
        f"lies on the platform's own pixels has alignment=np.eye(3)"
    )
    raise ValueError(msg)


def aligned_image(
    path: Path,
    alignment: str | Path | np.ndarray,
    *,
    centres_um: np.ndarray,
    platform_um: float,
    um_per_px: float | None,
) -> tuple[DataTree, dict[str, Any]]:
    """Read an H&E and place it on the section by its alignment.

    Parameters
    ----------
    path
        File of the H&E.
    alignment
        Matrix or file, see :func:`~storm.io._alignment.read_alignment`.
    centres_um
        x and y of the cells in µm, shape (n, 2).
    platform_um
        µm per pixel of the platform.
    um_per_px
        µm per pixel of the H&E as the user gave them, or ``None``.

    Returns
    -------
    DataTree
        The H&E, in the coordinate systems ``"global"`` (pixels of the platform) and ``"um"``.
    dict
        Name of the image, its µm per pixel and their source, the share of cells that lie on it, and facts about the
        key points of the alignment if it came from such.

    Raises
    ------
    ValueError
        If the image or the alignment cannot be read, scales disagree, or no cell lies on the image.
    """
    from spatialdata.transformations import Affine

    opened = open_image(path)
    matrix, more = read_alignment(alignment)
    he_um, source = check_alignment_scale(matrix, opened, platform_um=platform_um, um_per_px=um_per_px)
    share = check_on_image(np.asarray(centres_um, dtype=np.float64) / platform_um, opened, matrix)
    to_um = np.diag([platform_um, platform_um, 1.0]) @ matrix
    xy = ("x", "y")
    transformations = {
        "global": Affine(matrix, input_axes=xy, output_axes=xy),
        "um": Affine(to_um, input_axes=xy, output_axes=xy),
    }
    element = opened.element(transformations)
    more |= {
        "image": opened.path.name,
        "image_um_per_px": he_um,
        "image_um_per_px_source": source,
        "cells_on_image": share,
    }
    return element, more
