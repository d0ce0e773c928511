"""CosMx: fields of view, stitched by the vendor's global coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._logging import logger, warn
from storm.io._aligned import aligned_image, find_alignment
from storm.io._cosmx_scale import cosmx_scale
from storm.io._cosmx_tables import (
    AREA,
    CENTRE,
    LOCAL,
    CellCounts,
    cell_names,
    key_columns,
    read_cell_counts,
    read_cells,
)
from storm.io._outlines import fit_outlines, trace
from storm.io._placing import in_pixels
from storm.io._recognise import SIGNS
from storm.io._vendor import (
    as_path,
    as_table,
    find_folder,
    listed,
    need_packed,
    numbers,
    read_facts,
    read_table,
    storable,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_COUNTS = "_exprMat_file.csv"


def cosmx(
    path: str | Path,
    image: str | Path | None = None,
    alignment: str | Path | np.ndarray | None = None,
    *,
    um_per_px: float | None = None,
) -> SpatialData:
    """Read a CosMx section with all its fields of view in one frame, and an H&E of it with its alignment.

    Parameters
    ----------
    path
        The folder with the flat files ``*_exprMat_file.csv``, ``*_metadata_file.csv``,
        ``*_fov_positions_file.csv`` and, for outlines, ``*-polygons.csv``; each may be gzipped. No other file is
        opened.
    image
        H&E of the same section (see :func:`~storm.io.slide` for formats). The composites of the folder are
        fluorescence, and are not read.
    alignment
        Where the H&E lies: the matrix from its pixels to the vendor's global pixels, 3 × 3 or 2 × 3, as an array or a
        csv; or a csv of key points (columns fixedX, fixedY in global pixels, alignmentX, alignmentY in the H&E).
    um_per_px
        µm per pixel of the vendor's global coordinates (not of the H&E). By default from the positions of the fields of
        view where they are given in pixels and in mm, or from the areas of the cells in pixels and in µm²; else
        0.120280945, which the vendor states for the instrument, if the fields of view are not wider than its own.

    Returns
    -------
    SpatialData
        ``images["he"]`` if there is one (multiscale, uint8), ``shapes["cells"]`` (the vendor's polygons, or circles of
        the cells' areas if the folder has none), ``tables["table"]`` (raw counts of genes, cells × genes, CSR float32,
        in the order of the table of cells). Coordinate systems ``"global"`` (the vendor's global pixels) and ``"um"``
        (µm). A cell without a usable outline gets a disc of its area around the vendor's centre.
        ``attrs["storm_io"]`` holds the µm per pixel, their source, and how many controls, columns, rows and outlines
        were left out, replaced or repaired.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; the files are of different runs; a cell occurs twice or its centre is NaN; there are
        no cells or no counts; the scale is unknown, impossible or contradictory; or the alignment is missing or wrong
        (see :func:`~storm.io.xenium`).

    Warns
    -----
    UserWarning
        If the tables do not hold the same cells, or cells have no usable outline, or lie elsewhere than their outline
        and are left out.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.cosmx("run1")
    >>> storm.tl.embed(sdata)
    >>> "X_storm" in sdata["table"].obsm
    True
    """
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel

    folder = find_folder(path, platform="CosMx", signs=SIGNS["cosmx"])
    run = _run(folder)
    counts_file = need_packed(folder, run + _COUNTS, what="the matrix of counts")
    cells_file = need_packed(folder, f"{run}_metadata_file.csv", what="the table of cells")
    cells = read_cells(cells_file)
    scale, kept_positions = cosmx_scale(folder, run, cells, cells_file=cells_file, um_per_px=um_per_px)
    counts = read_cell_counts(counts_file)
    rows, columns, facts = _join(counts, cells, counts_file=counts_file, cells_file=cells_file)

    cells = cells.iloc[rows]
    table = AnnData(
        counts.counts[columns],
        obs=storable(cells.drop(columns=[*CENTRE, *LOCAL], errors="ignore"), taken=["region", "cell"]),
        var=pd.DataFrame(index=pd.Index(counts.genes)),
    )
    table.obs["cell"] = table.obs_names.to_numpy(dtype=str)  # cell_ID counts from 1 in every field of view
    table.obsm["spatial"] = cells[CENTRE].to_numpy(dtype=np.float64)
    if set(LOCAL) <= set(cells.columns):
        table.obsm["local"] = numbers(cells, LOCAL, cells_file)
    area = numbers(cells, [AREA], cells_file)[:, 0] if AREA in cells else np.full(len(cells), np.nan)
    frame, kept, more = _shapes(
        folder, run, table.obs_names, table.obsm["spatial"], area, um=scale[0], table=cells_file
    )
    table = table[kept].copy() if not kept.all() else table
    if not table.X.sum():
        msg = f"{counts_file}: the table of {table.n_obs} observations × {table.n_vars} genes holds no counts"
        raise ValueError(msg)
    facts |= {"fields_of_view": int(table.obs["fov"].nunique())} | kept_positions | more

    images: dict[str, Any] = {}
    if image is not None and image is not False:
        he = as_path(image, name="image")
        images["he"], aligned = aligned_image(
            he,
            find_alignment(he, folder, alignment),
            centres_um=table.obsm["spatial"] * scale[0],
            platform_um=scale[0],
            um_per_px=None,
        )
        facts |= aligned
    return SpatialData(
        images=images,
        shapes={"cells": ShapesModel.parse(frame, transformations=in_pixels(scale[0]))},
        tables={"table": as_table(table, region="cells", instance_key="cell")},
        attrs=read_facts("cosmx", folder=folder, scale=scale, more=facts),
    )


def _run(folder: Path) -> str:
    """Name of the run, which all its files begin with."""
    runs = {p.name.removesuffix(".gz").removesuffix(_COUNTS) for p in folder.glob(f"*{_COUNTS}*")}
    if len(runs) > 1:
        msg = f"{folder} holds several runs, {sorted(runs)}; put each into a folder of its own"
        raise ValueError(msg)
    return runs.pop()


def _join(
    counts: CellCounts, cells: pd.DataFrame, *, counts_file: Path, cells_file: Path
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Rows of the table of cells and of the counts that belong to the same cell, in the order of the former.

    Returns
    -------
    rows of the cells, rows of the counts, facts about what was left out
    """
    row = counts.names.get_indexer(cells.index)
    common = row >= 0
    if not common.any():
        msg = (
            f"{counts_file.name} and {cells_file.name} have no cell in common: their cells (number, field of view) are "
            f"{counts.names[:3].tolist()} against {cells.index[:3].tolist()}"
        )
        raise ValueError(msg)
    unmatched = {
        "counts_without_cell": len(counts.names) - int(common.sum()),
        "cells_without_counts": int((~common).sum()),
    }
    unmatched = {key: value for key, value in unmatched.items() if value}
    if unmatched:
        msg = f"{counts_file.name} and {cells_file.name} do not hold the same cells: {unmatched}; common ones are read"
        warn(msg)
    _check_text_names(counts.text.iloc[row[common]], cells[common], counts_file=counts_file, cells_file=cells_file)
    facts = unmatched | counts.facts | {"counts": counts_file.name}
    return np.flatnonzero(common), row[common], facts


def _check_text_names(text: pd.DataFrame, cells: pd.DataFrame, *, counts_file: Path, cells_file: Path) -> None:
    """Raise if a column of names that both tables have names the same cell in two ways."""
    for column in text.columns.intersection(cells.columns):
        one, other = text[column].astype(str).to_numpy(), cells[column].astype(str).to_numpy()
        bad = np.flatnonzero(one != other)
        if len(bad):
            k = bad[0]
            msg = (
                f"{counts_file.name} and {cells_file.name} disagree about {len(bad)} cells: cell {cells.index[k]!r} "
                f"(number, field of view) is {one[k]!r} in the column {column!r} of one and {other[k]!r} in the other"
            )
            raise ValueError(msg)


def _shapes(
    folder: Path, run: str, ids: pd.Index, centres: np.ndarray, area: np.ndarray, *, um: float, table: Path
) -> tuple[GeoDataFrame, np.ndarray, dict[str, Any]]:
    """Cells in global pixels, the vendor's polygons or circles; which cells have a place; and facts about both."""
    import geopandas as gpd
    import shapely

    name = f"{run}-polygons.csv"
    if not any((folder / file).is_file() for file in (name, name + ".gz")):
        known = np.isfinite(area) & (area > 0)
        if not known.any():
            msg = (
                f"cells have neither outlines nor areas: no {name} in {folder} ({listed(folder)}), no {AREA} in {table}"
            )
            raise ValueError(msg)
        radius = np.sqrt(np.where(known, area, np.median(area[known])) / np.pi)
        frame = gpd.GeoDataFrame({"radius": radius}, geometry=shapely.points(centres), index=ids)
        logger.info("%s has no file of polygons: cells are circles of their area", folder.name)
        return frame, np.ones(len(ids), dtype=bool), {"shapes": "circles", "areas_unknown": int((~known).sum())}
    file = need_packed(folder, name, what="the outlines of the cells")
    corners = read_table(file)
    cell, fov, _ = key_columns(corners, file)
    xy = numbers(corners, ["x_global_px", "y_global_px"], file)
    fitted = fit_outlines(
        trace(cell_names(corners, cell, fov, file).to_numpy(), xy), ids, centres, area, um=um, table=table, file=file
    )
    return fitted.frame, fitted.keep, {"shapes": "polygons"} | fitted.facts
