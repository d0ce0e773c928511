"""TIFF, BigTIFF, OME-TIFF and Aperio SVS, decoded tile by tile through tifffile."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.io._lazy import Level, check_three, joined

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

#: Layouts (``TiffPageSeries.kind``) whose levels cover the same field, so that their shapes say how they lie on each
#: other. Others (Leica, Ventana, Hamamatsu, …) have margins and overlaps of their own, which OpenSlide knows.
KINDS = ("svs", "ome", "generic", "uniform", "shaped", "imagej")
#: JPEG 2000 in YCbCr with unmarked subsampling (old Aperio scanners), which OpenSlide converts.
_OLD_APERIO = 33003
#: A tile or strip with more pixels than this, compressed, is no unit to decode again and again.
_HUGE_TILE_PX = 32_000_000
#: Outside this range (µm per pixel) a TIFF's resolution tags speak of a print or a screen, not of a microscope.
PLAUSIBLE_UM = (0.05, 5.0)


class TiffLevel(Level):
    """A level of a TIFF.

    Parameters
    ----------
    path
        The file.
    series, level
        Which series in the file, and which level of it.
    """

    def __init__(self, path: Path, series: int, level: int) -> None:
        self._path, self._series, self._level = path, series, level
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._file: TiffFile | None = None
        self._open()
        page = self._pages[0]
        super().__init__((page.imagelength, page.imagewidth), joined(self._tile, (page.imagelength, page.imagewidth)))

    def _open(self) -> None:
        import tifffile

        self._file = tifffile.TiffFile(self._path)
        weakref.finalize(self, self._file.close)
        found = self._file.series[self._series].levels[self._level]
        # keyframe: pages of a series share their layout; a frame alone does not know it
        self._pages = [page for page in found.pages if page is not None]
        self._layout: TiffPage = found.keyframe
        self._mapped = self._map()

    def _map(self) -> np.ndarray | None:
        """Pixels that are stored as they are, where the file's own strips are no useful unit."""
        page = self._layout
        if len(self._pages) > 1 or page.is_tiled or not page.is_memmappable or page.planarconfig != 1:
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

    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """As for every level."""
        if self._pid != os.getpid():  # two processes would move one position in the file, and share a lock at its fork
            self.__setstate__(self.__getstate__())
        with self._lock:
            if self._file is None:
                self._open()
        if self._mapped is not None:
            box = self._mapped[y : y + shape[0], x : x + shape[1], :3]
            return np.ascontiguousarray(np.moveaxis(box, 2, 0))
        out = np.full((3, *shape), 255, dtype=np.uint8)  # a tile that was not stored is background
        height, width = self._tile
        across = -(-self.shape[1] // width)
        per_plane = across * -(-self.shape[0] // height)
        boxes = [
            (row, column)
            for row in range(y // height, -(-(y + shape[0]) // height))
            for column in range(x // width, -(-(x + shape[1]) // width))
        ]
        for page, plane, target in self._planes(out):
            for row, column in boxes:
                tile = self._decode(page, plane * per_plane + row * across + column)
                if tile is not None:
                    _paste(tile, target, (row * height - y, column * width - x))
        return out

    def _planes(self, out: np.ndarray) -> list[tuple[Any, int, np.ndarray]]:
        """Where the channels are stored: page, plane of the page, and the channels of ``out`` that they fill."""
        page = self._layout
        if page.samplesperpixel > 1 and page.planarconfig == 1:
            return [(self._pages[0], 0, out)]
        if page.samplesperpixel > 1:
            return [(self._pages[0], k, out[k : k + 1]) for k in range(3)]
        return [(self._pages[k], 0, out[k : k + 1]) for k in range(3)]

    def _decode(self, page: Any, index: int) -> np.ndarray | None:
        """One tile or strip, (channels, h, w), ``None`` where nothing was stored."""
        count = page.databytecounts[index]
        if count == 0:
            return None
        handle = page.parent.filehandle  # an OME-TIFF may be spread over several files
        with self._lock:
            handle.seek(page.dataoffsets[index])
            data = handle.read(count)
        try:
            segment, _, _ = self._layout.decode(data, index, jpegtables=page.jpegtables or self._layout.jpegtables)
        except (RuntimeError, ValueError, OSError) as error:  # the codecs' own errors are RuntimeErrors
            msg = f"{self._path} is damaged: tile {index} of level {self._level} cannot be decoded ({error})"
            raise ValueError(msg) from error
        return None if segment is None else np.moveaxis(segment[0], 2, 0)[:3]

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_pid", "_file", "_pages", "_layout", "_mapped")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _pid=os.getpid(), _file=None)


def _paste(tile: np.ndarray, out: np.ndarray, at: tuple[int, int]) -> None:
    """Copy a tile, its top left pixel at ``at`` of ``out``, as far as the two overlap."""
    here, there = [], []
    for start, size, whole in zip(at, tile.shape[1:], out.shape[1:], strict=True):
        low, high = max(0, start), min(whole, start + size)
        here.append(slice(low, high))
        there.append(slice(low - start, high - start))
    out[:, *here] = tile[:, *there]


def open_tiff(path: Path) -> tuple[list[Level], float | None, str]:
    """Levels of the largest image in a TIFF, µm per pixel and where they come from.

    Raises
    ------
    NotImplementedError
        If the layout is one that OpenSlide knows better.
    ValueError
        If the image is no 8-bit RGB, or the file ends before its pixels do.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        number, series = _largest(file)
        page = series.keyframe
        if series.kind not in KINDS or page.compression == _OLD_APERIO:
            msg = f"its layout is {series.kind} with {page.compression!r}, which tifffile does not place or decode"
            raise NotImplementedError(msg)
        check_three(_samples(series, path), series.dtype, str(path))
        _check_complete(path, series)
        um_per_px, source = _resolution(file, series, path)
        count = len(series.levels)
    levels = [TiffLevel(path, number, k) for k in range(count)]
    return _same_field(levels), um_per_px, source


def _largest(file: TiffFile) -> tuple[int, TiffPageSeries]:
    """The image itself; labels and thumbnails are smaller."""
    areas = [s.keyframe.imagelength * s.keyframe.imagewidth for s in file.series]
    number = int(np.argmax(areas))
    return number, file.series[number]


def _samples(series: TiffPageSeries, path: Path) -> int:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    for axis in sizes.keys() - set("YXSC"):
        if sizes[axis] > 1:
            msg = f"{path} holds {sizes[axis]} planes along {axis} (axes {series.axes}); H&E is one flat image"
            raise ValueError(msg)
    return sizes.get("S", 1) * sizes.get("C", 1)


def _check_complete(path: Path, series: TiffPageSeries) -> None:
    """Raise if a tile should lie beyond the end of the file: a download or copy that was cut short."""
    for level in series.levels:
        for page in level.pages:
            if page is None:
                continue
            if not 0 < len(page.dataoffsets) == len(page.databytecounts):
                msg = f"{path} is truncated: the list of its tiles or strips is not complete; copy it again"
                raise ValueError(msg)
            size = page.parent.filehandle.size
            needed = int((np.asarray(page.dataoffsets) + np.asarray(page.databytecounts)).max())
            if needed > size:
                msg = f"{path} is truncated: it has {size} bytes, and its pixels need {needed}; copy it again"
                raise ValueError(msg)


def _same_field(levels: list[TiffLevel]) -> list[Level]:
    """Levels whose shape is the full one's over one factor (others, e.g. with padding, are left out)."""
    full = levels[0].shape
    kept: list[Level] = [levels[0]]
    for level in levels[1:]:
        factors = [a / b for a, b in zip(full, level.shape, strict=True)]
        off = [abs(b * max(factors) - a) / max(factors) for a, b in zip(full, level.shape, strict=True)]
        if max(off) <= 2:
            kept.append(level)
    return kept


def _resolution(file: TiffFile, series: TiffPageSeries, path: Path) -> tuple[float | None, str]:
    page = series.keyframe
    if series.kind == "svs":
        import tifffile

        mpp = tifffile.tifffile.svs_description_metadata(page.description).get("MPP")
        return (float(mpp), "MPP in the file's description (Aperio)") if mpp else (None, "")
    if series.kind == "ome":
        sizes, source = _ome_resolution(file, page), "PhysicalSizeX and PhysicalSizeY of the OME metadata"
    else:
        sizes, source = _tag_resolution(page), "the TIFF's resolution tags"
    if sizes is None:
        return None, ""
    if not np.isclose(*sizes, rtol=0.01):
        msg = f"{path} has pixels that are not square: {sizes[0]:g} × {sizes[1]:g} µm from {source}; resample it"
        raise ValueError(msg)
    return float(np.mean(sizes)), source


def _ome_resolution(file: TiffFile, page: TiffPage) -> list[float] | None:
    import tifffile

    units = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4}
    found = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    images = [image["Pixels"] for image in (found if isinstance(found, list) else [found])]
    # A label or an overview may come first.
    size = (page.imagewidth, page.imagelength)
    pixels = next((p for p in images if (p.get("SizeX"), p.get("SizeY")) == size), images[0])
    sizes = []
    for axis in "XY":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None or unit not in units:
            return None
        sizes.append(float(size) * units[unit])
    return sizes


def _tag_resolution(page: TiffPage) -> list[float] | None:
    # 2 is inch, 3 is centimetre
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", default=1)))
    sizes = []
    for name in ("XResolution", "YResolution"):
        top, bottom = page.tags.valueof(name, default=(0, 1))
        if unit is None or not top or not bottom:
            return None
        sizes.append(unit * bottom / top)
    plausible = all(PLAUSIBLE_UM[0] <= size <= PLAUSIBLE_UM[1] for size in sizes)
    return sizes if plausible else None
