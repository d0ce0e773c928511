"""By which files a vendor's folder is known, and which reader reads what lies at a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: By reader: patterns of files and folders, one of which its folder holds. The first reader that fits is taken: the
#: folder of Visium HD's bins also holds what one of Visium does.
SIGNS: dict[str, tuple[str, ...]] = {
    # A download of one part may hold no more than the bins.
    "visium_hd": ("binned_outputs", "segmented_outputs", "*feature_slice.h5", "square_*um"),
    "xenium": ("experiment.xenium", "cell_feature_matrix.h5", "cells.zarr.zip"),
    "cosmx": ("*_exprMat_file.csv", "*_exprMat_file.csv.gz"),
    "visium": ("spatial", "*filtered_feature_bc_matrix*", "*raw_feature_bc_matrix*"),
}
#: Folder below the one that a user may give.
BELOW = "outs"


def holds(folder: Path, signs: Sequence[str]) -> bool:
    """Whether a folder holds one of some files."""
    return any(next(folder.glob(sign), None) is not None for sign in signs)


def recognise(path: Path) -> tuple[str, Path] | None:
    """Find the reader for what lies at a path, by names of files, or by opening an image without reading its pixels.

    Parameters
    ----------
    path
        A file or a folder.

    Returns
    -------
    tuple of str and Path
        Name of a function of :mod:`storm.io`, and what it is to be given: ``path`` itself, or the folder above it where
        ``path`` is a part of a section. ``None`` if it is nothing that STORM reads.
    """
    if path.is_dir():
        if _is_part_of_bins(path):
            return "visium_hd", path.parent
        for reader, signs in SIGNS.items():
            if holds(path, signs) or holds(path / BELOW, signs):
                return reader, path
        return ("slide", path) if _is_image(path) else None
    if path.suffix == ".h5ad":
        return "from_anndata", path
    if any(path.match(sign) for signs in SIGNS.values() for sign in signs):
        return recognise(path.parent)
    return ("slide", path) if _is_image(path) else None


def _is_part_of_bins(folder: Path) -> bool:
    return folder.match("square_*um") and (folder / "spatial").is_dir()


def _is_image(path: Path) -> bool:
    from storm.io._open import open_image
    from storm.io._picture import PICTURES

    if path.suffix.casefold() in PICTURES:
        return True  # opening it decodes it
    try:
        open_image(path)
    except (OSError, ValueError, ImportError):
        return False
    return True
