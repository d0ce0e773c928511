"""Pictures that are decoded into memory as a whole (PNG, JPEG, …)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np


def read_picture(path: str | Path) -> np.ndarray:
    """RGB image as uint8, shape (3, y, x)."""
    from PIL import Image

    with warnings.catch_warnings():
        # a slide is larger than what Pillow expects of a picture from a stranger; its hard limit (twice that) stays
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            return np.stack([np.asarray(band) for band in picture.convert("RGB").split()])
