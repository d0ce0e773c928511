"""Recognise the square or hexagonal lattice on which spots and bins lie, whatever its rotation, pitch and holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from storm.data.order import spatial_order

#: Share of nearest-neighbour directions that must agree on one set of axes.
_ORDER = 0.8
#: Distance from the fitted position, in pitches, up to which a spot is on the lattice, and the share that must be.
_SLACK, _SHARE = 0.4, 0.98
#: Points that are looked at to recognise a lattice, in so many patches; all of a section that has no more.
_SAMPLE, _PATCHES = 20_480, 64
#: Reach, in pitches, of the first affine fit, and how much further each next one reaches.
_FIRST_REACH, _GROWTH = 32.0, 8.0


@dataclass(frozen=True)
class Lattice:
    """Lattice coordinates of points.

    Attributes
    ----------
    kind
        ``"square"`` or ``"hex"``.
    ij
        Whole steps along the two axes, shape (n, 2); for ``"hex"`` the axes are 60° apart.
    pitch
        Distance between neighbours of the fitted lattice, in the units of the points.
    """

    kind: str
    ij: np.ndarray
    pitch: float


def find_lattice(points: np.ndarray, *, order: np.ndarray | None = None) -> Lattice | None:
    """The lattice of some points, or ``None`` where they lie on none.

    Kind, pitch and rotation come from patches of the section. Where one affine map then puts every point on a lattice
    position of its own, the positions are its rounded coordinates. Elsewhere (printed spots, drift of a registration)
    steps are counted along chains of neighbours, so that the drift does not add up, and a detached piece is placed as a
    whole by an affine fit.

    Parameters
    ----------
    points
        x and y, shape (n, 2), finite.
    order
        Their :func:`~storm.data.order.spatial_order`, where it is known already.

    Returns
    -------
    Lattice or None
    """
    n = len(points)
    if n < 5:
        return None
    if n <= _SAMPLE:
        sample = points
    else:
        order = spatial_order(points) if order is None else order
        length = _SAMPLE // _PATCHES
        starts = np.linspace(0, n - length, _PATCHES).astype(np.int64)
        sample = points[order[np.unique(starts[:, None] + np.arange(length))]]
    edges = _neighbours(sample)
    if edges is None:
        return None
    rows, columns, pitch = edges
    step = sample[columns] - sample[rows]
    angle = np.arctan2(step[:, 1], step[:, 0])
    turns = {fold: np.exp(1j * fold * angle).mean() for fold in (4, 6)}
    fold = max(turns, key=lambda f: abs(turns[f]))
    if abs(turns[fold]) < _ORDER:
        return None
    kind = "square" if fold == 4 else "hex"
    turn = np.angle(turns[fold]) / fold
    second = turn + (np.pi / 2 if kind == "square" else np.pi / 3)
    axes = pitch * np.array([[np.cos(turn), np.sin(turn)], [np.cos(second), np.sin(second)]])
    found = _by_rounding(points, step, axes)
    if found is not None:
        return Lattice(kind, *found)
    if n <= _SAMPLE:
        found = _by_chains(points, rows, columns, axes)
        return None if found is None else Lattice(kind, *found)
    ordered = points[order]
    rows, columns, _ = _neighbours(ordered, pitch) or (None, None, None)
    found = None if rows is None else _by_chains(ordered, rows, columns, axes)
    if found is None:
        return None
    ij = np.empty_like(found[0])
    ij[order] = found[0]
    return Lattice(kind, ij, found[1])


def _neighbours(points: np.ndarray, pitch: float | None = None) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Pairs of points at about one pitch (the median distance to the nearest by default), and the pitch."""
    distance, neighbour = cKDTree(points).query(points, k=min(7, len(points)))
    if pitch is None:
        pitch = float(np.median(distance[:, 1]))
    if pitch == 0:
        return None
    near = (distance[:, 1:] < 1.25 * pitch) & (distance[:, 1:] > 0.75 * pitch)
    rows, slots = np.nonzero(near)
    return None if len(rows) < len(points) else (rows, neighbour[rows, slots + 1], pitch)


def _by_rounding(points: np.ndarray, step: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Lattice coordinates and fitted pitch where one affine map places all points, else ``None``."""
    whole = np.rint(step @ np.linalg.inv(axes))
    fit, _, rank, _ = np.linalg.lstsq(whole, step, rcond=None)
    if rank < 2:
        return None
    pitch = _pitch(fit)
    root = points[np.argmin(((points - np.median(points, axis=0)) ** 2).sum(axis=1))]
    # An error of the first map grows with the distance from its root: what it places surely is fitted again, and the
    # new map reaches further.
    away = abs(points - root).max(axis=1)
    reach, shift = _FIRST_REACH * pitch, root
    while True:
        inside = points[away <= reach] if reach < away.max() else points
        ij = np.rint((inside - shift) @ np.linalg.inv(fit))
        better = _affine(ij, inside)
        if better is not None:
            fit, shift = better
        if inside is points:
            break
        reach *= _GROWTH
    local = (points - shift) @ np.linalg.inv(fit)
    ij = np.rint(local)
    local -= ij
    pitch = _pitch(fit)
    # Two neighbours off by half the slack each differ by no more than the slack: what the chains ask for.
    if better is None or ((local @ fit) ** 2).sum(axis=1).max() >= (_SLACK / 2 * pitch) ** 2:
        return None
    ij = ij.astype(np.int64)
    return (ij, pitch) if _all_differ(ij) else None


def _pitch(axes: np.ndarray) -> float:
    return float(np.sqrt((axes**2).sum(axis=1)).mean())


def _affine(ij: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Axes and origin of ``points = ij @ axes + origin`` by least squares; ``None`` where they are not determined."""
    middle, at = ij.mean(axis=0), points.mean(axis=0)
    off = ij - middle
    gram = off.T @ off
    if len(ij) < 5 or np.linalg.det(gram) < 1e-6 * max(np.trace(gram), 1.0) ** 2 / len(ij):
        return None
    axes = np.linalg.solve(gram, off.T @ (points - at))
    if np.linalg.matrix_rank(axes) < 2:
        return None
    return axes, at - middle @ axes


def _all_differ(ij: np.ndarray) -> bool:
    low = ij.min(axis=0)
    height, width = (ij.max(axis=0) - low + 1).tolist()
    key = (ij[:, 0] - low[0]) * width + (ij[:, 1] - low[1])
    if height * width > 50 * len(ij) + 1_000_000:
        return len(np.unique(key)) == len(ij)
    seen = np.zeros(height * width, dtype=bool)
    seen[key] = True
    return int(np.count_nonzero(seen)) == len(ij)


def _by_chains(points, rows, columns, axes) -> tuple[np.ndarray, float] | None:
    """Lattice coordinates by following edges from a root, then an affine fit for all, and the fitted pitch."""
    n = len(points)
    single = abs(np.rint((points[columns] - points[rows]) @ np.linalg.inv(axes))).sum(axis=1) > 0
    rows, columns = rows[single], columns[single]
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(n + 1, n + 1))
    _, piece = connected_components(graph, directed=False)
    by_piece = np.split(np.argsort(piece[:n], kind="stable"), np.cumsum(np.bincount(piece[:n]))[:-1])
    # One more node touches one member of every piece, so that a single sweep walks them all.
    first = np.array([members[0] for members in by_piece])
    sweep = graph + coo_matrix((np.ones(len(first), np.int8), (np.full(len(first), n), first)), shape=graph.shape)
    visited, parent = breadth_first_order(sweep.tocsr(), n, directed=False)
    visited = visited[1:][parent[visited[1:]] != n]
    ij = np.zeros((n, 2), dtype=np.int64)
    ij[visited] = np.rint((points[visited] - points[parent[visited]]) @ np.linalg.inv(axes))
    # Sums along the chains: every point takes over what the point ahead has gathered, which doubles the way each time.
    ahead = np.arange(n)
    ahead[visited] = parent[visited]
    while (ahead != ahead[ahead]).any():
        ij += ij[ahead]
        ahead = ahead[ahead]
    largest = max(by_piece, key=len)
    if len(largest) < max(5, 0.2 * n):
        return None
    design = np.column_stack([ij[largest], np.ones(len(largest))])
    if np.linalg.matrix_rank(design) < 3:
        return None
    fit, *_ = np.linalg.lstsq(design, points[largest], rcond=None)
    for members in by_piece:
        # A detached piece keeps its own steps and is moved as a whole: the fit drifts away from the spots far out.
        if members is not largest:
            apart = (points[members] - fit[2]) @ np.linalg.inv(fit[:2]) - ij[members]
            ij[members] += np.rint(np.median(apart, axis=0)).astype(np.int64)
    pitch = _pitch(fit[:2])
    # Neighbours decide, not absolute places: a smooth drift over many spots is no reason to give the lattice up.
    error = (points[columns] - points[rows]) - (ij[columns] - ij[rows]) @ fit[:2]
    fits = (np.hypot(*error.T) < _SLACK * pitch).mean()
    return (ij, pitch) if fits >= _SHARE and _all_differ(ij) else None
