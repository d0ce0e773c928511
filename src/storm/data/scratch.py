"""Huge chunks, decoded once into a scratch file that is read in small pieces."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from itertools import pairwise
from typing import Any

import numpy as np

from storm._files import full_disk_explained, reserve
from storm._logging import logger
from storm.data.sources import Source, regular_edges

#: Edge of the pieces, in pixels.
_PIECE_PX = 512


class ScratchSource(Source):
    """Pieces of 512 × 512 pixels of a source whose chunks are too large to be held, or to be decoded twice.

    A chunk cannot be decoded in part. At the first read of one of its pieces the whole chunk is decoded, which takes
    its full size in memory for a moment, and all its pieces are written to a scratch file (in the folder for temporary
    files, ``TMPDIR``), from which they are read. The file takes 3 bytes for each decoded pixel and is deleted with the
    source. After pickling, and in a forked process, a source starts a file of its own.

    Parameters
    ----------
    source
        Source with large chunks.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        edges = (_pieces(source.y_edges), _pieces(source.x_edges))
        super().__init__((3, source.height, source.width), edges=edges)
        self._file = _File()

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        """Read piece ``(i, j)``: uint8, shape (h, w, 3), rows along y."""
        if self._file.pid != os.getpid():  # two processes would share the position in the file
            self._file = _File()
        file = self._file
        with file.lock:
            if (i, j) not in file.starts:
                self._spill(file, i, j)
            file.stream.seek(file.starts[i, j])
            shape = (3, self._length(self.y_edges, i), self._length(self.x_edges, j))
            return np.moveaxis(np.frombuffer(file.stream.read(math.prod(shape)), dtype=np.uint8).reshape(shape), 0, 2)

    def _decode(self, i: int, j: int, box: tuple[slice, slice]) -> np.ndarray:
        return np.moveaxis(self.read_chunk(i, j), 2, 0)

    def _spill(self, file: _File, i: int, j: int) -> None:
        """Write all pieces of the chunk in which piece ``(i, j)`` lies."""
        chunk = [
            int(np.searchsorted(edges, pieces[k], side="right") - 1)
            for edges, pieces, k in (
                (self.source.y_edges, self.y_edges, i),
                (self.source.x_edges, self.x_edges, j),
            )
        ]
        size = 3 * self._length(self.source.y_edges, chunk[0]) * self._length(self.source.x_edges, chunk[1])
        place = f"a chunk of the image to a scratch file in {tempfile.gettempdir()}"
        advice = ", set TMPDIR to a folder with more room, or write the image in smaller chunks"
        with full_disk_explained(place, needed=size, advice=advice):
            reserve(file.stream, file.end + size)  # before it is decoded, which may take minutes
            logger.info("writing a chunk of %.2f GB to a scratch file in %s", size / 1e9, tempfile.gettempdir())
            decoded = self.source.read_chunk(*chunk)
            top, left = int(self.source.y_edges[chunk[0]]), int(self.source.x_edges[chunk[1]])
            starts: dict[tuple[int, int], int] = {}
            file.stream.seek(file.end)
            for k, y in enumerate(self.y_edges[:-1]):
                if not top <= y < top + decoded.shape[0]:
                    continue
                for m, x in enumerate(self.x_edges[:-1]):
                    if left <= x < left + decoded.shape[1]:
                        y1, x1 = self.y_edges[k + 1] - top, self.x_edges[m + 1] - left
                        starts[k, m] = file.stream.tell()
                        file.stream.write(np.moveaxis(decoded[y - top : y1, x - left : x1], 2, 0).tobytes())
            file.stream.flush()
        # Only now: what could not be written is not taken for a piece.
        file.starts |= starts
        file.end += size

    @staticmethod
    def _length(edges: np.ndarray, k: int) -> int:
        return int(edges[k + 1] - edges[k])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=_File())


class _File:
    """A scratch file of one process, without a name; where each piece starts in it, and where the last one ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.stream = tempfile.TemporaryFile(prefix="storm-")  # noqa: SIM115 - lives as long as the source
        self.starts: dict[tuple[int, int], int] = {}
        self.end = 0

    def __del__(self) -> None:
        self.stream.close()


def _pieces(edges: np.ndarray) -> np.ndarray:
    parts = [a + regular_edges(int(b - a), _PIECE_PX)[:-1] for a, b in pairwise(edges)]
    return np.append(np.concatenate(parts), edges[-1])
