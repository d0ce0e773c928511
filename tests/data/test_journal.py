"""What a killed run leaves is used again by the next run, and is never in its way, whatever became of it."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storm.data.journal import Journal, journal_name, journal_of
from storm.data.lock import locked

FACTS = {"model": "a", "batch": 4}
VALUES = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
FIRST = np.arange(8)


def begun(folder: Path) -> None:
    """A run that was killed after eight rows."""
    Journal(folder).rows("tiles", VALUES.shape, facts=FACTS).write(FIRST, VALUES[FIRST])


def test_a_later_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun(tmp_path / "run")
    again = Journal(tmp_path / "run").rows("tiles", VALUES.shape, facts=FACTS)
    assert "going on after 8 of 20 rows" in caplog.text
    assert set(np.flatnonzero(again.done)) == set(FIRST)
    rest = np.arange(8, 20)
    again.write(rest, VALUES[rest])
    np.testing.assert_array_equal(again.finish(), VALUES)


def test_another_run_starts_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun(tmp_path / "run")
    again = Journal(tmp_path / "run").rows("tiles", VALUES.shape, facts={**FACTS, "model": "b", "new": 1})
    assert not again.done.any()
    assert "with another model, new: starting afresh" in caplog.text
    assert np.isnan(again.finish()).all()


def test_a_journal_of_version_0_1_0(tmp_path: Path) -> None:
    """Its bytes, as they were then: facts, sparse values, and a log of records without a version."""
    import struct
    import zlib

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tiles.json").write_text(json.dumps(FACTS, indent=1))
    stored = np.lib.format.open_memmap(folder / "tiles.npy", mode="w+", dtype=np.float32, shape=VALUES.shape)
    stored[FIRST] = VALUES[FIRST]
    stored.flush()
    numbers = FIRST.astype("<i8").tobytes()
    head = struct.pack("<III", len(FIRST), zlib.crc32(VALUES[FIRST].tobytes()), zlib.crc32(numbers))
    (folder / "tiles.log").write_bytes(head + numbers)
    again = Journal(folder).rows("tiles", VALUES.shape, facts=FACTS)
    assert set(np.flatnonzero(again.done)) == set(FIRST)


def _folder_for(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name / "inside").mkdir(parents=True)

    return damage


def _file_for_run(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("not a folder")


#: What may have happened to a journal, and what the warning about it names.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "facts are a list": (lambda run: (run / "tiles.json").write_text("[1]"), "holds a list"),
    "facts are null": (lambda run: (run / "tiles.json").write_text("null"), "holds a NoneType"),
    "facts are torn": (lambda run: (run / "tiles.json").write_text('{"model": '), "cannot be read"),
    "facts are nested": (lambda run: (run / "tiles.json").write_text("[" * 100_000), "cannot be read"),
    "facts are bytes": (lambda run: (run / "tiles.json").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "a folder for the facts": (_folder_for("tiles.json"), "tiles.json is not a file"),
    "a folder for the values": (_folder_for("tiles.npy"), "tiles.npy is not a file"),
    "a folder for the log": (_folder_for("tiles.log"), "tiles.log is not a file"),
    "a file for the folder": (_file_for_run, "a file in place of the folder"),
    "another shape": (lambda run: np.save(run / "tiles.npy", VALUES[:5]), r"shape (5, 3)"),
    "another type": (lambda run: np.save(run / "tiles.npy", VALUES.astype("f8")), "is float64"),
    "values are text": (lambda run: (run / "tiles.npy").write_text("values"), "is not an array"),
    "no values": (lambda run: (run / "tiles.npy").unlink(), "a log without values"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_journal_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    """With a warning that says why and where it lies now; the run starts afresh, and leaves the damaged part alone."""
    store = tmp_path / "s.zarr"
    beside = tmp_path / "s.zarr.storm"
    damage, message = DAMAGE[kind]
    begun(beside / "X_storm")
    damage(beside / "X_storm")
    with journal_of(store, "X_storm") as journal:
        rows = journal.rows("tiles", VALUES.shape, facts=FACTS)
        assert not rows.done.any()
        rows.write(np.arange(20), VALUES)
        assert Journal(journal.folder).rows("tiles", VALUES.shape, facts=FACTS).done.all()
        np.testing.assert_array_equal(rows.finish(), VALUES)
    warning = next(record.getMessage() for record in caplog.records if "is damaged" in record.getMessage())
    assert message in warning
    assert not (beside / "X_storm").exists()
    if kind != "no values":
        kept = [path for path in beside.iterdir() if ".damaged" in path.name]
        assert str(kept[0]) in caplog.text


def test_damaged_twice(tmp_path: Path) -> None:
    for _ in range(3):
        begun(tmp_path / "run")
        (tmp_path / "run" / "tiles.json").write_text("[1]")
        Journal(tmp_path / "run").rows("tiles", VALUES.shape, facts=FACTS)
    kept = {path.name for path in tmp_path.iterdir() if "tiles.json.damaged" in path.name}
    assert kept == {f"run.tiles.json.damaged{number}" for number in ("", "-2", "-3")}


def test_a_journal_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor set aside: then the run goes on without one."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    begun(tmp_path / "run")
    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    monkeypatch.setattr("pathlib.Path.replace", refuse)
    rows = Journal(tmp_path / "run").rows("tiles", VALUES.shape, facts=FACTS)
    assert not rows.done.any()
    assert "this run cannot be resumed" in caplog.text
    rows.write(FIRST, VALUES[FIRST])


def test_journal_of_a_store(tmp_path: Path) -> None:
    store = tmp_path / "section.zarr"
    beside = tmp_path / "section.zarr.storm"

    def failing() -> None:
        with journal_of(store, "X_a") as journal:
            journal.rows("tiles", (3, 2), facts=FACTS)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert [p.name for p in beside.iterdir() if p.is_dir()] == ["X_a"]
    with journal_of(store, "X_other") as journal:
        journal.rows("tiles", (3, 2), facts=FACTS)
    assert (beside / "X_a").is_dir()  # another key's run is left alone
    with journal_of(store, "X_a") as journal:
        journal.rows("tiles", (3, 2), facts=FACTS)
    assert not beside.exists()
    with journal_of(None, "X") as journal:
        assert not isinstance(journal.rows("tiles", (3, 2), facts=FACTS).values, np.memmap)


KEYS = [
    "X_storm",
    "..",
    ".",
    "",
    "../../evil",
    "/etc",
    "a/b",
    "a_b",
    "lock",
    "Lock",
    "writing",
    "x" * 300,
    "é",
    "a\0b",
    ".x",
    "a.",
]


@pytest.mark.parametrize("key", KEYS)
def test_nothing_lies_outside_the_folder_of_the_store(tmp_path: Path, key: str) -> None:
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    store = work / "s.zarr"
    with journal_of(store, key) as journal:
        journal.rows("tiles", (3, 2), facts=FACTS)
        assert journal.folder.parent == work / "s.zarr.storm"
        new = set(tmp_path.rglob("*")) - set(before)
        assert all(path == journal.folder.parent or journal.folder.parent in path.parents for path in new)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_key_has_a_folder_of_its_own() -> None:
    assert len({journal_name(key).casefold() for key in KEYS}) == len(KEYS)
    assert journal_name("X_storm") == "X_storm"  # as in 0.1.0


def test_one_at_a_time(tmp_path: Path) -> None:
    store = tmp_path / "section.zarr"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom storm.data.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=r"another process of storm works on .*section\.zarr"), locked(store):
            pass
        other.kill()
        other.wait()
    with locked(store) as beside:  # the lock ended with the process
        assert beside is not None
        assert beside.is_dir()
    assert not beside.exists()


@pytest.mark.parametrize(
    ("function", "error"),
    [("pathlib.Path.mkdir", PermissionError), ("filelock.FileLock.acquire", NotImplementedError)],
    ids=["read-only", "no locks"],
)
def test_where_nothing_can_be_kept(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    error: type[Exception],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    caplog.set_level(logging.INFO, logger="storm")
    monkeypatch.setattr(function, refuse)
    with journal_of(tmp_path / "section.zarr", "X") as journal:
        assert journal.folder is None
    assert "cannot be resumed" in caplog.text


def test_a_file_in_place_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is the user's: it stays where it is."""
    file = tmp_path / "s.zarr.storm"
    file.write_text("mine")
    with journal_of(tmp_path / "s.zarr", "X") as journal:
        assert journal.folder is None
    assert "is a file" in caplog.text
    assert file.read_text() == "mine"


def test_a_folder_in_place_of_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    beside = tmp_path / "s.zarr.storm"
    (beside / "lock" / "inside").mkdir(parents=True)
    with locked(tmp_path / "s.zarr") as folder:
        assert folder == beside
    assert (beside / "lock.damaged" / "inside").is_dir()
    assert "lock.damaged" in caplog.text
