"""Image pyramids as SpatialData elements, in memory or filled into a store that exists already."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

if TYPE_CHECKING:
    import dask.array as da
    import zarr
    from xarray import DataTree

#: Side of a chunk in pixels.
CHUNK = 512

#: Pixels along the longer side of the smallest level, at the least, where the image has so many.
_SMALLEST = 512


def halve(image: np.ndarray) -> np.ndarray:
    """Mean over 2 × 2 pixels, uint8, shape (3, h // 2, w // 2)."""
    h, w = image.shape[1] // 2, image.shape[2] // 2
    out = np.empty((len(image), h, w), dtype=np.uint8)
    rows = 256  # a block of rows at a time stays in the processor's cache
    for channel, small in zip(image, out, strict=True):
        for start in range(0, h, rows):
            part = channel[2 * start : 2 * min(start + rows, h), : 2 * w]
            pairs = part[::2].astype(np.uint16) + part[1::2]
            small[start : start + rows] = (pairs[:, ::2] + pairs[:, 1::2] + np.uint16(2)) >> 2
    return out


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes (y, x) of the levels of a pyramid, each half of the one before."""
    shapes = [shape]
    while (len(shapes) < 2 or max(shapes[-1]) // 2 >= _SMALLEST) and min(shapes[-1]) >= 2:
        shapes.append((shapes[-1][0] // 2, shapes[-1][1] // 2))
    return shapes


def pyramid(image: np.ndarray) -> list[np.ndarray]:
    """All levels of an image, shape (3, y, x) each."""
    levels = [image]
    for _ in level_shapes(image.shape[1:])[1:]:
        levels.append(halve(levels[-1]))
    return levels


def image_element(levels: Iterable[Any], *, transformations: dict[str, Any], chunk: int = CHUNK) -> DataTree:
    """Multiscale image from its levels (numpy or dask, each (3, y, x) uint8, red, green, blue).

    Parameters
    ----------
    levels
        From full resolution down.
    transformations
        Transformation of the full-resolution pixels into each coordinate system.
    chunk
        Side of a chunk in pixels.

    Returns
    -------
    DataTree
        A valid image element with the channels ``"r"``, ``"g"`` and ``"b"``.
    """
    import dask.array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import set_transformation
    from xarray import DataArray, Dataset, DataTree

    nodes, full = {}, None
    for k, level in enumerate(levels):
        full = full or level.shape[1:]
        data = level if isinstance(level, da.Array) else _chunked(level, chunk)
        coords: dict[str, Any] = {"c": list("rgb")}
        for axis, size, whole in zip("yx", level.shape[1:], full, strict=True):
            coords[axis] = (np.arange(size) + 0.5) * (whole / size)
        nodes[f"scale{k}"] = Dataset({"image": DataArray(data, name="image", dims=("c", "y", "x"), coords=coords)})
    tree = DataTree.from_dict(nodes)
    set_transformation(tree, transformations, set_all=True)
    Image2DModel.validate(tree)
    return tree


def _chunked(level: np.ndarray, chunk: int) -> da.Array:
    """Dask array over views of ``level``; ``dask.array.from_array`` would copy it."""
    import dask.array as da

    name = f"image-{uuid4().hex}"
    blocks = {}
    for y, x, (h, w) in tiles(level.shape[1:], chunk):
        blocks[name, 0, y // chunk, x // chunk] = level[:, y : y + h, x : x + w]
    sides = (tuple(min(chunk, size - k) for k in range(0, size, chunk)) for size in level.shape[1:])
    return da.Array(blocks, name, (level.shape[:1], *sides), dtype=level.dtype)


def blank_levels(shape: tuple[int, int], *, chunk: int = CHUNK) -> list[Any]:
    """Lazy levels of zeros for an image whose pixels are written later."""
    import dask.array as da

    return [da.zeros((3, *s), dtype=np.uint8, chunks=(3, chunk, chunk)) for s in level_shapes(shape)]


def fill(
    arrays: list[zarr.Array],
    paint: Callable[[int, int, tuple[int, int]], np.ndarray],
    *,
    tile: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> None:
    """Write an image tile by tile into the arrays of its pyramid, in memory bounded by the tile.

    Parameters
    ----------
    arrays
        Levels of the store, from full resolution down.
    paint
        Function of y, x and (h, w) that returns the rectangle with its top left pixel at (y, x), uint8 (3, h, w).
    tile
        Side of a tile in pixels, a multiple of the chunks.
    progress
        Function around the iteration over tiles, such as a progress bar.
    """
    for y, x, shape in progress(tiles(_yx(arrays[0]), tile)):
        arrays[0][:, y : y + shape[0], x : x + shape[1]] = paint(y, x, shape)
    for finer, coarser in pairwise(arrays):
        for y, x, shape in tiles(_yx(coarser), tile):
            source = finer[:, 2 * y : 2 * (y + shape[0]), 2 * x : 2 * (x + shape[1])]
            coarser[:, y : y + shape[0], x : x + shape[1]] = halve(np.asarray(source))


def _yx(array: zarr.Array) -> tuple[int, int]:
    """Height and width of an image (3, y, x)."""
    return array.shape[1], array.shape[2]


def tiles(shape: tuple[int, int], tile: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Rectangles (y, x, (h, w)) that cover an image."""
    return [
        (y, x, (min(tile, shape[0] - y), min(tile, shape[1] - x)))
        for y in range(0, shape[0], tile)
        for x in range(0, shape[1], tile)
    ]
