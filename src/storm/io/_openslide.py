"""Slide formats that only OpenSlide reads (Hamamatsu, MIRAX, Leica, Ventana, Philips, …), an optional extra."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._checks import check_extra
from storm.io._lazy import Level, joined
from storm.io._scale import read_um, square_um
from storm.io._tiff_scale import PLAUSIBLE_UM

if TYPE_CHECKING:
    from openslide import OpenSlide

#: Side of a block in pixels, for slides without a declared size of tiles.
_TILE = 512


class SlideLevel(Level):
    """A level of a slide.

    Parameters
    ----------
    path
        The file.
    level
        Which level.
    """

    def __init__(self, path: Path, level: int) -> None:
        self._path, self._level = path, level
        self._lock = threading.Lock()
        slide = self._open()
        self._slide: OpenSlide | None = slide
        width, height = slide.level_dimensions[level]
        tile_height, tile_width = (
            int(slide.properties.get(f"openslide.level[{level}].tile-{side}", _TILE)) for side in ("height", "width")
        )
        self._downsample = float(slide.level_downsamples[level])
        super().__init__((height, width), joined((tile_height, tile_width), (height, width)))

    def _open(self) -> OpenSlide:
        import openslide

        slide = openslide.OpenSlide(self._path)
        weakref.finalize(self, slide.close)
        return slide

    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """As for every level."""
        import openslide
        from PIL import Image

        with self._lock:
            if self._slide is None:
                self._slide = self._open()
            slide = self._slide
        at = (round(x * self._downsample), round(y * self._downsample))
        try:
            region = slide.read_region(at, self._level, (shape[1], shape[0]))
        except openslide.OpenSlideError as error:
            msg = (
                f"{self._path} is damaged: level {self._level} cannot be decoded at x = {at[0]}, y = {at[1]} ({error})"
            )
            raise ValueError(msg) from error
        # where nothing was scanned, a region is transparent
        paper = Image.new("RGBA", region.size, "white")
        paper.alpha_composite(region)
        return np.ascontiguousarray(np.moveaxis(np.asarray(paper)[..., :3], 2, 0))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_slide")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _slide=None)


def open_openslide(path: Path) -> tuple[list[Level], float | None, str]:
    """Levels of a slide, µm per pixel and where they come from.

    Raises
    ------
    ImportError
        If openslide-python is not installed.
    ValueError
        If OpenSlide does not support or cannot read the file, or its pixels are not square.
    """
    check_extra("openslide", extra="slide", purpose=f"reading {path}")
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            count = slide.level_count
            vendor = slide.properties.get(openslide.PROPERTY_NAME_VENDOR)
            sizes = [read_um(slide.properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    except openslide.OpenSlideError as error:  # also of a format that it does not support
        msg = f"{error or type(error).__name__}"
        raise ValueError(msg) from error
    if vendor == "generic-tiff" and not all(um and PLAUSIBLE_UM[0] <= um <= PLAUSIBLE_UM[1] for um in sizes):
        sizes = [None, None]
    source = "openslide.mpp-x and openslide.mpp-y of the slide"
    um_per_px = square_um(sizes, source=source, name=str(path))
    return [SlideLevel(path, k) for k in range(count)], um_per_px, source
