"""Xenium, and the H&E image that is taken of the same section afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._logging import logger, warn
from storm.io._aligned import aligned_image, find_alignment
from storm.io._matrix import read_matrix
from storm.io._outlines import Outlines, fit_outlines, merge, trace
from storm.io._recognise import SIGNS
from storm.io._vendor import (
    as_path,
    as_table,
    as_text,
    check_named_once,
    find_folder,
    need,
    need_columns,
    number,
    numbers,
    places,
    read_facts,
    read_json,
    read_table,
    storable,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_CENTROID = ["x_centroid", "y_centroid"]
#: µm per pixel that the morphology image of any version of the instrument can have; it is 0.2125 on those sold so far.
_PIXEL_UM = (0.05, 2.0)
#: Centroids in two tables of cells that differ by more than this, in µm, are not of one run.
_SAME_UM = 0.01


def xenium(
    path: str | Path,
    image: str | Path | bool | None = None,
    alignment: str | Path | np.ndarray | None = None,
    *,
    um_per_px: float | None = None,
    nuclei: bool = True,
) -> SpatialData:
    """Read a Xenium section, and the H&E of the same section with its alignment.

    Parameters
    ----------
    path
        The folder that Xenium Onboard Analysis or Xenium Ranger wrote, of any version (with ``experiment.xenium``).
    image
        The post-Xenium H&E (see :func:`~storm.io.slide` for formats). With ``None``, the default, the file
        ``*he_image.ome.tif`` of the folder if there is one; ``False`` reads no image. The morphology images are
        fluorescence, and not read.
    alignment
        Where the H&E lies: the matrix from its pixels to pixels of the morphology image, 3 × 3 or 2 × 3, as an array
        or in a csv, or a csv of key points (columns fixedX, fixedY, alignmentX, alignmentY), through which an affine
        map is fitted; Xenium Explorer writes both. By default ``*he_imagealignment.csv`` beside the image or in the
        folder. An image that lies on the morphology image's own pixels has the alignment ``np.eye(3)``.
    um_per_px
        µm per pixel of the H&E, with which the alignment is compared. It has no other use: the section itself is
        measured in µm by the vendor.
    nuclei
        Whether to read the outlines of nuclei, too, as ``shapes["nuclei"]``. The table annotates the cells.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, lazy where the format allows), ``shapes["cells"]`` and ``shapes["nuclei"]``
        (polygons, in µm), ``tables["table"]`` (raw counts of genes, CSR float32). Coordinate systems ``"global"``
        (pixels of the morphology image, as the vendor has it) and ``"um"`` (µm). A cell without a usable outline gets
        a disc of its area around the vendor's centroid. ``attrs["storm_io"]`` holds the pixel size, the facts of the
        alignment, the names of the files that were read, and how many features, cells and outlines were left out,
        replaced or repaired.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; the files are of different runs; a centroid is NaN; there are no cells or no counts;
        the pixel size is impossible; or the alignment is missing, not an affine matrix, mirrors the image, contradicts
        the scale of the image, or places no cell on it.

    Warns
    -----
    UserWarning
        If cells have no usable outline, or lie elsewhere than their outline and are left out; if the counts and the
        table of cells do not hold the same cells; or if features other than genes and controls are left out.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.xenium("outs", "HE.ome.tif", "HE_imagealignment.csv")
    >>> storm.tl.embed(sdata)
    >>> "X_storm" in sdata["table"].obsm
    True
    """
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel

    folder = find_folder(path, platform="Xenium", signs=SIGNS["xenium"])
    pixel_um, source = _pixel_size(need(folder, "experiment.xenium", what="the description of the run"))
    table, facts = read_matrix(folder, "cell_feature_matrix")
    cells_file, cells = _read_cells(folder)
    facts["cells"] = cells_file.name
    table, counted = _join_cells(table, cells, path=cells_file)
    facts |= counted

    outlines_file = need(folder, *_either("cell_boundaries"), what="the outlines of the cells")
    outlines = _cell_outlines(outlines_file)
    if len(outlines.index) and not table.obs_names.isin(outlines.index).any():
        msg = (
            f"{folder}: the cells of {facts['counts']} (like {table.obs_names[0]!r}) are not those of "
            f"{outlines_file.name} (like {outlines.index[0]!r}); the files are of different runs"
        )
        raise ValueError(msg)
    fitted = fit_outlines(
        outlines,
        table.obs_names,
        table.obsm["spatial"],
        table.obs["cell_area"].to_numpy(dtype=np.float64) if "cell_area" in table.obs else np.full(table.n_obs, np.nan),
        um=1.0,
        table=cells_file,
        file=outlines_file,
    )
    table = table[fitted.keep].copy() if not fitted.keep.all() else table
    facts |= {"outlines": outlines_file.name} | fitted.facts
    shapes = {"cells": fitted.frame}
    nuclei_frame = _nuclei(folder, table.obs_names) if nuclei else None
    if nuclei_frame is not None:
        shapes["nuclei"] = nuclei_frame
        logger.info("the table annotates shapes['cells'], not shapes['nuclei']")

    he_path = _he_image(folder) if image is None else image
    images: dict[str, Any] = {}
    if he_path is not None and he_path is not False:
        he = as_path(he_path, name="image")
        images["he"], aligned = aligned_image(
            he,
            find_alignment(he, folder, alignment),
            centres_um=table.obsm["spatial"],
            platform_um=pixel_um,
            um_per_px=um_per_px,
        )
        facts |= aligned
    table.uns.pop("metadata")
    return SpatialData(
        images=images,
        shapes={key: ShapesModel.parse(frame, transformations=_from_um(pixel_um)) for key, frame in shapes.items()},
        tables={"table": as_table(table, region="cells", instance_key="cell_id")},
        attrs=read_facts("xenium", folder=folder, scale=(pixel_um, source), more=facts),
    )


def _either(name: str) -> tuple[str, str]:
    """The two forms in which the vendor writes a table."""
    return f"{name}.parquet", f"{name}.csv.gz"


def _pixel_size(path: Path) -> tuple[float, str]:
    """µm per pixel of the morphology image, and its source."""
    specs = read_json(path)
    if "pixel_size" not in specs:
        msg = f"{path} holds no pixel_size, but {sorted(specs)}"
        raise ValueError(msg)
    pixel_um = number(specs["pixel_size"])
    if pixel_um is None or not _PIXEL_UM[0] <= pixel_um <= _PIXEL_UM[1]:
        msg = (
            f"pixel_size={specs['pixel_size']!r} in {path} cannot be the µm per pixel of a morphology image (0.2125 on "
            f"the instruments sold so far); copy the file again"
        )
        raise ValueError(msg)
    return pixel_um, f"pixel_size in {path.name}"


def _from_um(pixel_um: float) -> dict[str, Any]:
    """Transformations of outlines, which the vendor stores in µm, to ``"um"`` and to ``"global"``."""
    from spatialdata.transformations import Identity, Scale

    return {"global": Scale([1 / pixel_um, 1 / pixel_um], axes=("x", "y")), "um": Identity()}


def _read_cells(folder: Path) -> tuple[Path, pd.DataFrame]:
    """The table of cells, indexed by their names as text.

    Raises
    ------
    ValueError
        If the folder holds it in two forms that differ.
    """
    first = need(folder, *_either("cells"), what="the table of cells")
    cells = _cells_of(first)
    second = folder / _either("cells")[1]
    if first != second and second.is_file():
        try:
            other = _cells_of(second)
        except ValueError as error:
            logger.warning("%s lies beside %s and is not read (%s)", second.name, first.name, error)
            return first, cells
        same = cells.index.sort_values().equals(other.index.sort_values()) and np.allclose(
            cells[_CENTROID], other.loc[cells.index, _CENTROID], rtol=0, atol=_SAME_UM
        )
        if not same:
            msg = f"{first} and {second.name} hold different cells: only one of them is of this run; remove the other"
            raise ValueError(msg)
    return first, cells


def _cells_of(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    need_columns(frame, ["cell_id", *_CENTROID], path)
    frame["cell_id"] = as_text(frame["cell_id"])
    frame.index = pd.Index(frame["cell_id"].to_numpy(dtype=str))
    check_named_once(frame.index, path, what="cells")
    frame[_CENTROID] = places(frame, _CENTROID, path)
    return frame


def _join_cells(table: AnnData, cells: pd.DataFrame, *, path: Path) -> tuple[AnnData, dict[str, int]]:
    """Give the counts of every cell its row of the table of cells, by name; cells without one are left out.

    Writes ``obsm["spatial"]`` (x and y in µm, float64 (n, 2)) and the columns of the table of cells.
    """
    known = table.obs_names.isin(cells.index)
    if not known.any():
        msg = (
            f"none of the {table.n_obs} cells of the matrix of counts (like {table.obs_names[0]!r}) is in {path} (like "
            f"{next(iter(cells.index), 'nothing')!r}); the files are of different runs"
        )
        raise ValueError(msg)
    counted = {
        "counts_without_cell": int((~known).sum()),
        "cells_without_counts": int((~cells.index.isin(table.obs_names)).sum()),
    }
    counted = {key: value for key, value in counted.items() if value}
    if counted:
        msg = f"{path.name} and the matrix of counts do not hold the same cells: {counted}; only common cells are read"
        warn(msg)
        table = table[known].copy()
    rows = cells.loc[table.obs_names]
    table.obsm["spatial"] = rows[_CENTROID].to_numpy(dtype=np.float64)
    table.obs = storable(rows.drop(columns=_CENTROID), taken=["region"])
    return table, counted


def _read_vertices(path: Path) -> tuple[pd.Series, np.ndarray | None, np.ndarray]:
    """Cell, label of the outline (from version 2.0 on) and x, y in µm of every vertex."""
    frame = read_table(path)
    need_columns(frame, ["cell_id", "vertex_x", "vertex_y"], path)
    labels = frame["label_id"].to_numpy() if "label_id" in frame.columns else None
    return as_text(frame["cell_id"]), labels, numbers(frame, ["vertex_x", "vertex_y"], path)


def _parts(ids: pd.Series, labels: np.ndarray | None, xy: np.ndarray) -> tuple[Outlines, pd.Index, pd.Index]:
    """Outlines, with the cell and the label of each."""
    cell, cells = pd.factorize(ids)
    label, names = (cell, np.asarray(cells)) if labels is None else pd.factorize(labels)
    outlines = trace(cell.astype(np.int64) * max(1, len(names)) + label, xy)
    key = outlines.index.to_numpy(dtype=np.int64)
    return outlines, pd.Index(cells)[key // max(1, len(names))], pd.Index(names)[key % max(1, len(names))]


def _cell_outlines(path: Path) -> Outlines:
    outlines, cells, _ = _parts(*_read_vertices(path))
    return merge(outlines, cells)


def _nuclei(folder: Path, cells: pd.Index) -> GeoDataFrame | None:
    """Outlines of nuclei in µm with the ``cell_id`` of each, or ``None`` if the folder holds none that can be read."""
    import geopandas as gpd

    file = next((folder / name for name in _either("nucleus_boundaries") if (folder / name).is_file()), None)
    if file is None:
        return None
    try:
        outlines, of_cell, labels = _parts(*_read_vertices(file))
    except ValueError as error:
        warn(f"shapes['nuclei'] are left out: {error}")
        return None
    frame = gpd.GeoDataFrame({"cell_id": of_cell.to_numpy()}, geometry=outlines.shapes, index=labels)
    inside = frame["cell_id"].isin(cells).to_numpy()
    frame = frame[inside].explode()  # the first builds of version 2.0 wrote two nuclei of a cell as one outline
    if not frame.index.is_unique:
        frame = frame.reset_index(drop=True)
    if len(outlines.lost) or not inside.all():
        text = "%s: %d outlines enclose nothing and %d belong to no cell of the table; they are left out"
        logger.warning(text, file.name, len(outlines.lost), int((~inside).sum()))
    return frame if len(frame) else None


def _he_image(folder: Path) -> Path | None:
    images = sorted(folder.glob("*he_image.ome.tif"))
    if len(images) > 1:
        msg = f"{folder} holds several H&E images, {[p.name for p in images]}; choose one with image="
        raise ValueError(msg)
    return images[0] if images else None
