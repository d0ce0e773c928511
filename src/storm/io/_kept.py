"""Decoded tiles of a small image: what looks for tissue, identifies the image and encodes it decodes it once."""

from __future__ import annotations

import weakref

import numpy as np

#: Bytes of a level's pixels, decoded, up to which they are kept.
_MOST_BYTES = 64_000_000


class KeptTiles:
    """Decoded tiles of one level of a file, if all of them together are small.

    Only the level that was read last keeps its tiles, so that many open slides take no more memory than one.

    Parameters
    ----------
    size
        Bytes of all pixels of the level.
    """

    _last: weakref.ref[KeptTiles] | None = None

    def __init__(self, size: int) -> None:
        self._small = size <= _MOST_BYTES
        self._tiles: dict[tuple[int, int], np.ndarray] = {}

    def get(self, at: tuple[int, int]) -> np.ndarray | None:
        """The tile that was kept under a page and a number, or ``None``."""
        return self._tiles.get(at)

    def keep(self, at: tuple[int, int], tile: np.ndarray) -> None:
        """Keep a tile, which must not be written to from now on, and let go those of another level."""
        if not self._small:
            return
        before = None if KeptTiles._last is None else KeptTiles._last()
        if before is not self:
            KeptTiles._last = weakref.ref(self)
            if before is not None:
                before._tiles = {}
        self._tiles[at] = tile
