"""Whether an image is one of a stained section in transmitted light, or something else, by its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from storm.data.patches import PatchReader

Kind = Literal["bright", "dark", "gray", "empty"]

#: Resolution at which pixels are judged, in µm per pixel.
_UM_PER_PX = 8.0
#: Fields that are read, at most.
_MOST_FIELDS = 200
#: Mean of red, green and blue (0 to 255) below which a pixel is dark: of twelve H&E images, of eight laboratories, the
#: one with most has 2 % of such pixels; of five fluorescence images, the one with fewest 48 %.
_DARK = 50
#: Share of dark pixels from which an image is dark.
_DARK_SHARE = 0.25
#: Difference between the largest and the smallest of red, green and blue that one pixel in a hundred exceeds: 50 to 140
#: on sections with H&E, 0 in gray images.
_GRAY = 8
#: Range of brightness (from the fifth to the 95th percentile) up to which an image shows nothing.
_EMPTY = 8
#: Optical density, in the mean of red, green and blue, from which a pixel is tissue: glass has .02 to .08.
_TISSUE = 0.12


@dataclass(frozen=True)
class ImageKind:
    """What an image shows, by its pixels around the spots.

    Attributes
    ----------
    kind
        ``"bright"``: coloured, on a bright background, as H&E is; ``"dark"``: on a dark background, as fluorescence
        is; ``"gray"``: without colour; ``"empty"``: of one brightness.
    dark
        Share of dark pixels, 0 to 1.
    brightness
        Median of the mean of red, green and blue, 0 to 255.
    colour
        99th percentile of the difference between the largest and the smallest of red, green and blue, 0 to 255.
    stain
        Mean optical density (decadic) of red, green and blue where there is tissue; NaN where there is none.
    """

    kind: Kind
    dark: float
    brightness: float
    colour: float
    stain: tuple[float, float, float]


def image_kind(reader: PatchReader, centres: np.ndarray, *, field_um: float) -> ImageKind:
    """Judge an image by its pixels around some centres.

    Parameters
    ----------
    reader
        Reader of the image.
    centres
        x and y in µm, shape (n, 2), on the image.
    field_um
        Edge of the field around each centre in µm.

    Returns
    -------
    ImageKind
    """
    some = centres[:: max(1, -(-len(centres) // _MOST_FIELDS))]
    out_px = max(4, round(field_um / _UM_PER_PX))
    return kind_of(reader.read(some, field_um=field_um, out_px=out_px))


def kind_of(pixels: np.ndarray) -> ImageKind:
    """Judge pixels, uint8 (…, 3)."""
    values = pixels.reshape(-1, 3)
    brightness = values.mean(axis=1)
    colour = float(np.percentile(np.ptp(values, axis=1), 99))
    dark = float((brightness < _DARK).mean())
    low, high = np.percentile(brightness, (5, 95))
    kind: Kind = "bright"
    if dark >= _DARK_SHARE:
        kind = "dark"
    elif high - low <= _EMPTY and colour <= _GRAY:
        kind = "empty"
    elif colour <= _GRAY:
        kind = "gray"
    return ImageKind(kind, dark, float(np.median(brightness)), colour, _stain(values))


def _stain(values: np.ndarray) -> tuple[float, float, float]:
    """Mean optical density of the pixels of tissue, uint8 (n, 3)."""
    density = -np.log10((values.astype(np.float32) + 1) / 256)
    tissue = density[density.mean(axis=1) > _TISSUE]
    red, green, blue = tissue.mean(axis=0, dtype=np.float64) if len(tissue) else np.full(3, np.nan)
    return float(red), float(green), float(blue)
