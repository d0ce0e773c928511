"""Arrays that are filled row by row: in memory, in a scratch file, or in files that survive the process.

Beside the values lies a log of the batches that were finished. Each record holds a checksum of its rows, so that
neither half a record nor rows that never reached the disk are taken for finished ones.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np

from storm._files import full_disk_explained, reserve
from storm.data.memory import large_array

#: Before a record's rows: how many there are, checksum of the rows' values, checksum of the row numbers.
_HEAD = struct.Struct("<III")
#: Bytes above which rows without a journal lie in a scratch file rather than in memory.
_IN_MEMORY = 512 * 1024**2


class DamagedRowsError(ValueError):
    """The files of an earlier run do not hold rows of the expected shape."""


class Rows:
    """A float32 array that is filled row by row.

    Parameters
    ----------
    shape
        Number of rows and columns, (n, d).
    path
        File without its ending, for the values and their log. ``None`` keeps the values in memory, or in a scratch file
        without a name where they are too large.

    Attributes
    ----------
    values
        float32, shape (n, d).
    done
        Which rows are finished; bool, shape (n,).

    Raises
    ------
    DamagedRowsError
        If there is a log at ``path``, but no values that fit.
    OSError
        If the disk is full.
    """

    def __init__(self, shape: tuple[int, int], path: Path | None = None) -> None:
        self.shape = shape
        self.done = np.zeros(shape[0], dtype=bool)
        self._log: Path | None = None
        if path is None:
            self.values = large_empty(shape)
            return
        stored, log = path.with_name(path.name + ".npy"), path.with_name(path.name + ".log")
        self._log = log
        if log.exists():
            self.values = _open_stored(stored, shape)
            self._replay(log)
        else:
            self.values = _make_stored(stored, shape)
            log.touch()

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Keep a finished batch: row numbers, shape (b,), and their values, shape (b, d)."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        self.values[rows] = values
        self.done[rows] = True
        if self._log is not None:
            numbers = np.ascontiguousarray(rows, dtype="<i8").tobytes()
            record = _HEAD.pack(len(rows), zlib.crc32(values.tobytes()), zlib.crc32(numbers)) + numbers
            with full_disk_explained(self._log, needed=len(record)), self._log.open("ab") as file:
                file.write(record)

    def finish(self) -> np.ndarray:
        """Return the values, float32, shape (n, d), with NaN in the rows that were never written."""
        self.values[~self.done] = np.nan
        return self.values

    def _replay(self, log: Path) -> None:
        """Mark the rows that the log confirms; whatever comes after the first doubtful record is computed again."""
        data, at = log.read_bytes(), 0
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
        with log.open("r+b") as file:
            file.truncate(at)


def large_empty(shape: tuple[int, int]) -> np.ndarray:
    """Make an uninitialised array: in memory, or, above half a GiB, in a scratch file without a name.

    Parameters
    ----------
    shape
        Number of rows and columns, (n, d).

    Returns
    -------
    numpy.ndarray
        float32, shape (n, d).

    Raises
    ------
    OSError
        If the disk with the folder for temporary files is full.
    """
    size = 4 * shape[0] * shape[1]
    if size <= _IN_MEMORY:
        return large_array(shape)
    advice = ", or set TMPDIR to a folder with more room"
    place = f"a scratch file in {tempfile.gettempdir()}"
    with full_disk_explained(place, needed=size, advice=advice), tempfile.TemporaryFile() as file:
        reserve(file, size)
        return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)  # the mapping keeps the file


def _make_stored(path: Path, shape: tuple[int, int]) -> np.ndarray:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    size = 4 * shape[0] * shape[1]
    with full_disk_explained(path, needed=size), path.open("w+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        reserve(file, file.tell() + size)
    return np.lib.format.open_memmap(path, mode="r+")


def _open_stored(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        values = np.lib.format.open_memmap(path, mode="r")  # for writing, numpy would lengthen a file that is cut off
    except FileNotFoundError as error:
        msg = "a log without values"
        raise DamagedRowsError(msg) from error
    except Exception as error:
        # numpy has no error of its own for a header that is not one: whatever it raises, the file cannot be used.
        msg = f"{path.name} is not an array ({type(error).__name__})"
        raise DamagedRowsError(msg) from error
    if values.shape != shape or values.dtype != np.float32 or not values.flags.c_contiguous:
        msg = f"{path.name} is {values.dtype} of shape {values.shape}, not float32 of shape {shape}"
        raise DamagedRowsError(msg)
    # An older version of STORM did not reserve room for what was not yet computed.
    with full_disk_explained(path, needed=values.nbytes), path.open("r+b") as file:
        reserve(file, path.stat().st_size)
    return np.lib.format.open_memmap(path, mode="r+")
