"""Rows of numbers that survive the process: finished batches on disk, with checksums, beside the store they belong to.

A run that was killed leaves its rows and a log of the batches that were finished. The next run of the same takes what
the log vouches for. Each record holds a checksum of the rows that it speaks of, so that neither half a record nor rows
that never reached the disk are taken for finished ones.
"""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from storm._logging import logger

#: Before a record's rows: how many they are, checksum of the rows' values, checksum of the row numbers.
_HEAD = struct.Struct("<III")
#: Bytes above which rows without a journal lie in a scratch file rather than in memory.
_IN_MEMORY = 512 * 1024**2


class Rows:
    """A float32 array that is filled row by row.

    Parameters
    ----------
    shape
        (n, d).
    path
        File without its ending, for the values and their log; ``None`` keeps them in memory, or in a scratch file that
        nobody finds again where they are too large.
    """

    def __init__(self, shape: tuple[int, int], path: Path | None = None) -> None:
        self.shape = shape
        self.done = np.zeros(shape[0], dtype=bool)
        self._log: Path | None = None
        if path is None:
            self.values = large_empty(shape)
            return
        values, self._log = path.with_name(path.name + ".npy"), path.with_name(path.name + ".log")
        old = _open(values, shape) if self._log.is_file() else None
        if old is None:
            self._log.unlink(missing_ok=True)
            self.values = np.lib.format.open_memmap(values, mode="w+", dtype=np.float32, shape=shape)
            self._log.touch()
        else:
            self.values = old
            self._replay()

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep a finished batch: row numbers (b,) and their values (b, d)."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        self.values[rows] = values
        self.done[rows] = True
        if self._log is not None:
            numbers = np.ascontiguousarray(rows, dtype="<i8").tobytes()
            record = _HEAD.pack(len(rows), zlib.crc32(values.tobytes()), zlib.crc32(numbers)) + numbers
            with self._log.open("ab") as file:
                file.write(record)

    def finish(self) -> np.ndarray:
        """The values, NaN in the rows that were never written."""
        self.values[~self.done] = np.nan
        return self.values

    def _replay(self) -> None:
        """Take what the log vouches for; whatever comes after the first doubtful record is computed again."""
        data, at = self._log.read_bytes(), 0
        while at + _HEAD.size <= len(data):
            count, value_sum, number_sum = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + 8 * count
            numbers = data[at + _HEAD.size : end]
            if end > len(data) or zlib.crc32(numbers) != number_sum:
                break
            rows = np.frombuffer(numbers, dtype="<i8")
            if rows.size and not 0 <= rows.min() <= rows.max() < self.shape[0]:
                break
            if zlib.crc32(np.ascontiguousarray(self.values[rows]).tobytes()) != value_sum:
                break
            self.done[rows] = True
            at = end
        with self._log.open("r+b") as file:
            file.truncate(at)


class Journal:
    """The rows of one run, and what they were made from.

    Parameters
    ----------
    folder
        Folder of the run; ``None`` for a run that leaves nothing behind.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def rows(self, name: str, shape: tuple[int, int], *, facts: dict[str, Any]) -> Rows:
        """Rows of one stage: those of an earlier run of the same, else new ones.

        Parameters
        ----------
        name
            Of the stage.
        shape
            (n, d).
        facts
            All that decides about the values; where it is another one, the stage starts afresh.
        """
        if self.folder is None:
            return Rows(shape)
        self.folder.mkdir(parents=True, exist_ok=True)
        path, said = self.folder / name, self.folder / f"{name}.json"
        facts = json.loads(json.dumps(facts, default=str))
        before = _read(said)
        if before is not None and before != facts:
            changed = sorted(key for key in {*before, *facts} if before.get(key) != facts.get(key))
            logger.warning("an unfinished run is there, but with another %s: starting afresh", ", ".join(changed))
        if before != facts:
            (self.folder / f"{name}.log").unlink(missing_ok=True)
            said.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        rows = Rows(shape, path)
        if rows.done.any():
            logger.warning("going on after %d of %d rows, which an unfinished run left", rows.done.sum(), shape[0])
        return rows

    def remove(self) -> None:
        """Forget the run: what it computed is where it belongs."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def journal_of(store: Path | None, key: str) -> Iterator[Journal]:
    """The journal of a run whose results belong to a store, which no other run may write meanwhile.

    It lies beside the store, in ``<store>.storm``, and is removed when the block ends well; after an error or a kill it
    stays for the next run.

    Parameters
    ----------
    store
        Path of the store; ``None`` where there is none.
    key
        What the run computes.

    Raises
    ------
    RuntimeError
        If another process works on the store.
    """
    if store is None:
        yield Journal()
        return
    with locked(store) as beside:
        name = "".join(c if c.isalnum() or c in "_-." else "_" for c in key)
        journal = Journal(None if beside is None else beside / name)
        yield journal
        journal.remove()


@contextmanager
def locked(store: Path) -> Iterator[Path | None]:
    """Keep other processes of STORM from a store, as long as the block runs.

    The lock is the operating system's: it ends with the process, whatever ends that.

    Parameters
    ----------
    store
        Path of the store.

    Yields
    ------
    Path or None
        Folder beside the store for what a run leaves; ``None`` where nothing can be written, and nothing is locked.

    Raises
    ------
    RuntimeError
        If another process has it.
    """
    from filelock import FileLock, Timeout

    beside = store.with_name(store.name + ".storm")
    lock = FileLock(beside / "lock")
    try:
        beside.mkdir(exist_ok=True)
        lock.acquire(timeout=0)
        if not (beside / "lock").exists():  # the one before removed it between our opening and our locking it
            lock.release()
            beside.mkdir(exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout as error:
        msg = (
            f"another process of storm works on {store} (it holds {beside / 'lock'}); wait until it has finished, or "
            "give the second one a copy of the store"
        )
        raise RuntimeError(msg) from error
    except (OSError, NotImplementedError) as error:  # also a file system without locks
        logger.info("nothing can be written beside %s (%s): an interrupted run cannot be resumed", store, error)
        yield None
        return
    try:
        yield beside
    finally:
        # While the lock is still held, so that nobody else's is removed.
        if {path.name for path in beside.iterdir()} <= {"lock"}:
            shutil.rmtree(beside, ignore_errors=True)
        lock.release()


def large_empty(shape: tuple[int, int]) -> np.ndarray:
    """An uninitialised float32 array: in memory, or, above half a GiB, in a scratch file without a name."""
    if 4 * shape[0] * shape[1] <= _IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    from tempfile import TemporaryFile

    with TemporaryFile() as file:  # the mapping keeps it; no name is left behind
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _open(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        values = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError):
        return None
    return values if values.shape == shape and values.dtype == np.float32 else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
