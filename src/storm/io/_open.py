"""Any picture of a slide as the levels of a lazy pyramid."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm._logging import logger
from storm.io._lazy import Level, complete
from storm.io._omezarr import open_omezarr
from storm.io._openslide import open_openslide
from storm.io._picture import PICTURES, open_picture
from storm.io._pyramid import image_element, pyramid
from storm.io._tiff import open_tiff

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True)
class Opened:
    """An image that was opened.

    Attributes
    ----------
    path
        The file or folder.
    levels
        From full resolution down, numpy or dask, (3, y, x) uint8 each.
    um_per_px
        µm per pixel that the file itself tells, or ``None``.
    source
        Where in the file that stands.
    """

    path: Path
    levels: list[Any]
    um_per_px: float | None
    source: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.levels[0].shape[2], self.levels[0].shape[1]

    def element(self, transformations: dict[str, Any]) -> DataTree:
        """As a multiscale image with transformations of its full-resolution pixels."""
        return image_element(self.levels, transformations=transformations)


def open_image(path: str | Path) -> Opened:
    """Open an 8-bit RGB image without reading its pixels, where its format allows that.

    TIFF, BigTIFF, OME-TIFF and Aperio SVS are read tile by tile through tifffile, OME-Zarr through zarr, other slides
    through OpenSlide. Pictures (PNG, JPEG, …) and TIFFs of one compressed piece can only be decoded as a whole, and
    are held in memory.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ImportError
        If the format needs OpenSlide and it is not installed.
    ValueError
        If the file cannot be read, or is no 8-bit RGB image.
    """
    path = Path(path)
    if not path.exists():
        msg = f"there is no image {path}"
        raise FileNotFoundError(msg)
    if path.is_dir():
        levels, um_per_px, source = _tried(path, [("OME-Zarr", open_omezarr)])
        return Opened(path, levels, um_per_px, source)
    if path.suffix.casefold() in PICTURES:
        levels, um_per_px, source = _tried(path, [("picture", open_picture)])
    else:
        levels, um_per_px, source = _tried(path, [("TIFF", open_tiff), ("OpenSlide", open_openslide)])
    if levels and isinstance(levels[0], Level):
        levels = _lazily(path, levels)
    return Opened(path, levels, um_per_px, source)


def _lazily(path: Path, levels: list[Level]) -> list[Any]:
    first = levels[0]
    if getattr(first, "is_huge", False):
        size = 3 * first.shape[0] * first.shape[1] / 1e9
        logger.info("%s is compressed in one piece: %.2g GB are decoded into memory", path.name, size)
        return pyramid(first.read(0, 0, first.shape))
    return [level.to_dask() for level in complete(levels)]


def _tried(path: Path, readers: list[tuple[str, Any]]) -> tuple[list[Any], float | None, str]:
    """What the first reader gives that can read the file; what all of them said if none can."""
    from tifffile import TiffFileError

    said, missing = [], None
    for name, read in readers:
        try:
            return read(path)
        except ImportError as error:
            missing = error
        except (TiffFileError, NotImplementedError) as error:
            said.append(f"as {name}: {error}")
        except (ArithmeticError, AttributeError, LookupError, TypeError, struct.error) as error:
            # tifffile, where a header is cut short or damaged
            said.append(f"as {name}: its header is damaged ({type(error).__name__}: {error})")
        except (ValueError, OSError) as error:
            if str(error).startswith(str(path)):  # it was recognised, and says itself what is wrong with it
                raise
            said.append(f"as {name}: {error}")
    msg = f"{path} cannot be read as an image; tried {'; '.join(said)}"
    if missing is not None:
        msg = f"{msg}. If it is a slide of another format: {missing}"
        raise ImportError(msg)
    msg = f"{msg}. Is it complete, and an image?"
    raise ValueError(msg)
