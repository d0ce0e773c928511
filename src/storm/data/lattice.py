"""Recognise the square or hexagonal lattice on which spots and bins lie, whatever its rotation, pitch and holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

#: Share of nearest-neighbour directions that must agree on one set of axes.
_ORDER = 0.8
#: Distance from the fitted position, in pitches, up to which a spot is on the lattice, and the share that must be.
_SLACK, _SHARE = 0.4, 0.98


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


def find_lattice(points: np.ndarray) -> Lattice | None:
    """The lattice of some points, or ``None`` where they lie on none.

    Steps are counted along chains of neighbours, not by dividing coordinates by a pitch, so that a slow drift of the
    spot positions (printing, registration) does not add up; a detached piece is placed as a whole by an affine fit.

    Parameters
    ----------
    points
        x and y, shape (n, 2), finite.

    Returns
    -------
    Lattice or None
    """
    n = len(points)
    if n < 5:
        return None
    distance, neighbour = cKDTree(points).query(points, k=min(7, n))
    pitch = float(np.median(distance[:, 1]))
    if pitch == 0:
        return None
    rows = np.repeat(np.arange(n), distance.shape[1] - 1)
    columns, length = neighbour[:, 1:].ravel(), distance[:, 1:].ravel()
    near = (length < 1.25 * pitch) & (length > 0.75 * pitch)
    rows, columns = rows[near], columns[near]
    if len(rows) < n:
        return None
    step = points[columns] - points[rows]
    angle = np.arctan2(step[:, 1], step[:, 0])
    order = {fold: np.exp(1j * fold * angle).mean() for fold in (4, 6)}
    fold = max(order, key=lambda f: abs(order[f]))
    if abs(order[fold]) < _ORDER:
        return None
    kind = "square" if fold == 4 else "hex"
    turn = np.angle(order[fold]) / fold
    second = turn + (np.pi / 2 if kind == "square" else np.pi / 3)
    axes = pitch * np.array([[np.cos(turn), np.sin(turn)], [np.cos(second), np.sin(second)]])
    found = _count_steps(points, rows, columns, np.rint(step @ np.linalg.inv(axes)).astype(np.int64), axes)
    return None if found is None else Lattice(kind, *found)


def _count_steps(points, rows, columns, step, axes) -> tuple[np.ndarray, float] | None:
    """Lattice coordinates by following edges from a root, then an affine fit for all, and the fitted pitch."""
    n = len(points)
    single = abs(step).sum(axis=1) > 0
    rows, columns, step = rows[single], columns[single], step[single]
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(n + 1, n + 1))
    _, piece = connected_components(graph, directed=False)
    by_piece = np.split(np.argsort(piece[:n], kind="stable"), np.cumsum(np.bincount(piece[:n]))[:-1])
    # One more node touches one member of every piece, so that a single sweep walks them all.
    first = np.array([members[0] for members in by_piece])
    sweep = graph + coo_matrix((np.ones(len(first), np.int8), (np.full(len(first), n), first)), shape=graph.shape)
    visited, parent = breadth_first_order(sweep.tocsr(), n, directed=False)
    visited = visited[1:][parent[visited[1:]] != n]
    along = np.zeros((n, 2), dtype=np.int64)
    along[visited] = np.rint((points[visited] - points[parent[visited]]) @ np.linalg.inv(axes))
    ij = np.zeros((n, 2), dtype=np.int64)
    for child, ahead in zip(visited, parent[visited], strict=True):
        ij[child] = ij[ahead] + along[child]
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
    pitch = float(np.sqrt((fit[:2] ** 2).sum(axis=1)).mean())
    # Neighbours decide, not absolute places: a smooth drift over many spots is no reason to give the lattice up.
    error = (points[columns] - points[rows]) - (ij[columns] - ij[rows]) @ fit[:2]
    fits = (np.hypot(*error.T) < _SLACK * pitch).mean()
    unique = len(np.unique(ij, axis=0)) == n
    return (ij, pitch) if fits >= _SHARE and unique else None
