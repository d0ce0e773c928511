"""How far around a spot its section is alike, and Gaussian means over that reach.

The best width of a smoothing differs between platforms: it is below one pitch for spots of 100 µm and several pitches
for cells. A section shows it without labels: each spot is predicted from the others, and the width that predicts best
is the section's reach (leave-one-out choice of a kernel's width; Härdle & Marron 1985, Annals of Statistics 13, 1465).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from storm.data.order import spatial_order

#: Standard deviations at which a Gaussian is cut.
CUT = 3.2
#: Widths that are tried, in pitches, and how far R² may fall behind the best one before wider ones are not tried.
SIGMAS, FALLEN = 0.5 * 2 ** (np.arange(11) / 2), 0.01
#: Spots that are predicted; more of them change little.
N_PREDICTED = 5000
#: Pairs of spots up to which a mean is made of pairs; beyond, on a raster.
_MAX_PAIRS = 20_000_000
#: Pairs that are held at once.
_BLOCK_PAIRS = 2_000_000
#: Pixels of a raster per spot, above which the section is too scattered for one.
_MAX_PIXELS = 64


@dataclass(frozen=True)
class Reach:
    """How well spots are predicted by the Gaussian mean of the others, over widths of the Gaussian.

    Attributes
    ----------
    sigma
        The width that predicts best, in pitches; the smallest where none predicts better than the mean of the section.
    sigmas
        Widths that were tried, in pitches, shape (k,).
    r2
        R² at each, shape (k,): 1 for a perfect prediction, 0 for one as good as the section's mean.
    """

    sigma: float
    sigmas: np.ndarray
    r2: np.ndarray

    @property
    def best(self) -> float:
        """Largest R²; 0 where nothing could be predicted."""
        return float(self.r2.max(initial=-np.inf)) if len(self.r2) else 0.0


def find_reach(values: np.ndarray, centres: np.ndarray, *, pitch: float) -> Reach:
    """Width of a Gaussian at which the mean of the others predicts a spot best.

    R²(σ) = 1 − Σ‖x_i − x̂_i(σ)‖² / Σ‖x_i − x̄‖², where x̂_i is the Gaussian mean of all spots but i, cut at 3.2 σ,
    and x̄ where there is none. The widths 0.5, 0.71, 1, … 16 pitches are tried until R² has fallen by 0.01; the result
    is the peak of a parabola in log σ through the best of them and its neighbours.

    Parameters
    ----------
    values
        Shape (n, d); a row of NaN takes no part.
    centres
        x and y, shape (n, 2); a row of NaN takes no part.
    pitch
        Distance of neighbours in the units of the centres.

    Returns
    -------
    Reach
    """
    known = np.isfinite(values).all(axis=1) & np.isfinite(centres).all(axis=1)
    values, points = values[known].astype(np.float32), centres[known] / pitch
    smallest = float(SIGMAS[0])
    if len(values) < 3:
        return Reach(smallest, np.empty(0), np.empty(0))
    order = spatial_order(points)
    sample = order[:: max(1, -(-len(order) // N_PREDICTED))]
    wanted = values[sample].astype(np.float64)
    mean = wanted.mean(axis=0)
    spread = np.square(wanted - mean).sum()
    if spread <= np.finfo(np.float32).eps ** 2 * np.square(wanted).sum():
        return Reach(smallest, np.empty(0), np.empty(0))
    tree = cKDTree(points)
    r2: list[float] = []
    for sigma in SIGMAS:
        predicted = np.empty_like(wanted)
        for part, weights in _pairs(tree, points, sample, sigma=sigma, itself=False):
            predicted[part] = _weighted(weights, values, empty=mean)
        r2.append(float(1 - np.square(wanted - predicted).sum() / spread))
        if r2[-1] < max(r2) - FALLEN:
            break
    sigmas, curve = SIGMAS[: len(r2)], np.array(r2)
    return Reach(_peak(sigmas, curve) if curve.max() > 0 else smallest, sigmas, curve)


def gaussian_mean(values: np.ndarray, centres: np.ndarray, *, sigma: float, exact: bool | None = None) -> np.ndarray:
    """Mean of the values around each spot, itself among them, with Gaussian weights of the distance.

    A section with few pairs of spots within 3.2 σ is averaged pair by pair. A larger one goes over a raster of pixels
    of half a σ: values and ones are shared between the four nearest pixels, both are smoothed, and their ratio is
    interpolated at the spots. Sharing and interpolating add a third of a squared pixel to the kernel's variance; the
    filter's own is smaller by as much.

    Parameters
    ----------
    values
        Shape (n, d); a row of NaN is not known, and receives the mean of those around it.
    centres
        x and y, shape (n, 2).
    sigma
        Standard deviation of the Gaussian in the units of the centres.
    exact
        Whether to average pair by pair; by default where that is cheap.

    Returns
    -------
    ndarray
        Float32, shape (n, d); NaN where a spot has no place, or nothing is known within 3.2 σ.
    """
    placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
    known = placed[np.isfinite(values[placed]).all(axis=1)]
    out = np.full(values.shape, np.nan, dtype=np.float32)
    if not len(known):
        return out
    # In spatial order a tree is built and searched faster.
    placed, known = placed[spatial_order(centres[placed])], known[spatial_order(centres[known])]
    raster = _Raster(centres[known], sigma)
    if exact is None:
        some = placed[:: max(1, len(placed) // 1000)]
        near = cKDTree(centres[known]).query_ball_point(centres[some], CUT * sigma, return_length=True)
        exact = near.mean() * len(placed) <= _MAX_PAIRS or raster.n_pixels > _MAX_PIXELS * len(known) + 1_000_000
    if not exact:
        out[placed] = raster.mean(values[known], centres[placed])
        return out
    tree, members = cKDTree(centres[known]), np.asarray(values[known], dtype=np.float32)
    for part, weights in _pairs(tree, centres, placed, sigma=sigma, itself=True):
        out[placed[part]] = _weighted(weights, members, empty=np.full(values.shape[1], np.nan))
    return out


def _pairs(
    tree: cKDTree, points: np.ndarray, rows: np.ndarray, *, sigma: float, itself: bool
) -> Iterator[tuple[slice, csr_matrix]]:
    """Gaussian weights of the tree's points around some points, shape (part, tree), a part of the rows at a time.

    Without ``itself``, ``points`` are those of the tree, and a point has no weight for itself.
    """
    some = rows[:: max(1, len(rows) // 200)]
    near = tree.query_ball_point(points[some], CUT * sigma, return_length=True).mean()
    step = max(1, int(_BLOCK_PAIRS / max(near, 1)))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        found = cKDTree(points[rows[part]]).sparse_distance_matrix(tree, CUT * sigma, output_type="ndarray")
        row, column, distance = found["i"], found["j"], found["v"]
        if not itself:
            other = rows[part][row] != column
            row, column, distance = row[other], column[other], distance[other]
        # Of the type of the values, which a product would otherwise convert as a whole, for every part.
        weights = np.exp(-np.square(distance / sigma) / 2).astype(np.float32)
        yield part, csr_matrix((weights, (row, column)), shape=(part.stop - part.start, tree.n))


def _weighted(weights: csr_matrix, values: np.ndarray, *, empty: np.ndarray) -> np.ndarray:
    """Weighted means, shape (rows, d); ``empty`` where there is no weight."""
    total = np.asarray(weights.sum(axis=1))
    return np.where(total > 0, (weights @ values) / np.where(total > 0, total, 1), empty)


def _peak(sigmas: np.ndarray, r2: np.ndarray) -> float:
    """Peak of the parabola through the largest R² and its neighbours; at the ends of the curve, the end."""
    k = int(r2.argmax())
    if k in (0, len(r2) - 1):
        return float(sigmas[k])
    before, here, after = r2[k - 1 : k + 2]
    shift = 0.5 * (before - after) / (before - 2 * here + after)
    step = np.log(sigmas[k + 1] / sigmas[k])
    return float(sigmas[k] * np.exp(shift * step))


class _Raster:
    """Pixels of half a σ around some points."""

    def __init__(self, points: np.ndarray, sigma: float) -> None:
        self.pixel = sigma / 2
        self.origin = points.min(axis=0) - self.pixel
        self.points = points
        extent = (points.max(axis=0) - self.origin) / self.pixel
        self.shape = tuple(int(size) + 2 for size in extent)

    @property
    def n_pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    def mean(self, values: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Smoothed values of the points at other points, shape (len(at), d)."""
        places = ((at - self.origin) / self.pixel).T
        cell, share = self._corners()
        weight = self._read(self._smooth(np.bincount(cell, share, minlength=self.n_pixels)), places)
        known = weight > 1e-9
        out = np.full((len(at), values.shape[1]), np.nan, dtype=np.float32)
        for column in range(values.shape[1]):
            total = np.bincount(cell, share * np.tile(values[:, column], 4), minlength=self.n_pixels)
            out[known, column] = self._read(self._smooth(total), places)[known] / weight[known]
        return out

    def _corners(self) -> tuple[np.ndarray, np.ndarray]:
        """The four pixels around each point, and each one's share of it, shape (4 · points,)."""
        place = (self.points - self.origin) / self.pixel
        low = np.floor(place).astype(np.int64)
        off = place - low
        cells, shares = [], []
        for i in (0, 1):
            for j in (0, 1):
                cells.append((low[:, 0] + i) * self.shape[1] + low[:, 1] + j)
                shares.append(np.where(i, off[:, 0], 1 - off[:, 0]) * np.where(j, off[:, 1], 1 - off[:, 1]))
        return np.concatenate(cells), np.concatenate(shares)

    def _smooth(self, flat: np.ndarray) -> np.ndarray:
        # In pixels σ is 2; sharing and interpolating add a sixth of a squared pixel each.
        width = np.sqrt(4 - 1 / 3)
        return gaussian_filter(flat.reshape(self.shape), width, mode="constant", truncate=2 * CUT / width)

    @staticmethod
    def _read(raster: np.ndarray, places: np.ndarray) -> np.ndarray:
        return map_coordinates(raster, places, order=1, mode="constant")
