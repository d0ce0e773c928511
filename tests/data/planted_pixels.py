"""Images of noise, and a reader of a pyramid, for the tests of patches."""

from __future__ import annotations

import numpy as np

from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import as_source

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def smooth(height: int, width: int, sigma: float = 4.0, seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    planes = [gaussian_filter(p, sigma) for p in np.random.default_rng(seed).normal(size=(3, height, width))]
    return np.stack([np.interp(p, (p.min(), p.max()), (0, 255)) for p in planes]).round().astype(np.uint8)


def pyramid(image: np.ndarray) -> PatchReader:
    levels = [ImageLevel(as_source(np.ascontiguousarray(image[:, ::f, ::f])), IDENTITY / f) for f in (4, 1, 2)]
    return PatchReader(levels)
