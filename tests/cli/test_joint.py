"""``storm embed --joint`` and ``storm domains --joint``: several stores as one study."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import pytest
import spatialdata

import storm
import storm._inference.joint_steps
from storm.cli import _cluster, main
from storm.cli._section import Job, Outcome
from storm.data.journal import Journal

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

NAMES = "abc"


def section(seed: int) -> spatialdata.SpatialData:
    return storm.datasets.toy("visium", n=40, seed=seed)


@pytest.fixture(scope="module")
def stored(tiny_model, tmp_path_factory) -> Path:
    """Three sections with H&E, and a model whose network takes part."""
    folder = tmp_path_factory.mktemp("study")
    replace(tiny_model, head=None, settings=tiny_model.settings | {"readout": "adaptive"}).save(folder / "model")
    for seed, name in enumerate(NAMES):
        section(seed).write(folder / f"{name}.zarr")
    return folder


@pytest.fixture(scope="module")
def together(stored) -> list[np.ndarray]:
    """What the function makes of the same sections in memory."""
    objects = [section(seed) for seed in range(len(NAMES))]
    storm.tl.embed(objects, model=str(stored / "model"))
    return [one.tables["table"].obsm["X_storm"] for one in objects]


@pytest.fixture
def study(stored, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(stored, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def embed(*argv: str) -> int:
    paths = [f"{name}.zarr" for name in NAMES]
    return main(["embed", *paths, "--joint", "--model", "model", *argv])


def tables(study: Path):
    return [spatialdata.read_zarr(study / f"{name}.zarr").tables["table"] for name in NAMES]


def check(study: Path, wanted: list[np.ndarray]) -> None:
    for table, values in zip(tables(study), wanted, strict=True):
        np.testing.assert_array_equal(table.obsm["X_storm"], values)
        assert table.uns["storm"]["X_storm"]["n_sections"] == len(NAMES)
    assert not list(study.glob("*.storm"))


def test_several_stores_are_one_study(study, together, capsys) -> None:
    assert embed("--workers", "1", "--summary", "s.json") == 0
    printed = capsys.readouterr()
    assert printed.out.count("40 of 40 rows embedded") == 3
    assert "[3/3] c.zarr: through the network (" in printed.err
    assert [(row["status"], row["tries"]) for row in json.loads(Path("s.json").read_text())] == [("ok", 1)] * 3
    check(study, together)
    assert main(["domains", "a.zarr", "b.zarr", "c.zarr", "--joint", "--n-domains", "4", "--workers", "2"]) == 0
    assert "one clustering of all sections, in one process" in capsys.readouterr().err
    objects = [section(seed) for seed in range(len(NAMES))]
    for one, values in zip(objects, together, strict=True):
        one.tables["table"].obsm["X_storm"] = values
    storm.tl.domains(objects, 4)
    for table, one in zip(tables(study), objects, strict=True):
        labels = [found.obs["storm_domain"].astype(str).tolist() for found in (table, one.tables["table"])]
        assert labels[0] == labels[1]


def test_a_cluster_gives_the_same_bits(study, together, monkeypatch, capsys) -> None:
    monkeypatch.setattr(storm.settings, "verbosity", 1)  # workers in threads of this process change it
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None, silence_logs=50
    ) as cluster:
        assert embed("--scheduler", cluster.scheduler_address) == 0
    printed = capsys.readouterr()
    assert printed.out.count("40 of 40 rows embedded") == 3
    assert printed.err.count("through the network (") == 3
    check(study, together)


@pytest.mark.slow
def test_workers_give_the_same_bits_also_if_one_dies(study, together, tmp_path, monkeypatch, capfd) -> None:
    killed = tmp_path / "killed"

    def begin(job: Job) -> Outcome:
        """Kill a worker, once, when it is about to run the network over a section."""
        import storm._inference.joint_steps as steps
        from storm.cli._section import run_section_on_worker as begin_really

        if job.options.get("step") is steps.run_network and job.shown == "b.zarr" and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return begin_really(job)

    monkeypatch.setattr(_cluster, "run_section_on_worker", begin)
    assert embed("--workers", "2", "--quiet", "--summary", "s.json", "--out", "new") == 0
    assert killed.exists()
    assert [row["tries"] for row in json.loads(Path("s.json").read_text())] == [1, 2, 1]
    printed = capfd.readouterr()
    assert printed.err.count("b.zarr: its worker died; started again") == 1
    assert printed.err.count("storm: warning: a.zarr: model") == 1  # said once, although a store is opened many times
    check(study / "new", together)
    assert all("X_storm" not in table.obsm for table in tables(study))


def test_a_run_that_was_killed_goes_on(study, together, monkeypatch, capsys) -> None:
    steps = storm._inference.joint_steps
    network, encode = steps.run_windows, storm._inference.tile_cache.encode_tiles
    encoded: list[int] = []

    def interrupted(*args: object, **kwargs: object):
        if len(encoded) < 4:
            encoded.append(0)
            return network(*args, **kwargs)
        raise KeyboardInterrupt

    def counted(*args: object, **kwargs: object):
        encoded.append(1)
        return encode(*args, **kwargs)

    monkeypatch.setattr("storm._inference.tile_cache.encode_tiles", counted)
    monkeypatch.setattr(steps, "run_windows", interrupted)
    assert embed("--workers", "1", "--quiet") == 130
    assert encoded == [1, 1, 1, 0]
    assert len(list(study.glob("*.storm/X_storm/tiles.npy"))) == 3
    assert all("X_storm" not in table.obsm for table in tables(study))
    monkeypatch.setattr(steps, "run_windows", network)
    capsys.readouterr()
    assert embed("--workers", "1", "--quiet") == 0
    assert (
        capsys.readouterr().err.count("going on after 40 of 40 rows") == 3
    )  # the same text of tiles and windows of a.zarr is said once
    check(study, together)


def test_what_is_wrong_with_one_stores_nothing(study, capsys) -> None:
    assert main(["embed", "a.zarr", "b.zarr", "./a.zarr", "--joint"]) == 2
    assert "is given twice" in capsys.readouterr().err
    assert main(["domains", "a.zarr", "b.zarr", "--joint", "--n-domains", "4"]) == 2
    assert "run storm embed first" in capsys.readouterr().err
    assert embed("--workers", "1", "--readout", "center") == 2
    assert "shared axes of expression, which --readout center has not" in capsys.readouterr().err
    whole = section(1)
    del whole.images["he"]
    shutil.rmtree("b.zarr")
    whole.write("b.zarr")
    assert embed("--workers", "1") == 2
    assert "of 3 sections 1 have no H&E image: 'b.zarr'" in capsys.readouterr().err
    table = whole.tables["table"]
    table.layers["raw"] = table.X
    shutil.rmtree("b.zarr")
    whole.write("b.zarr")
    assert embed("--workers", "1", "--layer", "raw", "--modality", "st", "--summary", "s.json") == 2
    err = capsys.readouterr().err
    assert "storm embed: a.zarr: error: --layer raw is not in layers" in err
    assert err.endswith("storm embed: error: 2 of 3 sections failed; none is stored\n")
    assert [row["status"] for row in json.loads(Path("s.json").read_text())] == ["failed", "not done", "failed"]
    assert all("X_storm" not in table.obsm for table in tables(study))


def test_where_nothing_can_be_written_beside_the_stores(study, tmp_path, monkeypatch, capsys) -> None:
    @contextmanager
    def nowhere(store: Path) -> Iterator[None]:
        yield None

    monkeypatch.setattr("storm.cli._joint.locked", nowhere)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert embed("--scheduler", "tcp://127.0.0.1:9", "--out", "new") == 2
    assert "nothing can be written beside a.zarr" in capsys.readouterr().err
    seen = []
    network = storm._inference.joint_steps.run_windows

    def watched(*args: object, journal: Journal, **kwargs: object):
        seen.append(journal.folder)
        return network(*args, journal=journal, **kwargs)

    monkeypatch.setattr(storm._inference.joint_steps, "run_windows", watched)
    assert embed("--workers", "1", "--out", "new") == 0
    assert all(folder.is_relative_to(scratch) for folder in seen)
    assert len(seen) == 3
    assert not list(scratch.glob("storm-*"))
    assert all("X_storm" in table.obsm for table in tables(study / "new"))


def test_regions_of_a_store_are_sections_of_the_study(study, capsys) -> None:
    """Whose results are written together, into one table."""
    objects = {name: section(seed) for seed, name in enumerate("pq")}
    two = spatialdata.concatenate(objects, concatenate_tables=True)
    two.write("two.zarr")
    options = ["--modality", "st", "--um-per-px", "1.0", "--batch", "center"]
    argv = ["embed", "two.zarr", "c.zarr", "--joint", "--model", "model", "--workers", "1", *options]
    assert main([*argv, "--out", "new"]) == 0
    capsys.readouterr()
    objects = [spatialdata.read_zarr("two.zarr"), spatialdata.read_zarr("c.zarr")]
    storm.tl.embed(objects, model="model", modality="st", um_per_px=1.0, batch="center")
    for name, one in zip(("two", "c"), objects, strict=True):
        found = spatialdata.read_zarr(f"new/{name}.zarr").tables["table"]
        np.testing.assert_array_equal(found.obsm["X_storm"], one.tables["table"].obsm["X_storm"])
        assert found.uns["storm"]["X_storm"]["n_sections"] == 3


def test_domains_of_sections_that_were_embedded_apart_are_a_warning(study, capsys) -> None:
    paths = [f"{name}.zarr" for name in NAMES]
    assert main(["embed", *paths, "--workers", "1", "--modality", "st"]) == 0
    assert main(["domains", *paths, "--joint", "--n-domains", "4"]) == 0
    assert "mean something else in each of 3 sections" in capsys.readouterr().err
