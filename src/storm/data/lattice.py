"""Recognise the square or hexagonal lattice on which spots and bins lie, whatever its rotation, pitch and holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from storm.data.order import spatial_order

#: Length of the mean direction of neighbours (0 to 1) from which they share one set of axes.
_ORDER = 0.8
#: Distance from the fitted position, in pitches, up to which a spot is on the lattice: below half a step.
_SLACK = 0.4
#: Share of the pairs of neighbours that must be on the lattice; the rest may be misplaced.
_SHARE = 0.98
#: Points in which a lattice is looked for, so that large sections take no longer; a section with fewer is used whole.
_SAMPLE = 20_480
#: Patches of the section that the sample is taken from: neighbours must be in it together.
_PATCHES = 64
#: Reach, in pitches, of the first affine fit, at which the error of the local axes is still below half a step.
_FIRST_REACH = 32.0
#: Factor by which each next fit reaches further.
_GROWTH = 8.0


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
    """Find the lattice of some points.

    Kind, pitch and rotation come from patches of the section. If one affine map then puts every point on a lattice
    position of its own, the positions are its rounded coordinates. If not (printed spots, drift of a registration),
    steps are counted along chains of neighbours, so that the drift does not accumulate, and a detached piece is placed
    as a whole by an affine fit.

    Parameters
    ----------
    points
        x and y, shape (n, 2), finite.
    order
        Their :func:`~storm.data.order.spatial_order`, shape (n,), if it has been computed already.

    Returns
    -------
    Lattice or None
        Lattice coordinates of all points; ``None`` if they do not lie on a lattice.
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
    fit = _by_rounding(points, step, axes)
    if fit is not None:
        return Lattice(kind, *fit)
    if n <= _SAMPLE:
        fit = _by_chains(points, rows, columns, axes)
        return None if fit is None else Lattice(kind, *fit)
    ordered = points[order]
    near = _neighbours(ordered, pitch)
    fit = None if near is None else _by_chains(ordered, near[0], near[1], axes)
    if fit is None:
        return None
    ij = np.empty_like(fit[0])
    ij[order] = fit[0]
    return Lattice(kind, ij, fit[1])


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
    # The error of a map grows with the distance from its root. Points near enough to be placed without doubt are fitted
    # again, and the new map reaches further.
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
    # Two neighbours off by half the slack each differ by at most the slack, the limit that is used for chains, too.
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


def _by_chains(
    points: np.ndarray, rows: np.ndarray, columns: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """Lattice coordinates by following edges from a root, and the pitch of an affine fit; ``None`` if they differ."""
    n = len(points)
    single = abs(np.rint((points[columns] - points[rows]) @ np.linalg.inv(axes))).sum(axis=1) > 0
    rows, columns = rows[single], columns[single]
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(n + 1, n + 1))
    _, piece = connected_components(graph, directed=False)
    by_piece = np.split(np.argsort(piece[:n], kind="stable"), np.cumsum(np.bincount(piece[:n]))[:-1])
    # An additional node is joined to one member of every piece, so that a single search visits all of them.
    first = np.array([members[0] for members in by_piece])
    sweep = graph + coo_matrix((np.ones(len(first), np.int8), (np.full(len(first), n), first)), shape=graph.shape)
    visited, parent = breadth_first_order(sweep.tocsr(), n, directed=False)
    visited = visited[1:][parent[visited[1:]] != n]
    ij = np.zeros((n, 2), dtype=np.int64)
    ij[visited] = np.rint((points[visited] - points[parent[visited]]) @ np.linalg.inv(axes))
    # Sums along the chains: every point adds the sum of the point ahead of it, which doubles the length covered.
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
        # A detached piece keeps its own steps and is moved as a whole, because the fit is inexact far from its centre.
        if members is not largest:
            apart = (points[members] - fit[2]) @ np.linalg.inv(fit[:2]) - ij[members]
            ij[members] += np.rint(np.median(apart, axis=0)).astype(np.int64)
    pitch = _pitch(fit[:2])
    # Distances between neighbours are compared, not absolute places, so that a smooth drift is accepted.
    error = (points[columns] - points[rows]) - (ij[columns] - ij[rows]) @ fit[:2]
    fits = (np.hypot(*error.T) < _SLACK * pitch).mean()
    return (ij, pitch) if fits >= _SHARE and _all_differ(ij) else None
