"""Visium HD: bins of 2, 8 and 16 µm, or segmented cells, and the microscope's image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm._checks import check_choice
from storm._logging import warn
from storm.io._matrix import read_matrix
from storm.io._outlines import Outlines, trace, valid
from storm.io._placing import in_pixels
from storm.io._recognise import SIGNS
from storm.io._scale import choose_scale, given_scale
from storm.io._space_ranger import (
    join_positions,
    pitch_scale,
    read_factors,
    read_positions,
    reduced_pictures,
    space_ranger_image,
    under_tissue,
)
from storm.io._vendor import (
    as_table,
    check_scale,
    choose_image,
    find_folder,
    listed,
    need,
    read_facts,
    read_json,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData


def visium_hd(
    path: str | Path,
    image: str | Path | bool | None = None,
    *,
    bin_size: Literal[2, 8, 16, "cells"] = 8,
    um_per_px: float | None = None,
    filtered: bool = True,
) -> SpatialData:
    """Read a Visium HD section: the folder ``outs`` of Space Ranger, and the H&E image that it was run on.

    Parameters
    ----------
    path
        The folder, the one above it, or ``binned_outputs`` alone.
    image
        The full-resolution H&E (see :func:`~storm.io.slide` for formats). With ``None``, the default, the one in
        ``microscope_image/`` or named ``*tissue_image.*``; without one a warning is given. ``"hires"`` or ``"lowres"``
        takes a reduced picture of the folder; ``False`` reads no image.
    bin_size
        Side of the bins in µm, 2, 8 or 16; or ``"cells"`` for the cells that Space Ranger 4 segmented.
    um_per_px
        µm per pixel of the full-resolution image. By default from the folder's scale factors, or, where these hold
        none, from the size of the bins.
    filtered
        Whether to read only the bins that Space Ranger called tissue, instead of all bins of the capture area. Cells
        are always the filtered ones.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, lazy where the format allows), ``shapes["bins"]`` (squares) or
        ``shapes["cells"]`` (polygons), ``tables["table"]`` (raw counts of genes, bins or cells × genes, CSR float32).
        Coordinate systems ``"global"`` (pixels of the full-resolution image) and ``"um"`` (µm). ``attrs["storm_io"]``
        holds the µm per pixel, their source, the size of the bins, the names of the files that were read, and how many
        features, rows and outlines were left out or repaired.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; barcodes occur twice or have no position; positions are NaN; there are no bins or no
        counts; the image is not the one that Space Ranger was run on (e.g. a reduced copy); or the scale is unknown,
        impossible or contradictory.

    Warns
    -----
    UserWarning
        If there is no image; the array's pitch contradicts the scale; another matrix beside the one that is read
        differs from it; features that are not genes are left out; or cells without a usable outline are.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.visium_hd("outs", "HE_slide.btf", bin_size=8)
    >>> storm.tl.embed(sdata)
    >>> "X_storm" in sdata["table"].obsm
    True
    """
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel

    check_choice(bin_size, (2, 8, 16, "cells"), name="bin_size")
    given = given_scale(um_per_px)
    folder = find_folder(path, platform="Visium HD", signs=SIGNS["visium_hd"])
    part = _part(folder, bin_size)
    spatial = need(part, "spatial", what="the folder with the scale factors")
    factors_file = need(spatial, "scalefactors_json.json", what="the file of scale factors")
    factors = read_factors(factors_file)
    from_factors = (factors.get("microns_per_pixel"), f"microns_per_pixel in {factors_file.name}")
    scale = choose_scale([given, from_factors], of=str(folder))
    by_pitch = None
    if bin_size == "cells":
        table, shapes, facts = _cells(part)
    else:
        table, facts = _bins(part, kind="filtered" if filtered else "raw")
        array = table.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64) * float(bin_size)
        by_pitch = pitch_scale(array, table.obsm["spatial"], pitch_um=bin_size, scale=scale, path=part)
    scale = scale or by_pitch
    if scale is None:
        msg = f"{factors_file} holds no usable microns_per_pixel; pass um_per_px= (µm per full-resolution pixel)"
        raise ValueError(msg)
    check_scale(scale)
    if bin_size != "cells":
        shapes = _squares(table, side=float(factors.get("spot_diameter_fullres", bin_size / scale[0])))
    facts |= {"bin_size": bin_size, "um_per_px_of_pitch": by_pitch and by_pitch[0]}

    pictures = reduced_pictures(spatial)
    picture, reduced_name = choose_image(
        image,
        in_folder=lambda: _microscope_image(folder),
        reduced=pictures,
        missing=f"{folder} has no full-resolution image (microscope_image/ or *tissue_image.*)",
    )
    images = space_ranger_image(
        picture,
        reduced_name,
        centres=table.obsm["spatial"][under_tissue(table.obs)],
        factors=factors,
        pictures=pictures,
        um_per_px=scale[0],
    )
    key = "cells" if bin_size == "cells" else "bins"
    metadata = table.uns.pop("metadata")
    return SpatialData(
        images=images,
        shapes={key: ShapesModel.parse(shapes, transformations=in_pixels(scale[0]))},
        tables={
            "table": as_table(
                table,
                region=key,
                instance_key="cell_id" if key == "cells" else "location_id",
                uns={"spatial": {key: {"scalefactors": factors, "metadata": metadata}}},
            )
        },
        attrs=read_facts("visium_hd", folder=folder, scale=scale, more=facts),
    )


def _part(folder: Path, bin_size: int | str) -> Path:
    """The folder of one size of bins, or of the cells."""
    if bin_size == "cells":
        return need(folder, "segmented_outputs", what="the folder of segmented cells (Space Ranger 4 or newer)")
    binned = folder / "binned_outputs"
    if not binned.is_dir() and next(folder.glob("square_*um"), None) is not None:
        binned = folder
    if not binned.is_dir():
        msg = f"the folder of binned counts is missing: {folder} holds no binned_outputs, but {listed(folder)}"
        raise FileNotFoundError(msg)
    part = binned / f"square_{bin_size:03d}um"
    if not part.is_dir():
        msg = f"bin_size={bin_size}: {binned} holds no {part.name}, but {listed(binned)}"
        raise FileNotFoundError(msg)
    return part


def _bins(part: Path, *, kind: str) -> tuple[AnnData, dict[str, Any]]:
    """Counts and places of the bins, and facts about what was read."""
    spatial = need(part, "spatial", what="the folder with the positions of the bins")
    positions_file, positions = read_positions(spatial, "tissue_positions.parquet")
    table, facts = read_matrix(part, f"{kind}_feature_bc_matrix")
    facts["positions"] = positions_file.name
    facts |= join_positions(table, positions, counts=part / facts["counts"], path=positions_file)
    table.obs["location_id"] = np.arange(table.n_obs)
    return table, facts


def _squares(table: AnnData, *, side: float) -> GeoDataFrame:
    """Bins as squares in pixels, ``side`` pixels wide."""
    import geopandas as gpd
    import shapely

    centres = table.obsm["spatial"]
    boxes = shapely.box(*(centres - side / 2).T, *(centres + side / 2).T)
    return gpd.GeoDataFrame(geometry=boxes, index=table.obs["location_id"].to_numpy())


def _cells(part: Path) -> tuple[AnnData, GeoDataFrame, dict[str, Any]]:
    """Counts and outlines of the segmented cells, and facts about what was read."""
    import geopandas as gpd

    table, facts = read_matrix(part, "filtered_feature_cell_matrix")
    file = need(part, "cell_segmentations.geojson", what="the outlines of the cells")
    outlines = _read_outlines(file)
    row = outlines.index.get_indexer(table.obs_names)
    outlined = row >= 0
    if not outlined.any():
        msg = (
            f"{file} holds the outline of none of the cells of {facts['counts']} (like {table.obs_names[0]!r}), but "
            f"{len(outlines.index)} others; the files are of different runs"
        )
        raise ValueError(msg)
    facts |= {
        "cells_left_out": int((~outlined).sum()),
        "outlines_repaired": outlines.repaired,
        "outlines_of_no_cell": int((~outlines.index.isin(table.obs_names)).sum()),
    }
    if not outlined.all():
        msg = f"{facts['cells_left_out']} of {table.n_obs} cells have no usable outline and are left out ({file.name})"
        warn(msg)
        table = table[outlined].copy()
    frame = gpd.GeoDataFrame(geometry=outlines.shapes[row[outlined]], index=pd.Index(table.obs_names, name=None))
    centroid = frame.geometry.centroid
    table.obsm["spatial"] = np.column_stack([centroid.x, centroid.y])
    table.obs["cell_id"] = table.obs_names.to_numpy(dtype=str)
    return table, frame, facts


def _read_outlines(file: Path) -> Outlines:
    """Outlines in pixels by the cells' barcodes; whatever is not a polygon is left out."""
    import shapely

    features = read_json(file).get("features")
    if not isinstance(features, list):
        msg = f"{file} holds no list of features; is it the segmentation of Space Ranger?"
        raise ValueError(msg)
    names: list[str] = []
    rings: list[np.ndarray] = []
    others: dict[str, Any] = {}
    for feature in features:
        try:
            name = f"cellid_{int(feature['properties']['cell_id']):09d}-1"
            geometry = feature["geometry"]
            coordinates = geometry["coordinates"]
            if geometry["type"] == "Polygon" and len(coordinates) == 1:
                ring = np.asarray(coordinates[0], dtype=np.float64)[:, :2]
                names.append(name)
                rings.append(ring)
            else:
                others[name] = valid(shapely.from_geojson(json.dumps(geometry)))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, shapely.errors.GEOSException):
            continue  # its cell is counted among those without an outline
    index = pd.Index(names, dtype=object)
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        msg = f"{file} outlines a cell twice, e.g. {twice!r}: which outline is its own is unknown"
        raise ValueError(msg)
    sizes = [len(ring) for ring in rings]
    traced = trace(np.repeat(index, sizes), np.concatenate(rings) if rings else np.empty((0, 2)))
    more = {name: shape for name, shape in others.items() if shape is not None and name not in index}
    shapes = np.empty(len(more), dtype=object)
    shapes[:] = list(more.values())
    return Outlines(
        traced.index.append(pd.Index(list(more), dtype=object)),
        np.concatenate([traced.shapes, shapes]),
        traced.repaired,
        traced.lost,
    )


def _microscope_image(folder: Path) -> Path | None:
    """The full-resolution image that lies in the folder, if there is exactly one."""
    inside = folder / "microscope_image"
    images = sorted(p for p in inside.iterdir() if p.is_file()) if inside.is_dir() else []
    images = images or sorted(folder.glob("*tissue_image.*"))
    if len(images) > 1:
        msg = f"{folder} holds several images, {[p.name for p in images]}; choose the H&E with image="
        raise ValueError(msg)
    return images[0] if images else None
