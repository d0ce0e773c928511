"""A drawn section as SpatialData: image, shapes and table, in memory or streamed to a zarr store."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._files import without_format_news
from storm._progress import progress
from storm.datasets._layouts import PLATFORMS, Layout
from storm.datasets._nuclei import Nuclei
from storm.datasets._paint import Painter
from storm.datasets._types import LOOKS
from storm.io._placing import in_pixels
from storm.io._pyramid import CHUNK, blank_levels, fill, image_element, pyramid, tiles

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

#: Side of a painted tile in pixels, a multiple of the chunks.
TILE = 2 * CHUNK


def make_shapes(platform: str, layout: Layout, nuclei: Nuclei | None, ids: Any, *, um_per_px: float) -> GeoDataFrame:
    """Circles, squares or cell outlines; in pixels, but for Xenium, which keeps µm."""
    import geopandas as gpd
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity, Scale

    spec = PLATFORMS[platform]
    transformations = in_pixels(um_per_px)
    centres = layout.centres / um_per_px
    index = pd.Index(ids)
    if spec.shapes == "spots":
        frame = gpd.GeoDataFrame(
            {"radius": np.full(len(centres), spec.size / 2 / um_per_px)},
            geometry=shapely.points(centres),
            index=index,
        )
    elif spec.shapes == "bins":
        half = spec.size / 2 / um_per_px
        boxes = shapely.box(*(centres - half).T, *(centres + half).T)
        frame = gpd.GeoDataFrame(geometry=boxes, index=index)
    else:
        assert nuclei is not None
        outline = _cell_outlines(nuclei)
        if platform == "xenium":
            pixels = Scale([1 / um_per_px, 1 / um_per_px], axes=("x", "y"))
            transformations = {"global": pixels, "um": Identity()}
        else:
            outline = outline / um_per_px
        frame = gpd.GeoDataFrame(geometry=shapely.polygons(outline), index=index)
    return ShapesModel.parse(frame, transformations=transformations)


def _cell_outlines(nuclei: Nuclei, corners: int = 18) -> np.ndarray:
    """Cells as the nucleus grown by its cytoplasm, shape (n, corners, 2) in µm."""
    body = np.array([k.body - np.sqrt(k.major**2 * k.ratio) for k in LOOKS], dtype=np.float32)[nuclei.kind]
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    wave = 1 + 0.07 * np.cos(3 * turn + nuclei.phase[:, None])
    along = (nuclei.major + body)[:, None] * np.cos(turn) * wave
    across = (nuclei.minor + body)[:, None] * np.sin(turn) * wave
    cos, sin = np.cos(nuclei.angle)[:, None], np.sin(nuclei.angle)[:, None]
    offset = np.stack([along * cos - across * sin, along * sin + across * cos], axis=-1)
    return nuclei.xy[:, None] + offset


def in_memory(painter: Painter, table: AnnData, shapes: GeoDataFrame, key: str, attrs: dict[str, Any]) -> SpatialData:
    """Paint the whole image into memory and put the object together."""
    from spatialdata import SpatialData

    image = np.empty((3, *painter.shape), dtype=np.uint8)
    for y, x, shape in tiles(painter.shape, TILE):
        image[:, y : y + shape[0], x : x + shape[1]] = painter.paint(y, x, shape)
    element = image_element(pyramid(image), transformations=in_pixels(painter.um_per_px))
    return SpatialData(images={"he": element}, shapes={key: shapes}, tables={"table": table}, attrs=attrs)


def on_disk(
    path: Path, painter: Painter, table: AnnData, shapes: GeoDataFrame, key: str, attrs: dict[str, Any]
) -> SpatialData:
    """Write everything but the pixels, then paint these tile by tile into the store, and open it."""
    import zarr
    from spatialdata import SpatialData, read_zarr

    levels = blank_levels(painter.shape)
    element = image_element(levels, transformations=in_pixels(painter.um_per_px))
    sdata = SpatialData(images={"he": element}, shapes={key: shapes}, tables={"table": table}, attrs=attrs)
    try:
        with without_format_news():
            sdata.write(path)
        group = zarr.open_group(path / "images" / "he", mode="r+")
        # spatialdata writes the levels as s0, s1, …, and wrote them as 0, 1, … before
        members = [group[f"s{k}"] if f"s{k}" in group else group[str(k)] for k in range(len(levels))]
        arrays = [member for member in members if isinstance(member, zarr.Array)]

        fill(arrays, painter.paint, tile=TILE, progress=partial(progress, desc="painting H&E", unit="tile"))
    except BaseException:
        # half a section is worse than none; the folder did not exist before this call
        shutil.rmtree(path, ignore_errors=True)
        raise
    return read_zarr(path)
