"""Packed sections: plain arrays in a folder, read by memory-mapping, so that no section is held in memory whole.

A shard is what a section is before any choice of a training run: places, windows, raw counts with the section's own
gene names, and embeddings (or pixels) of its tiles. The format is numpy's ``.npy`` and json, every file with its
sha256; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from storm._files import replacing
from storm.data.windows import Windows
from storm.model.weights import sha256

FORMAT = 1
_FACTS = "shard.json"
#: Stored counts that are added up at a time.
_BLOCK = 2**22
_CSR = ("counts_data", "counts_indices", "counts_indptr")


@dataclass(frozen=True)
class PatchStream:
    """Pixels of a section's tiles, batch by batch; rows that are in no batch stay black.

    Attributes
    ----------
    px
        Side of a tile in pixels.
    batches
        Rows (b,) and their pixels, uint8 (b, px, px, 3), in any order.
    """

    px: int
    batches: Iterable[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Shard:
    """A packed section on disk; arrays are mapped into memory when they are first asked for.

    Attributes
    ----------
    path
        Its folder.
    facts
        ``name``, ``n``, ``kind`` and ``pitch`` of the windows, ``genes``, and whatever else the writer recorded.
    """

    path: Path
    facts: dict[str, Any]

    def __len__(self) -> int:
        return self.facts["n"]

    @property
    def name(self) -> str:
        """Name of the section."""
        return self.facts["name"]

    @property
    def genes(self) -> list[str]:
        """The section's own gene names, in the order of the counts' columns."""
        return self.facts["genes"]

    def has(self, name: str) -> bool:
        """Whether the shard has an array of this name, such as ``"he"``, ``"patches"`` or ``"counts_data"``."""
        return f"{name}.npy" in self.facts["sha256"]

    def array(self, name: str) -> np.ndarray:
        """One array, mapped from its file.

        Raises
        ------
        KeyError
            If the shard has none of this name.
        """
        if not self.has(name):
            available = sorted(self.facts["sha256"])
            msg = f"shard {self.name!r} has no {name!r}; it holds {available}"
            raise KeyError(msg)
        return np.load(self.path / f"{name}.npy", mmap_mode="r")

    @cached_property
    def index(self) -> np.ndarray:
        """Members of each window, int32, shape (n, L)."""
        return self.array("index")

    @cached_property
    def offsets(self) -> np.ndarray:
        """Their places relative to the centre in pitches, shape (L, 2) or (n, L, 2)."""
        return self.array("offsets")

    @cached_property
    def centres(self) -> np.ndarray:
        """Places x and y of every spot, shape (n, 2)."""
        return self.array("centres")

    @cached_property
    def _csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        data, indices, indptr = (self.array(name) for name in _CSR)
        return data, indices, indptr

    def totals(self) -> np.ndarray:
        """Counts of each gene over all spots, float64, shape (number of genes,)."""
        data, indices, _ = self._csr
        totals = np.zeros(len(self.genes))
        for start in range(0, len(data), _BLOCK):
            part = slice(start, start + _BLOCK)
            totals += np.bincount(indices[part], weights=data[part], minlength=len(totals))
        return totals

    def counts(self, rows: np.ndarray) -> csr_matrix:
        """Raw counts of some spots, shape (len(rows), number of genes); only their part of the file is read."""
        data, indices, indptr = self._csr
        start = np.asarray(indptr[rows], dtype=np.int64)
        length = np.asarray(indptr[np.asarray(rows) + 1], dtype=np.int64) - start
        ends = np.concatenate([[0], np.cumsum(length)])
        at = np.repeat(start - ends[:-1], length) + np.arange(ends[-1])
        parts = (np.asarray(data[at], dtype=np.float32), np.asarray(indices[at]), ends)
        return csr_matrix(parts, shape=(len(rows), len(self.genes)))


def write_shard(
    folder: str | Path,
    *,
    name: str,
    centres: np.ndarray,
    windows: Windows,
    counts: csr_matrix | None = None,
    genes: Sequence[str] | np.ndarray | None = None,
    he: np.ndarray | None = None,
    patches: np.ndarray | PatchStream | None = None,
    facts: dict[str, Any] | None = None,
) -> Shard:
    """Pack a section, whole or not at all.

    Parameters
    ----------
    folder
        Folder of the shard; an existing one is replaced.
    name
        Name of the section.
    centres
        x and y, shape (n, 2).
    windows
        Windows around them.
    counts, genes
        Raw counts, shape (n, g), and the name of each column.
    he
        Tile embeddings, shape (n, d); a row of NaN where there is none.
    patches
        Pixels of the tiles, uint8, shape (n, p, p, 3); or a stream of them, which is never held as a whole.
    facts
        Further facts of the section, for json.

    Returns
    -------
    Shard

    Raises
    ------
    ValueError
        If shapes disagree, or there is neither expression nor H&E.
    """
    folder, n = Path(folder), len(centres)
    if counts is None and he is None and patches is None:
        msg = f"section {name!r} has neither counts nor H&E; there is nothing to learn from"
        raise ValueError(msg)
    shapes = {"windows": len(windows)} | {
        key: value.shape[0]
        for key, value in (("counts", counts), ("he", he), ("patches", patches))
        if value is not None and not isinstance(value, PatchStream)
    }
    if wrong := {key: value for key, value in shapes.items() if value != n}:
        msg = f"section {name!r} has {n} centres, but {wrong}"
        raise ValueError(msg)
    if (counts is None) != (genes is None) or (
        counts is not None and genes is not None and counts.shape[1] != len(genes)
    ):
        msg = f"section {name!r}: counts and genes come together, one name for each column"
        raise ValueError(msg)
    arrays = {"centres": np.asarray(centres, np.float64), "index": windows.index, "offsets": windows.offsets}
    if counts is not None:
        counts = csr_matrix(counts)
        wide = np.int64 if counts.nnz > np.iinfo(np.int32).max else np.int32
        arrays["counts_data"] = _small(counts.data)
        arrays["counts_indices"] = counts.indices.astype(np.int32, copy=False)
        arrays["counts_indptr"] = counts.indptr.astype(wide, copy=False)
    if he is not None:
        arrays["he"] = np.asarray(he, dtype=np.float32)
    if isinstance(patches, np.ndarray):
        if patches.dtype != np.uint8 or patches.ndim != 4:
            msg = f"section {name!r}: patches must be uint8 of shape (n, p, p, 3), not {patches.dtype} {patches.shape}"
            raise ValueError(msg)
        arrays["patches"] = patches
    with replacing(folder) as scratch:
        scratch.mkdir(parents=True)
        for key, array in arrays.items():
            np.save(scratch / f"{key}.npy", array, allow_pickle=False)
        if isinstance(patches, PatchStream):
            _write_stream(scratch / "patches.npy", patches, n)
        known = {
            **(facts or {}),
            "format": FORMAT,
            "name": name,
            "n": n,
            "kind": windows.kind,
            "pitch": float(windows.pitch),
            "genes": [] if genes is None else [str(gene) for gene in genes],
            "sha256": {path.name: sha256(path) for path in sorted(scratch.glob("*.npy"))},
        }
        (scratch / _FACTS).write_text(json.dumps(known) + "\n", encoding="utf-8")
    return Shard(folder, known)


def open_shard(folder: str | Path, *, check: bool = True) -> Shard:
    """Open a packed section.

    Parameters
    ----------
    folder
        Its folder.
    check
        Read every file once and compare its sha256.

    Raises
    ------
    FileNotFoundError
        If the folder does not hold a shard.
    ValueError
        If it is of another format, or a file is missing or has changed since it was written.
    """
    folder = Path(folder)
    if not (folder / _FACTS).is_file():
        msg = f"there is no packed section in {str(folder)!r}"
        raise FileNotFoundError(msg)
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    if facts.get("format") != FORMAT:
        msg = f"the packed section {str(folder)!r} has format {facts.get('format')!r}, not {FORMAT}; pack it again"
        raise ValueError(msg)
    for name, expected in facts["sha256"].items():
        if not (folder / name).is_file() or (check and sha256(folder / name) != expected):
            msg = f"{name!r} of the packed section {str(folder)!r} is missing or damaged; remove the folder, pack again"
            raise ValueError(msg)
    return Shard(folder, facts)


def _write_stream(path: Path, patches: PatchStream, n: int) -> None:
    shape = (n, patches.px, patches.px, 3)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    for rows, pixels in patches.batches:
        out[rows] = pixels
    out.flush()


def _small(values: np.ndarray) -> np.ndarray:
    """Counts in as few bytes as hold them exactly."""
    if len(values) and np.array_equal(values, np.round(values)) and values.min() >= 0:
        for kind in (np.uint8, np.uint16):
            if values.max() <= np.iinfo(kind).max:
                return values.astype(kind)
    return values.astype(np.float32, copy=False)
