"""The command line, run in this process: files, messages and errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from safetensors.torch import save_file
from scipy import sparse

import storm
from storm import _keys
from storm.cli import main
from storm.cli._demo import _two_genes

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

N = 80


@pytest.fixture(scope="module")
def small() -> spatialdata.SpatialData:
    return storm.datasets.toy("visium", n=N, seed=0)


@pytest.fixture(scope="module")
def section(small, tmp_path_factory) -> Path:
    """A stored section; tests copy it."""
    path = tmp_path_factory.mktemp("cli") / "section.zarr"
    small.write(path)
    return path


@pytest.fixture(scope="module")
def model(small, tiny_model, tmp_path_factory) -> str:
    """Folder of a model with a head."""
    head = storm.tl.fit_expression(small, ["EPCAM", "COL1A1", "CD3E", "MKI67"], model=tiny_model)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    replace(tiny_model, head=head).save(folder)
    return str(folder)


@pytest.fixture
def store(section, tmp_path) -> Path:
    return Path(shutil.copytree(section, tmp_path / "in.zarr"))


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def error(capsys, *argv: str | Path) -> str:
    """The one line that a failing command prints to stderr."""
    assert main([str(a) for a in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line.startswith("storm")]
    assert len(lines) == 1
    assert "Traceback" not in printed.err
    return lines[0]


# ---------------------------------------------------------------------------------------------- on a store


def test_embed_domains_predict(store, model, capsys):
    before = files_of(store)
    assert main(["embed", str(store), "--model", model, "--quiet"]) == 0
    assert f"{N} of {N} rows embedded" in capsys.readouterr().out
    assert main(["domains", str(store), "--n-domains", "4", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("4 domains (0: ")
    assert main(["predict", str(store), "--model", model, "--keep", "all", "--intervals", "--quiet"]) == 0
    assert "4 genes predicted" in capsys.readouterr().out

    sdata = spatialdata.read_zarr(store)
    table, predicted = sdata.tables["table"], sdata.tables["table_storm"]
    assert table.obsm["X_storm"].dtype == np.float32
    assert np.isfinite(table.obsm["X_storm"]).all()
    assert table.obs["storm_domain"].nunique() == 4
    assert sorted(predicted.var_names) == ["CD3E", "COL1A1", "EPCAM", "MKI67"]
    assert np.isfinite(predicted.X).all()
    assert set(predicted.layers) - {None} == {"storm_lower", "storm_upper"}
    assert {"storm_r", "storm_lo", "storm_hi"} <= set(predicted.var)
    assert predicted.obs["storm_ood_p"].between(0, 1).all()
    assert {"X_storm", "storm_domain"} <= set(table.uns["storm"])
    assert "storm" in predicted.uns["storm"]
    # Nothing else was rewritten: the pixels, the spots and the counts are the same bytes.
    after = files_of(store)
    untouched = [name for name in before if name.startswith(("images/", "shapes/", "tables/table/X/"))]
    assert untouched
    assert all(before[name] == after[name] for name in untouched)


def test_embed_reuses_encoded_tiles(store, capsys, tmp_path):
    weights = tmp_path / "weights.safetensors"
    name = "timm:test_vit"
    info = storm.encoders.get_encoder(name)
    save_file(info.architecture().state_dict(), weights)
    argv = ["encode", str(store), "--encoder", name, "--weights", str(weights), "--quiet"]
    assert main(argv) == 0
    assert f"{N} of {N} tiles encoded in {info.dim} dimensions" in capsys.readouterr().out
    table = spatialdata.read_zarr(store).tables["table"]
    assert table.obsm["X_timm_test_vit"].shape == (N, info.dim)
    loaded = storm.encoders.load_encoder(name, weights=weights)
    mine = storm.build_model("storm-tiny", genes=table.var_names, tile_encoder=loaded)
    mine.save(tmp_path / "mine")
    # The model stores the name of its tile encoder, but not the weights.
    embed = ["embed", str(store), "--model", str(tmp_path / "mine"), "--tile-encoder", str(weights), "--quiet"]
    assert main(embed) == 0
    assert spatialdata.read_zarr(store).tables["table"].uns["storm"]["X_storm"]["tiles_reused"]
    capsys.readouterr()
    assert "is unknown" in error(capsys, "encode", store, "--encoder", "nobody")


def test_parts_of_an_embedding_and_a_report_are_stored(store, model, capsys):
    argv = ["embed", str(store), "--model", model, "--per-modality", "--quiet"]
    assert main(argv) == 0
    table = spatialdata.read_zarr(store).tables["table"]
    assert {"X_storm", "X_storm_he", "X_storm_st"} <= set(table.obsm)
    before = files_of(store)
    argv = ["check", str(store), "--model", model, "--no-estimate"]
    assert main(argv) == 0
    assert files_of(store) == before
    assert main([*argv, "--store"]) == 0
    assert "check" in spatialdata.read_zarr(store).tables["table"].uns["storm"]
    capsys.readouterr()
    assert "--library-key nope is not in obs" in error(capsys, *argv, "--library-key", "nope")
    assert main([*argv, "--figures", str(store.parent / "f"), "--library-key", "domain"]) in (0, 1)
    assert (store.parent / "f" / f"{store.stem}.png").is_file()  # a table of several sections is drawn too


def test_predicted_genes_in_a_store_of_their_own(store, model, tmp_path, capsys):
    before = files_of(store)
    out = tmp_path / "new" / "genes.zarr"
    argv = ["predict", str(store), "--model", model, "--keep", "all", "--quiet", "--table-out", str(out)]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"4 genes predicted: {out}, an AnnData of its own\n"
    assert files_of(store) == before
    written = anndata.read_zarr(out)
    mine = spatialdata.read_zarr(store)
    storm.tl.predict_expression(mine, model=model, keep="all", to="table")
    assert np.array_equal(written.X, mine["table_storm"].X)
    assert "--table-out" in error(capsys, *argv)
    assert "--out" in error(capsys, *argv[:-1], tmp_path / "b.zarr", "--out", tmp_path / "c.zarr")


def test_a_command_can_be_repeated(store, model):
    for k in ("3", "5"):
        assert main(["embed", str(store), "--model", model, "--modality", "st", "--quiet"]) == 0
        assert main(["domains", str(store), "--n-domains", k, "--quiet"]) == 0
    assert spatialdata.read_zarr(store).tables["table"].obs["storm_domain"].nunique() == 5


def test_out_leaves_the_input_alone(store, model, tmp_path, capsys):
    before = files_of(store)
    out = tmp_path / "new" / "out.zarr"
    argv = [
        "embed",
        str(store),
        "--model",
        model,
        "--quiet",
        "--modality",
        "he",
        "--key-added",
        "X_he",
        "--out",
        str(out),
    ]
    assert main(argv) == 0
    assert files_of(store) == before
    assert "X_he" in spatialdata.read_zarr(out).tables["table"].obsm
    assert [p.name for p in out.parent.iterdir()] == ["out.zarr"]
    capsys.readouterr()
    assert "exists" in error(capsys, *argv)


def test_an_image_without_spots(section, model, tmp_path, capsys):
    full = spatialdata.read_zarr(section)
    path = tmp_path / "image.zarr"
    spatialdata.SpatialData(images={"he": full["he"]}).write(path)
    assert (
        main(["predict", str(path), "--model", model, "--genes", "EPCAM,COL1A1", "CD3E", "--keep", "all", "--quiet"])
        == 0
    )
    assert "3 genes predicted" in capsys.readouterr().out
    sdata = spatialdata.read_zarr(path)
    assert set(sdata.shapes) == {_keys.TILES}
    virtual = sdata.tables[_keys.predicted_table(_keys.TILES_TABLE)]
    assert list(virtual.var_names) == ["EPCAM", "COL1A1", "CD3E"]
    assert main(["embed", str(path), "--model", model, "--quiet"]) == 0
    assert main(["domains", str(path), "--n-domains", "3", "--quiet"]) == 0
    assert spatialdata.read_zarr(path).tables[_keys.TILES_TABLE].obs["storm_domain"].nunique() == 3


def test_a_fitted_head_from_a_folder(store, model, tmp_path, capsys):
    head = storm.tl.fit_expression(spatialdata.read_zarr(store), ["KRT8", "LUM"], model=model)
    head.save(tmp_path / "head")
    argv = ["predict", str(store), "--model", model, "--head", str(tmp_path / "head"), "--keep", "all", "--quiet"]
    assert main(argv) == 0
    assert sorted(spatialdata.read_zarr(store).tables["table_storm"].var_names) == ["KRT8", "LUM"]
    assert "2 genes predicted" in capsys.readouterr().out


def test_a_layer_where_all_genes_are_predicted(store, model, tmp_path, capsys):
    sdata = spatialdata.read_zarr(store)
    head = storm.tl.fit_expression(sdata, list(sdata.tables["table"].var_names), model=model)
    head.save(tmp_path / "head")
    argv = ["predict", str(store), "--model", model, "--head", str(tmp_path / "head"), "--keep", "all", "--quiet"]
    assert main([*argv, "--intervals", "--depth", "500"]) == 0
    table = spatialdata.read_zarr(store).tables["table"]
    assert np.isfinite(table.layers["storm"]).all()
    assert {"storm", "storm_lower", "storm_upper"} <= set(table.layers)
    assert {"storm_r", "storm_lo", "storm_hi"} <= set(table.var)
    assert table.obs["storm_ood_p"].between(0, 1).all()
    assert table.uns["storm"]["storm"]["depth"] == 500
    assert "306 of 306 genes predicted" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- demo


def test_demo(model, tmp_path, capsys):
    out = tmp_path / "demo"
    argv = ["demo", "--n", str(N), "--model", model, "--out", str(out), "--quiet", "--each-modality"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    for words in (f"{N} spots", "embed", "total", "ARI", "H&E + ST", "median r", "section.zarr"):
        assert words in printed
    assert {p.name for p in out.iterdir()} == {"section.zarr", "he.png", "domains.png", "expression.png"}
    assert all((out / name).stat().st_size > 20_000 for name in ("he.png", "domains.png", "expression.png"))
    table = spatialdata.read_zarr(out / "section.zarr").tables["table"]
    assert table.obs["storm_domain"].nunique() == table.obs["domain"].nunique()
    assert "X_storm" in table.obsm
    assert "storm" in table.layers
    assert "exists; give another --out, or --overwrite" in error(capsys, *argv)


def test_demo_of_a_real_section_without_an_image(shared_data, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(storm.settings, "data_dir", shared_data)
    argv = ["demo", "--dataset", "her2st:B1", "--model", model, "--out", str(tmp_path / "demo"), "--quiet"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "no H&E" in printed
    assert "ARI" in printed
    assert "median r" not in printed
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"section.zarr", "domains.png"}


def test_two_genes_are_well_predicted_and_uncorrelated():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 50))
    predicted = np.column_stack([one, one + 0.01 * two, -one + 0.3 * two, np.full(50, np.nan)])
    assert _two_genes(np.array([0.8, 0.7, 0.6, np.nan]), predicted, list("ABCD")) == ["A", "C"]
    assert _two_genes(np.array([np.nan, 0.5]), predicted[:, :2], list("AB")) == ["B"]


# ---------------------------------------------------------------------------------------------- models, version, errors


def test_models(model, capsys, monkeypatch):
    monkeypatch.setattr("storm._loading.fetch._PACKAGED", Path(model).parent)
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny\n")
    assert "predicts 4 genes from H&E" in printed
    assert storm.load_model("tiny").sha256 in printed
    for name in storm.encoders.list_encoders():
        assert f"\n{name} " in printed
    monkeypatch.setattr("storm._loading.fetch._PACKAGED", Path(model) / "nothing")
    assert "no model is packaged" in error(capsys, "models")


def test_version_and_help(capsys):
    for argv in (["--version"], ["--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
    assert f"storm {storm.__version__}" in capsys.readouterr().out


def test_help_needs_no_heavy_package():
    code = (
        "import sys; from storm.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: print(*[m for m in ('torch', 'spatialdata', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[1] == ""


def test_errors_are_one_line(store, model, tmp_path, capsys):
    assert error(capsys, "embed", tmp_path / "no.zarr") == f"storm embed: error: {tmp_path / 'no.zarr'} does not exist"
    (tmp_path / "text.zarr").write_text("no zarr")
    assert "is not a zarr store" in error(capsys, "embed", tmp_path / "text.zarr")
    assert "not of a SpatialData object" in error(capsys, "embed", store / "tables" / "table")
    assert "neither a packaged model" in error(capsys, "embed", store, "--model", "nope")
    printed = error(capsys, "embed", store, "--model", model, "--image-key", "nope")
    assert "--image-key nope is not in sdata.images" in printed
    assert '"' not in printed  # the text of a KeyError, not its repr
    assert "run storm embed first" in error(capsys, "domains", store)
    assert "are not among the 4 that the head predicts" in error(
        capsys, "predict", store, "--model", model, "--genes", "NOPE"
    )
    assert "--dataset='nope' is unknown" in error(capsys, "demo", "--dataset", "nope", "--model", model)
    assert "is for the toy" in error(capsys, "demo", "--dataset", "her2st:C2", "--n", "9", "--model", model)


def test_a_failed_command_changes_no_file(store, model, capsys):
    before = files_of(store)
    error(capsys, "embed", store, "--model", model, "--layer", "nope")
    error(capsys, "domains", store, "--n-domains", "1000")
    error(capsys, "predict", store, "--model", model, "--genes", "NOPE")
    assert files_of(store) == before


def test_debug_shows_the_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        main(["embed", str(tmp_path / "no.zarr"), "--debug"])


def test_arguments_that_cannot_be_read(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["domains", "x.zarr", "--n-domains", "many"])
    assert stop.value.code == 2
    assert "--n-domains" in capsys.readouterr().err


def test_our_warnings_are_a_line(store, model, capsys):
    sdata = spatialdata.read_zarr(store)
    table = sdata.tables["table"].copy()
    table.X = sparse.diags_array(np.arange(N) > 1, dtype=np.float32).tocsr() @ table.X
    path = store.with_name("gaps.zarr")
    spatialdata.SpatialData(shapes={"spots": sdata["spots"]}, tables={"table": table}).write(path)
    assert main(["embed", str(path), "--model", model, "--quiet"]) == 0
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if line] == [
        f"storm: warning: model {model!r} has random weights: its output for a section has no meaning",
        f"storm: warning: 2 of {N} rows of 'X_storm' are NaN: 2 without counts",
    ]
    assert f"{N - 2} of {N} rows" in printed.out


def test_a_store_with_several_sections(section, model, tmp_path, capsys):
    """Each command takes the column that names them, and does what the function does."""
    sdata = spatialdata.read_zarr(section)
    table = sdata["table"]
    x = np.asarray(table.obsm["spatial"])[:, 0]
    table.obs["sample"] = np.where(x < np.median(x), "left", "right")
    store = tmp_path / "two.zarr"
    sdata.write(store)
    key = ["--library-key", "sample", "--quiet"]
    assert main(["encode", str(store), "--encoder", "stain-texture", *key]) == 0
    assert main(["embed", str(store), "--model", model, *key]) == 0
    assert main(["domains", str(store), "--n-domains", "3", *key]) == 0
    assert main(["predict", str(store), "--model", model, "--keep", "all", *key]) == 0
    done = spatialdata.read_zarr(store)
    records = done["table"].uns["storm"]
    for name in ("X_stain-texture", "X_storm"):
        assert set(records[name]["sections"]) == {"left", "right"}
    assert list(records["storm_domain"]["proportions"]["sections"]) == ["left", "right"]
    assert set(done["table_storm"].uns["storm"]["storm"]["sections"]) == {"left", "right"}
    capsys.readouterr()
    message = error(capsys, "domains", store, "--n-domains", "3", "--library-key", "batch", "--key-added", "d")
    assert "--library-key batch is not in obs" in message


# ------------------------------------------------------------------------------------------------------------- export


def test_export(section, small, tmp_path, capsys):
    before = files_of(section)
    table = small.tables["table"]
    assert main(["export", "qupath", str(section), str(tmp_path / "a.geojson"), "--key", "domain"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.geojson")
    assert len(json.loads((tmp_path / "a.geojson").read_text())["features"]) == N
    table.write_h5ad(tmp_path / "table.h5ad")
    out = str(tmp_path / "a.csv")
    loupe = ["export", "loupe", str(tmp_path / "table.h5ad"), out, "--key", "domain", "--key", "capture"]
    assert main(loupe) == 0
    capsys.readouterr()
    written = pd.read_csv(out)
    assert list(written.columns) == ["Barcode", "domain", "capture"]
    assert written["Barcode"].tolist() == list(table.obs_names)
    assert "a.csv exists" in error(capsys, *loupe)
    assert main([*loupe, "--overwrite"]) == 0
    capsys.readouterr()
    assert "'storm_domain' is not in obs" in error(capsys, "export", "loupe", section, tmp_path / "b.csv")
    assert "b.h5ad does not exist" in error(capsys, "export", "loupe", tmp_path / "b.h5ad", tmp_path / "b.csv")
    assert files_of(section) == before


# ------------------------------------------------------------------------------------------------------------- report


def test_report(store, small, model, tmp_path, capsys):
    before = files_of(store)
    out = tmp_path / "new" / "one.html"
    assert main(["report", str(store), "--out", str(out), "--model", model, "--key", "domain"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert "Computed for this report" in out.read_text(encoding="utf-8")
    assert "exists; give another --out" in error(capsys, "report", store, "--out", out)
    bad = tmp_path / "<b>bad.zarr"
    bad.mkdir()
    small.tables["table"].write_h5ad(tmp_path / "table.h5ad")
    folder = tmp_path / "all"
    stores = [store, bad, tmp_path / "table.h5ad"]
    assert main(["report", *map(str, stores), "--out", str(folder), "--model", model]) == 2
    printed = capsys.readouterr()
    assert "bad.zarr: error:" in printed.err
    assert printed.out.splitlines()[-1] == str(folder / "index.html")
    assert {path.name for path in folder.iterdir()} == {"in.html", "table.html", "index.html"}
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;bad" in index
    assert "<b>bad" not in index
    assert 'href="in.html"' in index
    assert "give the name of a folder" in error(capsys, "report", *stores, "--out", tmp_path / "x.html")
    assert "would have one name, ['in.html']" in error(capsys, "report", store, tmp_path / "in.h5ad")
    assert files_of(store) == before
