"""Nothing is lost or left behind by a command that cannot succeed: the folder is the same before and after."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import anndata
import geopandas
import numpy as np
import pandas as pd
import pytest
import spatialdata
from scipy import sparse
from shapely import Point

import storm
from storm.cli import main
from storm.cli._parser import make_parser
from storm.cli._say import one_line
from storm.cli._stores import read_store, write_store

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

N = 30


@pytest.fixture(scope="module")
def section(tmp_path_factory) -> Path:
    """A stored section with two groups of spots that an embedding tells apart, and a file beside it."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"region": pd.Categorical(["spots"] * N), "instance": np.arange(N)}, index=[f"spot{i}" for i in range(N)]
    )
    table = anndata.AnnData(sparse.csr_matrix(rng.poisson(1.0, size=(N, 5)).astype(np.float32)), obs=obs)
    table.obsm["X_storm"] = rng.normal(size=(N, 4)).astype(np.float32) + 10 * (np.arange(N) % 2)[:, None]
    table = spatialdata.models.TableModel.parse(table, region="spots", region_key="region", instance_key="instance")
    centres = np.column_stack([np.arange(N) % 6, np.arange(N) // 6]) * 100.0
    spots = geopandas.GeoDataFrame({"geometry": [Point(c) for c in centres], "radius": 27.5})
    folder = tmp_path_factory.mktemp("safety")
    sdata = spatialdata.SpatialData(
        shapes={"spots": spatialdata.models.ShapesModel.parse(spots)}, tables={"table": table}
    )
    sdata.write(folder / "s.zarr")
    (folder / "notes.txt").write_text("the only copy")
    return folder


@pytest.fixture
def here(section, tmp_path, monkeypatch) -> Path:
    """A copy of the section and its neighbours in the working folder, inside of a folder of its own."""
    folder = Path(shutil.copytree(section, tmp_path / "outer" / "p"))
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every folder and every file's content below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(capsys, *argv: str) -> str:
    """The one line that a command prints when it refuses its arguments or fails."""
    try:
        status = main(list(argv))
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


LONG = "a" * 201
BAD_KEYS = [
    "..",
    "../../evil",
    "/tmp/evil",
    "a b",
    "a+b",
    "a/b",
    "zarr.json",
    "_index",
    "",
    ".",
    "__x",
    "µ",
    ".zattrs",
    LONG,
]


@pytest.mark.parametrize("key", BAD_KEYS)
@pytest.mark.parametrize("command", ["encode", "embed", "domains", "predict"])
def test_keys_that_cannot_be_stored(command, key, here, capsys):
    before = tree(here.parent)
    argv = [command, "s.zarr", "--key-added", key]
    message = refused(capsys, *argv, *(["--encoder", "stain-texture"] if command == "encode" else []))
    assert (repr(key) if key != LONG else "has 201 characters") in message
    assert "--key-added" in message
    assert tree(here.parent) == before


@pytest.mark.parametrize("command", ["encode", "embed"])
def test_coordinates_are_not_overwritten(command, here, capsys):
    before = tree(here)
    extra = ["--encoder", "stain-texture"] if command == "encode" else []
    assert "'spatial' is reserved" in refused(capsys, command, "s.zarr", "--key-added", "spatial", *extra)
    assert tree(here) == before


@pytest.mark.parametrize("key", ["region", "instance"])
def test_columns_that_join_table_and_spots_are_not_overwritten(key, here, capsys):
    before = tree(here)
    assert f"'{key}'" in refused(capsys, "domains", "s.zarr", "--n-domains", "2", "--key-added", key)
    assert tree(here) == before


def test_domains_of_the_planted_groups(here):
    assert main(["domains", "s.zarr", "--n-domains", "2", "--quiet"]) == 0
    labels = spatialdata.read_zarr("s.zarr").tables["table"].obs["storm_domain"].to_numpy()
    assert len(set(labels[::2])) == len(set(labels[1::2])) == 1
    assert labels[0] != labels[1]
    assert sorted(p.name for p in here.iterdir()) == ["notes.txt", "s.zarr"]


@pytest.mark.parametrize("path", [".", "../s.zarr", "../s.zarr/", "../../p/s.zarr"])
def test_a_store_by_any_of_its_names(path, here, monkeypatch, capsys):
    monkeypatch.chdir(here / "s.zarr")
    assert main(["domains", path, "--n-domains", "2", "--quiet"]) == 0
    assert "storm_domain" in spatialdata.read_zarr(here / "s.zarr").tables["table"].obs
    assert sorted(p.name for p in here.iterdir()) == ["notes.txt", "s.zarr"]


# ---------------------------------------------------------------------------------------------- where results go


def test_out_is_checked_before_anything_is_computed(here, capsys, monkeypatch):
    monkeypatch.setattr(storm.tl, "domains", None)
    (here / "taken").mkdir()
    (here / "dangling").symlink_to("nowhere")
    before = tree(here)
    for out, words in {
        "taken": "--out taken exists",
        "..": "--out .. exists",
        "new/..": "--out new/.. exists",
        "dangling": "--out dangling exists",
        "s.zarr/new.zarr": "lies inside the store s.zarr",
        "notes.txt/new.zarr": "notes.txt is a file",
    }.items():
        assert words in refused(capsys, "domains", "s.zarr", "--out", out)
        assert words in refused(capsys, "domains", "s.zarr", "--out", out, "--summary", "s.csv")
    assert "is a folder" in refused(capsys, "domains", "s.zarr", "--summary", _folder(here, "x.csv"))
    (here / "x.csv").rmdir()
    assert tree(here) == before


def test_files_of_others_are_not_replaced(here, capsys):
    (here / "he.png").write_bytes(b"a picture")
    (here / "s.png").write_bytes(b"a picture")
    (here / "s.csv").write_text("barcode,label\n")
    (here / "s.json").write_text("{}")
    before = tree(here)
    assert "he.png exists; give another --out" in refused(capsys, "demo", "--out", ".")
    assert "s.png exists and was not drawn by storm check" in refused(capsys, "check", "s.zarr", "--figures", ".")
    for name in ("s.csv", "s.json"):
        assert f"{name} exists and is not a summary" in refused(capsys, "domains", "s.zarr", "--summary", name)
    assert tree(here) == before


@pytest.mark.parametrize("name", ["s.csv", "s.json"])
def test_a_summary_is_replaced_by_the_next(name, here):
    argv = ["domains", "s.zarr", "--n-domains", "2", "--quiet", "--summary", name]
    assert main(argv) == main(argv) == 0
    assert "2 domains" in Path(name).read_text()


def _folder(parent: Path, name: str) -> str:
    (parent / name).mkdir()
    return name


def test_a_read_only_store_names_out(here, capsys, monkeypatch):
    monkeypatch.setattr(storm.tl, "domains", None)
    make = tempfile.TemporaryFile
    for folder in ("s.zarr", "s.zarr/tables/table/obs"):
        locked = (here / folder).resolve()

        def refuse(*, dir, prefix, locked=locked):  # noqa: A002  the name is tempfile's
            if dir == locked:
                raise PermissionError(13, "Permission denied")
            return make(dir=dir, prefix=prefix)

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        before = tree(here)
        message = refused(capsys, "domains", "s.zarr")
        assert "s.zarr cannot take the result" in message
        assert "--out" in message
        assert tree(here) == before


def test_a_store_on_a_read_only_mount(here, capsys, monkeypatch):
    """Even root cannot write there, though permissions say otherwise."""
    monkeypatch.setattr(storm.tl, "domains", None)
    store = here / "s.zarr"
    mounts = [["mount", "--bind", str(store), str(store)], ["mount", "-o", "remount,bind,ro", str(store)]]
    if os.geteuid() != 0 or any(subprocess.run(m, capture_output=True, check=False).returncode for m in mounts):
        pytest.skip("mounting is for root, where it is allowed")
    try:
        before = tree(here)
        message = refused(capsys, "domains", "s.zarr")
        assert "s.zarr cannot take the result, because it cannot be written (Read-only file system)" in message
        assert "give --out NEW.zarr" in message
        assert tree(here) == before
    finally:
        subprocess.run(["umount", "--lazy", str(store)], check=True)


@pytest.mark.slow
def test_a_store_without_permission_to_write(here):
    """The same with permissions of the file system; root is subject to them only without this capability."""
    command = [sys.executable, "-m", "storm.cli", "domains", "s.zarr", "--n-domains", "2", "--quiet"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write anywhere, and setpriv is not installed")
        command = ["setpriv", "--bounding-set=-dac_override", *command]
    folders = [p for p in [here / "s.zarr", *(here / "s.zarr").rglob("*")] if p.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    before = tree(here)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = tree(here)
        with_out = subprocess.run([*command, "--out", "new.zarr"], capture_output=True, text=True, check=False)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "give --out NEW.zarr" in done.stderr
    assert after == before
    assert with_out.returncode == 0, with_out.stderr
    assert "storm_domain" in spatialdata.read_zarr(here / "new.zarr").tables["table"].obs


def test_what_appears_in_the_meantime_is_kept(here):
    sdata = read_store(Path("s.zarr"))
    write = sdata.write

    def write_while_another_does(path: Path) -> None:
        write(path)
        shutil.copytree(path, "new.zarr")
        Path("new.zarr/mine").touch()

    sdata.write = write_while_another_does
    with pytest.raises(FileExistsError, match="has appeared"):
        write_store(sdata, Path("new.zarr"))
    assert Path("new.zarr/mine").exists()
    assert sorted(p.name for p in here.iterdir()) == ["new.zarr", "notes.txt", "s.zarr"]


# ---------------------------------------------------------------------------------------------- malformed input


def break_root(store: Path) -> None:
    (store / "zarr.json").write_text("[1]")


def break_attributes(store: Path) -> None:
    (store / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": [1]}')


def break_format(store: Path) -> None:
    (store / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"spatialdata_attrs": [1]}}'
    )


def break_table(store: Path) -> None:
    shutil.rmtree(store / "tables" / "table" / "obs" / "_index")


def break_shapes(store: Path) -> None:
    (store / "shapes" / "spots" / "shapes.parquet").write_bytes(b"no parquet")


@pytest.mark.parametrize("damage", [break_root, break_attributes, break_format, break_table, break_shapes])
def test_damaged_stores(damage: Callable[[Path], None], here, capsys):
    damage(here / "s.zarr")
    before = tree(here)
    message = refused(capsys, "domains", "s.zarr")
    assert message.startswith("storm domains: error: s.zarr is ")
    if damage is break_table:
        assert "tables/table" in message
    if damage is break_shapes:
        assert "shapes/spots" in message
    assert tree(here) == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["embed", "s.zarr", "--batch-size", "2.5"], "--batch-size: '2.5' is not a whole number of at least 1"),
        (["embed", "s.zarr", "--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["embed", "s.zarr", "--seed", "a"], "--seed: 'a' is not a whole number"),
        (["embed", "s.zarr", "--seed", "-1"], "--seed"),
        (["domains", "s.zarr", "--seed", "99999999999"], "largest seed"),
        (["embed", "s.zarr", "--um-per-px", "0,5"], "--um-per-px: '0,5' is not a positive number"),
        (["embed", "s.zarr", "--um-per-px", "nan"], "'nan' is not a positive number"),
        (["embed", "s.zarr", "--um-per-px", "inf"], "'inf' is not a positive number"),
        (["embed", "s.zarr", "--field-um", "0"], "'0' is not a positive number"),
        (["embed", "s.zarr", "--readout", "best"], "--readout"),
        (["domains", "s.zarr", "--n-domains", "1"], "'1' is not a whole number of at least 2"),
        (["domains", "s.zarr", "--n-domains", "native"], "--n-domains"),
        (["encode", "s.zarr", "--encoder", "stain-texture", "--tile-px", "auto"], "--tile-px"),
        (["encode", "s.zarr", "--encoder", "stain-texture", "--precision", "int8"], "--precision"),
        (["predict", "s.zarr", "--genes", ","], "--genes names no gene"),
        (["adapt", "s.zarr", "--out", "m", "--held-out", "0.9"], "'0.9' is not a number from 0 to 0.5"),
        (["demo", "--n", "-3"], "--n"),
        (["domains", "s.zarr", "--use-rep", "../X_storm"], "--use-rep ../X_storm is not in obsm"),
        (["domains", "s.zarr", "--table-key", "../table"], "--table-key ../table is not in sdata.tables"),
        (["demo", "--dataset", "toy:nothing"], "nothing"),
        (["adapt", "s.zarr", "--out", "notes.txt"], "--out notes.txt exists"),
        (["demo", "--out", "notes.txt"], "notes.txt is a file"),
        (["check", "s.zarr", "--figures", "notes.txt"], "notes.txt is a file"),
        (["pretrain", "nothing.toml"], "nothing.toml"),
        (["pretrain", "notes.txt"], "notes.txt"),
    ],
)
def test_options_that_make_no_sense(argv, words, here, capsys):
    before = tree(here)
    assert words in refused(capsys, *argv)
    assert tree(here) == before


def test_the_parser_offers_what_the_functions_take():
    from storm._loading import READOUTS

    for command in ("embed", "adapt"):
        for readout in READOUTS:
            argv = [command, "s.zarr", "--readout", readout, *(["--out", "m"] if command == "adapt" else [])]
            assert make_parser().parse_args(argv).readout == readout


def test_overwrite_replaces_stores_only(here, capsys):
    (here / "section.zarr").mkdir()
    (here / "section.zarr" / "mine.txt").write_text("the only copy")
    before = tree(here)
    assert "is not a zarr store" in refused(capsys, "demo", "--out", ".", "--overwrite")
    assert tree(here) == before


def test_the_session_s_settings_are_kept(here):
    storm.settings.verbosity = 1
    assert main(["domains", "s.zarr", "--n-domains", "2", "--quiet"]) == 0
    assert storm.settings.verbosity == 1


@pytest.mark.parametrize("buffering", [1, -1])
@pytest.mark.parametrize("argv", ["check s.zarr t.zarr --no-estimate", "report s.zarr t.zarr", "models", "--help"])
def test_a_reader_that_goes_away(here, argv, buffering, capsys, monkeypatch):
    """Not an error of the section at work, after which the next one would follow."""
    shutil.copytree("s.zarr", "t.zarr")
    with unread(buffering) as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert main(argv.split()) == 1
        assert sys.stdout is gone
    assert capsys.readouterr().err == ""


def test_a_reader_of_errors_that_goes_away(here, capsys, monkeypatch):
    with unread(1) as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        assert main(["domains", "nothing.zarr", "--n-domains", "2"]) == 1
    assert capsys.readouterr().out == ""


def unread(buffering: int) -> TextIO:
    """A stream whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=buffering)


@pytest.mark.slow
@pytest.mark.parametrize("argv", ["models", "--help"])
def test_a_reader_that_goes_away_in_the_shell(argv):
    done = subprocess.run(
        f"{sys.executable} -m storm.cli {argv} | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_errors_of_other_packages_name_their_type():
    with pytest.raises(KeyError) as caught:
        pd.DataFrame({"a": [1]})["b"]
    assert one_line(caught.value) == "KeyError: b"
    with pytest.raises(FileNotFoundError) as ours:
        read_store(Path("nothing.zarr"))
    assert one_line(ours.value) == "nothing.zarr does not exist"
    assert one_line(ValueError()) == "ValueError"
