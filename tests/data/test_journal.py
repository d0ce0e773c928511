"""What an interrupted run leaves: taken where it can be trusted, computed again where not, never taken for a whole."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest

from storm.data.journal import Journal, Rows, journal_of, locked

FACTS = {"model": "a", "batch": 4}


def batches(n: int = 20, d: int = 3, size: int = 4):
    rng = np.random.default_rng(0)
    order, values = rng.permutation(n), rng.normal(size=(n, d)).astype(np.float32)
    return values, [order[i : i + size] for i in range(0, n, size)]


def test_rows_without_a_journal() -> None:
    values, parts = batches()
    rows = Rows(values.shape)
    for part in parts[:-1]:
        rows.write(part, values[part])
    out = rows.finish()
    assert np.isnan(out[parts[-1]]).all()
    for part in parts[:-1]:
        np.testing.assert_array_equal(out[part], values[part])


def test_large_rows_lie_in_a_scratch_file(monkeypatch) -> None:
    monkeypatch.setattr("storm.data.journal._IN_MEMORY", 100)
    values, parts = batches()
    rows = Rows(values.shape)
    assert isinstance(rows.values, np.memmap)
    for part in parts:
        rows.write(part, values[part])
    np.testing.assert_array_equal(rows.finish(), values)


def test_a_later_run_goes_on(tmp_path, caplog) -> None:
    values, parts = batches()
    first = Journal(tmp_path / "run").rows("tiles", values.shape, facts=FACTS)
    for part in parts[:2]:
        first.write(part, values[part])
    del first
    again = Journal(tmp_path / "run").rows("tiles", values.shape, facts=FACTS)
    assert "going on after 8 of 20 rows" in caplog.text
    assert set(np.flatnonzero(again.done)) == set(np.concatenate(parts[:2]))
    for part in parts[2:]:
        again.write(part, values[part])
    np.testing.assert_array_equal(again.finish(), values)


@pytest.mark.parametrize("damage", ["torn record", "lost values", "foreign bytes", "no values", "other shape"])
def test_doubtful_rows_are_not_taken(tmp_path, damage) -> None:
    values, parts = batches()
    journal = Journal(tmp_path)
    rows = journal.rows("tiles", values.shape, facts=FACTS)
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
    elif damage == "foreign bytes":
        log.write_bytes(log.read_bytes() + b"\x07" * 30)
        trusted = parts[:3]
    elif damage == "no values":
        stored.unlink()
        trusted = []
    else:
        np.save(stored, values[:5])
        trusted = []
    again = journal.rows("tiles", values.shape, facts=FACTS)
    assert set(np.flatnonzero(again.done)) == {row for part in trusted for row in part}
    for part in parts:
        if not again.done[part].all():
            again.write(part, values[part])
    np.testing.assert_array_equal(again.finish(), values)
    # and the log is whole again
    assert Journal(tmp_path).rows("tiles", values.shape, facts=FACTS).done.all()


def test_another_run_starts_afresh(tmp_path, caplog) -> None:
    values, parts = batches()
    Journal(tmp_path).rows("tiles", values.shape, facts=FACTS).write(parts[0], values[parts[0]])
    again = Journal(tmp_path).rows("tiles", values.shape, facts={**FACTS, "model": "b", "new": 1})
    assert not again.done.any()
    assert "with another model, new: starting afresh" in caplog.text
    assert np.isnan(again.finish()).all()


def test_journal_of_a_store(tmp_path) -> None:
    store = tmp_path / "section.zarr"
    beside = tmp_path / "section.zarr.storm"

    def failing() -> None:
        with journal_of(store, "X_a/b") as journal:
            journal.rows("tiles", (3, 2), facts=FACTS)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert [p.name for p in beside.iterdir() if p.is_dir()] == ["X_a_b"]
    with journal_of(store, "X_other") as journal:
        journal.rows("tiles", (3, 2), facts=FACTS)
    assert (beside / "X_a_b").is_dir()  # another key's run is left alone
    with journal_of(store, "X_a/b") as journal:
        journal.rows("tiles", (3, 2), facts=FACTS)
    assert not beside.exists()
    with journal_of(None, "X") as journal:
        assert not isinstance(journal.rows("tiles", (3, 2), facts=FACTS).values, np.memmap)


def test_one_at_a_time(tmp_path) -> None:
    store = tmp_path / "section.zarr"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom storm.data.journal import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=r"another process of storm works on .*section\.zarr"), locked(store):
            pass
        other.kill()
        other.wait()
    with locked(store) as beside:  # the lock ended with the process
        assert beside.is_dir()
    assert not beside.exists()


@pytest.mark.parametrize(
    ("where", "error"),
    [("pathlib.Path.mkdir", PermissionError), ("filelock.FileLock.acquire", NotImplementedError)],
    ids=["read-only", "no locks"],
)
def test_where_nothing_can_be_kept(tmp_path, caplog, monkeypatch, where, error) -> None:
    def refuse(*_, **__):
        raise error

    caplog.set_level(logging.INFO, logger="storm")
    monkeypatch.setattr(where, refuse)
    with journal_of(tmp_path / "section.zarr", "X") as journal:
        assert journal.folder is None
    assert "cannot be resumed" in caplog.text
