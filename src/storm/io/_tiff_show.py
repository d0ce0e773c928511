"""How the samples of a TIFF become the picture that a viewer shows, by the tags of its pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.io._channels import Channels, imagej_channels, ome_channels, order_of
from storm.io._lazy import check_three

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

#: Photometric interpretations of the TIFF 6.0 and DNG specifications.
_GRAY_WHITE, _GRAY, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_PHOTOMETRIC = {
    0: "gray, 0 is white",
    1: "gray",
    4: "a mask",
    5: "CMYK (inks of a print)",
    8: "CIELAB",
    9: "ICC LAB",
    10: "ITU LAB",
    32803: "a colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}
#: Compressions whose decoders return RGB, whatever they store: JPEG, WebP and JPEG XL.
_DECODED_TO_RGB = (6, 7, 33007, 34892, 34927, 50001, 50002, 52546)
#: Separator that occurs in no XML, so that "0,25" and "CD3, T cells" are not split at their commas.
_NO_LIST = "\0"
#: Extra samples that are an alpha channel, with colours multiplied by it or not; others mean nothing here.
_ALPHA_MULTIPLIED, _ALPHA = 1, 2


@dataclass(frozen=True, eq=False)
class Shown:
    """How decoded samples become red, green and blue.

    Attributes
    ----------
    samples
        Stored samples of a pixel that are read: those of the colour, and alpha.
    order
        Which of them are red, green and blue.
    palette
        Colours of a palette image, uint8 (3, n), or ``None``.
    alpha
        ``"none"``; ``"plain"``: the fourth sample is the opacity; ``"multiplied"``: colours are multiplied by it.
    """

    samples: int = 3
    order: tuple[int, int, int] = (0, 1, 2)
    palette: np.ndarray | None = None
    alpha: str = "none"

    def convert(self, samples: np.ndarray) -> np.ndarray:
        """From stored samples, uint8 (samples, h, w), to red, green and blue over white paper, uint8 (3, h, w)."""
        if self.palette is not None:
            index = np.minimum(samples[0], self.palette.shape[1] - 1)
            return self.palette[:, index]
        colour = samples[:3] if self.order == (0, 1, 2) else samples[list(self.order)]
        if self.alpha == "none":
            return colour
        opacity = samples[3].astype(np.uint16)
        paper = 255 * (255 - opacity)
        over = colour.astype(np.uint16) * (255 if self.alpha == "multiplied" else opacity) + paper
        return np.minimum((over + np.uint16(127)) // 255, 255).astype(np.uint8)


def how_shown(file: TiffFile, series: TiffPageSeries, name: str) -> Shown:
    """How the pixels of an image in a TIFF are to be shown.

    Parameters
    ----------
    file, series
        The open file, and the image in it.
    name
        The file, for errors.

    Raises
    ------
    ValueError
        If it is not an 8-bit colour image: gray, inks, fluorescence, several planes, other types of pixels.
    """
    page: Any = series.keyframe
    planes = _planes(series, name)
    if page.planarconfig not in (1, 2):
        msg = f"{name} has the planar configuration {page.planarconfig}, and TIFF has 1 and 2; copy or export it again"
        raise ValueError(msg)
    if page.photometric == _PALETTE and page.samplesperpixel == 1 and planes == 1:
        return _palette(page, name)
    check_three(planes * page.samplesperpixel, series.dtype, name)
    if page.bitspersample != 8:
        msg = f"{name} holds {page.bitspersample} bits per sample; export it as 8-bit RGB"
        raise ValueError(msg)
    if page.samplesperpixel == 1:
        if page.photometric not in (_GRAY, _RGB):
            raise ValueError(_not_rgb(page, name))
        return Shown(order=order_of(_channels(file, series), planes, name))
    if page.photometric == _YCBCR and (page.planarconfig != 1 or page.compression not in _DECODED_TO_RGB):
        msg = (
            f"{name} holds YCbCr pixels with {getattr(page.compression, 'name', page.compression)} compression, which "
            f"are not converted to RGB here; export it as 8-bit RGB"
        )
        raise ValueError(msg)
    if page.photometric not in (_RGB, _YCBCR):
        raise ValueError(_not_rgb(page, name))
    channels = _channels(file, series)
    if channels is not None and (channels.fluorescent or len(channels.names) > 1):
        order_of(channels, len(channels.names), name)
    extra = tuple(int(kind) for kind in page.extrasamples)
    if page.samplesperpixel > 3 and extra and extra[0] in (_ALPHA_MULTIPLIED, _ALPHA):
        return Shown(samples=4, alpha="multiplied" if extra[0] == _ALPHA_MULTIPLIED else "plain")
    return Shown()


def orientation_of(page: Any, name: str) -> int:
    """Tag *Orientation* of a page, 1 to 8; 1, the pixels as they are stored, if it is absent.

    Raises
    ------
    ValueError
        If the tag holds something else.
    """
    value = page.tags.valueof("Orientation", default=1)
    if value not in range(1, 9):
        msg = f"{name} has the orientation {value!r}, and TIFF defines 1 to 8; export it again"
        raise ValueError(msg)
    return int(value)


def ome_pixels(file: TiffFile, page: TiffPage) -> dict[str, Any]:
    """Element ``Pixels`` of the image of a page in the OME metadata."""
    import tifffile

    images = tifffile.xml2dict(file.ome_metadata or "", sep=_NO_LIST)["OME"]["Image"]
    listed = [image["Pixels"] for image in (images if isinstance(images, list) else [images])]
    # A label or an overview may come first.
    size = (page.imagewidth, page.imagelength)
    return next((pixels for pixels in listed if (pixels.get("SizeX"), pixels.get("SizeY")) == size), listed[0])


def _planes(series: TiffPageSeries, name: str) -> int:
    """Number of channels that are stored as images of their own."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    for axis in sizes.keys() - set("YXSC"):
        if sizes[axis] > 1:
            msg = (
                f"{name} holds {sizes[axis]} planes along {axis} (axes {series.axes}); H&E is one flat image: export "
                f"it as 8-bit RGB, or give the file of the H&E"
            )
            raise ValueError(msg)
    return int(sizes.get("C", 1))


def _palette(page: Any, name: str) -> Shown:
    colours = page.colormap
    if page.bitspersample > 8 or np.shape(colours) != (3, 2**page.bitspersample):
        msg = f"{name} is a palette image of {page.bitspersample} bits without its colours; export it as 8-bit RGB"
        raise ValueError(msg)
    colours = np.asarray(colours)
    # 16 bits each, but some writers fill in 8
    return Shown(samples=1, palette=(colours >> 8 if colours.max() > 255 else colours).astype(np.uint8))


def _not_rgb(page: Any, name: str) -> str:
    meaning = _PHOTOMETRIC.get(int(page.photometric), f"photometric interpretation {page.photometric}")
    return (
        f"{name} holds {page.samplesperpixel} sample{'s' if page.samplesperpixel > 1 else ''} per pixel, marked as "
        f"{meaning}, not as RGB; if it is H&E, export it as 8-bit RGB"
    )


def _channels(file: TiffFile, series: TiffPageSeries) -> Channels | None:
    if series.kind == "ome":
        return ome_channels(ome_pixels(file, series.keyframe))
    if series.kind == "imagej":
        return imagej_channels(file.imagej_metadata)
    if series.kind == "qpi":
        return _qpi_channels(series)
    return None


def _qpi_channels(series: TiffPageSeries) -> Channels:
    """Filters of the pages of a PerkinElmer file; the one page of its H&E has none."""
    import tifffile

    names = []
    for page in series.pages if series.keyframe.samplesperpixel == 1 else ():
        text = getattr(page, "description", "") if page is not None else ""
        told = tifffile.xml2dict(text, sep=_NO_LIST).get("PerkinElmer-QPI-ImageDescription", {}) if text else {}
        names.append(str(told.get("Name", "")))
    return Channels(tuple(names), fluorescent="filters of a PerkinElmer scanner" if any(names) else "")
