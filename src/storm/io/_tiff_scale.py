"""µm per pixel of a TIFF, from the metadata of its vendor, OME, or its resolution tags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm.io._scale import read_um, square_um
from storm.io._tiff_show import ome_pixels

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

#: Outside this range (µm per pixel) a TIFF's resolution tags describe a print or a screen, not a microscope.
PLAUSIBLE_UM = (0.05, 5.0)
#: Units of OME in µm.
_UNITS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4}
#: Units of the tag ResolutionUnit in µm: inch and centimetre.
_TAG_UNITS = {2: 25_400.0, 3: 10_000.0}


def tiff_um_per_px(file: TiffFile, series: TiffPageSeries, path: Path) -> tuple[float | None, str]:
    """µm per pixel of an image in a TIFF and where they come from; ``None`` if it does not declare them.

    Raises
    ------
    ValueError
        If the pixels are not square.
    """
    page: Any = series.keyframe
    if series.kind == "svs":
        import tifffile

        mpp = read_um(tifffile.tifffile.svs_description_metadata(page.description).get("MPP"))
        return mpp, "MPP in the file's description (Aperio)"
    if series.kind == "ome":
        sizes, source = _ome_sizes(ome_pixels(file, page)), "PhysicalSizeX and PhysicalSizeY of the OME metadata"
    else:
        sizes, source = _tag_sizes(page), "the TIFF's resolution tags"
    return square_um(sizes, source=source, name=str(path)), source


def _ome_sizes(pixels: dict[str, Any]) -> list[float | None]:
    sizes: list[float | None] = []
    for axis in "XY":
        unit = _UNITS.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")))
        sizes.append(None if unit is None else read_um(pixels.get(f"PhysicalSize{axis}"), unit=unit))
    return sizes


def _tag_sizes(page: Any) -> list[float | None]:
    unit = _TAG_UNITS.get(page.tags.valueof("ResolutionUnit", default=1))
    sizes: list[float | None] = []
    for name in ("XResolution", "YResolution"):
        top, bottom = page.tags.valueof(name, default=(0, 1))
        um = None if unit is None or not top else unit * bottom / top
        sizes.append(um if um is not None and PLAUSIBLE_UM[0] <= um <= PLAUSIBLE_UM[1] else None)
    return sizes
