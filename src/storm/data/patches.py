"""H&E patches that are true in µm, read in the order of the image's chunks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from storm._checks import check_positive
from storm.data.resample import Resampler
from storm.data.sources import Source

T = TypeVar("T")

#: Raised whenever the pixels of a patch change, so that what was computed from others is not taken for the same.
READER_VERSION = 1

#: A level may be this much coarser than wanted before the next finer one is read.
_LEVEL_TOLERANCE = 1.05


@dataclass(frozen=True, eq=False)
class ImageLevel:
    """One level of an image pyramid.

    Attributes
    ----------
    source
        The pixels.
    um_to_px
        Affine map (x, y in µm) → (x, y in pixels), shape (2, 3), in the convention of pixel *edges*: pixel i spans
        [i, i + 1).
    """

    source: Source
    um_to_px: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.asarray(self.um_to_px, dtype=np.float64)
        if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or np.linalg.det(matrix[:, :2]) == 0:
            msg = f"um_to_px is an invertible affine map of shape (2, 3), got {matrix.tolist()}"
            raise ValueError(msg)
        object.__setattr__(self, "um_to_px", matrix)

    @property
    def um_per_px(self) -> float:
        """µm per pixel (square root of the pixel's area)."""
        return float(abs(np.linalg.det(self.um_to_px[:, :2])) ** -0.5)

    @property
    def um_per_px_coarsest(self) -> float:
        """µm per pixel along the direction in which a pixel is longest."""
        return float(1 / np.linalg.svd(self.um_to_px[:, :2], compute_uv=False)[-1])

    def to_px(self, points_um: np.ndarray) -> np.ndarray:
        """Map points (n, 2) from µm to pixels."""
        return points_um @ self.um_to_px[:, :2].T + self.um_to_px[:, 2]


class PatchReader:
    """Reads patches of an H&E image around centres in µm.

    A patch is a square of ``field_um`` whose edges are parallel to the axes of the µm frame, cut with sub-pixel
    precision and resized with an antialiasing filter. Patches are produced in an order in which every chunk of the
    pyramid level is decoded once: the image is swept along its longer axis, and a chunk is dropped after the last patch
    that needs it, so that about two rows of chunks (or as many as a field covers) are held at a time.

    The reader holds no container and can be pickled.

    Parameters
    ----------
    levels
        Levels of the pyramid, in any order.
    fill
        Grey value beyond the image; white is the background of H&E.
    """

    def __init__(self, levels: Sequence[ImageLevel], *, fill: int = 255) -> None:
        if not levels:
            msg = "a PatchReader needs at least one image level"
            raise ValueError(msg)
        self.levels = tuple(sorted(levels, key=lambda level: level.um_per_px))
        self.fill = int(fill)

    @property
    def um_per_px(self) -> float:
        """µm per pixel of the finest level."""
        return self.levels[0].um_per_px

    @property
    def extent_um(self) -> tuple[float, float, float, float]:
        """Box around the image in µm: x0, y0, x1, y1."""
        level = self.levels[0]
        width, height = level.source.width, level.source.height
        corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], dtype=np.float64)
        corners_um = (corners - level.um_to_px[:, 2]) @ np.linalg.inv(level.um_to_px[:, :2]).T
        return (*map(float, corners_um.min(axis=0)), *map(float, corners_um.max(axis=0)))

    def inside(self, centres_um: np.ndarray) -> np.ndarray:
        """Which centres lie on the image: bool (n,). NaN is nowhere."""
        level = self.levels[0]
        px = level.to_px(_as_centres(centres_um))
        with np.errstate(invalid="ignore"):
            return ((px >= 0) & (px < (level.source.width, level.source.height))).all(axis=1)

    def level_for(self, field_um: float, out_px: int) -> int:
        """Index of the coarsest level that is no coarser than the patch (5 % are forgiven), else of the finest."""
        wanted = field_um / out_px * _LEVEL_TOLERANCE
        return max((k for k, level in enumerate(self.levels) if level.um_per_px_coarsest <= wanted), default=0)

    def read(self, centres_um: np.ndarray, *, field_um: float, out_px: int) -> np.ndarray:
        """Read all patches into memory.

        Parameters
        ----------
        centres_um
            x and y of the centres in µm, shape (n, 2).
        field_um
            Edge of the field in µm.
        out_px
            Edge of the patches in pixels.

        Returns
        -------
        uint8 (n, out_px, out_px, 3), in the order of the centres; those outside the image are filled with ``fill``.
        """
        centres_um = _as_centres(centres_um)
        _check_geometry(field_um, out_px)
        out = np.full((len(centres_um), out_px, out_px, 3), self.fill, dtype=np.uint8)
        for index, patches in self.iter_patches(centres_um, field_um=field_um, out_px=out_px, prefetch=0):
            out[index] = patches
        return out

    def iter_patches(
        self, centres_um: np.ndarray, *, field_um: float, out_px: int, batch_size: int = 256, prefetch: int = 2
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over batches of patches in the order of the chunks.

        Parameters
        ----------
        centres_um
            x and y of the centres in µm, shape (n, 2). Those that are not inside the image are left out.
        field_um
            Edge of the field in µm.
        out_px
            Edge of the patches in pixels.
        batch_size
            Patches per batch; the last batch may be smaller.
        prefetch
            Batches that one background thread keeps ready; 0 reads in the calling thread. Closing the generator stops
            the thread, and an error in the thread is raised here.

        Yields
        ------
        index
            Rows of ``centres_um``, int64 (b,).
        patches
            uint8 (b, out_px, out_px, 3).

        Raises
        ------
        ValueError
            If a size is not positive or ``centres_um`` is not (n, 2).
        """
        centres_um = _as_centres(centres_um)
        _check_geometry(field_um, out_px)
        check_positive(batch_size, name="batch_size")
        level = self.levels[self.level_for(field_um, out_px)]
        resample = Resampler(level.um_to_px, field_um=field_um, out_px=out_px)
        index = np.flatnonzero(self.inside(centres_um))
        boxes = resample.boxes(centres_um[index])
        sweep = Sweep(level.source, rects=resample.rects(boxes), fill=self.fill)

        def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            crops = iter(sweep)
            for start in range(0, len(index), int(batch_size)):
                rows = sweep.order[start : start + int(batch_size)]
                patches = np.empty((len(rows), out_px, out_px, 3), dtype=np.uint8)
                for k, row in enumerate(rows):
                    patches[k] = resample(next(crops), boxes[row] - np.tile(sweep.rects[row, :2], 2))
                yield index[rows], patches

        return prefetched(batches, depth=prefetch) if prefetch else batches()


class Sweep:
    """Cuts rectangles out of a source so that each chunk is decoded once and held no longer than needed.

    Iterating yields the crops, uint8 (h, w, 3), in the order ``order``.

    Parameters
    ----------
    source
        The pixels.
    rects
        x0, y0, x1, y1 in whole pixels, shape (n, 4); what lies beyond the image is filled.
    fill
        Grey value beyond the image.
    """

    def __init__(self, source: Source, *, rects: np.ndarray, fill: int = 255) -> None:
        self.source, self.rects, self.fill = source, rects, fill
        size = np.array([source.width, source.height] * 2)
        self._clipped = np.clip(rects, 0, size)
        first_x, first_y, last_x, last_y = (
            np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
            for edges, values in zip(
                [source.x_edges, source.y_edges] * 2, (self._clipped - (0, 0, 1, 1)).T, strict=True
            )
        )
        major, minor = (first_y, first_x) if source.height >= source.width else (first_x, first_y)
        #: Rows of ``rects`` in the order in which they are cut.
        self.order = np.lexsort((minor, major))
        self._chunks = np.stack([first_y, last_y, first_x, last_x], axis=1)
        self._evict = self._last_uses()

    def _last_uses(self) -> list[tuple[int, tuple[int, int]]]:
        """When each chunk is used for the last time: (step, chunk), sorted."""
        last = np.full(self.source.grid, -1, dtype=np.int64)
        y0, y1, x0, x1 = self._chunks[self.order].T
        steps = np.arange(len(self.order))
        for dy in range(int((y1 - y0).max(initial=-1)) + 1):
            for dx in range(int((x1 - x0).max(initial=-1)) + 1):
                uses = (y0 + dy <= y1) & (x0 + dx <= x1)
                np.maximum.at(last, (y0[uses] + dy, x0[uses] + dx), steps[uses])
        used = np.argwhere(last >= 0)
        steps = last[tuple(used.T)]
        return [(int(steps[k]), (int(used[k, 0]), int(used[k, 1]))) for k in np.argsort(steps, kind="stable")]

    def __iter__(self) -> Iterator[np.ndarray]:
        held: dict[tuple[int, int], np.ndarray] = {}
        evict = iter([*self._evict, (len(self.order), (-1, -1))])
        step_out, chunk_out = next(evict)
        for step, row in enumerate(self.order):
            yield self._crop(int(row), held)
            while step_out <= step:
                del held[chunk_out]
                step_out, chunk_out = next(evict)

    def _crop(self, row: int, held: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
        x0, y0, x1, y1 = self.rects[row].tolist()
        i0, i1, j0, j1 = self._chunks[row].tolist()
        y_edges, x_edges = self.source.y_edges, self.source.x_edges
        crop: np.ndarray | None = None
        whole = (self._clipped[row] == self.rects[row]).all()
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                if (i, j) not in held:
                    held[i, j] = self.source.read_chunk(i, j)
                chunk, top, left = held[i, j], int(y_edges[i]), int(x_edges[j])
                if whole and i0 == i1 and j0 == j1:
                    return chunk[y0 - top : y1 - top, x0 - left : x1 - left]
                if crop is None:
                    crop = np.empty((y1 - y0, x1 - x0, 3), dtype=np.uint8)
                    if not whole:
                        crop.fill(self.fill)
                a, b = max(y0, top), min(y1, top + chunk.shape[0])
                c, d = max(x0, left), min(x1, left + chunk.shape[1])
                if a < b and c < d:
                    crop[a - y0 : b - y0, c - x0 : d - x0] = chunk[a - top : b - top, c - left : d - left]
        assert crop is not None, "a rectangle without chunks"
        return crop


def prefetched(make: Callable[[], Iterator[T]], *, depth: int) -> Iterator[T]:
    """Run an iterator in one background thread, at most ``depth`` items ahead.

    The thread starts with the first item. It ends when the iterator does, when it fails (the error is raised to the
    consumer) or when the generator is closed.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in make():
                if not put("item", item):
                    return
        except BaseException as error:  # noqa: BLE001 - whatever happens in the thread must reach the consumer
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=work, name="storm-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def _as_centres(centres_um: np.ndarray) -> np.ndarray:
    centres = np.asarray(centres_um, dtype=np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2:
        msg = f"centres are x and y in µm, shape (n, 2); got shape {centres.shape}"
        raise ValueError(msg)
    return centres


def _check_geometry(field_um: float, out_px: int) -> None:
    check_positive(field_um, name="field_um", unit="µm")
    check_positive(out_px, name="out_px", unit="pixels")
    if int(out_px) != out_px:
        msg = f"out_px={out_px!r} must be a whole number of pixels"
        raise ValueError(msg)
