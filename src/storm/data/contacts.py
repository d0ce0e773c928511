"""Which spots touch: neighbours on the lattice, elsewhere short edges of the Delaunay triangulation."""

from __future__ import annotations

import numpy as np
from scipy.spatial import Delaunay, QhullError

from storm.data.lattice import find_lattice
from storm.data.windows import make_windows

#: Delaunay edges longer than this many times the median edge bridge a gap of the tissue and are no contact.
LONGEST = 3.0
#: Members of a window that holds all nearest neighbours of a spot: 3 × 3 on a square lattice, 7 on a hexagonal one.
_NEAREST = {"square": 9, "hex": 7}


def contact_edges(centres: np.ndarray, sections: np.ndarray | None = None) -> np.ndarray:
    """Pairs of spots that touch.

    On a square lattice a spot touches the four spots at one pitch, on a hexagonal one six. Elsewhere the edges of the
    Delaunay triangulation count that are at most three times as long as the median edge. No edge leaves a section.

    Parameters
    ----------
    centres
        x and y, shape (n, 2); a row of NaN touches nothing.
    sections
        Section of each spot, shape (n,), whole numbers; ``None`` where all spots are of one.

    Returns
    -------
    ndarray
        Rows of the two spots of each edge, the lower one first, shape (edges, 2), int64; sorted.
    """
    centres = np.asarray(centres, dtype=np.float64)
    placed = np.isfinite(centres).all(axis=1)
    groups = np.zeros(len(centres), dtype=int) if sections is None else np.asarray(sections)
    parts = [np.empty((0, 2), dtype=np.int64)]
    for section in np.unique(groups[placed]):
        rows = np.flatnonzero(placed & (groups == section))
        parts.append(rows[_edges_of_section(centres[rows])])
    edges = np.sort(np.concatenate(parts), axis=1)
    return edges[np.lexsort((edges[:, 1], edges[:, 0]))]


def _edges_of_section(points: np.ndarray) -> np.ndarray:
    if len(points) < 2:
        return np.empty((0, 2), dtype=np.int64)
    lattice = find_lattice(points)
    if lattice is None:
        return _short_delaunay_edges(points)
    windows = make_windows(points, kind="lattice", size=_NEAREST[lattice.kind])
    steps = np.linalg.norm(windows.offsets, axis=1)
    near = windows.index[:, (steps > 0.5) & (steps < 1.2)]
    rows, slots = np.nonzero(near > np.arange(len(points))[:, None])
    return np.column_stack([rows, near[rows, slots]]).astype(np.int64)


def _short_delaunay_edges(points: np.ndarray) -> np.ndarray:
    # Cells at the same place would be left out of the triangulation: each place is one vertex, its cells form a chain.
    places, of_point = np.unique(points, axis=0, return_inverse=True)
    of_point = of_point.ravel()
    order = np.argsort(of_point, kind="stable")
    same = of_point[order[1:]] == of_point[order[:-1]]
    chains = np.column_stack([order[:-1][same], order[1:][same]])
    first = order[np.searchsorted(of_point[order], np.arange(len(places)))]
    return np.concatenate([first[_delaunay_edges(places)], chains])


def _delaunay_edges(places: np.ndarray) -> np.ndarray:
    if len(places) < 2:
        return np.empty((0, 2), dtype=np.int64)
    try:
        triangles = Delaunay(places).simplices
        edges = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [0, 2]]].reshape(-1, 2), axis=1), axis=0)
    except QhullError:
        # Fewer than three places, or all of them on a line, along which each touches the next.
        order = np.lexsort((places[:, 1], places[:, 0]))
        edges = np.sort(np.column_stack([order[:-1], order[1:]]), axis=1)
    length = np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1)
    return edges[length <= LONGEST * np.median(length)]
