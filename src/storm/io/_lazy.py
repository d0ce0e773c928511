"""Images that stay in their file: levels of a pyramid that are decoded block by block, each block once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from storm.io._pyramid import CHUNK, halve, level_shapes

if TYPE_CHECKING:
    import dask.array as da

#: A level with more pixels than this along its longer side gets coarser ones below it.
_LARGEST_SINGLE = 2048
#: Rows of strips that are joined into one block hold about this many pixels.
_BLOCK_PX = 4_000_000


class Level(ABC):
    """One level of a pyramid in a file: uint8, red, green and blue.

    Its blocks are whole tiles of the file, or several, so that no tile is decoded for two blocks. A level can be
    pickled, and read from several threads.

    Parameters
    ----------
    shape
        Height and width in pixels.
    block
        Height and width of a block in pixels.
    """

    def __init__(self, shape: tuple[int, int], block: tuple[int, int]) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.block = (min(int(block[0]), self.shape[0]), min(int(block[1]), self.shape[1]))

    @abstractmethod
    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """Decode the rectangle with its top left pixel at (y, x): uint8 (3, h, w), in any order in memory."""

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        """Heights and widths of the blocks in pixels, from the top and from the left."""
        return _cut(self.shape[0], self.block[0]), _cut(self.shape[1], self.block[1])

    @property
    def is_huge(self) -> bool:
        """Whether the smallest piece that can be decoded is so large that it should be decoded only once."""
        return False

    @property
    def decoded_at_once(self) -> tuple[int, int]:
        """Width and height in pixels of what is held when the level is decoded as a whole."""
        return self.shape[1], self.shape[0]

    def to_dask(self) -> da.Array:
        """Lazy array (3, y, x) with one task per block."""
        import dask.array as da

        name = f"level-{uuid4().hex}"
        heights, widths = self.sides
        tops, lefts = ([0, *accumulate(sides)][:-1] for sides in (heights, widths))
        blocks = {
            (name, 0, i, j): (self.read, y, x, (heights[i], widths[j]))
            for i, y in enumerate(tops)
            for j, x in enumerate(lefts)
        }
        return da.Array(blocks, name, ((3,), tuple(heights), tuple(widths)), dtype=np.uint8)


def _cut(length: int, step: int) -> list[int]:
    return [min(step, length - start) for start in range(0, length, step)]


class OrientedLevel(Level):
    """A level that is stored turned or mirrored, as it is to be shown.

    Parameters
    ----------
    stored
        The level as the file stores it.
    orientation
        Orientation of the TIFF and EXIF specifications, 1 to 8: on which sides of the picture the first row and the
        first column are stored.
    """

    def __init__(self, stored: Level, orientation: int) -> None:
        self._stored = stored
        self._swapped = orientation >= 5
        self._upside_down, self._mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
        (height, width), (rows, columns) = stored.shape, stored.block
        if self._swapped:
            super().__init__((width, height), (columns, rows))
        else:
            super().__init__((height, width), (rows, columns))

    @property
    def sides(self) -> tuple[list[int], list[int]]:
        """The blocks of the stored level, in the order in which they are shown."""
        heights, widths = self._stored.sides[::-1] if self._swapped else self._stored.sides
        return heights[:: -1 if self._upside_down else 1], widths[:: -1 if self._mirrored else 1]

    @property
    def is_huge(self) -> bool:
        """As of the stored level."""
        return self._stored.is_huge

    @property
    def decoded_at_once(self) -> tuple[int, int]:
        """As of the stored level."""
        return self._stored.decoded_at_once

    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """As for every level."""
        height, width = shape
        if self._upside_down:
            y = self.shape[0] - y - height
        if self._mirrored:
            x = self.shape[1] - x - width
        if self._swapped:
            pixels = self._stored.read(x, y, (width, height)).transpose(0, 2, 1)
        else:
            pixels = self._stored.read(y, x, (height, width))
        return np.ascontiguousarray(pixels[:, :: -1 if self._upside_down else 1, :: -1 if self._mirrored else 1])


class HalvedLevel(Level):
    """A level of half the size: the mean over 2 × 2 pixels of the finer one, computed when it is read.

    Parameters
    ----------
    finer
        The level above.
    """

    def __init__(self, finer: Level) -> None:
        super().__init__((finer.shape[0] // 2, finer.shape[1] // 2), finer.block)
        self._finer = finer

    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """As for every level; block of the finer level by block, so that little is held at a time."""
        out = np.empty((3, *shape), dtype=np.uint8)
        step_y, step_x = (max(1, side // 2) for side in self._finer.block)
        for top in range(0, shape[0], step_y):
            for left in range(0, shape[1], step_x):
                part = out[:, top : top + step_y, left : left + step_x]
                size = (2 * part.shape[1], 2 * part.shape[2])
                part[:] = halve(self._finer.read(2 * (y + top), 2 * (x + left), size))
        return out


def complete(levels: Sequence[Level]) -> list[Level]:
    """Levels of a file, with coarser ones below where a large image has none."""
    levels = list(levels)
    if len(levels) > 1 or max(levels[0].shape) <= _LARGEST_SINGLE:
        return levels
    for _ in level_shapes(levels[0].shape)[1:]:
        levels.append(HalvedLevel(levels[-1]))
    return levels


def joined(block: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """Join neighbouring tiles of a file, and thin strips, into blocks of a useful size (height, width)."""
    height, width = block
    if width >= shape[1]:  # strips over the whole width
        rows = max(1, min(CHUNK, _BLOCK_PX // max(1, width)))
        return max(1, rows // height) * height, width
    return max(1, CHUNK // height) * height, max(1, CHUNK // width) * width


def check_three(samples: int, dtype: Any, name: str) -> None:
    """Raise unless an image has 8-bit red, green and blue, and perhaps a fourth channel."""
    if samples in (3, 4) and np.dtype(dtype) == np.uint8:
        return
    msg = (
        f"{name} holds {samples} channel{'s' if samples != 1 else ''} of {np.dtype(dtype)}; H&E has three of uint8 "
        f"(red, green, blue): export it as 8-bit RGB, or give the file of the H&E (a fluorescence image is not one)"
    )
    raise ValueError(msg)
