"""From drawn cells to counts: cells under a spot, expected expression, negative-binomial counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from storm.datasets._nuclei import Nuclei
from storm.datasets._panel import CONTENT, Panel
from storm.datasets._tissue import Section
from storm.datasets._types import ADIPOCYTE, CELLS, ERYTHROCYTE

#: Rows whose counts are drawn at once, from a generator of their own.
_ROWS = 8192

#: Share of the section's mean expression that is found under every spot (ambient RNA).
_AMBIENT = 0.03

#: Standard deviation of the logarithm of the capture efficiency from spot to spot.
_CAPTURE = 0.30

#: RNA of a cell spreads this far (µm, standard deviation) into 8 µm bins.
SPREAD = 4.5


def rna_points(section: Section, nuclei: Nuclei) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where cells leave their RNA on a spot array.

    The RNA of an adipocyte lies in the thin rim around its vacuole, that of any other cell at its nucleus.

    Returns
    -------
    xy (n, 2) in µm, type (n,), cells that the point stands for (n,)
    """
    cells = nuclei.take(np.flatnonzero((nuclei.kind != ERYTHROCYTE) & (nuclei.kind != ADIPOCYTE)))
    rim = section.adipocytes.edges()[0].reshape(-1, 2)
    xy = np.concatenate([cells.xy, rim])
    kind = np.concatenate([cells.kind.astype(int), np.full(len(rim), ADIPOCYTE)])
    share = np.concatenate([np.ones(len(cells), np.float32), np.full(len(rim), 0.25, np.float32)])
    kept = section.outline(xy) > section.level
    return xy[kept], kind[kept], share[kept]


def under_spots(points: tuple[np.ndarray, np.ndarray, np.ndarray], centres: np.ndarray, radius: float) -> np.ndarray:
    """Cells of each type under round spots that do not overlap, shape (n, 9), float32."""
    xy, kind, share = points
    distance, index = cKDTree(centres).query(xy, distance_upper_bound=radius)
    hit = np.isfinite(distance)
    abundance = np.zeros((len(centres), len(CELLS)), dtype=np.float32)
    np.add.at(abundance, (index[hit], kind[hit]), share[hit])
    return abundance


def in_bins(
    points: tuple[np.ndarray, np.ndarray, np.ndarray], rows: np.ndarray, cols: np.ndarray, pitch: float
) -> np.ndarray:
    """Cells of each type in square bins, their RNA spread by a Gaussian, shape (n, 9), float32."""
    xy, kind, share = points
    shape = int(rows.max()) + 6, int(cols.max()) + 6
    grid = np.zeros((shape[0] * shape[1], len(CELLS)), dtype=np.float32)
    col, row = np.floor(xy / pitch).astype(int).T
    # the middle of bin (0, 0) is half a pitch from the origin
    off_x, off_y = (xy / pitch - np.stack([col, row], axis=1) - 0.5).T * pitch
    weights = {}
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            square = (dx * pitch - off_x) ** 2 + (dy * pitch - off_y) ** 2
            weights[dy, dx] = np.exp(-square / (2 * SPREAD**2)).astype(np.float32)
    total = sum(weights.values())
    for (dy, dx), weight in weights.items():
        r, c = row + dy + 2, col + dx + 2
        ok = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
        np.add.at(grid, (r[ok] * shape[1] + c[ok], kind[ok]), (weight * share / total)[ok])
    return grid[(rows + 2) * shape[1] + cols + 2]


def of_cells(nuclei: Nuclei) -> np.ndarray:
    """Share of each type in a segmented cell: itself, and a little of its neighbours; shape (n, 9), float32."""
    size = nuclei.major * nuclei.minor
    typical = np.ones(len(CELLS), dtype=np.float32)
    for kind in range(len(CELLS)):
        if (nuclei.kind == kind).any():
            typical[kind] = np.median(size[nuclei.kind == kind])
    relative = np.sqrt(size / typical[nuclei.kind])
    own = np.zeros((len(nuclei), len(CELLS)), dtype=np.float32)
    own[np.arange(len(nuclei)), nuclei.kind] = relative
    k = min(6, len(nuclei))
    distance, index = cKDTree(nuclei.xy).query(nuclei.xy, k=k, distance_upper_bound=18.0)
    leak = np.zeros_like(own)
    for j in range(1, k):
        near = np.isfinite(distance[:, j])
        leak[near] += 0.02 * own[index[near, j]]
    return own + leak


def expected_counts(
    section: Section, panel: Panel, centres: np.ndarray, abundance: np.ndarray, *, depth: float
) -> Iterator[np.ndarray]:
    """Expected counts without the capture efficiency, in blocks of rows, float32.

    ``depth`` is the median of their sum over genes where there are cells.
    """
    content = abundance * CONTENT
    total = content.sum(axis=1)
    # genes of a smaller panel stand for the same share of the RNA
    content *= depth / max(float(np.median(total[total > 0])) if (total > 0).any() else 1.0, 1e-6)
    ambient = _AMBIENT * content.mean(axis=0) @ panel.profiles
    for start in range(0, len(centres), _ROWS):
        rows = slice(start, start + _ROWS)
        change = section.weights(centres[rows]) @ panel.surroundings
        for name, slope in panel.modulation.items():
            change += (section.local(name, centres[rows]) - 0.5)[:, None] * slope
        yield content[rows] @ panel.profiles * np.exp2(change) + ambient


def draw_counts(expected: Iterator[np.ndarray], panel: Panel, *, seed: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Negative-binomial counts.

    Returns
    -------
    counts
        Shape (n, g), float32 integers.
    capture
        Capture efficiency of every row relative to the section's, shape (n,), float32.
    """
    blocks, captures = [], []
    shape = 1 / panel.dispersion
    for k, mean in enumerate(expected):
        rng = np.random.default_rng([seed, 9, k])
        capture = np.exp(_CAPTURE * rng.standard_normal(len(mean), dtype=np.float32))
        rate = rng.standard_gamma(np.broadcast_to(shape, mean.shape), dtype=np.float32)
        rate *= mean * (capture[:, None] * panel.dispersion)
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
        captures.append(capture)
    counts = sparse.vstack(blocks, format="csr")
    counts.sort_indices()
    return counts, np.concatenate(captures)
