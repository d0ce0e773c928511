"""Runs that are killed: the same call goes on, and what it gives is what one run gives, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spatialdata

import storm

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

#: A process that kills itself when it has finished so many batches.
CHILD = """
import os, signal, sys
store, model, verb, batches = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
import torch, spatialdata, storm
from storm.data.rows import Rows
torch.set_num_threads(1)
storm.settings.verbosity = 0
write, count = Rows.write, [0]
def counted(self, rows, values):
    write(self, rows, values)
    count[0] += 1
    if count[0] == batches:
        os.kill(os.getpid(), signal.SIGKILL)
Rows.write = counted
sdata = spatialdata.read_zarr(store)
getattr(storm.tl, verb)(sdata, model=storm.load_model(model), batch_size=20)
"""


@pytest.fixture(scope="module")
def folder(tiny_model, toy_once, tmp_path_factory) -> Path:
    """A stored section of 150 spots, and a model with a head."""
    path = tmp_path_factory.mktemp("resume")
    sdata = storm.datasets.toy("visium", n=150, seed=0)
    head = storm.tl.fit_expression(sdata, model=tiny_model, n_genes=20, config=storm.HeadConfig(epochs=1))
    from dataclasses import replace

    settings = {**tiny_model.settings, "readout": "adaptive"}  # the packaged model's
    replace(tiny_model, head=head, settings=settings).save(path / "model")
    sdata.write(path / "section.zarr")
    return path


def journal(folder: Path) -> Path:
    return folder / "section.zarr.storm"


def kill_after(folder: Path, verb: str, batches: int) -> None:
    argv = [sys.executable, "-c", CHILD, str(folder / "section.zarr"), str(folder / "model"), verb, str(batches)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def run(folder: Path, verb: str) -> np.ndarray:
    sdata = spatialdata.read_zarr(folder / "section.zarr")
    getattr(storm.tl, verb)(sdata, model=storm.load_model(folder / "model"), batch_size=20)
    return sdata.tables["table"].obsm["X_storm"] if verb == "embed" else sdata.tables["table_storm"].X


@pytest.mark.parametrize("verb", ["embed", "predict_expression"])
def test_killed_and_called_again(folder, verb, caplog, monkeypatch) -> None:
    whole = run(folder, verb)
    assert not journal(folder).exists()
    # eight batches of tiles, then eight of windows (one block)
    kill_after(folder, verb, 3)
    kill_after(folder, verb, 3)  # the second run goes on after the first one's batches, and is killed in its turn
    kill_after(folder, verb, 5)  # in the windows
    assert journal(folder).is_dir()
    # nothing of it is in the store
    table = spatialdata.read_zarr(folder / "section.zarr").tables["table"]
    assert "X_storm" not in table.obsm
    assert "storm" not in table.layers
    computed = []
    from storm._inference import tiles

    real = tiles.Run.__call__
    monkeypatch.setattr(tiles.Run, "__call__", lambda self, x: computed.append(len(x)) or real(self, x))
    again = run(folder, verb)
    assert "going on after" in caplog.text
    assert sum(computed) == 0  # all tiles had been encoded
    np.testing.assert_array_equal(again, whole)
    assert not journal(folder).exists()


def test_another_parameter_starts_afresh(folder, caplog) -> None:
    kill_after(folder, "embed", 3)
    sdata = spatialdata.read_zarr(folder / "section.zarr")
    model = storm.load_model(folder / "model")
    storm.tl.embed(sdata, model=model, batch_size=20, field_um=90)
    assert "with another field_um: starting afresh" in caplog.text
    fresh = spatialdata.read_zarr(folder / "section.zarr")
    storm.tl.embed(fresh, model=model, batch_size=20, field_um=90)
    np.testing.assert_array_equal(sdata.tables["table"].obsm["X_storm"], fresh.tables["table"].obsm["X_storm"])


def test_two_at_once(folder) -> None:
    from storm.data.lock import locked

    sdata = spatialdata.read_zarr(folder / "section.zarr")
    with (
        locked(folder / "section.zarr"),
        pytest.raises(RuntimeError, match="another process of storm works on"),
    ):
        storm.tl.embed(sdata, model=storm.load_model(folder / "model"))
    assert "X_storm" not in sdata.tables["table"].obsm


def test_results_do_not_lie_in_the_journal(folder) -> None:
    """Its file is removed: an array that is mapped onto it would depend on what the file system makes of that."""
    sdata = spatialdata.read_zarr(folder / "section.zarr")
    storm.tl.encode_tiles(sdata, "stain-texture")
    storm.tl.embed(sdata, model=storm.load_model(folder / "model"))
    storm.tl.predict_expression(sdata, model=storm.load_model(folder / "model"))
    table = sdata.tables["table"]
    for values in (table.obsm["X_stain-texture"], table.obsm["X_storm"], sdata.tables["table_storm"].X):
        owner = values
        while owner is not None:
            assert not isinstance(owner, np.memmap)
            owner = getattr(owner, "base", None)
