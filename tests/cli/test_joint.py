"""``storm embed --joint`` and ``storm domains --joint``: several stores as one study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import spatialdata

import storm
from storm.cli import main

# anndata warns whenever it writes that its next version will write in another way.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


def section(seed: int) -> spatialdata.SpatialData:
    whole = storm.datasets.toy("visium", n=70, seed=seed)
    return spatialdata.SpatialData(shapes=dict(whole.shapes), tables=dict(whole.tables))


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for seed, name in enumerate("abc"):
        section(seed).write(folder / f"{name}.zarr")
    return folder


@pytest.fixture
def study(stored, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(stored, tmp_path / "study"))


def tables(study: Path):
    return [spatialdata.read_zarr(path).tables["table"] for path in sorted(study.glob("*.zarr"))]


def test_several_stores_are_one_study(study, capsys) -> None:
    paths = [str(path) for path in sorted(study.glob("*.zarr"))]
    assert main(["embed", *paths, "--joint", "--modality", "st", "--summary", "s.json"]) == 0
    out = capsys.readouterr().out
    assert out.count("70 of 70 rows embedded") == 3
    assert [row["status"] for row in json.loads(Path("s.json").read_text())] == ["ok"] * 3
    objects = [section(seed) for seed in range(3)]
    storm.tl.embed(objects, modality="st")
    for table, one in zip(tables(study), objects, strict=True):
        np.testing.assert_allclose(table.obsm["X_storm"], one.tables["table"].obsm["X_storm"], atol=1e-4)
        assert table.uns["storm"]["X_storm"]["joint"]
    assert main(["domains", *paths, "--joint", "--n-domains", "4"]) == 0
    storm.tl.domains(objects, 4)
    for table, one in zip(tables(study), objects, strict=True):
        labels = [found.obs["storm_domain"].astype(str).tolist() for found in (table, one.tables["table"])]
        assert labels[0] == labels[1]
    assert not list(study.glob("*.storm"))


def test_out_is_a_folder_and_the_stores_stay_as_they_were(study) -> None:
    paths = [str(path) for path in sorted(study.glob("*.zarr"))]
    assert main(["embed", *paths, "--joint", "--modality", "st", "--batch", "center", "--out", "new"]) == 0
    assert all("X_storm" not in table.obsm for table in tables(study))
    assert [table.uns["storm"]["X_storm"]["batch"] for table in tables(Path("new"))] == ["center"] * 3


def test_what_is_wrong_with_one_stores_nothing(study, capsys) -> None:
    paths = [str(path) for path in sorted(study.glob("*.zarr"))]
    assert main(["embed", *paths, paths[0], "--joint"]) == 2
    assert "is given twice" in capsys.readouterr().err
    assert main(["embed", *paths, "--joint", "--workers", "2"]) == 2
    assert "--joint works in one process" in capsys.readouterr().err
    assert main(["domains", *paths, "--joint", "--n-domains", "4"]) == 2
    assert "run storm.tl.embed first" in capsys.readouterr().err
    assert main(["embed", *paths, "--joint", "--layer", "raw_counts"]) == 2
    assert "data[0] (a.zarr)" in capsys.readouterr().err
    assert all("X_storm" not in table.obsm for table in tables(study))


def test_domains_of_sections_that_were_embedded_apart_are_a_warning(study, capsys) -> None:
    paths = [str(path) for path in sorted(study.glob("*.zarr"))]
    assert main(["embed", *paths, "--workers", "1", "--modality", "st"]) == 0
    assert main(["domains", *paths, "--joint", "--n-domains", "4"]) == 0
    assert "mean something else in each of 3 sections" in capsys.readouterr().err
