"""Several sections in one command: in this process, on a cluster of its own, and on an existing one."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import psutil
import pytest
import spatialdata
from scipy import sparse

import storm
from storm.cli import _cluster, _commands, _many, main
from storm.cli._machine import visible_gpus, workers_for
from storm.cli._section import Job, Outcome, run_section_on_worker

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

N = 150


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sections(toy_once, tmp_path_factory) -> Path:
    """A folder with three sections: a complete one, one with two spots without counts, and one without a table."""
    folder = tmp_path_factory.mktemp("sections")
    spots = {"spots": toy_once["spots"]}
    table = toy_once.tables["table"]
    gaps = table.copy()
    gaps.X = sparse.diags_array(np.arange(N) > 1, dtype=np.float32).tocsr() @ gaps.X
    for name, tables in {"a": {"table": table}, "b": {"table": gaps}, "broken": {}}.items():
        spatialdata.SpatialData(shapes=spots, tables=tables).write(folder / f"{name}.zarr")
    return folder


@pytest.fixture
def here(sections, tmp_path, monkeypatch) -> Path:
    """A copy of that folder as the working folder."""
    folder = shutil.copytree(sections, tmp_path / "data")
    monkeypatch.chdir(folder)
    return Path(folder)


@pytest.fixture(scope="module")
def one_by_one(sections, model, tmp_path_factory) -> dict[str, np.ndarray]:
    """Result of the command for each section alone."""
    out = tmp_path_factory.mktemp("alone")
    for name in ("a", "b"):
        argv = ["embed", str(sections / f"{name}.zarr"), "--model", model, "--quiet", "--out", str(out / name)]
        assert main([*argv, "--modality", "st"]) == 0
    return {name: embedding(out / name) for name in ("a", "b")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a running cluster; each of its two workers has two threads."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, memory_limit=None, dashboard_address=None, silence_logs=50
    ) as made:
        yield made.scheduler_address


def embedding(path: Path) -> np.ndarray:
    return spatialdata.read_zarr(path).tables["table"].obsm["X_storm"]


def embed(model: str, *argv: str | Path) -> int:
    return main(["embed", *map(str, argv), "--model", model, "--modality", "st"])


def rows(path: str) -> dict[str, dict]:
    if path.endswith(".json"):
        return {row["section"]: row for row in json.loads(Path(path).read_text())}
    with Path(path).open(newline="") as file:
        return {row["section"]: row for row in csv.DictReader(file)}


# ---------------------------------------------------------------------------------------------- on a cluster


def test_a_cluster_of_its_own(here, model, one_by_one, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = dict(os.environ)
    argv = ["a.zarr", "broken.zarr", "b.zarr", "--workers", "2", "--out", "new", "--summary", "s.csv"]
    assert embed(model, *argv) == 2
    assert sorted(p.name for p in Path("new").iterdir()) == ["a.zarr", "b.zarr"]
    for name, values in one_by_one.items():
        np.testing.assert_array_equal(embedding(Path("new") / f"{name}.zarr"), values)
        assert "X_storm" not in spatialdata.read_zarr(f"{name}.zarr").tables["table"].obsm

    printed = capfd.readouterr()
    lines = printed.err.splitlines()
    warned = [line for line in lines if line.startswith("storm: warning: ")]
    assert f"storm: warning: b.zarr: 2 of {N} rows of 'X_storm' are NaN: 2 without counts" in warned
    assert len([line for line in warned if "has random weights" in line]) == 2
    assert len(warned) == 3
    assert any(line.startswith("storm embed: broken.zarr: error: ") for line in lines)
    assert sum(line.startswith(("[1/3] ", "[2/3] ", "[3/3] ")) for line in lines) == 2
    assert lines[-1] == "storm embed: error: 1 of 3 sections failed"
    assert len(lines) == len(warned) + 4  # nothing of dask
    table = printed.out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["a.zarr", "ok"], ["broken.zarr", "failed"], ["b.zarr", "ok"]]

    summary = rows("s.csv")
    assert list(summary) == ["a.zarr", "broken.zarr", "b.zarr"]
    assert [row["n"] for row in summary.values()] == [str(N), "", str(N)]
    assert [row["tries"] for row in summary.values()] == ["1", "1", "1"]  # an error in the data is not retried
    assert f"{N - 2} of {N} rows embedded" in summary["b.zarr"]["result"]
    assert "table" in summary["broken.zarr"]["result"]
    assert all(float(row["seconds"]) > 0 for row in summary.values())
    if sys.platform == "linux":
        assert 0.1 < float(summary["a.zarr"]["peak_gib"]) < 8
    assert dict(os.environ) == environment


def test_interrupting_busy_workers_that_have_a_gpu_each(here, model, monkeypatch, capfd):
    def begin(job: Job) -> Outcome:
        if job.shown == "b.zarr":
            time.sleep(300)
        seen = os.environ["CUDA_VISIBLE_DEVICES"]
        early = "torch" not in sys.modules
        import torch

        return Outcome(job.shown, result=f"sees {seen}, before torch: {early}, threads: {torch.get_num_threads()}")

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    gpus(monkeypatch, 2, "5,GPU-7")
    monkeypatch.setattr(_cluster, "run_section_on_worker", begin)
    monkeypatch.setattr(_many, "report", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    before = set(psutil.Process().children(recursive=True))
    # Tests that a shell starts in the background ignore Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert embed(model, "b.zarr", "a.zarr", "--device", "cuda") == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [p for p in left if "spawn_main" in " ".join(p.cmdline())]
    printed = capfd.readouterr()
    _, b, a = printed.out.splitlines()
    assert b.split() == ["b.zarr", "not", "done", "0", "interrupted"]
    assert re.fullmatch(r"a\.zarr +ok +1 +sees (5|GPU-7), before torch: True, threads: 1", a)
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith(
        "storm embed: interrupted: 1 of 2 sections are done and kept; the same command with --skip-existing"
    )


def test_a_worker_killed_in_mid_section(here, model, cluster, one_by_one, tmp_path, monkeypatch, capfd):
    killed = tmp_path / "killed"

    def begin(job: Job) -> Outcome:
        """Kill the worker, once, after the section was computed and before it is stored."""
        from storm.cli import _commands as commands
        from storm.cli._section import run_section_on_worker as begin_really

        store = commands.store

        def kill(*args: object, **kwargs: object) -> Path:
            if not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return store(*args, **kwargs)

        commands.store = kill
        return begin_really(job)

    monkeypatch.setattr(_cluster, "run_section_on_worker", begin)
    assert embed(model, "a.zarr", "--scheduler", cluster, "--summary", "s.json", "--quiet") == 0
    assert killed.exists()
    assert rows("s.json")["a.zarr"]["tries"] == 2
    np.testing.assert_array_equal(embedding(here / "a.zarr"), one_by_one["a"])
    assert capfd.readouterr().err.splitlines()[0] == "storm: warning: a.zarr: its worker died; started again"


def test_a_section_that_kills_its_workers(here, cluster, tmp_path, monkeypatch, capfd):
    def begin(job: Job) -> Outcome:
        if job.shown == "a.zarr":
            (tmp_path / f"killed{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(job.shown, n=1, result="done", seconds=1.0)

    monkeypatch.setattr(_cluster, "run_section_on_worker", begin)
    argv = ["domains", "a.zarr", "b.zarr", "--scheduler", cluster, "--summary", "s.json", "--retries"]
    for retries in (0, 1):
        assert main([*argv, str(retries)]) == 2
        summary = rows("s.json")
        assert [(row["status"], row["tries"]) for row in summary.values()] == [("failed", 1 + retries), ("ok", 1)]
        assert "storm domains: a.zarr: error: its worker died" in capfd.readouterr().err
    assert len(list(tmp_path.glob("killed*"))) == 3


def test_workers_that_end_later_than_dask_waits(monkeypatch):
    close = distributed.SpecCluster.__exit__

    def late(cluster: distributed.SpecCluster, *error: object) -> None:
        close(cluster, *error)
        raise TimeoutError

    monkeypatch.setattr(distributed.SpecCluster, "__exit__", late)
    with _cluster.start(0, "cpu") as client:
        assert client.nthreads() == {}
    with pytest.raises(ZeroDivisionError), _cluster.start(0, "cpu"):
        1 / 0  # noqa: B018


def test_errors_of_a_worker(here, cluster):
    job = Job("domains", {"path": here / "gone.zarr"}, "gone.zarr", "run", storm.__version__)
    with distributed.Client(cluster, set_as_default=False) as client:
        outcome = client.submit(run_section_on_worker, job).result(timeout=60)
        assert "does not find" in outcome.error
        assert "same path on every worker" in outcome.error
        assert "the worker at tcp://" in outcome.error
        other = client.submit(run_section_on_worker, replace(job, version="0.0.0")).result(timeout=60)
        assert f"has STORM {storm.__version__}, but the command runs 0.0.0" in other.error


def test_no_scheduler(here, model, monkeypatch, capfd):
    monkeypatch.setattr(_cluster, "_PATIENCE", 0.2)
    assert embed(model, "a.zarr", "--scheduler", "tcp://127.0.0.1:9") == 2
    assert "no scheduler answers at --scheduler tcp://127.0.0.1:9" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------- in this process


def test_one_after_another(here, model, one_by_one, monkeypatch, capsys):
    loaded = []
    load = storm.load_model
    monkeypatch.setattr(storm, "load_model", lambda *a, **k: loaded.append(a) or load(*a, **k))
    assert embed(model, "a.zarr", "broken.zarr", "b.zarr", "--workers", "1", "--quiet") == 2
    assert len(loaded) == 1
    printed = capsys.readouterr()
    assert "storm: warning: b.zarr: 2 of" in printed.err
    assert "storm embed: broken.zarr: error: " in printed.err
    for name, values in one_by_one.items():
        np.testing.assert_array_equal(embedding(here / f"{name}.zarr"), values)
    assert main(["domains", "a.zarr", "b.zarr", "--n-domains", "3", "--workers", "1", "--quiet"]) == 0
    assert spatialdata.read_zarr("b.zarr").tables["table"].obs["storm_domain"].nunique() == 3
    # The next command loads the model again, because its folder may have changed.
    assert embed(model, "a.zarr", "b.zarr", "--workers", "1", "--quiet") == 0
    assert len(loaded) == 2


def test_one_section_with_a_summary(here, model, capsys):
    assert embed(model, "a.zarr", "--summary", "there/s.json", "--quiet", "--out", "out.zarr") == 0
    assert rows("there/s.json")["a.zarr"]["n"] == N
    assert embedding(Path("out.zarr")).shape[0] == N
    capsys.readouterr()
    assert embed(model, "broken.zarr", "--summary", "s.csv", "--debug") == 2
    assert rows("s.csv")["broken.zarr"]["status"] == "failed"
    assert "Traceback" in capsys.readouterr().err


def test_interrupted(here, model, monkeypatch, capsys):
    embed_one = _commands.embed

    def interrupted(**options: object) -> _commands.Done:
        if options["path"].name == "b.zarr":
            raise KeyboardInterrupt
        return embed_one(**options)

    monkeypatch.setattr(_commands, "embed", interrupted)
    assert embed(model, "a.zarr", "b.zarr", "--workers", "1", "--summary", "s.csv") == 130
    assert {name: row["status"] for name, row in rows("s.csv").items()} == {"a.zarr": "ok", "b.zarr": "not done"}
    assert "storm embed: interrupted: 1 of 2 sections are done and kept" in capsys.readouterr().err


def test_errors_before_anything_runs(here, model, monkeypatch, capsys):
    monkeypatch.setattr(_many, "executor", None)
    (here / "link.zarr").symlink_to(here / "a.zarr")
    shutil.copytree("a.zarr", "other/a.zarr")
    (here / "out" / "b.zarr").mkdir(parents=True)

    def printed(*argv: str) -> str:
        assert main([*argv, "--quiet"]) == 2
        return capsys.readouterr().err.strip()

    assert printed("domains", "a.zarr", "a.zarr") == "storm domains: error: a.zarr is given twice"
    assert printed("domains", "a.zarr", "link.zarr").endswith("link.zarr is given twice, also as a.zarr")
    assert printed("domains", "no.zarr", "a.zarr", "nope.zarr").endswith("error: no.zarr, nope.zarr do not exist")
    clash = printed("domains", "a.zarr", "other/a.zarr", "--out", "new")
    assert "a.zarr and other/a.zarr would both be written to" in clash
    assert "b.zarr exists; give another name" in printed("domains", "a.zarr", "b.zarr", "--out", "out")
    assert "--model nope is neither a packaged model" in printed("embed", "a.zarr", "b.zarr", "--model", "nope")
    assert "'nobody' is unknown" in printed("encode", "a.zarr", "b.zarr", "--encoder", "nobody")
    assert printed("predict", "a.zarr", "b.zarr", "--head", "nope").endswith("--head nope does not exist")


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        (["--workers", "0"], "'0' is not a whole number of at least 1"),
        (["--retries", "-1"], "'-1' is not a whole number"),
        (["--workers", "2", "--scheduler", "tcp://x:1"], "not allowed with"),
        (["--summary", "s.txt"], "ends in neither .csv nor .json"),
    ],
)
def test_arguments_that_cannot_be_read(argv, printed, capsys):
    with pytest.raises(SystemExit):
        main(["domains", "a.zarr", *argv])
    assert printed in capsys.readouterr().err


def test_paths_hold_in_another_folder(here, model, monkeypatch):
    options = {"out": Path("new"), "model": os.path.relpath(model), "tile_encoder": None}
    jobs = _many.plan("embed", [Path("a.zarr"), Path("b.zarr")], options)
    assert [job.options["path"] for job in jobs] == [here / "a.zarr", here / "b.zarr"]
    assert [job.options["out"] for job in jobs] == [here / "new" / "a.zarr", here / "new" / "b.zarr"]
    assert Path(jobs[0].options["model"]).is_absolute()
    assert Path(jobs[0].options["model"]).samefile(model)
    packaged = _many.plan("embed", [Path("a.zarr")], {"out": None, "model": "storm-mini", "tile_encoder": None})
    assert packaged[0].options["model"] == "storm-mini"


# ---------------------------------------------------------------------------------------------- what a machine has


def gpus(monkeypatch, n: int, visible: str | None = None) -> Callable[[int, str | None], list[str | None]]:
    monkeypatch.setattr("torch.cuda.device_count", lambda: n)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return lambda workers, device: [
        worker["options"]["env"].get("CUDA_VISIBLE_DEVICES")
        for worker in _cluster.specifications(workers, device).values()
    ]


def test_each_worker_sees_its_gpu(monkeypatch):
    assert gpus(monkeypatch, 3)(3, "auto") == ["0", "1", "2"]
    assert gpus(monkeypatch, 2, "5,GPU-7")(3, "cuda") == ["5", "GPU-7", "5"]
    assert gpus(monkeypatch, 2)(2, "cpu") == [None, None]
    assert gpus(monkeypatch, 2)(2, "cuda:1") == [None, None]
    assert gpus(monkeypatch, 2)(2, None) == [None, None]


def test_how_many_workers(monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 24 * 2**30)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    gpus(monkeypatch, 0)
    assert workers_for(3, "auto", wanted=None) == 3
    assert workers_for(100, "cpu", wanted=None) == 6  # 4 GiB each
    assert workers_for(100, None, wanted=None) == 6
    assert workers_for(100, "cpu", wanted=50) == 50
    assert workers_for(2, "cpu", wanted=50) == 2
    gpus(monkeypatch, 2)
    assert workers_for(100, "auto", wanted=None) == 2
    assert workers_for(100, "cuda:1", wanted=None) == 1
    assert workers_for(100, "cpu", wanted=None) == 6
    assert visible_gpus("cuda:1") == []
