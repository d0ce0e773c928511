"""Chunks of a zarr array decoded straight from their files.

zarr's own way to a chunk goes through an event loop, a codec pipeline and a copy, and costs two to three times what
decoding alone does. Where an array lies in a local folder and its codecs are the usual ones, the bytes of a chunk are
read and decoded here; everything else is left to zarr.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import zarr

#: Entry in the index of a shard for a chunk that was never written.
_ABSENT = np.uint64(2**64 - 1)


class ChunkFiles:
    """Decoder of single chunks of an array of bytes (c, y, x) in a local zarr store; made by :func:`chunk_files`."""

    def __init__(
        self,
        folder: Path,
        *,
        key: Callable[[tuple[int, ...]], str],
        chunk: tuple[int, ...],
        decoders: tuple[Any, ...],
        fill: int,
        shards: Shards | None = None,
    ) -> None:
        self.folder, self.key, self.chunk = folder, key, chunk
        self.decoders, self.fill, self.shards = decoders, fill, shards

    def decode(self, at: tuple[int, int, int]) -> np.ndarray:
        """Decode the chunk at place ``at`` of the grid: uint8, shape ``chunk``, also at the edges of the array."""
        encoded = self._bytes(at)
        if encoded is None:
            return np.full(self.chunk, self.fill, dtype=np.uint8)
        for codec in self.decoders:
            encoded = codec.decode(encoded)
        return np.frombuffer(encoded, dtype=np.uint8).reshape(self.chunk)

    def _bytes(self, at: tuple[int, int, int]) -> bytes | None:
        if self.shards is not None:
            return self.shards.read(self.folder, self.key, at)
        try:
            return (self.folder / self.key(at)).read_bytes()
        except FileNotFoundError:
            # zarr leaves out chunks in which every value is the fill value.
            return None


class Shards:
    """Places of chunks in files of many chunks.

    Parameters
    ----------
    per_shard
        Chunks in a shard along c, y and x.
    at_end
        Whether the index is at the end of the file, else at its beginning.
    checksum
        Whether four bytes of a checksum follow the index.
    """

    def __init__(self, per_shard: tuple[int, ...], *, at_end: bool, checksum: bool) -> None:
        self.per_shard, self.at_end = per_shard, at_end
        self.entries = math.prod(per_shard)
        self.index_bytes = 16 * self.entries + 4 * checksum
        self._index: dict[str, np.ndarray | None] = {}

    def read(self, folder: Path, key: Callable[[tuple[int, ...]], str], at: tuple[int, ...]) -> bytes | None:
        """Encoded bytes of one chunk, or ``None`` if it was never written."""
        name = key(tuple(a // n for a, n in zip(at, self.per_shard, strict=True)))
        if name not in self._index:
            self._index[name] = self._read_index(folder / name)
        index = self._index[name]
        if index is None:
            return None
        offset, length = index[tuple(a % n for a, n in zip(at, self.per_shard, strict=True))]
        if offset == _ABSENT:
            return None
        with (folder / name).open("rb") as file:
            file.seek(int(offset))
            return file.read(int(length))

    def _read_index(self, path: Path) -> np.ndarray | None:
        try:
            with path.open("rb") as file:
                if self.at_end:
                    file.seek(-self.index_bytes, 2)
                return np.frombuffer(file.read(16 * self.entries), dtype="<u8").reshape(*self.per_shard, 2)
        except FileNotFoundError:
            return None


def chunk_files(array: zarr.Array) -> ChunkFiles | None:
    """Return a decoder of single chunks of an array, or ``None`` where only zarr itself can decode them.

    The array must be uint8 (c, y, x) in a local folder, in C order, and either not compressed or compressed with zstd,
    blosc or gzip; with or without shards in format 3, without filters in format 2.
    """
    from zarr.storage import LocalStore

    store = array.store
    if not isinstance(store, LocalStore) or array.dtype != np.uint8 or array.ndim != 3:
        return None
    metadata: Any = array.metadata
    folder, key, fill = Path(store.root) / array.path, metadata.encode_chunk_key, int(metadata.fill_value or 0)
    if metadata.zarr_format == 2:
        if metadata.order != "C" or metadata.filters:
            return None
        compressor = () if metadata.compressor is None else (metadata.compressor,)
        return ChunkFiles(folder, key=key, chunk=metadata.chunks, decoders=compressor, fill=fill)
    codecs = [_as_dict(codec) for codec in metadata.codecs]
    shards = None
    if codecs[0]["name"] == "sharding_indexed" and len(codecs) == 1:
        sharding = codecs[0]["configuration"]
        index = [_as_dict(codec)["name"] for codec in sharding["index_codecs"]]
        if index not in (["bytes"], ["bytes", "crc32c"]) or _big_endian(sharding["index_codecs"][0]):
            return None
        shards = Shards(
            tuple(s // c for s, c in zip(array.shards or array.chunks, array.chunks, strict=True)),
            at_end=str(getattr(sharding["index_location"], "value", sharding["index_location"])) == "end",
            checksum="crc32c" in index,
        )
        codecs = [_as_dict(codec) for codec in sharding["codecs"]]
    decoders = _decoders(codecs)
    if decoders is None:
        return None
    return ChunkFiles(folder, key=key, chunk=array.chunks, decoders=decoders, fill=fill, shards=shards)


def _decoders(codecs: list[dict[str, Any]]) -> tuple[Any, ...] | None:
    import numcodecs

    known = {"zstd": numcodecs.Zstd, "blosc": numcodecs.Blosc, "gzip": numcodecs.GZip}
    names = [codec["name"] for codec in codecs]
    if names[0] != "bytes" or not set(names[1:]) <= set(known):
        return None
    return tuple(known[name]() for name in reversed(names[1:]))


def _as_dict(codec: Any) -> dict[str, Any]:
    return codec if isinstance(codec, dict) else codec.to_dict()


def _big_endian(codec: Any) -> bool:
    return str(_as_dict(codec).get("configuration", {}).get("endian", "little")).endswith("big")
