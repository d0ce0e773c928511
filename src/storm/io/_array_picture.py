"""Pictures that are arrays, as plotting and reading functions hold them: floats, or with transparency."""

from __future__ import annotations

from typing import Any

import numpy as np

from storm.io._lazy import check_three

#: Floats from 0 to 1 may exceed 1 by this much, from resampling.
_ABOVE_ONE = 1e-3
#: Largest value below which floats above 1 are not those of a picture from 0 to 255, which would be black.
_BLACK = 8.0


def rgb_of_array(picture: Any, *, name: str) -> np.ndarray:
    """A picture as STORM holds images.

    Parameters
    ----------
    picture
        Shape (height, width, 3 or 4): uint8, whole numbers from 0 to 255, or floats from 0 to 1 or from 0 to 255. A
        fourth channel is transparency, and shows white paper.
    name
        What the picture is, for errors.

    Returns
    -------
    ndarray
        Red, green and blue, uint8, shape (3, height, width).

    Raises
    ------
    ValueError
        If it has other axes or channels, or values of another range.
    """
    pixels = np.asarray(picture)
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4) and pixels.shape[2] not in (3, 4):
        msg = f"{name} has shape {pixels.shape}, channels first; give (height, width, 3): np.moveaxis(picture, 0, -1)"
        raise ValueError(msg)
    if pixels.ndim != 3 or pixels.size == 0:
        msg = f"{name} has shape {pixels.shape}; an H&E picture has (height, width, 3), or 4 with transparency"
        raise ValueError(msg)
    if pixels.dtype != np.uint8:
        pixels = _scaled(pixels, name=name)
    check_three(pixels.shape[2], np.uint8, name)
    if pixels.shape[2] == 4:
        opaque = pixels[..., 3:].astype(np.float32) / 255
        if (opaque < 1).any():
            pixels = pixels[..., :3] * opaque + 255 * (1 - opaque)
    return np.ascontiguousarray(np.moveaxis(np.round(pixels[..., :3]).astype(np.uint8), -1, 0))


def _scaled(pixels: np.ndarray, *, name: str) -> np.ndarray:
    """Numbers of other types as 0 to 255."""
    if pixels.dtype.kind not in "uif":
        msg = f"{name} holds {pixels.dtype}; an H&E picture holds uint8, or floats from 0 to 1 or from 0 to 255"
        raise ValueError(msg)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 255):  # NaN compares as false
        msg = (
            f"{name} holds {pixels.dtype} from {low:g} to {high:g}; an H&E picture holds uint8, or floats from 0 to 1 "
            f"or from 0 to 255{_brought_down(low, high)}"
        )
        raise ValueError(msg)
    if pixels.dtype.kind != "f":
        return pixels.astype(np.uint8)
    if high <= 1 + _ABOVE_ONE:
        return np.minimum(pixels, 1) * 255
    if high < _BLACK:
        msg = f"{name} holds floats from {low:g} to {high:g}, neither 0 to 1 nor 0 to 255; scale it to one of these"
        raise ValueError(msg)
    return pixels


def _brought_down(low: float, high: float) -> str:
    """What to do with a picture of more than 8 bits: divide it by the white of its depth."""
    depth = next((bits for bits in (10, 12, 14, 16) if high < 2**bits), None)
    return "" if depth is None or not low >= 0 else f"; of {depth} bits, give picture / {2**depth - 1}"
