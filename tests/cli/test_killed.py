"""Commands that are killed: the section is the old or the new one, and the same command ends as if nothing happened."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spatialdata

import storm
from kill_points import killed_after
from storm.cli import main

# anndata announces a change of its own defaults, in the name of contextlib
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory) -> Path:
    """A section of 30 spots without an image, with an embedding and domains, and a model for it."""
    path = tmp_path_factory.mktemp("killed")
    replace(tiny_model, head=None).save(path / "model")
    toy = storm.datasets.toy("visium", n=30, seed=0)
    table = toy.tables["table"].copy()
    table.obsm["X_old"] = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    spatialdata.SpatialData(shapes={"spots": toy.shapes["spots"]}, tables={"table": table}).write(path / "s.zarr")
    command = ["domains", str(path / "s.zarr"), "--use-rep", "X_old", "--n-domains", "2", "--quiet"]
    assert main(command) == 0
    return path


def ordered(value: object) -> str:
    """Dictionaries come in the order of the folder's files, which differs from copy to copy."""
    if isinstance(value, dict):
        return str(sorted((key, ordered(item)) for key, item in value.items()))
    return repr(value)


def results(path: Path) -> tuple[str, ...]:
    """What commands write into a section: domains, embedding, and the provenance of both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = spatialdata.read_zarr(path).tables["table"]
    embedding = table.obsm.get("X_storm")
    return (
        repr(list(table.obs["storm_domain"])),
        repr(embedding if embedding is None else embedding.tolist()),
        ordered(table.uns["storm"]),
        repr((table.X.toarray().tolist(), table.obsm["X_old"].tolist())),
    )


def left_by_a_killed_process(store: Path, *, taken: bool) -> dict[str, bytes | None]:
    """Let a store be as a kill within a replacement leaves it, and return all files of its folder."""
    scratch = store.with_name(f"{store.name}.storm") / "writing"
    (scratch / "old").mkdir(parents=True)
    record = {"targets": ["tables/table"], "new": ["new-0"], "consolidated": True}
    (scratch / "record.json").write_text(json.dumps(record))
    metadata = json.loads((store / "zarr.json").read_text())
    del metadata["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(metadata))
    if taken:  # on a system that cannot exchange two folders in one step
        (store / "tables" / "table").rename(scratch / "old" / "0")
    return files(store.parent)


def files(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(
    "command",
    [
        "check s.zarr --no-estimate",
        "report s.zarr --out {out}/s.html",
        "export qupath s.zarr {out}/s.geojson --pixel-um 1",
    ],
)
def test_reading_writes_nothing_into_a_store_that_was_left(command, folder, tmp_path, monkeypatch, capsys):
    argv = command.format(out=tmp_path).split()
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here"))
    before = left_by_a_killed_process(Path("s.zarr").absolute(), taken=False)
    assert main(argv) in (0, 1)
    assert files(Path.cwd()) == before
    assert "error" not in capsys.readouterr().err


def test_what_a_killed_process_took_away_is_named(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here"))
    old = results(Path("s.zarr"))
    before = left_by_a_killed_process(Path("s.zarr").absolute(), taken=True)
    for command in ("check s.zarr", "report s.zarr", "export loupe s.zarr s.csv", "embed s.zarr --out new.zarr"):
        assert main(command.split()) == 2
        assert "s.zarr lacks tables/table, which a command was replacing when it was killed" in capsys.readouterr().err
        assert files(Path.cwd()) == before
    assert main([*COMMANDS["domains in place"][0], "--quiet", "--key-added", "other"]) == 0
    assert not Path("s.zarr.storm").exists()
    assert results(Path("s.zarr"))[0] == old[0]


#: Commands, and the store in which their result appears.
COMMANDS = {
    "domains in place": (["domains", "s.zarr", "--use-rep", "X_old", "--n-domains", "3"], "s.zarr"),
    "embed in place": (["embed", "s.zarr", "--model", "model", "--modality", "st"], "s.zarr"),
    "embed --out": (["embed", "s.zarr", "--model", "model", "--modality", "st", "--out", "new.zarr"], "new.zarr"),
}


def sweep(folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch, *, command: str, every: int) -> int:
    argv, target = COMMANDS[command]
    argv = [*argv, "--quiet"]
    old = results(folder / "s.zarr")

    def fresh() -> None:
        monkeypatch.chdir(folder)
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder, work)
        monkeypatch.chdir(work)

    fresh()
    with killed_after(work) as counter:
        assert main(argv) == 0
    changes, new = counter.changes, results(work / target)
    names = sorted(path.name for path in work.iterdir())
    assert new != old
    # A link is made from a file of the store, which it leaves as it is.
    visible = {
        k for k, change in enumerate(changes) if f" /{target}/" in f"{change}/" and not change.startswith("os.link")
    }
    points = sorted(set(range(0, len(changes), every)) | visible | {k + 1 for k in visible})
    points = [k for k in points if k < len(changes)]
    for at in points:
        fresh()
        with killed_after(work, at) as counter:
            main(argv)
        assert counter.killed
        if target == "s.zarr":
            assert results(work / target) in (old, new)
        else:
            assert results(work / "s.zarr") == old
            if (work / target).exists():  # killed after it was complete
                assert results(work / target) == new
                continue
        assert main(argv) == 0
        assert results(work / target) == new
        assert sorted(path.name for path in work.iterdir()) == names
    return len(points)


@pytest.mark.parametrize("command", ["domains in place", "embed --out"])
def test_killed_anywhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A thinned sweep: next to each change of what the user sees."""
    assert sweep(folder, tmp_path / "work", monkeypatch, command=command, every=10_000) > 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_many_points(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    assert sweep(folder, tmp_path / "work", monkeypatch, command=command, every=80) > 6


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_most_points(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    assert sweep(folder, tmp_path / "work", monkeypatch, command=command, every=5) > 40
