"""A slide without transcriptomics: only its image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from storm._keys import READ
from storm.io._open import open_image
from storm.io._placing import in_pixels
from storm.io._scale import image_scale

if TYPE_CHECKING:
    from spatialdata import SpatialData


def slide(path: str | Path, *, um_per_px: float | None = None) -> SpatialData:
    """Read an H&E slide as a lazy pyramid.

    Nothing is decoded before a patch is read, and then each tile of the file once. The functions of :mod:`storm.tl`
    lay tiles over such an object on their own.

    Parameters
    ----------
    path
        Aperio SVS, TIFF, BigTIFF, OME-TIFF, QPTIFF or OME-Zarr; a picture (PNG, JPEG, …), which is decoded into memory;
        with the extra ``slide`` any format that OpenSlide supports (NDPI, MRXS, SCN, BIF, DICOM, …).
    um_per_px
        µm per pixel of the full-resolution image. By default taken from the file's own metadata.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8), with the coordinate systems ``"global"`` (pixels) and ``"um"`` (µm).
        ``attrs["storm_io"]`` holds the µm per pixel and their source. Pixels are those that a viewer shows: the tag
        for orientation, a palette and transparency (over white) are applied.

    Raises
    ------
    FileNotFoundError
        If nothing exists at the path.
    ImportError
        If the format needs OpenSlide and it is not installed.
    ValueError
        If the file is damaged or is not an 8-bit RGB image (gray, CMYK, 16-bit, fluorescence); if its metadata give no
        µm per pixel and ``um_per_px`` is not given, or the two disagree by more than 5 %.

    Examples
    --------
    Any file that tifffile or OpenSlide reads; the scale is read from the file, or said:

    >>> import numpy as np
    >>> import tifffile
    >>> import storm
    >>> tifffile.imwrite("slide.tif", np.full((600, 800, 3), 230, dtype=np.uint8), photometric="rgb")
    >>> sdata = storm.io.slide("slide.tif", um_per_px=0.5)
    >>> sorted(sdata.images)
    ['he']
    """
    from spatialdata import SpatialData

    opened = open_image(path)
    scale, source = image_scale(opened, um_per_px)
    return SpatialData(
        images={"he": opened.element(in_pixels(scale))},
        attrs={
            "platform": "slide",
            READ: {"reader": "slide", "image": opened.path.name, "um_per_px": scale, "um_per_px_source": source},
        },
    )
