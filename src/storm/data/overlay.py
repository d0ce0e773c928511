"""Whether points are several lattices that lie on top of each other: sections of one table whose names were lost."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from storm.data.lattice import find_lattice

#: Points whose surroundings are looked at, and their neighbours.
_POINTS, _NEIGHBOURS = 4000, 40
#: Nearest points that tell how much room a point has.
_NEAREST = 12
#: Width of a cell of the histogram of steps between neighbours, in edges of a point's share; and the shortest step,
#: which still differs from its opposite, and the longest: the circle that holds so many neighbours has a radius of 3.6.
_CELL, _SHORTEST, _REACH = 0.1, 0.25, 3.0
#: Share of points with a neighbour at one and the same step, up to one and a half cells, from which on the step is that
#: of a lattice. It is 0.09 for points at random.
_SHARED = 0.3
#: A step of a lattice leads onwards as well as back from most points; a step from one lattice into another one does
#: not. Below this share of the points that have either, it is one of these.
_BOTH_WAYS = 0.4
#: Share of points with a neighbour nearer than so many steps of the lattice, from which on there is another lattice.
_NEARER, _NEAR = 0.75, 0.3


def overlaid(points: np.ndarray) -> bool:
    """Whether points are two or more lattices, shifted or turned against each other, in one place.

    Two lattices that happen to make up a third one, each in the middle of the other's meshes, cannot be told from it.
    Points without a lattice, such as imaged cells, are never found to be several.

    Parameters
    ----------
    points
        x and y, shape (n, 2), finite.

    Returns
    -------
    bool
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) < 4 * _NEIGHBOURS or find_lattice(distinct) is not None:
        return False
    tree = cKDTree(distinct)
    some = distinct[:: max(1, len(distinct) // _POINTS)]
    distance, neighbour = tree.query(some, k=_NEIGHBOURS + 1)
    # the edge of a square as large as a point's share of the area
    unit = float(np.median(distance[:, _NEAREST])) * np.sqrt(np.pi / _NEAREST)
    steps = (distinct[neighbour[:, 1:]] - some[:, None]) / unit
    ways = [(_at(steps, step), _at(steps, -step), step) for step in _common_steps(steps)]
    shared = [(there, back, float(np.hypot(*step))) for there, back, step in ways if (there | back).mean() > _SHARED]
    own = [length for there, back, length in shared if (there & back).mean() >= _BOTH_WAYS * (there | back).mean()]
    nearer = bool(own) and float((distance[:, 1] < _NEARER * unit * min(own)).mean()) > _NEAR
    return nearer or len(own) < len(shared)


def _common_steps(steps: np.ndarray) -> list[np.ndarray]:
    """Steps to a neighbour that many points share, each with its opposite once."""
    n_cells = round(2 * _REACH / _CELL)
    flat = steps.reshape(-1, 2)
    counts, *_ = np.histogram2d(flat[:, 0], flat[:, 1], bins=n_cells, range=[(-_REACH, _REACH)] * 2)
    around = uniform_filter(counts, 3, mode="constant") * 9 / len(steps)
    found: list[np.ndarray] = []
    for cell in np.argsort(-around, axis=None):
        i, j = np.unravel_index(cell, around.shape)
        if around[i, j] < _SHARED:
            break
        step = (np.array([i, j]) + 0.5) * _CELL - _REACH
        inside = _SHORTEST <= np.hypot(*step) <= _REACH
        if inside and all(min(np.hypot(*(step - other)), np.hypot(*(step + other))) > 4 * _CELL for other in found):
            found.append(step)
    return found


def _at(steps: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Which points have a neighbour at a step, bool, shape (points,)."""
    return (np.abs(steps - step) < 1.5 * _CELL).all(axis=-1).any(axis=1)
