"""Slide formats that only OpenSlide knows (Hamamatsu, MIRAX, Leica, Ventana, Philips, …), an optional extra."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._checks import check_extra
from storm.io._lazy import Level, joined

if TYPE_CHECKING:
    from openslide import OpenSlide

#: Side of the blocks where a slide does not tell the size of its tiles.
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
        self._slide: OpenSlide | None = None
        self._open()
        width, height = self._slide.level_dimensions[level]
        told = self._slide.properties
        tile = (int(told.get(f"openslide.level[{level}].tile-{side}", _TILE)) for side in ("height", "width"))
        self._downsample = float(self._slide.level_downsamples[level])
        super().__init__((height, width), joined(tuple(tile), (height, width)))

    def _open(self) -> None:
        import openslide

        self._slide = openslide.OpenSlide(self._path)
        weakref.finalize(self, self._slide.close)

    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """As for every level."""
        import openslide
        from PIL import Image

        with self._lock:
            if self._slide is None:
                self._open()
        at = (round(x * self._downsample), round(y * self._downsample))
        try:
            region = self._slide.read_region(at, self._level, (shape[1], shape[0]))
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
        If OpenSlide does not know or cannot read the file.
    """
    check_extra("openslide", extra="slide", purpose=f"reading {path}")
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            count = slide.level_count
            mpp = [slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    except openslide.OpenSlideError as error:  # also of a format that it does not know
        msg = f"OpenSlide: {error or type(error).__name__}"
        raise ValueError(msg) from error
    if None in mpp:
        um_per_px = None
    elif np.isclose(float(mpp[0]), float(mpp[1]), rtol=0.01):
        um_per_px = (float(mpp[0]) + float(mpp[1])) / 2
    else:
        msg = f"{path}: pixels are not square, {mpp[0]} × {mpp[1]} µm; resample the slide to square ones"
        raise ValueError(msg)
    return [SlideLevel(path, k) for k in range(count)], um_per_px, "openslide.mpp-x of the slide"
