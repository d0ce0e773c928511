"""Objects of a drawn section that are larger than a cell: adipocytes, acini, malignant glands, vessels (µm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from storm.datasets._ground import Ground
from storm.datasets._types import FAT, GLANDS, STROMA, TUMOUR

ACINUS, LUMEN, VESSEL = range(3)

#: Distance between the lattice sites of adipocytes.
ADIPOCYTE_PITCH = 64.0


def jittered(rng: np.random.Generator, extent: tuple[float, float], pitch: float, jitter: float) -> np.ndarray:
    """Points of a square lattice, each moved by up to ``jitter`` pitches, shape (n, 2)."""
    nx, ny = (int(np.ceil(side / pitch)) + 1 for side in extent)
    xy = np.stack(np.meshgrid(np.arange(nx), np.arange(ny)), axis=-1).reshape(-1, 2) * pitch
    return xy + rng.uniform(-jitter, jitter, xy.shape) * pitch


@dataclass(frozen=True)
class Adipocytes:
    """Fat cells: the Voronoi cells of a jittered lattice whose centres lie in adipose tissue.

    ``centres`` (ny, nx, 2) has a margin of 2 sites around the frame; ``alive`` (ny, nx) marks fat cells.
    """

    centres: np.ndarray
    alive: np.ndarray

    @classmethod
    def draw(cls, seed: int, ground: Ground) -> Adipocytes:
        rng = np.random.default_rng([seed, 2])
        nx, ny = (int(np.ceil(side / ADIPOCYTE_PITCH)) + 5 for side in ground.extent)
        lattice = np.stack(np.meshgrid(np.arange(nx), np.arange(ny)), axis=-1) - 2.0
        centres = (lattice + 0.5 + rng.uniform(-0.36, 0.36, lattice.shape)) * ADIPOCYTE_PITCH
        alive = ground.domain(centres.reshape(-1, 2)).reshape(ny, nx) == FAT
        return cls(centres, alive)

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Midpoints between a fat cell and its 4 lattice neighbours.

        Returns
        -------
        points (n, 4, 2), normals (n, 4, 2; pointing outwards, unit length), centres (n, 2)
        """
        rows, cols = np.nonzero(self.alive)
        inner = (rows > 0) & (rows < len(self.alive) - 1) & (cols > 0) & (cols < self.alive.shape[1] - 1)
        rows, cols = rows[inner], cols[inner]
        own = self.centres[rows, cols]
        neighbours = np.stack(
            [self.centres[rows + dy, cols + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))], axis=1
        )
        normal = neighbours - own[:, None]
        normal /= np.linalg.norm(normal, axis=2, keepdims=True)
        return (own[:, None] + neighbours) / 2, normal, own

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How deep (µm) points lie in a fat cell, 0 at its border and outside, same shape as ``x`` (flat)."""
        ny, nx = self.alive.shape
        col = np.floor(x / ADIPOCYTE_PITCH).astype(np.int32) + 2
        row = np.floor(y / ADIPOCYTE_PITCH).astype(np.int32) + 2
        first = np.full(x.shape, np.inf, dtype=np.float32)
        second = first.copy()
        owner = np.zeros(x.shape, dtype=bool)
        centres = self.centres.astype(np.float32)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                r, c = np.clip(row + dy, 0, ny - 1), np.clip(col + dx, 0, nx - 1)
                centre = centres[r, c]
                distance = np.hypot(centre[..., 0] - x, centre[..., 1] - y)
                nearer = distance < first
                second = np.where(nearer, first, np.minimum(second, distance))
                owner = np.where(nearer, self.alive[r, c], owner)
                first = np.where(nearer, distance, first)
        return np.where(owner, (second - first) / 2, 0).astype(np.float32)


@dataclass(frozen=True)
class Structures:
    """Rings of cells around a cavity: acini of normal glands, malignant glands, vessels.

    The border of the cavity in direction φ is ``inner * (1 + a2 cos(2φ - p2) + a3 cos(3φ - p3))``, and the structure
    ends ``wall`` further outside.
    """

    xy: np.ndarray
    kind: np.ndarray
    inner: np.ndarray
    wall: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def outer(self) -> np.ndarray:
        """Largest radius of every structure."""
        return self.inner * (1 + self.amplitude.sum(axis=1)) + self.wall

    def take(self, index: np.ndarray) -> Structures:
        return Structures(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @classmethod
    def draw(cls, seed: int, ground: Ground) -> Structures:
        rng = np.random.default_rng([seed, 3])
        parts = [_acini(rng, ground), _lumina(rng, ground), _vessels(rng, ground)]
        everything = cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))
        return everything.take(_apart(everything))

    def cavity(self, index: np.ndarray | int, xy: np.ndarray) -> np.ndarray:
        """Distance of points to the border of the cavity of structure ``index`` (negative inside), shape (n,)."""
        offset = xy - self.xy[index]
        angle = np.arctan2(offset[..., 1], offset[..., 0])
        return np.hypot(offset[..., 0], offset[..., 1]) - self.radius(index, angle)

    def radius(self, index: np.ndarray | int, angle: np.ndarray) -> np.ndarray:
        """Radius of the cavity in a direction."""
        a, p = self.amplitude[index], self.phase[index]
        wave = a[..., 0] * np.cos(2 * angle - p[..., 0]) + a[..., 1] * np.cos(3 * angle - p[..., 1])
        return self.inner[index] * (1 + wave)


def _build(
    rng: np.random.Generator, xy: np.ndarray, kind: int, inner: np.ndarray, wall: np.ndarray, wobble: float
) -> Structures:
    n = len(xy)
    amplitude = rng.uniform(0.1, 1.0, (n, 2)) * wobble * [1.0, 0.6]
    return Structures(xy, np.full(n, kind), inner, wall, amplitude, rng.uniform(0, 2 * np.pi, (n, 2)))


def _acini(rng: np.random.Generator, ground: Ground) -> Structures:
    xy = jittered(rng, ground.extent, 62.0, 0.22)
    keep = rng.random(len(xy)) < np.where(ground.weights(xy)[:, GLANDS] > 0.5, 0.97, 0.0)
    xy = xy[keep]
    inner = rng.gamma(6.0, 1.9, len(xy)).clip(4, 26)
    return _build(rng, xy, ACINUS, inner, np.full(len(xy), 14.0), 0.28)


def _lumina(rng: np.random.Generator, ground: Ground) -> Structures:
    xy = jittered(rng, ground.extent, 92.0, 0.35)
    # well differentiated (low grade) tumour forms more glands
    chance = 0.75 * (1 - ground.local("grade", xy)) ** 1.5
    keep = (ground.weights(xy)[:, TUMOUR] > 0.7) & (ground.nest(xy) > 0.8) & (rng.random(len(xy)) < chance)
    xy = xy[keep]
    return _build(rng, xy, LUMEN, rng.gamma(5.0, 2.4, len(xy)).clip(5, 28), np.full(len(xy), 13.0), 0.4)


def _vessels(rng: np.random.Generator, ground: Ground) -> Structures:
    xy = jittered(rng, ground.extent, 105.0, 0.45)
    weights = ground.weights(xy)
    stroma = weights[:, STROMA] + weights[:, TUMOUR] * (1 - ground.nest(xy)) + 0.25 * weights[:, FAT]
    keep = rng.random(len(xy)) < stroma * (0.1 + 0.9 * ground.local("vessels", xy) ** 2)
    xy = xy[keep]
    return _build(rng, xy, VESSEL, rng.gamma(3.0, 2.8, len(xy)).clip(5.5, 26), np.full(len(xy), 4.5), 0.35)


def _apart(structures: Structures) -> np.ndarray:
    """Indices of structures that overlap no earlier one."""
    if len(structures) == 0:
        return np.zeros(0, dtype=int)
    outer = structures.outer
    pairs = cKDTree(structures.xy).query_pairs(2 * float(outer.max()), output_type="ndarray")
    pairs = np.sort(pairs, axis=1)
    gap = np.linalg.norm(structures.xy[pairs[:, 0]] - structures.xy[pairs[:, 1]], axis=1)
    pairs = pairs[gap < 0.92 * (outer[pairs[:, 0]] + outer[pairs[:, 1]])]
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    dropped = np.zeros(len(structures), dtype=bool)
    for first, later in pairs:
        if not dropped[first]:
            dropped[later] = True
    return np.flatnonzero(~dropped)
