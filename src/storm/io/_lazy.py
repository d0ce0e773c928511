"""Images that stay in their file: levels of a pyramid that are decoded block by block, each block once."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
        Height and width of a block.
    """

    def __init__(self, shape: tuple[int, int], block: tuple[int, int]) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.block = tuple(min(int(b), s) for b, s in zip(block, self.shape, strict=True))

    @abstractmethod
    def read(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """Decode the rectangle with its top left pixel at (y, x): uint8 (3, h, w)."""

    def to_dask(self) -> da.Array:
        """Lazy array (3, y, x) with one task per block."""
        import dask.array as da

        name = f"level-{uuid4().hex}"
        sides = [tuple(min(b, n - k) for k in range(0, n, b)) for n, b in zip(self.shape, self.block, strict=True)]
        starts = [np.cumsum((0, *side))[:-1].tolist() for side in sides]
        blocks = {
            (name, 0, i, j): (self.read, y, x, (sides[0][i], sides[1][j]))
            for i, y in enumerate(starts[0])
            for j, x in enumerate(starts[1])
        }
        return da.Array(blocks, name, ((3,), *sides), dtype=np.uint8)


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


def complete(levels: list[Level]) -> list[Level]:
    """Levels of a file, with coarser ones below where a large image has none."""
    if len(levels) > 1 or max(levels[0].shape) <= _LARGEST_SINGLE:
        return levels
    levels = list(levels)
    for _ in level_shapes(levels[0].shape)[1:]:
        levels.append(HalvedLevel(levels[-1]))
    return levels


def joined(block: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """Join neighbouring tiles of a file, and thin strips, into blocks of a useful size."""
    height, width = block
    if width >= shape[1]:  # strips over the whole width
        wanted = max(1, min(CHUNK, _BLOCK_PX // max(1, width)))
        return max(1, wanted // height) * height, width
    return max(1, CHUNK // height) * height, max(1, CHUNK // width) * width


def check_three(samples: int, dtype: Any, name: str) -> None:
    """Raise unless an image holds 8-bit red, green and blue, and perhaps a fourth channel that is left out."""
    if samples in (3, 4) and np.dtype(dtype) == np.uint8:
        return
    msg = (
        f"{name} holds {samples} channel{'s' if samples != 1 else ''} of {np.dtype(dtype)}; H&E has three of uint8 "
        f"(red, green, blue): export it as 8-bit RGB, or give the file of the H&E (a fluorescence image is none)"
    )
    raise ValueError(msg)
