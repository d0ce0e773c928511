"""Spots, bins and cells as the platforms lay them over a section, with their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from storm.datasets._tissue import Section


@dataclass(frozen=True)
class Platform:
    """Observations, panel and image of a platform.

    Attributes
    ----------
    shapes
        Key of its shapes.
    n
        Observations of the default section.
    pitch, size
        Distance between neighbours, and diameter of a spot or side of a bin, in µm; 0 for cells.
    depth
        Median counts of an observation.
    genes
        Size of its panel, ``None`` for all.
    instance_key
        ``obs`` column that names the shape.
    um_per_px
        Resolution of the default image.
    """

    shapes: str
    n: int
    pitch: float
    size: float
    depth: float
    genes: int | None
    instance_key: str
    um_per_px: float


PLATFORMS = {
    "visium": Platform("spots", 1000, 100.0, 55.0, 2500.0, None, "spot_id", 1.0),
    "visium_hd": Platform("bins", 20_000, 8.0, 8.0, 35.0, None, "location_id", 0.5),
    "xenium": Platform("cells", 4000, 0.0, 0.0, 110.0, 220, "cell_id", 0.5),
    "cosmx": Platform("cells", 4000, 0.0, 0.0, 80.0, 200, "cell_ID", 0.5),
    "st": Platform("spots", 300, 200.0, 100.0, 5000.0, None, "spot_id", 1.0),
}

#: Nuclei per µm² of tissue, a guess that sets the size of a section of cells.
CELLS_PER_UM2 = 0.0042


@dataclass(frozen=True)
class Layout:
    """Observations of a section: centres (n, 2) in µm, their rows and columns on the array (n,); 0 for cells."""

    centres: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def free(cls, centres: np.ndarray) -> Layout:
        """Observations that lie on no array."""
        zeros = np.zeros(len(centres), dtype=int)
        return cls(centres, zeros, zeros)


def tissue_area(name: str, n: int) -> float:
    """µm² of tissue that ``n`` observations of a platform cover."""
    platform = PLATFORMS[name]
    if platform.shapes == "cells":
        return n / CELLS_PER_UM2
    return n * platform.pitch**2 * (np.sqrt(3) / 2 if name == "visium" else 1.0)


def lattice(name: str, side: float) -> Layout:
    """All sites of a platform's lattice on a frame of ``side`` µm."""
    pitch = PLATFORMS[name].pitch
    if name == "visium":
        row_pitch = pitch * np.sqrt(3) / 2
        rows = np.arange(int((side - pitch) / row_pitch) + 1)
        cols = np.arange(int(2 * (side - pitch) / pitch) + 1)
        row, col = (a.ravel() for a in np.meshgrid(rows, cols, indexing="ij"))
        on = (row + col) % 2 == 0
        row, col = row[on], col[on]
        centres = np.stack([pitch / 2 + col * (pitch / 2), pitch / 2 + row * row_pitch], axis=1)
    else:
        sites = np.arange(int(side / pitch))
        row, col = (a.ravel() for a in np.meshgrid(sites, sites, indexing="ij"))
        centres = np.stack([col + 0.5, row + 0.5], axis=1) * pitch
    return Layout(centres, row, col)


def on_tissue(layout: Layout, section: Section, n: int) -> tuple[Layout, float]:
    """The ``n`` sites highest on the tissue, in lattice order, and the level of the outline at which they end."""
    height = section.outline(layout.centres)
    order = np.argsort(-height, kind="stable")
    kept = np.sort(order[:n])
    below = height[order[n]] if n < len(height) else height[order[-1]] - 1e-3
    level = float((height[order[n - 1]] + below) / 2)
    return Layout(layout.centres[kept], layout.rows[kept], layout.cols[kept]), level


def names(platform: str, layout: Layout, seed: int) -> pd.Index:
    """Names of the observations in the platform's own style."""
    n = len(layout.centres)
    if platform == "visium":
        return pd.Index(_barcodes(n, seed))
    if platform == "visium_hd":
        return pd.Index([f"s_008um_{r:05d}_{c:05d}-1" for r, c in zip(layout.rows, layout.cols, strict=True)])
    if platform == "st":
        return pd.Index([f"{c}x{r}" for r, c in zip(layout.rows, layout.cols, strict=True)])
    if platform == "xenium":
        return pd.Index([_xenium_id(k) for k in range(n)])
    return pd.Index([f"{k + 1}_1" for k in range(n)])


def _barcodes(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng([seed, 10])
    seen: dict[str, None] = {}
    while len(seen) < n:
        letters = np.array(list("ACGT"))[rng.integers(0, 4, (n - len(seen), 16))]
        seen.update(dict.fromkeys("".join(row) + "-1" for row in letters))
    return list(seen)


def _xenium_id(number: int) -> str:
    """Xenium writes a cell's number in hexadecimal with the digits shifted to the letters a to p."""
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{number + 1:08x}") + "-1"
