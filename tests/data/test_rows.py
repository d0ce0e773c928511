"""Arrays that are filled row by row: what an interrupted run leaves is used where it can be trusted."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from storm import _files
from storm.data.rows import DamagedRowsError, Rows, large_empty


def batches(n: int = 20, d: int = 3, size: int = 4) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    order, values = rng.permutation(n), rng.normal(size=(n, d)).astype(np.float32)
    return values, [order[i : i + size] for i in range(0, n, size)]


def test_rows_without_files() -> None:
    values, parts = batches()
    rows = Rows(values.shape)
    for part in parts[:-1]:
        rows.write(part, values[part])
    out = rows.finish()
    assert np.isnan(out[parts[-1]]).all()
    for part in parts[:-1]:
        np.testing.assert_array_equal(out[part], values[part])


def test_large_rows_lie_in_a_scratch_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storm.data.rows._IN_MEMORY", 100)
    values, parts = batches()
    rows = Rows(values.shape)
    assert isinstance(rows.values, np.memmap)
    for part in parts:
        rows.write(part, values[part])
    np.testing.assert_array_equal(rows.finish(), values)


@pytest.mark.parametrize("damage", ["torn record", "lost values", "foreign bytes"])
def test_doubtful_rows_are_computed_again(tmp_path: Path, damage: str) -> None:
    values, parts = batches()
    rows = Rows(values.shape, tmp_path / "tiles")
    for part in parts[:3]:
        rows.write(part, values[part])
    rows.values.flush()
    del rows
    log, stored = tmp_path / "tiles.log", tmp_path / "tiles.npy"
    trusted = parts[:2]
    if damage == "torn record":
        log.write_bytes(log.read_bytes()[:-5])
    elif damage == "lost values":  # logged, but the page never reached the disk
        array = np.load(stored, mmap_mode="r+")
        array[parts[2][1]] = 0
        array.flush()
    else:
        log.write_bytes(log.read_bytes() + b"\x07" * 30)
        trusted = parts[:3]
    again = Rows(values.shape, tmp_path / "tiles")
    assert set(np.flatnonzero(again.done)) == {row for part in trusted for row in part}
    for part in parts:
        if not again.done[part].all():
            again.write(part, values[part])
    np.testing.assert_array_equal(again.finish(), values)
    # and the log is whole again
    assert Rows(values.shape, tmp_path / "tiles").done.all()


def _garbage() -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    yield b""
    yield b"\x93NUMPY"
    yield b"\x93NUMPY\x01\x00\xff\xff"
    for header in (b"{", b"[1]", b"{'descr': '<f4'}", b"(" * 300, b"{'descr': 5, 'fortran_order': 0, 'shape': 'a'}"):
        yield b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    huge = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999999999999, 3)}"
    yield b"\x93NUMPY\x01\x00" + len(huge).to_bytes(2, "little") + huge
    for _ in range(20):
        yield rng.bytes(200)


def test_values_that_are_no_array(tmp_path: Path) -> None:
    """Whatever the file holds, the error is ours, and the file stays."""
    stored, log = tmp_path / "tiles.npy", tmp_path / "tiles.log"
    log.touch()
    for content in _garbage():
        stored.write_bytes(content)
        with pytest.raises(DamagedRowsError, match=r"tiles\.npy is not an array"):
            Rows((20, 3), tmp_path / "tiles")
        assert stored.read_bytes() == content


@pytest.mark.parametrize(
    "values",
    [np.zeros((20, 4), np.float32), np.zeros((20, 3)), np.asfortranarray(np.zeros((20, 3), np.float32))],
    ids=["shape", "type", "order"],
)
def test_values_of_another_kind(tmp_path: Path, values: np.ndarray) -> None:
    np.save(tmp_path / "tiles.npy", values)
    (tmp_path / "tiles.log").touch()
    with pytest.raises(DamagedRowsError, match=r"not float32 of shape \(20, 3\)"):
        Rows((20, 3), tmp_path / "tiles")


def test_values_that_are_cut_off(tmp_path: Path) -> None:
    """A file that is too short is not lengthened: that would be a map without room behind it."""
    values, parts = batches()
    Rows(values.shape, tmp_path / "tiles").write(parts[0], values[parts[0]])
    stored = tmp_path / "tiles.npy"
    os.truncate(stored, 200)
    with pytest.raises(DamagedRowsError):
        Rows(values.shape, tmp_path / "tiles")
    assert stored.stat().st_size == 200


# --------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_is_an_error(small_disk: Path) -> None:
    """A map of a file without room would end the process (SIGBUS) when it is written to."""
    with pytest.raises(OSError, match=r"tiles\.npy, which takes 12,000,000 bytes .* are free\); make room") as caught:
        Rows((1_000_000, 3), small_disk / "tiles")
    assert caught.value.errno == errno.ENOSPC


def test_rows_that_fit_have_their_room(small_disk: Path) -> None:
    """What others write later does not take the room away."""
    rows = Rows((50_000, 3), small_disk / "tiles")
    with pytest.raises(OSError, match="No space left"), (small_disk / "other").open("wb") as file:
        file.write(bytes(2**20))
    rows.values[:] = 1  # would be the end of this process
    rows.values.flush()
    with pytest.raises(OSError, match=r"tiles\.log"):
        rows.write(np.arange(50_000), np.ones((50_000, 3)))


def test_scratch_on_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storm.data.rows._IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(OSError, match=r"takes 12,000,000 bytes .* or set TMPDIR to a folder with more room"):
        large_empty((1_000_000, 3))
    large_empty((50_000, 3))[:] = 1


@pytest.mark.parametrize("error", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_room_is_reserved_without_help_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
) -> None:
    """A sparse file becomes a solid one; what it holds stays."""
    if error is None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:

        def refuse(*_: object) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    size = 3 * _files._BLOCK + 5
    path = tmp_path / "values"
    with path.open("w+b") as file:
        file.truncate(_files._BLOCK + 7)
        file.seek(11)
        file.write(b"what it holds")
        _files.reserve(file, size)
    content = path.read_bytes()
    assert content[11:24] == b"what it holds"
    assert content.count(0) == size - 13
    assert path.stat().st_blocks * 512 >= size


def test_a_full_disk_while_reserving_by_hand(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(OSError, match=r"which takes 12,000,000 bytes"):
        Rows((1_000_000, 3), small_disk / "tiles")
