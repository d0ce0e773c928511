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
    spot positions (printing, registration) does not add up; detached pieces are placed by an affine fit.

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
    both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    graph = coo_matrix((np.ones(len(both[0]), np.int8), both), shape=(n, n)).tocsr()
    _, piece = connected_components(graph, directed=False)
    main = np.bincount(piece).argmax()
    root = np.flatnonzero(piece == main)[0]
    visited, parent = breadth_first_order(graph, root, directed=False)
    ij = np.zeros((n, 2), dtype=np.int64)
    inverse = np.linalg.inv(axes)
    along = np.rint((points[visited[1:]] - points[parent[visited[1:]]]) @ inverse).astype(np.int64)
    for child, ahead, move in zip(visited[1:], parent[visited[1:]], along, strict=True):
        ij[child] = ij[ahead] + move
    known = piece == main
    if known.sum() < max(5, 0.2 * n):
        return None
    design = np.column_stack([ij, np.ones(n)])
    if np.linalg.matrix_rank(design[known]) < 3:
        return None
    fit, *_ = np.linalg.lstsq(design[known], points[known], rcond=None)
    if not known.all():
        lost = np.flatnonzero(~known)
        ij[lost] = np.rint((points[lost] - fit[2]) @ np.linalg.inv(fit[:2])).astype(np.int64)
        design = np.column_stack([ij, np.ones(n)])
    pitch = float(np.sqrt((fit[:2] ** 2).sum(axis=1)).mean())
    # Neighbours decide, not absolute places: a smooth drift over many spots is no reason to give the lattice up.
    error = (points[columns] - points[rows]) - (ij[columns] - ij[rows]) @ fit[:2]
    fits = (np.hypot(*error.T) < _SLACK * pitch).mean()
    unique = len(np.unique(ij, axis=0)) == n
    return (ij, pitch) if fits >= _SHARE and unique else None
