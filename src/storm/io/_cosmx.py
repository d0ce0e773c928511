"""CosMx: fields of view, stitched by the vendor's global coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._logging import logger
from storm.io._aligned import aligned_image, find_alignment
from storm.io._placing import in_pixels
from storm.io._scale import choose_scale, given_scale
from storm.io._vendor import as_table, check_counts, facts, find_folder, need, vendor_call

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

#: Pixel of the CosMx SMI instrument, by the read-me of the vendor's public data ("0.120280945 µm per pixel"). The very
#: first data sets, of the prototype, have 0.18.
COSMX_UM = 0.120280945
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
        The folder with ``*_exprMat_file.csv``, ``*_metadata_file.csv``, ``*_fov_positions_file.csv``,
        ``CellComposite/`` and ``CellLabels/``.
    image
        H&E of the same section (see :func:`~storm.io.slide` for formats). The composites of the folder are
        fluorescence, and not read.
    alignment
        Where the H&E lies: the matrix from its pixels to the vendor's global pixels, 3 × 3 or 2 × 3, as an array or a
        csv; or a csv of key points (columns fixedX, fixedY in global pixels, alignmentX, alignmentY in the H&E).
    um_per_px
        µm per global pixel. By default from the positions of the fields of view where they are given in pixels and in
        mm, else 0.120280945, which the vendor states for the instrument.

    Returns
    -------
    SpatialData
        ``images["he"]`` if there is one (multiscale, uint8), ``shapes["cells"]`` (the vendor's polygons, or circles of
        the cells' areas if the folder has none), ``tables["table"]`` (raw counts, CSR float32). Coordinate systems
        ``"global"`` (the vendor's global pixels) and ``"um"`` (µm). ``attrs["storm_io"]`` tells the µm per pixel and
        where they come from.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; there are no cells or no counts; the scale is contradictory; or the alignment is
        missing or wrong (see :func:`~storm.io.xenium`).

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.cosmx("run1")  # doctest: +SKIP
    >>> storm.tl.embed(sdata)  # doctest: +SKIP
    """
    import spatialdata_io
    from spatialdata import SpatialData

    folder = find_folder(path, platform="CosMx", signs=(f"*{_COUNTS}",))
    found = sorted(folder.glob(f"*{_COUNTS}"))
    if len(found) > 1:
        msg = f"{folder} holds several runs, {[p.name for p in found]}; put each into a folder of its own"
        raise ValueError(msg)
    run = found[0].name.removesuffix(_COUNTS)
    metadata = need(folder, f"{run}_metadata_file.csv", what="the table of cells")
    positions = need(folder, f"{run}_fov_positions_file.csv", what="the positions of the fields of view")
    _check_cells(found[0], metadata)
    scale = choose_scale(
        [given_scale(um_per_px), _from_positions(positions)], of=f"the global pixels of {folder.name}"
    ) or (COSMX_UM, "the vendor's statement for the instrument")

    with vendor_call(folder, platform="CosMx"):
        raw = spatialdata_io.cosmx(folder, dataset_id=run, transcripts=False)
    table = raw["table"]
    check_counts(table, found[0])
    table.obsm["local"] = table.obsm.pop("spatial")
    table.obsm["spatial"] = np.asarray(table.obsm.pop("global"), dtype=np.float64)
    table.obs["cell"] = table.obs_names.to_numpy(dtype=str)  # cell_ID counts from 1 in every field of view
    table.obs = table.obs.drop(columns="fov_labels")
    shapes, kind = _shapes(table, folder, run, um_per_px=scale[0])

    images: dict[str, Any] = {}
    more: dict[str, Any] = {"fields_of_view": int(table.obs["fov"].nunique()), "shapes": kind}
    if image:
        images["he"], aligned = aligned_image(
            Path(image),
            find_alignment(Path(image), folder, alignment),
            centres_um=table.obsm["spatial"] * scale[0],
            platform_um=scale[0],
            um_per_px=None,
        )
        more |= aligned
    return SpatialData(
        images=images,
        shapes={"cells": shapes},
        tables={"table": as_table(table, region="cells", instance_key="cell")},
        attrs=facts("cosmx", folder=folder, scale=scale, **more),
    )


def _check_cells(counts: Path, metadata: Path) -> None:
    """Raise if the two tables of cells have none in common."""
    keys = ["fov", "cell_ID"]
    try:
        pairs = [pd.MultiIndex.from_frame(pd.read_csv(file, usecols=keys)) for file in (counts, metadata)]
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{counts.name} or {metadata.name} cannot be read as a table with the columns {keys}: {error}"
        raise ValueError(msg) from error
    if not len(pairs[0].intersection(pairs[1])):
        msg = (
            f"{counts.name} and {metadata.name} have no cell in common: (fov, cell_ID) are {pairs[0][:3].tolist()} "
            f"against {pairs[1][:3].tolist()}"
        )
        raise ValueError(msg)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (ValueError, OSError, EOFError) as error:  # pandas' own errors are ValueErrors; the others are gzip's
        msg = f"{path} cannot be read as a table: {error}"
        raise ValueError(msg) from error


def _from_positions(path: Path) -> tuple[float | None, str]:
    """µm per pixel from positions of the fields of view in pixels and in mm, where both are there."""
    frame = _table(path)
    frame.columns = [str(c).casefold() for c in frame.columns]
    wanted = [f"{axis}_global_{unit}" for unit in ("px", "mm") for axis in "xy"]
    if not set(wanted) <= set(frame.columns) or len(frame) < 2:
        return None, ""
    values = frame[wanted].to_numpy(dtype=np.float64)
    centred = values - values.mean(axis=0)
    pixels, mm = (np.sqrt(np.square(part).sum()) for part in (centred[:, :2], centred[:, 2:]))
    return (1e3 * mm / pixels, f"{path.name}, in pixels and in mm") if pixels > 0 and mm > 0 else (None, "")


def _shapes(table: AnnData, folder: Path, run: str, *, um_per_px: float) -> tuple[GeoDataFrame, str]:
    """Cells in global pixels: the vendor's polygons, or circles."""
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel

    file = next((p for p in (folder / f"{run}-polygons.csv", folder / f"{run}-polygons.csv.gz") if p.is_file()), None)
    if file is None:
        area = table.obs["Area"].to_numpy(dtype=np.float64)
        frame = gpd.GeoDataFrame(
            {"radius": np.sqrt(area / np.pi)}, geometry=shapely.points(table.obsm["spatial"]), index=table.obs_names
        )
        logger.info("%s has no file of polygons: cells are circles of their area", folder.name)
        return ShapesModel.parse(frame, transformations=in_pixels(um_per_px)), "circles"
    frame = _polygons(file, set(table.obs_names))
    if len(frame) < table.n_obs:
        logger.warning("%d of %d cells have no polygon (%s)", table.n_obs - len(frame), table.n_obs, file.name)
    return ShapesModel.parse(frame, transformations=in_pixels(um_per_px)), "polygons"


def _polygons(file: Path, wanted: set[str]) -> GeoDataFrame:
    import geopandas as gpd
    import shapely

    corners = _table(file)
    name = next((c for c in ("cellID", "cell_ID") if c in corners.columns), None)
    columns = ["fov", "x_global_px", "y_global_px"]
    if name is None or not set(columns) <= set(corners.columns):
        msg = f"{file} has no columns {['cellID', *columns]}; it has {list(corners.columns)}"
        raise ValueError(msg)
    cell = corners[name].astype(str) + "_" + corners["fov"].astype(str)
    corners, cell = corners[cell.isin(wanted)], cell[cell.isin(wanted)]
    if corners.empty:
        msg = f"{file} holds none of the cells of the table, e.g. {sorted(wanted)[:2]} (cell_ID, then fov)"
        raise ValueError(msg)
    codes, ids = pd.factorize(cell)
    order = np.argsort(codes, kind="stable")
    large = np.bincount(codes)[codes[order]] >= 3
    order = order[large]
    rings = shapely.linearrings(corners[["x_global_px", "y_global_px"]].to_numpy()[order], indices=_dense(codes[order]))
    kept = np.unique(codes[order])
    return gpd.GeoDataFrame(geometry=shapely.polygons(rings), index=pd.Index(np.asarray(ids)[kept]))


def _dense(codes: np.ndarray) -> np.ndarray:
    """Sorted codes as 0, 1, 2, … without gaps."""
    return np.unique(codes, return_inverse=True)[1]
