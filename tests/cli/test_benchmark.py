"""``storm benchmark``."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest
import spatialdata

import storm
from storm.cli import main

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture
def stored(toy, tmp_path):
    part = spatialdata.SpatialData(shapes=dict(toy.shapes), tables=dict(toy.tables))
    part.tables["table"].obsm["X_mine"] = part.tables["table"].X[:, :5].toarray()
    part.write(tmp_path / "a.zarr")
    return tmp_path


def test_table_is_written_and_summed_up(stored, toy, capsys):
    before = sorted(stored.rglob("*"))
    arguments = ["benchmark", "domains", str(stored / "a.zarr"), "--truth", "domain", "--methods", "smoothing"]
    arguments += ["--use-rep", "X_mine", "--n-domains", "3", "4", "--n-seeds", "2", "--quiet", "--out"]
    assert main([*arguments, str(stored / "t.csv")]) == 0
    table = pd.read_csv(stored / "t.csv")
    assert table.groupby(["method", "section", "n_domains"]).size().to_dict() == {
        (method, "a", k): 2 for method in ("smoothing", "X_mine") for k in (3, 4)
    }
    want = storm.benchmark.domains(toy, ["smoothing"], truth="domain", n_domains=[3, 4], seeds=range(2))
    assert table.loc[table["method"] == "smoothing", "ari"].tolist() == pytest.approx(want["ari"].tolist())
    out = capsys.readouterr().out
    assert "smoothing" in out
    assert "8 rows" in out
    assert sorted(path for path in stored.rglob("*") if path.name != "t.csv") == before
    assert main([*arguments, str(stored / "t.json")]) == 0
    assert len(pd.read_json(stored / "t.json")) == 8


def test_what_is_refused(stored, capsys):
    arguments = ["benchmark", "domains", str(stored / "a.zarr"), "--out", str(stored / "t.csv"), "--truth"]
    assert main([*arguments, "nope", "--methods", "smoothing"]) == 2
    assert "nope" in capsys.readouterr().err
    assert main([*arguments, "domain", "--methods", "nope"]) == 2
    assert "--methods nope" in capsys.readouterr().err
    assert not (stored / "t.csv").exists()
    (stored / "t.csv").write_text("mine")
    assert main([*arguments, "domain", "--methods", "smoothing"]) == 2
    assert (stored / "t.csv").read_text() == "mine"
    with pytest.raises(SystemExit):
        main(["benchmark"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two stores with their tiles encoded, one of which holds predictions."""
    folder = tmp_path_factory.mktemp("measured")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        for k, name in enumerate("ab"):
            one = storm.datasets.toy("visium", n=60, seed=k)
            storm.tl.encode_tiles(one, "stain-texture")
            guess = one.tables["table"].copy()
            guess.uns.pop("spatialdata_attrs", None)
            one.tables["guess"] = guess
            one.write(folder / f"{name}.zarr")
    return folder


def test_expression_is_the_table_of_the_function(measured, tmp_path, capsys):
    paths = [str(measured / f"{name}.zarr") for name in "ab"]
    out = tmp_path / "t.csv"
    arguments = ["benchmark", "expression", *paths, "--groups", "p", "q", "--methods", "ridge", "--n-genes", "8"]
    arguments += [
        "--genes",
        "train",
        "test",
        "--predictions",
        "guess",
        "--device",
        "cpu",
        "--quiet",
        "--table-key",
        "table",
        "--out",
    ]
    assert main([*arguments, str(out)]) == 0
    table = pd.read_csv(out)
    assert set(table["method"]) == {"ridge", "guess"}
    assert set(table["genes"]) == {"train 8", "test 8"}
    sections = {name: spatialdata.read_zarr(path) for name, path in zip("ab", paths, strict=True)}
    want = storm.benchmark.expression(
        sections, ["ridge"], groups=["p", "q"], n_genes=8, seeds=[0], device="cpu", table_key="table"
    )
    own = table[(table["method"] == "ridge") & (table["genes"] == "train 8")]
    assert own["pearson"].tolist() == pytest.approx(want["pearson"].tolist())
    assert "ridge" in capsys.readouterr().out
    few = ["--genes", "ERBB2", "EPCAM", "--train", "a", "--test", "b", "--out", str(tmp_path / "u.csv")]
    assert main([*arguments[:9], *few, "--table-key", "table", "--quiet"]) == 0
    named = pd.read_csv(tmp_path / "u.csv")
    assert set(named["gene"]) == {"ERBB2", "EPCAM"}
    assert set(named["section"]) == {"b"}
    assert set(named["split"]) == {"given"}


def test_expression_refuses(measured, tmp_path, capsys):
    paths = [str(measured / f"{name}.zarr") for name in "ab"]
    arguments = ["benchmark", "expression", *paths, "--table-key", "table", "--out", str(tmp_path / "t.csv")]
    assert main([*arguments, "--groups", "p", "p", "--methods", "mean"]) == 2
    assert "all sections are of patient 'p'" in capsys.readouterr().err
    assert main([*arguments, "--methods", "mean"]) == 2
    assert "give --group-key" in capsys.readouterr().err
    assert main([*arguments, "--groups", "p", "q", "--train", "a"]) == 2
    assert "belong together" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()
