"""Rectangles of an image, visited in an order in which every chunk is decoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from storm.data.prefetch import mapped
from storm.data.sources import Source

#: Edge of the pieces in which large chunks are visited, in pixels, so that a canvas stays small.
_CELL_PX = 1024
#: Height of the bands in which an image is visited, in pixels: a few chunks of the usual sizes.
_BAND_PX = 2048
#: Bytes of chunks that several threads may decode ahead of the canvas that needs them, unless one chunk takes more.
_AHEAD_BYTES = 256_000_000
#: Largest share of the image's shorter side that a band may take, so that small images have several bands, too.
_BAND_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Canvas:
    """Pixels that cover some rectangles.

    Attributes
    ----------
    rows
        Which rectangles, int64 (b,).
    x0, y0
        Upper left corner of the canvas in pixels of the image; the canvas may reach beyond the image.
    pixels
        uint8 (3, h, w), in the order in memory that was asked for. Pixels that no rectangle needs are arbitrary.
    """

    rows: np.ndarray
    x0: int
    y0: int
    pixels: np.ndarray


class Sweep:
    """Canvases of an image around rectangles, such that each chunk is decoded once and dropped as soon as possible.

    The image is visited in bands along its longer side, and each band from end to end. At a time there are in memory
    one canvas and the chunks that later ones need again, about a row of them.

    Parameters
    ----------
    source
        The pixels.
    rects
        x0, y0, x1, y1 in whole pixels, shape (n, 4); pixels beyond the image are filled.
    fill
        Grey value beyond the image.
    max_px
        Largest number of pixels of a canvas, unless a single rectangle (or those that begin in one piece of 1024 px)
        take more.
    max_rows
        Largest number of rectangles on a canvas.
    threads
        Number of threads that decode chunks; with one it is the calling thread. Canvases and their order are the same.
    order
        ``"C"``: canvases are contiguous planes. ``"K"``: they lie in memory as the source's chunks do, planes or
        channels side by side, which is faster.
    """

    def __init__(
        self,
        source: Source,
        *,
        rects: np.ndarray,
        fill: int = 255,
        max_px: int = 4_000_000,
        max_rows: int | None = None,
        threads: int = 1,
        order: Literal["C", "K"] = "C",
    ) -> None:
        self.source, self.rects, self.fill = source, rects, fill
        self._layout = order
        self._threads = 1 if source.in_memory else threads
        # First and last pixel of each rectangle, and the chunks in which these lie.
        size = np.array([source.width, source.height] * 2)
        low_x, low_y, high_x, high_y = (np.clip(rects, 0, size) - (0, 0, 1, 1)).T
        first_y, last_y = _place(source.y_edges, low_y), _place(source.y_edges, high_y)
        first_x, last_x = _place(source.x_edges, low_x), _place(source.x_edges, high_x)
        chunks = np.stack([first_y, last_y, first_x, last_x], axis=1)
        # The cell in which a rectangle begins: a chunk, or a piece of a large one.
        cell_y, cell_x = _place(_cells(source.y_edges), low_y), _place(_cells(source.x_edges), low_x)
        # Bands lie across the longer side ("major"), and in each band cells are visited along the other ("minor").
        if source.height >= source.width:
            major, cell_major, cell_minor, step, short = first_y, cell_y, cell_x, source.chunks_yx[0], source.width
            place = low_y
        else:
            major, cell_major, cell_minor, step, short = first_x, cell_x, cell_y, source.chunks_yx[1], source.height
            place = low_x
        # Chunks of the major axis per band: as high as allowed, and a quarter of the shorter side at most.
        band = major // max(1, int(min(_BAND_PX, _BAND_SHARE * short)) // step)
        #: Rows of ``rects`` in the order in which they are visited.
        # By place last, so that the parts of a cell with many rectangles are strips.
        self.order = np.lexsort((place, cell_major, cell_minor, band))
        cells = np.stack([band, cell_minor, cell_major], axis=1)[self.order]
        self._boxes, self._stops = self._group(cells, max_px, max_rows or len(rects))
        self._plan(chunks[self.order])

    def __len__(self) -> int:
        """Number of canvases."""
        return len(self._stops)

    def _group(self, cells: np.ndarray, max_px: int, max_rows: int) -> tuple[list[list[int]], list[int]]:
        """Join neighbouring cells into canvases: their boxes, and the steps at which they end."""
        if not len(cells):
            return [], []
        new = np.flatnonzero(np.r_[True, (cells[1:] != cells[:-1]).any(axis=1)])
        length = np.diff(np.r_[new, len(cells)])
        # A cell with too many rectangles is cut into several.
        starts = np.concatenate([np.arange(a, a + n, max_rows) for a, n in zip(new, length, strict=True)])
        stops = np.r_[starts[1:], len(cells)].tolist()
        rects = self.rects[self.order]
        low = np.minimum.reduceat(rects[:, :2], starts, axis=0).tolist()
        high = np.maximum.reduceat(rects[:, 2:], starts, axis=0).tolist()
        # A cell joins the canvas before it while both fit, else it begins a new one.
        boxes, ends, begin = [[*low[0], *high[0]]], [stops[0]], 0
        for (x0, y0), (x1, y1), stop in zip(low[1:], high[1:], stops[1:], strict=True):
            box = boxes[-1]
            union = [min(box[0], x0), min(box[1], y0), max(box[2], x1), max(box[3], y1)]
            if (union[2] - union[0]) * (union[3] - union[1]) <= max_px and stop - begin <= max_rows:
                boxes[-1], ends[-1] = union, stop
            else:
                begin = ends[-1]
                boxes.append([x0, y0, x1, y1])
                ends.append(stop)
        return boxes, ends

    def _plan(self, chunks: np.ndarray) -> None:
        """Find the chunks that each canvas needs, and those that no later canvas needs.

        Parameters
        ----------
        chunks
            First and last chunk along y, first and last along x of each rectangle, in order, shape (n, 4).
        """
        # Successive rectangles of one canvas that need the same chunks are one use.
        group = np.repeat(np.arange(len(self._stops)), np.diff([0, *self._stops]))
        uses = np.column_stack([group, chunks])
        uses = uses[np.r_[True, (uses[1:] != uses[:-1]).any(axis=1)]] if len(uses) else uses
        n_y, n_x = self.source.grid
        step, y0, y1, x0, x1 = uses.T
        # One number for every pair of a canvas and a chunk that it needs: canvas · chunks + chunk.
        parts = []
        for dy in range(int((y1 - y0).max(initial=-1)) + 1):
            for dx in range(int((x1 - x0).max(initial=-1)) + 1):
                here = (y0 + dy <= y1) & (x0 + dx <= x1)
                parts.append((step[here] * n_y + y0[here] + dy) * n_x + x0[here] + dx)
        pairs = np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
        step, chunk = np.divmod(pairs, n_y * n_x)
        # Of each chunk that is used: its first pair, and its last, found in the reversed list.
        used, first = np.unique(chunk, return_index=True)
        last = len(chunk) - 1 - np.unique(chunk[::-1], return_index=True)[1]
        over = np.zeros(len(chunk), dtype=bool)
        over[last] = True
        # Pairs are sorted by canvas: cut between canvases they are its chunks, and whether it is the last to need them.
        cuts = np.searchsorted(step, np.arange(1, len(self._stops)))
        self._needs = list(zip(np.split(chunk, cuts), np.split(over, cuts), strict=True))
        # The chunks in the order in which they are first needed.
        self._reads = used[np.argsort(first)].tolist()
        # Bytes that are decoded for each pair, less those that were dropped after the pair before.
        sizes = 3 * np.outer(np.diff(self.source.y_edges), np.diff(self.source.x_edges)).ravel()[used]
        change = np.bincount(first, sizes, len(chunk)) - np.bincount(last + 1, sizes, len(chunk) + 1)[:-1]
        #: Largest number of bytes of decoded chunks that are in memory at a time, without those decoded ahead.
        self.held_bytes = int(np.cumsum(change).max(initial=0))

    def __iter__(self) -> Iterator[Canvas]:
        """Yield the canvases in order; each is newly allocated."""
        held: dict[int, np.ndarray] = {}
        n_x, begin = self.source.grid[1], 0
        ahead = min(2 * self._threads, max(1, _AHEAD_BYTES // (3 * math.prod(self.source.chunks_yx))))
        decoded = mapped(
            lambda chunk: self.source.read_chunk(*divmod(chunk, n_x)), self._reads, threads=self._threads, ahead=ahead
        )
        with closing(decoded):
            for box, stop, (needs, over) in zip(self._boxes, self._stops, self._needs, strict=False):
                for k, (chunk, done) in enumerate(zip(needs.tolist(), over.tolist(), strict=True)):
                    # Copied at once, while it is in the processor's cache, and held only if it is needed again, so that
                    # the next one is decoded into the same memory.
                    pixels = held.pop(chunk) if chunk in held else next(decoded)
                    if k == 0:
                        canvas = self._blank(box, self.order[begin:stop], like=pixels)
                    self._paste(pixels, divmod(chunk, n_x), canvas)
                    if not done:
                        held[chunk] = pixels
                    del pixels
                yield canvas
                del canvas  # the consumer may drop it before the next is begun
                begin = stop

    def _blank(self, box: list[int], rows: np.ndarray, *, like: np.ndarray) -> Canvas:
        """A canvas without its chunks, laid out like one of them; what lies beyond the image is filled."""
        x0, y0, x1, y1 = box
        pixels = np.empty_like(like.transpose(2, 0, 1), order=self._layout, shape=(3, y1 - y0, x1 - x0))
        pixels[:, : max(-y0, 0)] = self.fill
        pixels[:, max(self.source.height - y0, 0) :] = self.fill
        pixels[:, :, : max(-x0, 0)] = self.fill
        pixels[:, :, max(self.source.width - x0, 0) :] = self.fill
        return Canvas(rows, x0, y0, pixels)

    def _paste(self, chunk: np.ndarray, at: tuple[int, int], canvas: Canvas) -> None:
        """Copy the part of the chunk ``at`` a place of the grid that lies on a canvas."""
        top, left = int(self.source.y_edges[at[0]]) - canvas.y0, int(self.source.x_edges[at[1]]) - canvas.x0
        a, b = max(top, 0), min(top + chunk.shape[0], canvas.pixels.shape[1])
        c, d = max(left, 0), min(left + chunk.shape[1], canvas.pixels.shape[2])
        if a < b and c < d:
            canvas.pixels[:, a:b, c:d] = chunk[a - top : b - top, c - left : d - left].transpose(2, 0, 1)


def _place(edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number of the interval in which each value lies, shape (n,)."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _cells(edges: np.ndarray) -> np.ndarray:
    """Edges of chunks, with more of them in between where chunks are large."""
    parts = [np.linspace(a, b, -(-(b - a) // _CELL_PX) + 1)[:-1] for a, b in pairwise(edges)]
    return np.append(np.concatenate(parts).astype(np.int64), edges[-1])
