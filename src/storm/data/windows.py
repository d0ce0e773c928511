"""Neighbourhood windows: the 5 × 5 block on a lattice, the nearest cells elsewhere (paper, Methods: *Spatial encoder*).

Slot 0 of a window is always its centre. A position that holds no spot is missing (index -1), never replaced by a spot
from further away: a window at the edge of the tissue has fewer members, not other ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from storm._checks import check_choice, check_positive
from storm.data.lattice import Lattice, find_lattice
from storm.data.order import spatial_order

#: Members of a window of cells: the cell itself and its 8 nearest neighbours (paper, Methods: *single-cell ST*).
N_CELLS = 9
#: Members of a lattice window: 5 × 5.
N_LATTICE = 25
#: Without a radius of the user's, a neighbouring cell further than this many typical distances is missing.
DEFAULT_REACH = 5.0
#: Square bins that lie closer than this, in µm, are to be summed to larger ones first.
SMALL_BINS_UM = 4.0
#: Windows that are filled at once: what is held beside the result does not grow with the section.
_BLOCK = 65_536
#: Relative difference below which two distances are equal: above rounding, below any measured difference.
_TIE = 1e-9


@dataclass(frozen=True)
class Windows:
    """Windows around the spots of one section.

    Attributes
    ----------
    index
        Rows of the members, shape (n, L), int32; -1 where there is none. ``index[:, 0]`` is the spot itself, -1 for a
        spot without a geometry.
    offsets
        Position of every member relative to the centre in units of ``pitch``: shape (L, 2) where all windows share one
        lattice block, (n, L, 2) otherwise; float32.
    pitch
        Distance of neighbours in the units of the centres.
    kind
        ``"square"``, ``"hex"`` or ``"knn"``.
    order
        Rows that have a window in an order in which neighbours are close to each other, shape (m,); ``None`` where that
        is the order of the rows.
    """

    index: np.ndarray
    offsets: np.ndarray
    pitch: float
    kind: str
    order: np.ndarray | None = None

    def rows(self) -> np.ndarray:
        """Rows that have a window, in ``order``."""
        return np.flatnonzero(self.index[:, 0] >= 0) if self.order is None else self.order

    def __len__(self) -> int:
        return len(self.index)

    def offsets_of(self, rows: np.ndarray) -> np.ndarray:
        """Offsets of some windows: (L, 2) when shared, (len(rows), L, 2) otherwise."""
        return self.offsets if self.offsets.ndim == 2 else self.offsets[rows]


def make_windows(
    centres: np.ndarray, *, kind: str = "auto", size: int | None = None, radius: float | None = None
) -> Windows:
    """Windows around each centre.

    Parameters
    ----------
    centres
        x and y, shape (n, 2); a row of NaN has no window and is nobody's neighbour.
    kind
        ``"lattice"`` (5 × 5 block of a square lattice, the 25 nearest positions of a hexagonal one), ``"knn"`` (cells),
        or ``"auto"``: lattice where the centres lie on one.
    size
        Members of a window with the centre; 25 on a lattice and 9 for cells by default, 1 for no context.
    radius
        Reach of a ``"knn"`` window in the units of ``centres``; neighbours beyond it are missing. Default: five times
        the median distance to the nearest neighbour.

    Returns
    -------
    Windows

    Raises
    ------
    ValueError
        If ``kind="lattice"`` and the centres do not lie on a lattice, or ``size`` is no window of one.
    """
    check_choice(kind, ("auto", "lattice", "knn"), name="kind")
    if size is not None and (int(size) != size or size < 1):
        msg = f"size={size!r} must be a whole number of at least 1"
        raise ValueError(msg)
    centres = np.asarray(centres, dtype=np.float64)
    placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
    if size == 1 or len(placed) < 2:
        index = np.full((len(centres), 1), -1, dtype=np.int32)
        index[placed, 0] = placed
        return Windows(index, np.zeros((1, 2), np.float32), 1.0, "knn")
    points = centres[placed]
    order = spatial_order(points)
    lattice = None if kind == "knn" else find_lattice(points, order=order)
    if lattice is None and kind == "lattice":
        msg = "the centres lie neither on a square nor on a hexagonal lattice; use kind='knn' for cells"
        raise ValueError(msg)
    if lattice is not None:
        return _lattice_windows(lattice, placed, order, n=len(centres), size=size or N_LATTICE)
    return _knn_windows(points, placed, order, n=len(centres), size=size or N_CELLS, radius=radius)


def small_bins(windows: Windows, *, um_known: bool) -> str:
    """What to do with bins that are too small to be looked at one by one; an empty text where they are not.

    A bin of 2 µm holds a count or two and a fraction of a cell, and its 5 × 5 window is 10 µm wide.
    """
    if windows.kind != "square" or not um_known or windows.pitch >= SMALL_BINS_UM:
        return ""
    times = round(8 / windows.pitch)
    return (
        f"bins of {windows.pitch:.3g} µm hold hardly any counts and a fraction of a cell each: read the 8 µm bins that "
        "Space Ranger writes beside them, storm.io.visium_hd(folder, bin_size=8) or table_key='square_008um', or sum "
        f"{times} × {times} bins to squares of 8 µm with spatialdata.aggregate(values_sdata=sdata, values='bins', "
        "by=squares, value_key=genes, table_name='table', target_coordinate_system='um'); the page 'From a vendor's "
        "folder to an embedding' has it in full"
    )


@cache
def _block(kind: str, size: int) -> np.ndarray:
    """Lattice steps (i, j) of a window's members, centre first, shape (size, 2)."""
    reach = int(np.ceil(np.sqrt(size))) + 2
    steps = np.array([(i, j) for j in range(-reach, reach + 1) for i in range(-reach, reach + 1)])
    x, y = steps[:, 0], steps[:, 1]
    if kind == "square":
        side = round(float(np.sqrt(size)))
        if side * side != size or side % 2 == 0:
            msg = f"size={size} is no window of a square lattice; choose 1, 9, 25, 49, …"
            raise ValueError(msg)
        inside = steps[np.maximum(abs(x), abs(y)) <= side // 2]
        order = np.lexsort((inside[:, 0], inside[:, 1], (inside**2).sum(axis=1)))
        return inside[order]
    square_distance = x * x + x * y + y * y
    # 25 cuts through the shell of twelve positions at √7: those whose bearing is just past one of the six axes go
    # first, so that the window keeps its six-fold symmetry and never depends on the order of the spots.
    bearing = np.arctan2(y * np.sqrt(3) / 2, x + y / 2)
    past_axis = np.round(np.mod(bearing, np.pi / 3), 6)
    order = np.lexsort((np.round(bearing, 6), past_axis, square_distance))
    return steps[order[:size]]


def _lattice_windows(lattice: Lattice, placed: np.ndarray, order: np.ndarray, *, n: int, size: int) -> Windows:
    steps = _block(lattice.kind, size)
    ij = lattice.ij - lattice.ij.min(axis=0)
    reach = int(abs(steps).max())
    height, width = (ij.max(axis=0) + 1 + 2 * reach).tolist()
    # A dense table of the lattice answers every neighbour query by arithmetic; a sparse section keeps a sorted index.
    flat = (ij[:, 0] + reach) * width + ij[:, 1] + reach
    delta = steps[:, 0] * width + steps[:, 1]
    dense = height * width <= max(50 * len(placed), 1_000_000)
    if dense:
        table = np.full(height * width, -1, dtype=np.int32)
        table[flat] = placed
    else:
        by_key = np.argsort(flat)
        keys, row_of = flat[by_key], placed[by_key].astype(np.int32)
    index = np.full((n, size), -1, dtype=np.int32)
    # In spatial order the table is read from the cache.
    for start in range(0, len(placed), _BLOCK):
        rows = order[start : start + _BLOCK]
        wanted = flat[rows, None] + delta
        if dense:
            index[placed[rows]] = table[wanted]
        else:
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            index[placed[rows]] = np.where(keys[at] == wanted, row_of[at], -1)
    axes = np.array([[1.0, 0.0], [0.0, 1.0]]) if lattice.kind == "square" else np.array([[1, 0], [0.5, np.sqrt(3) / 2]])
    return Windows(index, (steps @ axes).astype(np.float32), lattice.pitch, lattice.kind, placed[order])


def _knn_windows(
    points: np.ndarray, placed: np.ndarray, order: np.ndarray, *, n: int, size: int, radius: float | None
) -> Windows:
    # Everything below is in spatial order, in which a tree is built and queried two to three times faster.
    points, rows_of = points[order], placed[order]
    k = min(size, len(points))
    # One neighbour more than needed shows whether the last one is tied.
    wide = min(k + 1, len(points))
    distance = np.empty((len(points), wide))
    neighbour = np.empty((len(points), wide), dtype=np.int32)
    tree = cKDTree(points)
    for start in range(0, len(points), _BLOCK):
        part = slice(start, start + _BLOCK)
        distance[part], neighbour[part] = tree.query(points[part], k=wide)
    if np.median(distance[:, 1]) == 0:
        msg = "more than half of the centres coincide with another one; check the coordinates"
        raise ValueError(msg)
    # Typical distance to the nearest other place: cells at the same place have none between them.
    positive = np.where(distance > 0, distance, np.inf).min(axis=1)
    pitch = float(np.median(positive[np.isfinite(positive)]))
    if radius is None:
        radius = DEFAULT_REACH * pitch
    check_positive(radius, name="radius", unit="units of the centres")
    # Which of several cells at the same distance a tree returns, and in what order, depends on the order of the rows.
    tied = (np.diff(distance, axis=1) <= _TIE * distance[:, 1:]).any(axis=1) | (
        neighbour[:, 0] != np.arange(len(points))
    )
    _break_ties(tree, np.flatnonzero(tied), rows_of, k=k, pitch=pitch, distance=distance, neighbour=neighbour)
    index = np.full((n, size), -1, dtype=np.int32)
    offsets = np.zeros((n, size, 2), dtype=np.float32)
    for start in range(0, len(points), _BLOCK):
        part = slice(start, start + _BLOCK)
        near, rows, members = distance[part, :k] <= radius, rows_of[part], neighbour[part, :k]
        index[rows, :k] = np.where(near, rows_of[members], -1)
        relative = (points[members] - points[part, None]) / pitch
        offsets[rows, :k] = np.where(near[..., None], relative, 0)
    return Windows(index, offsets, pitch, "knn", rows_of)


def _break_ties(
    tree: cKDTree,
    rows: np.ndarray,
    rows_of: np.ndarray,
    *,
    k: int,
    pitch: float,
    distance: np.ndarray,
    neighbour: np.ndarray,
) -> None:
    """Put the k nearest of some points into an order that their positions decide; written into the last two arrays.

    Parameters
    ----------
    tree
        Tree of the points, shape (m, 2).
    rows
        Points with ties, shape (r,).
    rows_of
        Row of the table of each point, shape (m,), which decides between cells at the same place.
    k
        Members of a window.
    pitch
        Typical distance between neighbours.
    distance, neighbour
        Distances and points, shape (m, at least k): each point itself first, the others by distance, then x, then y.
    """
    width = distance.shape[1]
    while len(rows):
        open_rows = []
        step = max(1, _BLOCK * (N_CELLS + 1) // width)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            if width > distance.shape[1]:
                away, near = (np.reshape(found, (len(part), width)) for found in tree.query(tree.data[part], k=width))
            else:
                away, near = distance[part], neighbour[part]
            # The search must go beyond the last tie.
            complete = (away[:, -1] - away[:, k - 1] > _TIE * away[:, -1]) | (width == len(tree.data))
            open_rows.append(part[~complete])
            part, away, near = part[complete], away[complete], near[complete]
            # Equal distances get one rank, whatever their last digits.
            rank = np.cumsum(np.diff(away, axis=1, prepend=away[:, :1]) > _TIE * away, axis=1)
            rank[near == part[:, None]] = -1
            relative = np.round((tree.data[near] - tree.data[part, None]) / pitch, 6)
            best = np.lexsort((rows_of[near], relative[..., 1], relative[..., 0], rank), axis=1)[:, :k]
            distance[part, :k] = np.take_along_axis(away, best, axis=1)
            neighbour[part, :k] = np.take_along_axis(near, best, axis=1)
        rows, width = np.concatenate(open_rows), min(2 * width, len(tree.data))
