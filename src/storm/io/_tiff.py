"""TIFF, BigTIFF, OME-TIFF, Aperio SVS and QPTIFF, decoded tile by tile through tifffile."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.io._declared import DAMAGE, check_declared
from storm.io._kept import KeptTiles
from storm.io._lazy import Level, OrientedLevel, joined
from storm.io._tiff_scale import tiff_um_per_px
from storm.io._tiff_show import Shown, how_shown, orientation_of

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

#: Layouts (``TiffPageSeries.kind``) whose levels cover the same field, so that their shapes tell how they lie on each
#: other. Others (Leica, Ventana, Hamamatsu, …) have margins and overlaps of their own, which OpenSlide handles.
KINDS = ("svs", "ome", "generic", "uniform", "shaped", "imagej", "qpi")
#: JPEG 2000 in YCbCr with unmarked subsampling (old Aperio scanners), which OpenSlide converts.
_OLD_APERIO = 33003
#: A tile or strip with more pixels than this, compressed, is too large to be decoded again and again.
_HUGE_TILE_PX = 32_000_000


class TiffLevel(Level):
    """A level of a TIFF, as it is stored.

    Parameters
    ----------
    path
        The file.
    series, level
        Which series in the file, and which level of it.
    shown
        How its samples become red, green and blue.
    """

    def __init__(self, path: Path, series: int, level: int, *, shown: Shown | None = None) -> None:
        self._path, self._series, self._level = path, series, level
        self._shown = shown or Shown()
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._file: TiffFile | None = None
        self._open()
        shape = (self._layout.imagelength, self._layout.imagewidth)
        super().__init__(shape, joined(self._tile, shape))

    def _open(self) -> None:
        import tifffile

        self._file = tifffile.TiffFile(self._path)
        weakref.finalize(self, self._file.close)
        level = self._file.series[self._series].levels[self._level]
        # keyframe: pages of a series share their layout; a frame alone does not hold it
        self._pages = list(level.pages)
        self._layout: Any = level.keyframe
        self._mapped = self._map()
        page = self._layout
        self._kept = KeptTiles(page.imagelength * page.imagewidth * page.samplesperpixel * len(self._pages))

    def _map(self) -> np.ndarray | None:
        """Pixels that are stored as they are, where the file's own strips are not a useful unit."""
        page = self._layout
        if len(self._pages) > 1 or page.is_tiled or not page.is_memmappable or page.planarconfig != 1:
            return None
        if page.bitspersample != 8:
            return None
        shape = (page.imagelength, page.imagewidth, page.samplesperpixel)
        return np.memmap(self._path, dtype=np.uint8, mode="r", offset=page.dataoffsets[0], shape=shape)

    @property
    def _tile(self) -> tuple[int, int]:
        page = self._layout
        if page.is_tiled:
            return page.tilelength, page.tilewidth
        if self._mapped is not None:
            return 1, 1
        return min(page.rowsperstrip, page.imagelength), page.imagewidth

    @property
    def is_huge(self) -> bool:
        """Whether the smallest piece that can be decoded is so large that it should be decoded only once."""
        return self._tile[0] * self._tile[1] > _HUGE_TILE_PX

    @property
    def decoded_at_once(self) -> tuple[int, int]:
        """Width and height of what is held when the level is decoded as a whole: at the least a whole tile."""
        return max(self.shape[1], self._tile[1]), max(self.shape[0], self._tile[0])

    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """As for every level."""
        if self._pid != os.getpid():  # two processes would move one position in the file, and share a lock at its fork
            self.__setstate__(self.__getstate__())
        with self._lock:
            if self._file is None:
                self._open()
        count, convert = self._shown.samples, self._shown.convert
        if self._mapped is not None:
            box = self._mapped[y : y + shape[0], x : x + shape[1], :count]
            return np.ascontiguousarray(convert(np.moveaxis(box, 2, 0)))
        page, (height, width) = self._layout, self._tile
        across = -(-self.shape[1] // width)
        boxes = [
            (row, column)
            for row in range(y // height, -(-(y + shape[0]) // height))
            for column in range(x // width, -(-(x + shape[1]) // width))
        ]
        if page.planarconfig == 1 and (page.samplesperpixel > 1 or count == 1):
            # A tile that was not stored is background. Channels lie side by side, as decoders return them: tiles are
            # then copied line by line.
            out = np.full((*shape, 3), 255, dtype=np.uint8).transpose(2, 0, 1)
            for row, column in boxes:
                tile = self._decode(self._pages[0], row * across + column)
                if tile is not None:
                    _paste(convert(tile[:count]), out, (row * height - y, column * width - x))
            return out
        planes = np.full((count, *shape), 255, dtype=np.uint8)
        per_plane = across * -(-self.shape[0] // height)
        for k, plane in enumerate(planes):
            own_page, first = (self._pages[0], k * per_plane) if page.samplesperpixel > 1 else (self._pages[k], 0)
            for row, column in boxes:
                tile = self._decode(own_page, first + row * across + column)
                if tile is not None:
                    _paste(tile[:1], plane[None], (row * height - y, column * width - x))
        return np.ascontiguousarray(convert(planes))

    def _decode(self, page: Any, index: int) -> np.ndarray | None:
        """One tile or strip, (samples, h, w), ``None`` where nothing was stored."""
        count = page.databytecounts[index]
        if count == 0:
            return None
        at = id(page), index  # pages live as long as what is kept of them
        if (kept := self._kept.get(at)) is not None:
            return kept
        handle = page.parent.filehandle  # an OME-TIFF may be spread over several files
        with self._lock:
            handle.seek(page.dataoffsets[index])
            data = handle.read(count)
        try:
            segment, _, _ = self._layout.decode(data, index, jpegtables=page.jpegtables or self._layout.jpegtables)
        except DAMAGE as error:
            msg = f"{self._path} is damaged: tile {index} of level {self._level} cannot be decoded ({error})"
            raise ValueError(msg) from error
        if segment is None:
            return None
        tile = np.moveaxis(segment[0], 2, 0)
        self._kept.keep(at, tile)
        return tile

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_pid", "_file", "_pages", "_layout", "_mapped", "_kept")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _pid=os.getpid(), _file=None)


def _paste(tile: np.ndarray, out: np.ndarray, at: tuple[int, int]) -> None:
    """Copy a tile, its top left pixel at ``at`` of ``out``, as far as the two overlap."""
    target, source = [], []
    for start, size, whole in zip(at, tile.shape[1:], out.shape[1:], strict=True):
        low, high = max(0, start), min(whole, start + size)
        target.append(slice(low, high))
        source.append(slice(low - start, high - start))
    out[:, *target] = tile[:, *source]


def open_tiff(path: Path) -> tuple[Sequence[Level], float | None, str]:
    """Levels of the largest image in a TIFF, µm per pixel and where they come from.

    Raises
    ------
    NotImplementedError
        If the layout is one that OpenSlide handles better.
    ValueError
        If the image is not 8-bit RGB, or the file ends before its pixels do.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        number, series = _largest(file)
        page: Any = series.keyframe
        orientation = orientation_of(page, str(path))
        if series.kind not in KINDS or page.compression == _OLD_APERIO:
            if orientation != 1:
                msg = f"{path} is to be shown turned (orientation {orientation}), in a layout ({series.kind}) that is "
                raise ValueError(msg + "read as it is stored; export it as an 8-bit RGB TIFF")
            msg = f"its layout is {series.kind} with {page.compression!r}, which tifffile does not place or decode"
            raise NotImplementedError(msg)
        check_declared(path, (page.imagewidth, page.imagelength))
        shown = how_shown(file, series, str(path))
        _check_complete(path, series)
        um_per_px, source = tiff_um_per_px(file, series, path)
        kept = [k for k, level in enumerate(series.levels) if k == 0 or _same_layout(level.keyframe, page)]
    levels = _same_field([TiffLevel(path, number, k, shown=shown) for k in kept])
    if orientation != 1:
        return [OrientedLevel(level, orientation) for level in levels], um_per_px, source
    return levels, um_per_px, source


def _largest(file: TiffFile) -> tuple[int, TiffPageSeries]:
    """The image itself; labels and thumbnails are smaller."""
    areas = [int(s.keyframe.imagelength) * int(s.keyframe.imagewidth) for s in file.series]
    number = max(range(len(areas)), key=areas.__getitem__)
    return number, file.series[number]


def _same_layout(page: Any, full: Any) -> bool:
    """Whether the pixels of a level are to be shown as those of the full one, and are stored at all."""
    if sum(page.databytecounts) == 0:
        return False
    return all(
        getattr(page, name) == getattr(full, name)
        for name in ("photometric", "samplesperpixel", "planarconfig", "bitspersample", "extrasamples", "dtype")
    ) and page.tags.valueof("Orientation", default=1) == full.tags.valueof("Orientation", default=1)


def _check_complete(path: Path, series: TiffPageSeries) -> None:
    """Raise if planes or tiles are missing, or would lie beyond the end of the file, as after a download cut short."""
    for number, level in enumerate(series.levels):
        layout: Any = level.keyframe
        stored = 0
        for page in level.pages:
            if page is None:
                msg = f"{path} lacks a plane of its image: a file that it refers to is missing, or it was cut short"
                raise ValueError(msg)
            if not _tiles_of(layout) == len(page.dataoffsets) == len(page.databytecounts):
                msg = f"{path} is truncated: the list of its tiles or strips is not complete; copy it again"
                raise ValueError(msg)
            size = page.parent.filehandle.size
            needed = max(a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True))
            if needed > size:
                msg = f"{path} is truncated: it has {size} bytes, and its pixels need {needed}; copy it again"
                raise ValueError(msg)
            stored += sum(page.databytecounts)
        if number == 0 and stored == 0:
            msg = (
                f"{path} declares an image of {layout.imagewidth:,} × {layout.imagelength:,} pixels, but none of its "
                f"tiles was stored; copy or export it again"
            )
            raise ValueError(msg)


def _tiles_of(page: Any) -> int:
    """Number of tiles or strips that a page must list."""
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    return planes * math.ceil(page.imagelength / height) * math.ceil(page.imagewidth / width)


def _same_field(levels: list[TiffLevel]) -> list[TiffLevel]:
    """Levels whose shape is the full one's over one factor (others, e.g. with padding, are left out)."""
    full = levels[0].shape
    kept = [levels[0]]
    for level in levels[1:]:
        factors = [a / b for a, b in zip(full, level.shape, strict=True)]
        off = [abs(b * max(factors) - a) / max(factors) for a, b in zip(full, level.shape, strict=True)]
        if max(off) <= 2:
            kept.append(level)
    return kept
