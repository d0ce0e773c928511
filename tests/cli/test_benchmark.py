"""``storm benchmark domains``."""

from __future__ import annotations

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
    assert "methods='nope'" in capsys.readouterr().err
    assert not (stored / "t.csv").exists()
    (stored / "t.csv").write_text("mine")
    assert main([*arguments, "domain", "--methods", "smoothing"]) == 2
    assert (stored / "t.csv").read_text() == "mine"
    with pytest.raises(SystemExit):
        main(["benchmark"])
