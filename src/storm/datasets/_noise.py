"""Smooth random fields that can be evaluated anywhere without evaluating everything else.

A field is a grid of normal numbers smoothed by cubic B-splines, so that a raster of it is two small matrix products and
a value at a point needs its 4 × 4 neighbours only: tiles of a section join without a seam however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from scipy import ndimage

#: B-spline smoothing leaves this share of the variance of independent normal grid values (per axis, position average).
_VARIANCE = 0.479365


def _spline_weights(fraction: np.ndarray) -> np.ndarray:
    """Weights of the 4 neighbouring grid values of a cubic B-spline, shape (..., 4)."""
    f = fraction
    return np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=-1) / 6


@dataclass(frozen=True)
class Octave:
    """One grid of normal numbers, ``spacing`` µm apart, starting two spacings outside the section."""

    grid: np.ndarray
    spacing: float
    weight: float

    def _basis(self, start: float, step: float, n: int, size: int) -> tuple[np.ndarray, int, int]:
        """Dense basis (n, k) of one axis over the k grid rows that it touches, and those rows."""
        position = (start + step * np.arange(n)) / self.spacing + 2
        cell = np.clip(np.floor(position).astype(int), 1, size - 3)
        weights = _spline_weights(np.clip(position - cell, 0, 1))
        first, last = int(cell[0]) - 1, int(cell[-1]) + 3
        basis = np.zeros((n, last - first), dtype=np.float32)
        rows = np.arange(n)
        for k in range(4):
            basis[rows, cell - 1 + k - first] = weights[:, k]
        return basis, first, last

    def raster(self, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        by, y_first, y_last = self._basis(y0, step, shape[0], self.grid.shape[0])
        bx, x_first, x_last = self._basis(x0, step, shape[1], self.grid.shape[1])
        return self.weight * (by @ self.grid[y_first:y_last, x_first:x_last] @ bx.T)

    def at(self, xy: np.ndarray) -> np.ndarray:
        rows = (xy[:, ::-1] / self.spacing + 2).T
        return self.weight * ndimage.map_coordinates(
            self.grid, rows, order=3, prefilter=False, mode="nearest", output=np.float32
        )


@dataclass(frozen=True)
class Field:
    """Sum of octaves with about unit variance.

    Coordinates are in µm, x before y; rasters are (y, x).
    """

    octaves: tuple[Octave, ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        extent: tuple[float, float],
        wavelength: float,
        octaves: int = 1,
        fade: float = 0.5,
    ) -> Field:
        """Draw a field over ``extent`` (width, height); each further octave has half the wavelength."""
        weights = fade ** np.arange(octaves)
        weights = weights / np.sqrt(np.sum(weights**2)) / _VARIANCE
        parts = []
        for k, weight in enumerate(weights):
            spacing = wavelength / 2 / 2**k
            shape = tuple(int(np.ceil(side / spacing)) + 6 for side in extent[::-1])
            parts.append(Octave(rng.standard_normal(shape, dtype=np.float32), spacing, float(weight)))
        return cls(tuple(parts))

    def raster(self, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        """Values on a grid whose first sample is at (x0, y0), shape ``shape``, float32."""
        return reduce(np.add, (octave.raster(x0, y0, step, shape) for octave in self.octaves))

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Values at points (n, 2), float32."""
        return reduce(np.add, (octave.at(xy) for octave in self.octaves))

    def gradient(self, xy: np.ndarray, *, step: float = 1.0) -> np.ndarray:
        """Central differences at points (n, 2) per µm, shape (n, 2)."""
        shift = np.array([[step, 0.0], [0.0, step]])
        return np.stack([(self.at(xy + s) - self.at(xy - s)) / (2 * step) for s in shift], axis=1)


@dataclass(frozen=True)
class Texture:
    """A periodic texture in µm; its period is too long, and its use too small, for the eye to notice.

    ``values`` are float32 in [0, 1], shape (p, p) with p a power of two, ``step`` µm apart.
    """

    values: np.ndarray
    step: float

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        grain: tuple[float, float],
        step: float,
        coarse: float | None = None,
        size: int = 512,
    ) -> Texture:
        """Draw noise smoothed with standard deviations ``grain`` (x, y) µm, equalised to a uniform distribution.

        With ``coarse``, noise smoothed over that many µm in y is added in equal strength.
        """
        noise = np.zeros((size, size), dtype=np.float32)
        for across in (grain[1], *([] if coarse is None else [coarse])):
            layer = rng.standard_normal((size, size), dtype=np.float32)
            layer = ndimage.gaussian_filter(layer, (across / step, grain[0] / step), mode="wrap")
            noise += layer / layer.std()
        rank = np.empty(noise.size, dtype=np.float32)
        rank[np.argsort(noise, axis=None, kind="stable")] = np.linspace(0, 1, noise.size, dtype=np.float32)
        return cls(rank.reshape(noise.shape), step)

    def shifted(self, rng: np.random.Generator) -> Texture:
        """The same texture from another place on."""
        return Texture(np.roll(self.values, rng.integers(0, len(self.values), 2), axis=(0, 1)), self.step)

    def lookup(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Nearest texture value at µm positions of one shape, or of a row ``x`` (1, w) and a column ``y`` (h, 1)."""
        size = self.values.shape[0]
        ix, iy = (np.multiply(a, np.float32(1 / self.step)).astype(np.int32) & (size - 1) for a in (x, y))
        if ix.ndim == 2 and ix.shape[0] == 1 == iy.shape[1]:
            return np.take(self.values[iy[:, 0]], ix[0], axis=1)
        iy *= size
        return np.take(self.values, iy + ix)
