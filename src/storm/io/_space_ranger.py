"""Files that Space Ranger writes for Visium and Visium HD: positions, scale factors and reduced pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.scale import TOLERANCE, VISIUM_SPOT_UM
from storm._logging import logger, warn
from storm.io._open import open_image
from storm.io._placing import check_array, fit_scale, in_pixels
from storm.io._scale import check_full_resolution, note_image_scale
from storm.io._vendor import (
    check_named_once,
    listed,
    need_columns,
    number,
    numbers,
    places,
    possible_scale,
    read_json,
    read_table,
)

if TYPE_CHECKING:
    from anndata import AnnData

_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
#: Sizes of the reduced pictures relative to the full-resolution image, and what they can be.
_REDUCED = ("tissue_hires_scalef", "tissue_lowres_scalef")
_REDUCTION = (1e-4, 10.0)
#: Pixel columns in the order x, y.
_XY = ["pxl_col_in_fullres", "pxl_row_in_fullres"]


#: The table of positions of Visium HD.
_OF_BINS = "tissue_positions.parquet"


def read_positions(spatial: Path, *names: str) -> tuple[Path, pd.DataFrame]:
    """The table of positions, indexed by barcode, of any version of Space Ranger (the first wrote no header).

    Parameters
    ----------
    spatial
        The folder ``spatial``.
    names
        Names that such a table may have.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If there are several that differ, or one cannot be read.
    """
    files = [spatial / name for name in names if (spatial / name).is_file()]
    if not files:
        msg = f"the table of positions is missing: {spatial} holds no {' or '.join(names)}, but {listed(spatial)}"
        if (spatial / _OF_BINS).is_file():
            msg = f"{msg}; {_OF_BINS} is that of bins, which storm.io.visium_hd reads"
        raise FileNotFoundError(msg)
    first, *others = [(file, _positions(file)) for file in files]
    for file, frame in others:
        if not frame.sort_index().equals(first[1].sort_index()):
            msg = (
                f"{first[0]} and {file.name} place the spots differently: only one of them is of this run; remove the "
                f"other"
            )
            raise ValueError(msg)
    return first


def _positions(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        frame = read_table(path)
        if "barcode" not in frame.columns and frame.index.name == "barcode":
            frame = frame.reset_index()
    else:
        first = read_table(path, header=None, nrows=1, dtype=str)
        named = "in_tissue" in first.iloc[0].tolist()
        frame = read_table(path, header=0 if named else None)
        if not named:
            if frame.shape[1] != len(_COLUMNS):
                msg = f"{path} has {frame.shape[1]} columns; Space Ranger writes {_COLUMNS}"
                raise ValueError(msg)
            frame.columns = pd.Index(_COLUMNS)
    need_columns(frame, _COLUMNS, path)
    values = numbers(frame, _COLUMNS[1:], path)
    frame = pd.DataFrame(values, columns=_COLUMNS[1:], index=pd.Index(frame["barcode"].astype(str), name=None))
    check_named_once(frame.index, path, what="barcodes")
    return frame


def join_positions(table: AnnData, positions: pd.DataFrame, *, counts: Path, path: Path) -> dict[str, int]:
    """Give every observation of a table its row of the positions, by its barcode.

    Writes ``obsm["spatial"]`` (x and y in pixels of the full-resolution image, float64 (n, 2)) and the columns
    ``in_tissue``, ``array_row`` and ``array_col`` of ``obs``.

    Returns
    -------
    Number of barcodes outside the tissue, and of positions under tissue that have no counts; only those above zero.

    Raises
    ------
    ValueError
        If barcodes have no position, or positions are NaN.
    """
    _check_barcodes(table.obs_names, positions.index, counts=counts, positions=path)
    rows = positions.loc[table.obs_names]
    array = rows[["in_tissue", "array_row", "array_col"]]
    if not np.isfinite(array.to_numpy()).all():
        msg = f"{path}: {list(array.columns)} are missing for {int(array.isna().any(axis=1).sum())} barcodes"
        raise ValueError(msg)
    table.obsm["spatial"] = places(rows, _XY, path)
    table.obs["in_tissue"] = (array["in_tissue"] == 1).to_numpy().astype(int)
    for column in ("array_row", "array_col"):
        table.obs[column] = array[column].to_numpy().astype(int)
    tissue = positions.index[positions["in_tissue"] == 1]
    counted = {
        "outside_tissue": int((table.obs["in_tissue"] != 1).sum()),
        "in_tissue_without_counts": int((~tissue.isin(table.obs_names)).sum()),
    }
    counted = {key: value for key, value in counted.items() if value}
    if counted:
        logger.warning("%s against %s: %s", path.name, counts.name, counted)
    return counted


def _check_barcodes(barcodes: pd.Index, placed: pd.Index, *, counts: Path, positions: Path) -> None:
    """Raise if some barcodes have no place."""
    if not len(placed):
        msg = f"{positions} holds no positions"
        raise ValueError(msg)
    known = barcodes.isin(placed)
    if known.all():
        return
    lost = barcodes[~known]
    msg = (
        f"{len(lost)} of {len(barcodes)} barcodes in {counts} have no position in {positions}, e.g. {str(lost[0])!r} "
        f"(positions are like {str(placed[0])!r}); "
        + ("the two files are of different samples" if not known.any() else "one of the files is incomplete")
    )
    raise ValueError(msg)


def under_tissue(obs: pd.DataFrame) -> np.ndarray:
    """Which spots or bins Space Ranger saw under tissue, bool (n,); all if it saw none there."""
    seen = obs["in_tissue"].to_numpy() == 1 if "in_tissue" in obs else np.ones(len(obs), dtype=bool)
    return seen if seen.any() else ~seen


def read_factors(path: Path) -> dict[str, Any]:
    """Scale factors that can be used: possible numbers above zero. The others are reported and left out."""
    factors = read_json(path)
    usable = {key: value for key, value in factors.items() if number(value) is not None}
    # a spot of Visium stands for a bin of Visium HD, too: this is about the order of magnitude
    implied = {
        "microns_per_pixel": usable.get("microns_per_pixel", 1.0),
        "spot_diameter_fullres": VISIUM_SPOT_UM / usable.get("spot_diameter_fullres", VISIUM_SPOT_UM),
    }
    impossible = [key for key, um_per_px in implied.items() if not possible_scale(um_per_px)]
    impossible += [key for key in _REDUCED if key in usable and not _REDUCTION[0] <= usable[key] <= _REDUCTION[1]]
    for key in impossible:
        del usable[key]
    unusable = {key: value for key, value in factors.items() if key not in usable}
    if unusable:
        logger.warning("%s: %s are not possible numbers above zero, and are not used", path, unusable)
    return usable


def pitch_scale(
    array_um: np.ndarray, pixels: np.ndarray, *, pitch_um: float, scale: tuple[float, str] | None, path: Path
) -> tuple[float, str] | None:
    """µm per pixel by the places on the array; a warning if another source contradicts it.

    Parameters
    ----------
    array_um
        Places on the array in µm, (n, 2).
    pixels
        The same in pixels of the full-resolution image.
    pitch_um
        Distance between neighbouring spots in µm.
    scale
        µm per pixel from another source, and that source.
    path
        The folder, for warnings and errors.

    Raises
    ------
    ValueError
        If rows and columns of the array do not belong to the pixels.
    """
    try:
        by_pitch, _ = fit_scale(array_um, pixels)
    except ValueError:  # fewer than three spots, or all on a line
        return None
    check_array(array_um, pixels, pitch_um=pitch_um, path=path)
    if scale is not None and not 1 / TOLERANCE < by_pitch / scale[0] < TOLERANCE:
        msg = (
            f"{path}: the pitch of the array implies {by_pitch:.4g} µm per pixel, but {scale[1]} gives {scale[0]:.4g}, "
            f"which is used: positions and scale seem to be of different runs"
        )
        warn(msg)
    return by_pitch, "the pitch of the array"


def reduced_pictures(folder: Path) -> dict[str, Path]:
    """Reduced pictures of Space Ranger in a folder ``spatial``, by name."""
    names = {key: folder / f"tissue_{key}_image.png" for key in ("hires", "lowres")}
    return {key: path for key, path in names.items() if path.is_file()}


def reduced_sizes(pictures: Mapping[str, Path], factors: Mapping[str, Any]) -> dict[str, tuple[tuple[int, int], float]]:
    """Sizes (width, height) and scales of the reduced pictures that can be opened, by file name."""
    from PIL import Image

    sizes = {}
    for key, path in pictures.items():
        scale = factors.get(f"tissue_{key}_scalef")
        if not scale:
            continue
        try:
            with Image.open(path) as picture:
                sizes[path.name] = (picture.size, float(scale))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            logger.warning("%s cannot be opened, and is not compared with the image: %s", path, error)
    return sizes


def space_ranger_image(
    path: Path | None,
    reduced_name: str | None,
    *,
    centres: np.ndarray,
    factors: Mapping[str, Any],
    pictures: Mapping[str, Path],
    um_per_px: float,
) -> dict[str, Any]:
    """The H&E as ``{"he": element}``, or nothing.

    Parameters
    ----------
    path, reduced_name
        The picture, and its name if it is a reduced one.
    centres
        x and y of spots or bins in pixels of the full-resolution image, (n, 2).
    factors
        Space Ranger's scale factors.
    pictures
        The reduced pictures, by name.
    um_per_px
        µm per pixel of the full-resolution image.
    """
    from spatialdata.transformations import Scale

    if path is None:
        return {}
    opened = open_image(path)
    if reduced_name is None:
        check_full_resolution(opened, centres, reduced=reduced_sizes(pictures, factors))
        note_image_scale(opened, um_per_px)
        return {"he": opened.element(in_pixels(um_per_px))}
    key = f"tissue_{reduced_name}_scalef"
    if key not in factors:
        msg = f"image={reduced_name!r}: the scale factors hold no usable {key}, but {list(factors)}"
        raise ValueError(msg)
    scale = float(factors[key])
    logger.warning(
        "images['he'] is the reduced picture %s with %.3g µm per pixel; give the microscope's image if you have it",
        opened.path.name,
        um_per_px / scale,
    )
    steps = {"global": 1 / scale, "um": um_per_px / scale}
    return {"he": opened.element({system: Scale([step, step], axes=("x", "y")) for system, step in steps.items()})}
