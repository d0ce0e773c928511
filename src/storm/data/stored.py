"""Whether all chunks of an image in a zarr store exist, as far as the levels of its pyramid can testify.

A zarr store leaves out chunks that hold nothing but the fill value, so that a chunk whose file was lost reads as black
like one that is black. The levels of a pyramid show the same picture: what one lacks, another still shows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from storm._logging import warn

if TYPE_CHECKING:
    import zarr

#: A pixel of another level that differs by more than this from the fill value shows that a chunk was lost.
_SEEN = 16
#: Missing chunks that are looked up in other levels, at most.
_MOST_LOOKED_UP = 64
#: Pixels along an edge of the window that is read of another level, at most.
_WINDOW_PX = 512

Box = tuple[slice, ...]


def check_stored(arrays: Sequence[zarr.Array], *, axes: tuple[int, int], name: str) -> None:
    """Look for chunks of an image that were lost, as opposed to left out because they hold the fill value.

    Only folders on this machine are looked through.

    Parameters
    ----------
    arrays
        Levels of the pyramid, the finest first.
    axes
        Positions of y and x among the axes of the arrays.
    name
        Name of the image, for messages.

    Raises
    ------
    ValueError
        If a chunk is missing where another level shows a picture.

    Warns
    -----
    UserWarning
        If chunks are missing and no other level shows the place, or a level has no chunk at all.
    """
    doubts = []
    for k, array in enumerate(arrays):
        boxes = missing_chunks(array)
        if not boxes:
            continue
        others = sorted((j for j in range(len(arrays)) if j != k), key=lambda j: (abs(j - k), -j))
        unknown = 0
        for box in boxes[:: -(-len(boxes) // _MOST_LOOKED_UP)]:
            answers = [_is_shown(box, array, arrays[j], axes) for j in others]
            if True in answers:
                msg = (
                    f"{name} is damaged: {len(boxes)} chunks of level {k} are missing from the store "
                    f"({_address(array)}), and another level of its pyramid shows that they were not empty; copy "
                    f"the store again"
                )
                raise ValueError(msg)
            unknown += False not in answers
        if unknown or len(boxes) == math.prod(_grid(array)):
            doubts.append(f"{len(boxes)} chunks of level {k} ({_address(array)})")
    if doubts:
        msg = (
            f"{name}: {', '.join(doubts)} are missing from the store and read as black; unless the image is black "
            f"there, the store was not copied completely"
        )
        warn(msg)


def missing_chunks(array: zarr.Array) -> list[Box]:
    """Places of the chunks (in a sharded array: shards) of an array in a local folder that have no file."""
    from zarr.storage import LocalStore

    if not isinstance(array.store, LocalStore):
        return []
    folder = Path(array.store.root) / array.path
    sides = array.shards or array.chunks
    return [
        tuple(slice(i * n, min((i + 1) * n, length)) for i, n, length in zip(at, sides, array.shape, strict=True))
        for at in np.ndindex(*_grid(array))
        if not os.path.exists(folder / array.metadata.encode_chunk_key(at))
    ]


def _grid(array: zarr.Array) -> list[int]:
    """Number of files of an array along each axis."""
    return [-(-length // side) for length, side in zip(array.shape, array.shards or array.chunks, strict=True)]


def _is_shown(box: Box, array: zarr.Array, other: zarr.Array, axes: tuple[int, int]) -> bool | None:
    """Whether another level shows something in a place; ``None`` if it is too coarse to tell."""
    window = list(box)
    for axis in axes:
        factor = other.shape[axis] / array.shape[axis]
        # the outermost pixels of the window may mix with what lies beyond it
        low, high = int(np.ceil(box[axis].start * factor)) + 1, int(box[axis].stop * factor) - 1
        excess = max(0, high - low - _WINDOW_PX)
        window[axis] = slice(low + excess // 2, high - (excess + 1) // 2)
        if window[axis].stop <= window[axis].start:
            return None
    pixels = np.asarray(other[tuple(window)]).astype(np.int32)
    return bool(np.abs(pixels - int(array.fill_value or 0)).max() > _SEEN)


def _address(array: zarr.Array) -> str:
    return f"{getattr(array.store, 'root', array.store)}/{array.path}"
