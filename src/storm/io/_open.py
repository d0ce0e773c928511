"""Any picture of a slide as the levels of a lazy pyramid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tifffile import TiffFileError

from storm._logging import logger
from storm.io._declared import DAMAGE, check_declared, check_whole_image
from storm.io._lazy import Level, complete
from storm.io._omezarr import open_omezarr
from storm.io._openslide import open_openslide
from storm.io._picture import PICTURES, open_picture
from storm.io._pyramid import image_element, pyramid
from storm.io._tiff import open_tiff

if TYPE_CHECKING:
    from xarray import DataTree

#: Levels from full resolution down, µm per pixel (or ``None``), and the place in the file where these are declared.
Read = tuple[Sequence[Any], float | None, str]

#: First bytes of TIFF and BigTIFF, of either byte order.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Bytes of a DICOM file after a preamble of 128 bytes.
_DICOM = (b"DICM",)


@dataclass(frozen=True)
class Opened:
    """An image that was opened.

    Attributes
    ----------
    path
        The file or folder.
    levels
        Levels from full resolution down, numpy or dask, uint8 (3, y, x) each.
    um_per_px
        µm per pixel of the full-resolution level by the file's own metadata, or ``None``.
    source
        The metadata from which they come.
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
        """Multiscale image with the transformations of its full-resolution pixels."""
        return image_element(self.levels, transformations=transformations)


def open_image(path: str | Path) -> Opened:
    """Open an 8-bit RGB image without reading its pixels, where its format allows that.

    TIFF, BigTIFF, OME-TIFF, Aperio SVS and QPTIFF are read tile by tile through tifffile, OME-Zarr through zarr, other
    slides through OpenSlide. Pictures (PNG, JPEG, …) and TIFFs of one compressed piece can only be decoded as a whole,
    and are held in memory. Pixels are those that a viewer shows: orientation, palette and transparency are applied.

    Parameters
    ----------
    path
        The file, or the folder of an OME-Zarr.

    Returns
    -------
    Opened

    Raises
    ------
    FileNotFoundError
        If nothing exists at the path.
    ImportError
        If the format needs OpenSlide and it is not installed.
    ValueError
        If the file cannot be read, or is not an 8-bit RGB image.
    """
    path = Path(path)
    if not path.exists():
        msg = f"there is no image {path}"
        raise FileNotFoundError(msg)
    if path.is_dir():
        levels, um_per_px, source = _first_that_reads(path, {"OME-Zarr": open_omezarr})
    elif path.suffix.casefold() in PICTURES:
        levels, um_per_px, source = _first_that_reads(path, {"picture": open_picture})
    elif _starts(path, _DICOM, at=128):
        levels, um_per_px, source = _first_that_reads(path, {"a DICOM slide, by OpenSlide": open_openslide})
    else:
        levels, um_per_px, source = _first_that_reads(path, {"TIFF": open_tiff, "OpenSlide": open_openslide})
    if isinstance(levels[0], Level):
        levels = _lazily(path, levels)
    return Opened(path, list(levels), um_per_px, source)


def _lazily(path: Path, levels: Sequence[Level]) -> list[Any]:
    first = levels[0]
    check_declared(path, (first.shape[1], first.shape[0]))
    if first.is_huge:
        check_whole_image(path, first.decoded_at_once)
        size = 3 * first.shape[0] * first.shape[1] / 1e9
        logger.info("%s is compressed in one piece: %.2g GB are decoded into memory", path.name, size)
        return pyramid(first.read(0, 0, first.shape))
    return [level.to_dask() for level in complete(levels)]


def _first_that_reads(path: Path, readers: dict[str, Callable[[Path], Read]]) -> Read:
    """Result of the first reader that can read the file; an error with all their messages if none can."""
    messages, missing = [], None
    for name, read in readers.items():
        try:
            return read(path)
        except ImportError as error:
            missing = error
        except (TiffFileError, NotImplementedError) as error:
            messages.append(f"as {name}: {error}")
        except DAMAGE as error:
            if str(error).startswith(str(path)):  # the reader recognised the file, and its message explains the fault
                raise
            if isinstance(error, ValueError | OSError):
                messages.append(f"as {name}: {error}")
            else:
                messages.append(f"as {name}: its header is damaged ({type(error).__name__}: {error})")
            if name == "TIFF" and _starts(path, _TIFF):
                break  # OpenSlide would take a plain TIFF as it is stored, whatever its damaged tags mean
    msg = f"{path} cannot be read as an image" + (f"; tried {'; '.join(messages)}" if messages else "")
    if missing is not None:
        msg = f"{msg}. If it is a slide of another format: {missing}" if messages else str(missing)
        raise ImportError(msg)
    msg = f"{msg}. Is it complete, and an 8-bit colour image?"
    raise ValueError(msg)


def _starts(path: Path, marks: tuple[bytes, ...], *, at: int = 0) -> bool:
    """Whether one of some marks of four bytes is at a place of a file."""
    with path.open("rb") as file:
        file.seek(at)
        return file.read(4) in marks
