"""Pictures (PNG, JPEG, …), which are decoded as a whole, as a viewer shows them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storm.io._declared import check_whole_image
from storm.io._lazy import check_three
from storm.io._pyramid import pyramid

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: Suffixes of formats that Pillow decodes, other than TIFF.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".jp2")
#: Pillow's modes in which a pixel has a colour of its own, with or without transparency.
_COLOUR = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA")
#: Pillow's modes with other channels, and their names.
_OTHER = {"CMYK": "CMYK (inks of a print)", "LAB": "CIELAB", "HSV": "HSV", "YCbCr": "YCbCr"}
#: Pillow's modes with other than eight bits per sample.
_TYPES = {"1": "bool", "I": "int32", "F": "float32"}

_limit = threading.Lock()


def open_picture(path: Path) -> tuple[list[np.ndarray], None, str]:
    """Levels (3, y, x) of a picture in memory, uint8; pictures do not declare µm per pixel."""
    return pyramid(read_picture(path)), None, ""


def read_picture(path: Path) -> np.ndarray:
    """Decode a picture as a viewer shows it.

    Its EXIF orientation is applied, a palette is resolved, and transparent pixels show white paper.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    ndarray
        Red, green and blue, uint8 (3, y, x).

    Raises
    ------
    OSError
        If Pillow cannot read the file.
    ValueError
        If the picture is not 8-bit RGB, is larger than the file can hold, or does not fit into memory.
    """
    from PIL import Image, ImageOps

    with _any_size():
        opened = Image.open(path)
    with opened:
        _check_mode(opened, path)
        check_whole_image(path, opened.size)
        picture = ImageOps.exif_transpose(opened)
        if picture.mode in ("RGBA", "RGBa", "PA") or "transparency" in picture.info:
            paper = Image.new("RGBA", picture.size, "white")
            paper.alpha_composite(picture.convert("RGBA"))
            picture = paper
        return np.stack([np.asarray(band) for band in picture.convert("RGB").split()])


@contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit on pixels, which is meant for what strangers send to a server: slides are larger."""
    from PIL import Image

    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_mode(picture: Picture, path: Path) -> None:
    mode = picture.mode
    if mode in _COLOUR:
        return
    if mode in _OTHER:
        msg = f"{path} holds {_OTHER[mode]}, whose colours depend on a profile; export it as 8-bit RGB"
        raise ValueError(msg)
    check_three(len(picture.getbands()), "uint16" if mode.startswith("I;") else _TYPES.get(mode, "uint8"), str(path))
    msg = f"{path} holds pixels of mode {mode!r}; export it as 8-bit RGB"
    raise ValueError(msg)
