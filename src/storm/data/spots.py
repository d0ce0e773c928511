"""A section without its container: plain arrays and a detached patch reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from storm.data.patches import PatchReader


@dataclass(frozen=True)
class ScaleInfo:
    """Length of a pixel, and its source.

    Attributes
    ----------
    um_per_px
        µm per pixel of the full-resolution image; ``None`` without an image.
    um_per_unit
        µm per unit of the coordinate system in which the elements meet.
    source
        Source of the number, in words.
    """

    um_per_px: float | None
    um_per_unit: float
    source: str


@dataclass(frozen=True)
class Spots:
    """Spots, bins, cells or tiles of one section, in the order of their table.

    Attributes
    ----------
    ids
        Names of the observations, shape (n,).
    centres
        x and y of each centre, shape (n, 2), float64; in µm if ``um_known``, else in the units of the object. NaN where
        a row has no geometry.
    um_known
        Whether ``centres`` are in µm.
    counts
        Raw counts, shape (n, g), or ``None``.
    genes
        Names of the columns of ``counts`` as they are in the table, shape (g,), or ``None``.
    patches
        Reader of H&E patches, or ``None``.
    scale
        µm per pixel and its source, or ``None`` if no scale is known.
    off_tissue
        Rows that the platform's software found outside the tissue, bool, shape (n,); they have no centre. ``None`` if
        there are none.
    """

    ids: np.ndarray
    centres: np.ndarray
    um_known: bool
    counts: csr_matrix | None = None
    genes: np.ndarray | None = None
    patches: PatchReader | None = None
    scale: ScaleInfo | None = None
    off_tissue: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.centres.shape != (n, 2):
            msg = f"centres have shape {self.centres.shape}, expected ({n}, 2)"
            raise ValueError(msg)
        if (self.counts is None) != (self.genes is None):
            msg = "counts and genes belong together: give both or neither"
            raise ValueError(msg)
        if self.counts is not None and self.genes is not None and self.counts.shape != (n, len(self.genes)):
            msg = f"counts have shape {self.counts.shape}, expected ({n}, {len(self.genes)})"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def reader(self) -> PatchReader:
        """The reader of H&E patches, for code that runs only where there is an image."""
        assert self.patches is not None
        return self.patches

    @property
    def expression(self) -> tuple[csr_matrix, np.ndarray]:
        """Raw counts (n, g) and gene names (g,), for code that runs only where there are counts."""
        assert self.counts is not None
        assert self.genes is not None
        return self.counts, self.genes

    @property
    def placed(self) -> np.ndarray:
        """Which rows have a geometry, shape (n,), bool."""
        return np.isfinite(self.centres).all(axis=1)
