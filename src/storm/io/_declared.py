"""Damaged files: the errors by which they show, and whether a declared size can be true before it is allocated."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from tifffile import TiffFileError

#: What decoders and parsers raise when headers or pixels are damaged. None of it is a mistake of the caller.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,  # XML that is not well formed
    TypeError,
    ValueError,
    TiffFileError,
    struct.error,
    zlib.error,
)

#: Pixels of the largest image that is accepted: a slide of 25 × 75 mm has 1.9e11 at 0.1 µm per pixel.
MOST_PX = 250_000_000_000
#: Bytes of memory that a pixel takes while an image is decoded as a whole: the decoder's own copy, the planes, and the
#: coarser levels.
_BYTES_PER_PX = 12
#: Decoded bytes for each byte of the file beyond which the file cannot hold the image: deflate reaches 1,032, and
#: H&E compressed by other codecs stays far below that.
_MOST_COMPRESSED = 20_000
#: Files are not judged by their compression up to this many decoded bytes, which are soon decoded and found wanting.
_SMALL_BYTES = 50_000_000


def check_declared(path: Path, size: tuple[int, int]) -> None:
    """Raise unless a slide can have an image of this size.

    Parameters
    ----------
    path
        The file or folder, for the error.
    size
        Width and height in pixels.

    Raises
    ------
    ValueError
        If the image has no pixels, or more than :data:`MOST_PX`.
    """
    width, height = size
    if width < 1 or height < 1 or width * height > MOST_PX:
        msg = (
            f"{path} declares an image of {width:,} × {height:,} pixels, and slides have up to {MOST_PX:.2g} pixels "
            f"(25 × 75 mm at 0.1 µm per pixel): its header is damaged; copy or export it again"
        )
        raise ValueError(msg)


def check_whole_image(path: Path, size: tuple[int, int]) -> None:
    """Raise unless an image can be decoded into memory as a whole.

    Parameters
    ----------
    path
        The file.
    size
        Width and height in pixels.

    Raises
    ------
    ValueError
        If the file is too small to hold so many pixels, or they do not fit into the memory that is free.
    """
    import psutil

    check_declared(path, size)
    pixels = size[0] * size[1]
    held = path.stat().st_size
    if 3 * pixels > max(_SMALL_BYTES, _MOST_COMPRESSED * held):
        msg = (
            f"{path} declares an image of {size[0]:,} × {size[1]:,} pixels, which its {held:,} bytes cannot hold: it "
            f"is damaged or was cut short; copy or export it again"
        )
        raise ValueError(msg)
    needed, free = _BYTES_PER_PX * pixels, psutil.virtual_memory().available
    if needed > free:
        msg = (
            f"{path} ({size[0]:,} × {size[1]:,} pixels) can only be decoded as a whole, which takes about "
            f"{needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free: store it as a tiled, pyramidal TIFF "
            f"(for example with QuPath, bfconvert or vips), which is read tile by tile"
        )
        raise ValueError(msg)
