"""A checksum of the pixels of an image, which does not depend on how they are stored.

It is a sum over all pixels, each multiplied by numbers that belong to its row and its column, so that it can be taken
chunk by chunk in any order: the same picture in memory, in a store and in a store with other chunks has the same
checksum. Any single pixel that changes changes it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import Source

#: Pixels of a level that are read, unless the level that the patches are cut from is the only one: a few seconds.
_MOST_PX = 400_000_000
#: Rows that are multiplied at a time.
_ROWS = 256
#: Two sums with weights of their own: what cancels in one does not cancel in the other.
_SUMS = 2
#: Bits of a column's weight. Sums of a row stay below 2 ** 53, up to which float64 is exact.
_COLUMN_BITS = 20


@dataclass(frozen=True)
class ImageChecksum:
    """Checksum of an image, and what it was taken of.

    Attributes
    ----------
    value
        Hexadecimal.
    compared
        The pixels that were compared, such as ``"all pixels at 0.5 µm/px"``.
    """

    value: str
    compared: str


def image_checksum(reader: PatchReader, *, field_um: float, out_px: int) -> ImageChecksum:
    """Take the checksum of all pixels of a pyramid level.

    The level is the one that patches are cut from, or, where that one is very large, the finest of the coarser ones
    that has at most 400 million pixels (else the coarsest). A change that is too small to show there is not noticed,
    which is why ``compared`` names the resolution.

    Parameters
    ----------
    reader
        Reader of the image.
    field_um
        Edge of the field of a patch in µm.
    out_px
        Edge of a patch in pixels.

    Returns
    -------
    ImageChecksum
    """
    level = _level(reader, field_um=field_um, out_px=out_px)
    digest = hashlib.sha256(repr((level.source.height, level.source.width)).encode())
    digest.update(pixel_sums(level.source).tobytes())
    return ImageChecksum(digest.hexdigest(), f"all pixels at {level.um_per_px:.3g} µm/px")


def _level(reader: PatchReader, *, field_um: float, out_px: int) -> ImageLevel:
    levels = reader.levels[reader.level_for(field_um, out_px) :]
    return next((one for one in levels if one.source.height * one.source.width <= _MOST_PX), levels[-1])


def pixel_sums(source: Source) -> np.ndarray:
    """Sum the weighted pixels of a source, modulo 2 ** 64.

    Parameters
    ----------
    source
        One level of an image.

    Returns
    -------
    numpy.ndarray
        uint64, shape (3, 2): two sums for each channel.
    """
    return (source if isinstance(source, SummingSource) else SummingSource(source)).sums()


def summing(reader: PatchReader, *, field_um: float, out_px: int) -> PatchReader:
    """Make a reader of the same pixels whose :func:`image_checksum` decodes only what has not been read through it.

    Parameters
    ----------
    reader
        Reader of the image.
    field_um, out_px
        As in :func:`image_checksum`.

    Returns
    -------
    PatchReader
    """
    chosen = _level(reader, field_um=field_um, out_px=out_px)
    levels = [replace(one, source=SummingSource(one.source)) if one is chosen else one for one in reader.levels]
    return PatchReader(levels, fill=reader.fill)


class SummingSource(Source):
    """The pixels of another source, summed while they are read.

    Parameters
    ----------
    source
        One level of an image.
    """

    def __init__(self, source: Source) -> None:
        super().__init__((3, source.height, source.width), edges=(source.y_edges, source.x_edges))
        self.name, self._source = source.name, source
        #: Sums of each chunk: the same again if two threads read it at once.
        self._parts: dict[tuple[int, int], np.ndarray] = {}
        numbers = np.arange(source.height, dtype=np.uint64)[:, None] * _SUMS + np.arange(_SUMS, dtype=np.uint64)
        self._rows = _mixed(numbers) | 1
        numbers = np.arange(source.width, dtype=np.uint64)[:, None] * _SUMS + np.arange(_SUMS, dtype=np.uint64)
        self._columns = ((_mixed(np.invert(numbers)) >> np.uint64(64 - _COLUMN_BITS)) | 1).astype(np.float64)

    @property
    def in_memory(self) -> bool:
        """Whether the other source is."""
        return self._source.in_memory

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        """Decode chunk ``(i, j)``: uint8, shape (h, w, 3), rows along y."""
        chunk = self._source.read_chunk(i, j)
        if (i, j) not in self._parts:
            self._parts[i, j] = self._sums_of(chunk, int(self.y_edges[i]), int(self.x_edges[j]))
        return chunk

    def _decode(self, i: int, j: int, box: tuple[slice, slice]) -> np.ndarray:
        return np.moveaxis(self.read_chunk(i, j), 2, 0)

    def sums(self) -> np.ndarray:
        """Two sums for each channel, uint64, shape (3, 2); chunks that have not been read are read."""
        for at in np.ndindex(*self.grid):
            if at not in self._parts:
                self.read_chunk(*at)
        return sum(self._parts.values(), start=np.zeros((3, _SUMS), dtype=np.uint64))

    def _sums_of(self, chunk: np.ndarray, top: int, left: int) -> np.ndarray:
        sums = np.zeros((3, _SUMS), dtype=np.uint64)
        weights = self._columns[left : left + chunk.shape[1]]
        for start in range(0, chunk.shape[0], _ROWS):
            block = np.moveaxis(chunk[start : start + _ROWS], 2, 0)
            along_rows = (block.astype(np.float64) @ weights).astype(np.uint64)  # whole numbers, so exact
            here = top + start
            sums += (along_rows * self._rows[here : here + block.shape[1]]).sum(axis=1, dtype=np.uint64)
        return sums


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Spread whole numbers over all 64 bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
