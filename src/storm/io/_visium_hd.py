"""Visium HD: bins of 2, 8 and 16 µm, or segmented cells, and the microscope's image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._checks import check_choice
from storm.io._scale import choose_scale, given_scale
from storm.io._vendor import (
    as_table,
    check_barcodes,
    check_counts,
    choose_image,
    facts,
    find_folder,
    listed,
    need,
    pitch_scale,
    read_barcodes,
    read_json,
    reduced_pictures,
    reduced_sizes,
    vendor_call,
)
from storm.io._visium import in_both_systems, space_ranger_image, under_tissue

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

#: Name of the data set while spatialdata-io reads it.
_DATASET = "hd"


def visium_hd(
    path: str | Path,
    image: str | Path | bool | None = None,
    *,
    bin_size: int | str = 8,
    um_per_px: float | None = None,
    filtered: bool = True,
) -> SpatialData:
    """Read a Visium HD section: the folder ``outs`` of Space Ranger, and the H&E image that it was run on.

    Parameters
    ----------
    path
        The folder, or the one above it.
    image
        The full-resolution H&E (see :func:`~storm.io.slide` for formats). With ``None``, the default, the one in
        ``microscope_image/`` or named ``*tissue_image.*``; without one a warning says so. ``"hires"`` or ``"lowres"``
        takes a reduced picture of the folder, ``False`` none.
    bin_size
        Side of the bins in µm, 2, 8 or 16; or ``"cells"`` for the cells that Space Ranger 4 segmented.
    um_per_px
        µm per pixel of the full-resolution image. By default from the folder's scale factors.
    filtered
        Read bins under tissue only.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, lazy where the format allows), ``shapes["bins"]`` (squares) or
        ``shapes["cells"]`` (polygons), ``tables["table"]`` (raw counts, CSR float32). Coordinate systems ``"global"``
        (pixels of the full-resolution image) and ``"um"`` (µm). ``attrs["storm_io"]`` tells the µm per pixel, where
        they come from, and the size of the bins.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; barcodes have no position; there are no bins or no counts; the image is not the one
        that Space Ranger was run on (e.g. a reduced copy); or the scale is contradictory.

    Warns
    -----
    UserWarning
        If there is no image, or the array's pitch contradicts the scale factors.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.visium_hd("outs", "HE_slide.btf", bin_size=8)  # doctest: +SKIP
    >>> storm.tl.embed(sdata)  # doctest: +SKIP
    """
    from spatialdata import SpatialData

    check_choice(bin_size, (2, 8, 16, "cells"), name="bin_size")
    folder = find_folder(path, platform="Visium HD", signs=("binned_outputs", "segmented_outputs", "*feature_slice.h5"))
    part = _part(folder, bin_size)
    spatial = need(part, "spatial", what="the folder with the scale factors")
    factors_file = need(spatial, "scalefactors_json.json", what="the file of scale factors")
    factors = read_json(factors_file)
    key = "cells" if bin_size == "cells" else "bins"
    table, shapes = (
        _cells(folder, part) if key == "cells" else _bins(folder, part, bin_size=int(bin_size), filtered=filtered)
    )
    check_counts(table, part)

    centres = np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])
    told = factors.get("microns_per_pixel")
    said = (float(told), f"microns_per_pixel in {factors_file.name}") if told else None
    by_pitch = None
    if key == "bins":
        array = table.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64) * float(bin_size)
        by_pitch = pitch_scale(array, table.obsm["spatial"].astype(np.float64), scale=said, path=part)
    scale = choose_scale([given_scale(um_per_px), said or (None, "")], of=str(folder)) or by_pitch
    if scale is None:
        msg = f"{factors_file} tells no microns_per_pixel; pass um_per_px= (µm per full-resolution pixel)"
        raise ValueError(msg)

    pictures = reduced_pictures(spatial)
    images = space_ranger_image(
        *choose_image(
            image,
            found=lambda: _microscope_image(folder),
            reduced=pictures,
            missing=f"{folder} has no full-resolution image (microscope_image/ or *tissue_image.*)",
        ),
        centres=centres[under_tissue(table)],
        factors=factors,
        reduced=reduced_sizes(pictures, factors),
        um_per_px=scale[0],
    )
    return SpatialData(
        images=images,
        shapes={key: in_both_systems(shapes, scale[0])},
        tables={
            "table": as_table(
                table,
                region=key,
                instance_key="cell_id" if key == "cells" else "location_id",
                uns={"spatial": {key: {"scalefactors": factors, "metadata": {}}}},
            )
        },
        attrs=facts(
            "visium_hd",
            folder=folder,
            scale=scale,
            bin_size=bin_size,
            um_per_px_of_pitch=by_pitch and by_pitch[0],
        ),
    )


def _part(folder: Path, bin_size: int | str) -> Path:
    """The folder of one size of bins, or of the cells."""
    if bin_size == "cells":
        return need(folder, "segmented_outputs", what="the folder of segmented cells (Space Ranger 4 or newer)")
    binned = need(folder, "binned_outputs", what="the folder of binned counts")
    part = binned / f"square_{bin_size:03d}um"
    if not part.is_dir():
        msg = f"bin_size={bin_size}: {binned} holds no {part.name}, but {listed(binned)}"
        raise FileNotFoundError(msg)
    return part


def _bins(folder: Path, part: Path, *, bin_size: int, filtered: bool) -> tuple[AnnData, GeoDataFrame]:
    counts = need(part, f"{'filtered' if filtered else 'raw'}_feature_bc_matrix.h5", what="the matrix of counts")
    positions = need(part / "spatial", "tissue_positions.parquet", what="the table of positions of the bins")
    try:
        placed = pd.read_parquet(positions, columns=["barcode"])["barcode"]
    except (OSError, ValueError, KeyError) as error:
        msg = f"{positions} cannot be read as a table of positions: {error}"
        raise ValueError(msg) from error
    check_barcodes(read_barcodes(counts), placed, counts=counts, positions=positions)
    raw = _spatialdata_io(folder, part, bin_size=bin_size, filtered_counts_file=filtered, load_segmentations_only=False)
    return raw.tables[part.name], raw.shapes[f"{_name(folder)}_{part.name}"]


def _cells(folder: Path, part: Path) -> tuple[AnnData, GeoDataFrame]:
    need(part, "filtered_feature_cell_matrix.h5", what="the matrix of counts of the cells")
    need(part, "cell_segmentations.geojson", what="the outlines of the cells")
    raw = _spatialdata_io(folder, part, load_segmentations_only=True)
    table, shapes = raw.tables["cell_segmentations"], raw.shapes[f"{_name(folder)}_cell_segmentations"]
    table.obsm["spatial"] = np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])
    return table, shapes


def _name(folder: Path) -> str:
    """Name of the data set: the prefix of its files where they have one."""
    prefixed = sorted(folder.glob("*_feature_slice.h5"))
    return prefixed[0].name.removesuffix("_feature_slice.h5") if len(prefixed) == 1 else _DATASET


def _spatialdata_io(folder: Path, part: Path, **options: Any) -> SpatialData:
    import spatialdata_io

    # It would decode a whole BigTIFF at once; the image is read elsewhere, and a small picture stands in for it.
    small = sorted(reduced_pictures(part / "spatial").values(), key=lambda path: path.stat().st_size)
    with vendor_call(folder, platform="Visium HD"):
        return spatialdata_io.visium_hd(
            folder,
            dataset_id=_name(folder),
            fullres_image_file=small[0] if small else None,
            gex_only=True,
            **options,
        )


def _microscope_image(folder: Path) -> Path | None:
    """The full-resolution image that lies in the folder, if there is exactly one."""
    inside = folder / "microscope_image"
    found = sorted(p for p in inside.iterdir() if p.is_file()) if inside.is_dir() else []
    found = found or sorted(folder.glob("*tissue_image.*"))
    if len(found) > 1:
        msg = f"{folder} holds several images, {[p.name for p in found]}; choose the H&E with image="
        raise ValueError(msg)
    return found[0] if found else None
