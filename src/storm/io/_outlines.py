"""Outlines of cells and nuclei from vendors' vertices; bad ones are repaired, replaced or left out, and counted.

Outlines come from automatic segmentation: a few of many thousand cross themselves, fall apart, or enclose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from storm._logging import warn
from storm.io._vendor import FARTHEST

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

#: A cell's centroid may lie beside the middle of its outline's bounding box by the size of that box, by this many times
#: the size of a typical one at most (a vertex that went astray makes a huge box), ...
_TYPICAL = 4.0
#: ... and by this many µm more: outlines are simplified, and rounded to pixels.
_MARGIN_UM = 2.0
#: If a larger share of the cells, ...
_ELSEWHERE = 0.01
#: ... and more than this number, lie elsewhere than their outlines, the files are taken to be of different runs.
_FEW = 2


@dataclass(frozen=True)
class Outlines:
    """Polygons by name.

    Attributes
    ----------
    index
        Names, each once, shape (n,).
    shapes
        Polygons or multi-polygons, all valid and of a positive area, shape (n,).
    repaired
        Number of outlines that crossed themselves or had stray vertices.
    lost
        Names whose vertices enclose nothing.
    """

    index: pd.Index
    shapes: np.ndarray
    repaired: int
    lost: pd.Index


def trace(ids: np.ndarray, xy: np.ndarray) -> Outlines:
    """Polygons from the vertices of many outlines.

    Parameters
    ----------
    ids
        Name of the outline that each vertex belongs to, (m,). The vertices of an outline are in order; they need not
        lie together, and the first may be repeated at the end.
    xy
        x and y, float64 (m, 2). Vertices that are missing or nowhere on a slide are left out.
    """
    finite = (np.abs(xy) < FARTHEST).all(axis=1)
    codes, names = pd.factorize(np.asarray(ids))
    dented = np.unique(codes[~finite])
    order = np.argsort(codes, kind="stable")
    order = order[finite[order]]
    codes, xy = codes[order], np.asarray(xy, dtype=np.float64)[order]
    size = np.bincount(codes, minlength=len(names))
    begin = np.cumsum(size) - size

    present = np.flatnonzero(size)
    closed = np.zeros(len(names), dtype=bool)
    closed[present] = (xy[begin[present]] == xy[begin[present] + size[present] - 1]).all(axis=1) & (size[present] > 1)
    ring = size - closed >= 3

    shapes = np.full(len(names), None, dtype=object)
    rows = ring[codes]
    if rows.any():
        dense = np.cumsum(ring)[codes[rows]] - 1
        shapes[ring] = shapely.polygons(shapely.linearrings(xy[rows], indices=dense))
    bad = ring & ~(shapely.is_valid(shapes) & (shapely.area(shapes) > 0))
    for k in np.flatnonzero(bad):
        shapes[k] = _mended(xy[begin[k] : begin[k] + size[k]])
    kept = ~shapely.is_missing(shapes)
    bad[dented] = True
    names = pd.Index(names)
    return Outlines(names[kept], shapes[kept], int((bad & kept).sum()), names[~kept])


def _mended(points: np.ndarray) -> Any:
    """A valid polygon or multi-polygon that the vertices of a bad outline enclose, or ``None``."""
    return valid(shapely.union_all([valid(shapely.Polygon(ring)) for ring in _rings(points)]))


def valid(shape: Any) -> Any:
    """The areas that a shape encloses, as a valid polygon or multi-polygon; ``None`` if there are none."""
    if shape is None or shape.is_empty:
        return None
    if not shape.is_valid:
        shape = shapely.make_valid(shape)
    parts = [part for part in shapely.get_parts(shapely.get_parts(shape)) if part.geom_type == "Polygon" and part.area]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _rings(points: np.ndarray) -> Iterator[np.ndarray]:
    """Rings that follow one another in one list of vertices: each ends where it comes back to its first vertex."""
    start = 0
    while len(points) - start >= 3:
        back = np.flatnonzero((points[start + 1 :] == points[start]).all(axis=1)) + start + 1
        end = int(back[0]) if len(back) else len(points) - 1
        if end - start + (len(back) == 0) >= 3:
            yield points[start : end + 1]
        start = end + 1


def merge(outlines: Outlines, cells: pd.Index) -> Outlines:
    """Outlines of the same cell as one multi-polygon.

    Parameters
    ----------
    outlines
        Parts.
    cells
        Name of the cell of each part, shape (n,).
    """
    if cells.is_unique:
        return Outlines(cells, outlines.shapes, outlines.repaired, outlines.lost)
    codes, names = pd.factorize(cells)
    shapes = np.full(len(names), None, dtype=object)
    single = np.bincount(codes) == 1
    shapes[codes[single[codes]]] = outlines.shapes[single[codes]]
    for k in np.flatnonzero(~single):
        shapes[k] = valid(shapely.union_all(outlines.shapes[codes == k]))
    return Outlines(pd.Index(names), shapes, outlines.repaired, outlines.lost)


@dataclass(frozen=True)
class Fitted:
    """Outlines of the cells of a table, in its order.

    Attributes
    ----------
    frame
        One outline per cell that has a place.
    keep
        Cells that have one, bool (n,).
    facts
        Numbers of outlines that were repaired, replaced, left out, or belong to no cell.
    """

    frame: GeoDataFrame
    keep: np.ndarray
    facts: dict[str, int]


def fit_outlines(
    outlines: Outlines, ids: pd.Index, centroids: np.ndarray, area: np.ndarray, *, um: float, table: Path, file: Path
) -> Fitted:
    """Join outlines to the cells of a table by name, and compare their places with the vendor's centroids.

    A cell without a usable outline gets a disc of its area around its centroid. A cell whose outline lies elsewhere
    than its centroid has no place that can be trusted and is left out; if these are more than 1 % (and more than two),
    the files do not belong together.

    Parameters
    ----------
    outlines
        Outlines.
    ids
        Names of the cells, shape (n,).
    centroids
        The vendor's x and y in the units of the outlines, float64 (n, 2).
    area
        The vendor's areas in the same units squared, float64 (n,); may be NaN.
    um
        µm per unit.
    table, file
        The files of the centroids and of the outlines, for warnings and errors.

    Raises
    ------
    ValueError
        If no cell has an outline, or too many lie elsewhere than their outlines.

    Warns
    -----
    UserWarning
        If outlines are replaced, or cells are left out.
    """
    import geopandas as gpd

    row = outlines.index.get_indexer(ids)
    outlined = row >= 0
    if not outlined.any():
        example = f"like {outlines.index[0]!r}" if len(outlines.index) else "none that enclose anything"
        msg = (
            f"{file} holds none of the cells of the table (those of {table.name} are like {str(ids[0])!r}, outlines "
            f"{example}); the files are of different runs"
        )
        raise ValueError(msg)
    shapes = np.full(len(ids), None, dtype=object)
    shapes[outlined] = outlines.shapes[row[outlined]]
    low_high = shapely.bounds(shapes[outlined])
    middle, size = (low_high[:, 2:] + low_high[:, :2]) / 2, low_high[:, 2:] - low_high[:, :2]
    allowed = np.minimum(size, _TYPICAL * np.median(size)) + _MARGIN_UM / um
    away = (np.abs(centroids[outlined] - middle) > allowed).any(axis=1)
    elsewhere = np.zeros(len(ids), dtype=bool)
    elsewhere[outlined] = away
    if elsewhere.sum() > max(_FEW, _ELSEWHERE * outlined.sum()) or elsewhere.all():
        first = int(np.argmax(elsewhere))
        x, y = centroids[first]
        msg = (
            f"{int(elsewhere.sum())} of {int(outlined.sum())} cells lie elsewhere by {table.name} than by {file.name}, "
            f"e.g. {str(ids[first])!r}: its centroid is x = {x:.1f}, y = {y:.1f}, the middle of its outline "
            f"x = {middle[away][0, 0]:.1f}, y = {middle[away][0, 1]:.1f}; the files are of different runs"
        )
        raise ValueError(msg)
    shapes[~outlined] = discs(
        centroids[~outlined], area[~outlined], typical=shapely.area(shapes[outlined & ~elsewhere])
    )
    keep = ~elsewhere
    facts = {
        "outlines_repaired": outlines.repaired,
        "outlines_replaced_by_discs": int((~outlined).sum()),
        "cells_left_out": int(elsewhere.sum()),
        "outlines_of_no_cell": int((~outlines.index.isin(ids)).sum()),
    }
    _warn(facts, len(ids), file)
    frame = gpd.GeoDataFrame(geometry=shapes[keep], index=pd.Index(ids[keep], name=None))
    return Fitted(frame, keep, {key: value for key, value in facts.items() if value})


def _warn(facts: dict[str, int], cells: int, file: Path) -> None:
    parts = []
    if facts["outlines_replaced_by_discs"]:
        parts.append(f"{facts['outlines_replaced_by_discs']} have no usable outline and are discs of their area")
    if facts["cells_left_out"]:
        parts.append(f"{facts['cells_left_out']} lie elsewhere than their outline and are left out")
    if parts:
        warn(f"of {cells} cells, {' and '.join(parts)} ({file.name})")


def discs(centroids: np.ndarray, area: np.ndarray, *, typical: Iterable[float]) -> np.ndarray:
    """Discs around points; where an area is unknown, the median of the ``typical`` ones is taken."""
    known = np.asarray(list(typical), dtype=np.float64)
    area = np.asarray(area, dtype=np.float64)
    area = np.where(np.isfinite(area) & (area > 0), area, np.median(known) if len(known) else 1.0)
    return shapely.buffer(shapely.points(centroids), np.sqrt(area / np.pi))
