"""Sources of pixels: one small interface over arrays in memory, zarr arrays and dask graphs.

A source is one pyramid level of an image with three channels, cut into a grid of chunks: the smallest pieces that can
be decoded, which are read one at a time, also from several threads. It never starts a thread and can be pickled: a zarr
source is pickled as the address of its array and opens it again on the other side.
"""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.data.chunks import chunk_files

if TYPE_CHECKING:
    import dask.array as da
    import zarr

    from storm.data.chunks import ChunkFiles

#: Chunks with more pixels than this are reported: each takes over 192 MB when decoded, and a reader holds several.
HUGE_CHUNK_PX = 64_000_000


#: What codecs, stores and files raise when a chunk is damaged.
_DAMAGE = (ArithmeticError, EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error, zlib.error)


class Source(ABC):
    """One pyramid level of an image: uint8, three channels, cut into chunks.

    Parameters
    ----------
    shape
        Channels, height and width of the array behind the source.
    edges
        Where chunks begin and end along y and along x, each from 0 to the length of the axis.
    channels
        Which three channels are red, green and blue.
    dtype
        Type of the pixels; anything but uint8 is refused.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        edges: tuple[np.ndarray, np.ndarray],
        channels: tuple[int, ...] = (0, 1, 2),
        dtype: Any = np.uint8,
    ) -> None:
        if len(shape) != 3 or len(channels) != 3 or not all(0 <= c < shape[0] for c in channels):
            msg = f"a source is an image (c, y, x) with three channels; got shape {shape} and channels {channels}"
            raise ValueError(msg)
        if np.dtype(dtype) != np.uint8:
            msg = f"a source holds uint8 pixels, not {np.dtype(dtype)}"
            raise TypeError(msg)
        self.shape = tuple(int(s) for s in shape)
        self.y_edges, self.x_edges = (np.asarray(e, dtype=np.int64) for e in edges)
        self.channels = tuple(int(c) for c in channels)
        #: Name of the image, for errors.
        self.name = "the image"

    @property
    def in_memory(self) -> bool:
        """Whether a chunk costs nothing to decode."""
        return False

    @property
    def height(self) -> int:
        """Pixels along y."""
        return self.shape[1]

    @property
    def width(self) -> int:
        """Pixels along x."""
        return self.shape[2]

    @property
    def chunks_yx(self) -> tuple[int, int]:
        """Height and width of the largest chunk, in pixels."""
        return int(np.diff(self.y_edges).max()), int(np.diff(self.x_edges).max())

    @property
    def grid(self) -> tuple[int, int]:
        """Number of chunks along y and along x."""
        return len(self.y_edges) - 1, len(self.x_edges) - 1

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        """Decode chunk ``(i, j)``: uint8, shape (h, w, 3), rows along y.

        It is a view of the decoded chunk, in which the channels usually come one after the other, and must not be
        written to.

        Raises
        ------
        ValueError
            If the chunk is damaged.
        """
        box = (
            slice(int(self.y_edges[i]), int(self.y_edges[i + 1])),
            slice(int(self.x_edges[j]), int(self.x_edges[j + 1])),
        )
        try:
            planes = self._decode(i, j, box)
        except _DAMAGE as error:
            cause = error or type(error).__name__
            msg = f"{self.name} cannot be read: its chunk in row {i}, column {j} is damaged ({cause}); copy it again"
            raise ValueError(msg) from error
        if self.channels != tuple(range(len(planes))):
            planes = planes[list(self.channels)]
        return np.moveaxis(planes, 0, 2)

    @abstractmethod
    def _decode(self, i: int, j: int, box: tuple[slice, slice]) -> np.ndarray:
        """Return all channels of one chunk, shape (c, h, w)."""


def regular_edges(length: int, step: int) -> np.ndarray:
    """Edges of chunks of ``step`` pixels over ``length`` pixels; the last one may be shorter."""
    return np.append(np.arange(0, length, step), length)


class ArraySource(Source):
    """Pixels in memory.

    Parameters
    ----------
    array
        Image (c, y, x), uint8.
    chunks_yx
        Height and width of the pieces in which it is read, which are views of the array.
    channels
        Which three channels are red, green and blue.
    """

    def __init__(
        self, array: np.ndarray, *, chunks_yx: tuple[int, int] = (512, 512), channels: tuple[int, ...] = (0, 1, 2)
    ) -> None:
        step_y, step_x = chunks_yx
        edges = (regular_edges(array.shape[-2], step_y), regular_edges(array.shape[-1], step_x))
        super().__init__(array.shape, edges=edges, channels=channels, dtype=array.dtype)
        self._array = array

    @property
    def in_memory(self) -> bool:
        """Always."""
        return True

    def _decode(self, i: int, j: int, box: tuple[slice, slice]) -> np.ndarray:
        return self._array[:, *box]


class ZarrSource(Source):
    """A zarr array, read without dask; pickled as the address of the array.

    Parameters
    ----------
    store
        A path, URL or zarr store. What is given must itself be picklable if the source is to be pickled (paths, URLs
        and every store but a dictionary in memory are).
    component
        Path of the array inside the store.
    channels
        Which three channels are red, green and blue.

    Notes
    -----
    In a sharded array the inner chunks, which can be decoded one by one, are the chunks. Where an array lies in a local
    folder and is compressed in one of the usual ways, its chunks are decoded without zarr's own pipeline, see
    :mod:`storm.data.chunks`.
    """

    def __init__(self, store: Any, component: str = "", *, channels: tuple[int, ...] = (0, 1, 2)) -> None:
        self._store, self._component = store, component
        self._array: zarr.Array | None = None
        self._files: ChunkFiles | None = None
        array = self.array
        _, step_y, step_x = array.chunks if array.ndim == 3 else (0, 1, 1)
        edges = (regular_edges(array.shape[-2], step_y), regular_edges(array.shape[-1], step_x))
        super().__init__(array.shape, edges=edges, channels=channels, dtype=array.dtype)

    @classmethod
    def from_array(cls, array: zarr.Array, *, channels: tuple[int, ...] = (0, 1, 2)) -> ZarrSource:
        """Make a source that opens the same array on its own."""
        return cls(array.store, array.path, channels=channels)

    @property
    def array(self) -> zarr.Array:
        """The array, opened at the first access in each process."""
        if self._array is None:
            import zarr

            array = zarr.open_array(store=self._store, path=self._component or "", mode="r")
            self._files = chunk_files(array)
            self._array = array  # last: another thread takes both as they are once it is there
        return self._array

    def _decode(self, i: int, j: int, box: tuple[slice, slice]) -> np.ndarray:
        array = self.array
        if self._files is None:
            return np.asarray(array[:, *box])
        height, width = (s.stop - s.start for s in box)
        deep = array.chunks[0]
        blocks = [self._files.decode((k, i, j))[:, :height, :width] for k in range(-(-self.shape[0] // deep))]
        return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks))[: self.shape[0]]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_array": None, "_files": None}


class DaskSource(Source):
    """Any dask graph, computed block by block in the calling thread.

    The synchronous scheduler is slower than dask's threads, but a thread pool that was started before a process forks
    is dead in the child, which then waits for it forever. A block that is one task, such as a block of a slide in its
    file, is computed without a scheduler, which takes time itself and holds the block for longer than it is needed.

    Parameters
    ----------
    array
        Image (c, y, x), uint8.
    channels
        Which three channels are red, green and blue.
    """

    def __init__(self, array: da.Array, *, channels: tuple[int, ...] = (0, 1, 2)) -> None:
        edges = (np.cumsum((0, *array.chunks[-2])), np.cumsum((0, *array.chunks[-1])))
        super().__init__(array.shape, edges=edges, channels=channels, dtype=array.dtype)
        self._array = array
        self._graph: dict | None = None

    def _decode(self, i: int, j: int, box: tuple[slice, slice]) -> np.ndarray:
        import dask
        from dask._task_spec import convert_legacy_graph
        from dask.optimization import cull

        if self._graph is None:
            self._graph = dict(self._array.__dask_graph__())
        keys = [(self._array.name, c, i, j) for c in range(self._array.numblocks[0])]
        if len(keys) == 1:
            (block,) = convert_legacy_graph({keys[0]: self._graph[keys[0]]}, self._graph).values()
            if not block.dependencies:
                return np.asarray(block())
        # The part of the graph that this block needs; array.blocks[...].compute() would walk all of it each time.
        needed, _ = cull(self._graph, keys)
        blocks = dask.get(needed, keys)
        return np.asarray(blocks[0]) if len(blocks) == 1 else np.concatenate(blocks)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_leaves"} | {"_graph": None}

    @property
    def in_memory(self) -> bool:
        """Whether the graph starts from arrays in memory alone."""
        return all(isinstance(leaf, np.ndarray) for leaf in self._leaves)

    @property
    def shared_leaves(self) -> bool:
        """Whether many blocks are cut from few pieces, so that each piece would be decoded again for every block."""
        tasks = sum(not hasattr(leaf, "shape") for leaf in self._leaves)
        return 0 < 4 * tasks <= self.grid[0] * self.grid[1]

    def as_one_block(self) -> DaskSource:
        """The same image as a single chunk, so that pieces shared by its blocks are decoded once."""
        return DaskSource(self._array.rechunk(-1), channels=self.channels)

    @cached_property
    def _leaves(self) -> list[Any]:
        """Nodes from which the graph starts: arrays in it, or tasks that read or decode something."""
        graph = dict(self._array.dask)
        starts = [graph[key] for key, needs in self._array.dask.get_all_dependencies().items() if not needs]
        return [_held(node) for node in starts]


def as_source(data: np.ndarray | zarr.Array | da.Array, *, channels: tuple[int, ...] = (0, 1, 2)) -> Source:
    """Wrap an image (c, y, x) in the fastest source that fits it.

    A dask array that only reads a zarr array becomes a :class:`ZarrSource`.
    """
    if isinstance(data, np.ndarray):
        return ArraySource(data, channels=channels)
    import zarr

    stored = data if isinstance(data, zarr.Array) else zarr_behind(data)
    if stored is not None:
        return ZarrSource.from_array(stored, channels=channels)
    return DaskSource(data, channels=channels)  # type: ignore[arg-type]  # what is not a zarr array is a dask array


def zarr_behind(array: da.Array) -> zarr.Array | None:
    """Return the zarr array that a dask array reads as a whole and unchanged, or ``None``."""
    import zarr
    from dask.array.core import getter, getter_nofancy
    from dask.blockwise import Blockwise

    layers = list(array.dask.layers.values())
    if len(layers) != 2:
        return None
    reads = [layer for layer in layers if isinstance(layer, Blockwise) and layer.output == array.name]
    if len(reads) != 1 or getattr(reads[0].task, "func", None) not in (getter, getter_nofancy):
        return None
    values = [_held(v) for layer in layers if layer is not reads[0] for v in dict(layer).values()]
    if len(values) != 1 or not isinstance(values[0], zarr.Array):
        return None
    stored = values[0]
    return stored if stored.shape == array.shape and stored.dtype == array.dtype else None


def _held(node: Any) -> Any:
    """The value of a node that some versions of dask wrap, else the node itself."""
    return getattr(node, "value", node) if type(node).__name__ == "DataNode" else node
