"""``storm cohort add | check | split``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import storm
from storm.cli import main
from storm.prognosis import Cohort

N = 4


@pytest.fixture
def here(toy_once, tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, four slides in a folder of their own, of which one is damaged, and the two tables."""
    pixels = np.asarray(toy_once["he"]["scale0"]["image"]).transpose(1, 2, 0)
    size = min(pixels.shape[:2]) // 3
    (tmp_path / "wsi").mkdir()
    for k in range(N - 1):
        piece = pixels[k * size // 2 :, k * size // 2 :][:size, :size]
        Image.fromarray(np.ascontiguousarray(piece)).save(tmp_path / "wsi" / f"s{k}.png")
    (tmp_path / "wsi" / "s3.png").write_bytes(b"damaged")
    patients = pd.DataFrame({"OS_time": [1.0, 2, 3, 4], "OS_event": [1, 0, 1, 1], "site": list("aabb")})
    patients.assign(patient=[f"00{k}" for k in range(N)]).to_csv(tmp_path / "patients.csv", index=False)
    slides = pd.DataFrame({"slide": [f"s{k}" for k in range(N)], "patient": [f"00{k}" for k in range(N)]})
    slides.assign(path=[f"wsi/s{k}.png" for k in range(N)], um_per_px=500 / size).to_csv(
        tmp_path / "slides.csv", index=False
    )
    tiny_model.save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = ["--model", "model", "--modality", "he", "--device", "cpu", "--quiet"]
TABLES = ["--patients", "patients.csv", "--slides", "slides.csv"]


def add(*files: str, tables: list[str] = TABLES, workers: int = 1, more: tuple[str, ...] = ()) -> int:
    return main(["cohort", "add", "kirc", *files, *OPTIONS, "--workers", str(workers), *tables, *more])


def test_add_goes_on(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert add(more=("--summary", "done.csv")) == 2
    captured = capsys.readouterr()
    assert "s3.png: error: " in captured.err
    assert "1 of 4 slides failed" in captured.err
    cohort = Cohort(here / "kirc")
    # Names keep their zeros, and paths are those beside the table.
    assert cohort.patients.index.tolist() == ["000", "001", "002", "003"]
    assert cohort.slides["path"].tolist() == [str(here / "wsi" / f"s{k}.png") for k in range(N)]
    assert cohort.slides["status"].str[:4].tolist() == ["done", "done", "done", "fail"]
    assert pd.read_csv(here / "done.csv")["status"].tolist() == ["ok", "ok", "ok", "failed"]
    assert Path(cohort.facts["model_name"]).name == "model"
    # The same command again does what is left; a slide was put in order.
    Image.open(here / "wsi" / "s0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(here / "wsi" / "s3.png")
    before = cohort.path_of("s0").stat().st_mtime_ns
    assert add() == 0
    assert "4 of 4 slides done" in capsys.readouterr().out
    assert cohort.path_of("s0").stat().st_mtime_ns == before
    assert add(tables=[]) == 0
    assert "nothing to add" in capsys.readouterr().out
    assert len(Cohort(here / "kirc").bag("003")) > 5


def test_new_rows_are_added(here: Path, capsys: pytest.CaptureFixture) -> None:
    assert add("wsi/s0.png") == 0
    more = pd.read_csv("slides.csv", dtype=str).iloc[:1].assign(slide="s0b", path="wsi/s1.png")
    pd.concat([pd.read_csv("slides.csv", dtype=str), more]).to_csv("slides.csv", index=False)
    assert add("wsi/s2.png", tables=["--slides", "slides.csv"]) == 0
    cohort = Cohort(here / "kirc")
    assert cohort.slides["patient"].to_dict()["s0b"] == "000"
    assert cohort.slides["status"].to_dict() == {
        "s0": "done", "s1": "waiting", "s2": "done", "s3": "waiting", "s0b": "waiting",
    }  # fmt: skip
    pd.read_csv("slides.csv", dtype=str).assign(patient="003").to_csv("slides.csv", index=False)
    capsys.readouterr()
    assert add(tables=["--slides", "slides.csv"]) == 2
    assert "4 slides have other values in the cohort than in the table: s0, s1, s2" in capsys.readouterr().err


@pytest.mark.slow
def test_workers(here: Path) -> None:
    """Two processes at once write into one cohort."""
    assert add("wsi/s0.png", "wsi/s1.png", "wsi/s2.png", workers=2) == 0
    assert (Cohort(here / "kirc").slides["status"] == "done").sum() == 3


@pytest.mark.slow
def test_a_running_cluster(here: Path, capsys: pytest.CaptureFixture) -> None:
    """The workers of a scheduler that others started add the slides, and a damaged one stops nothing."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, memory_limit=None, dashboard_address=None, silence_logs=50
    ) as cluster:
        argv = ["cohort", "add", "kirc", *OPTIONS, *TABLES, "--scheduler", cluster.scheduler_address, "--retries", "0"]
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert "3 of 4 slides done" in captured.out
        assert "s3.png: error: " in captured.err
        # The same command goes on with what is left.
        Image.open(here / "wsi" / "s0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(here / "wsi" / "s3.png")
        assert main(argv) == 0
        assert "4 of 4 slides done" in capsys.readouterr().out
    elsewhere = [*argv[:2], "alone", *argv[3:-4]]
    assert main(elsewhere) == 0
    one, other = Cohort(here / "kirc"), Cohort(here / "alone")
    for slide in other.slides.index:
        np.testing.assert_array_equal(one.features(slide)["he"][...], other.features(slide)["he"][...])


def test_check_and_split(here: Path, capsys: pytest.CaptureFixture) -> None:
    storm.datasets.toy_cohort("toy", n_patients=30, n_tiles=(6, 9))
    assert main(["cohort", "check", "toy"]) == 0
    assert "nothing is wrong or missing" in capsys.readouterr().out
    split = ["cohort", "split", "toy", "--endpoint", "DSS", "--folds", "3", "--group", "site", "--out"]
    assert main([*split, "folds.csv"]) == 0
    assert "in several folds: nothing" in capsys.readouterr().out
    table = pd.read_csv("folds.csv", index_col="patient")
    cohort = Cohort("toy")
    pd.testing.assert_frame_equal(table, storm.prognosis.split(cohort, endpoint="DSS", folds=3, group="site"))
    assert main([*split, "folds.csv"]) == 2
    assert "exists" in capsys.readouterr().err
    cohort.patients.iloc[3, cohort.patients.columns.get_loc("DSS_time")] = -1.0
    cohort.save()
    assert main(["cohort", "check", "toy"]) == 1
    assert "fail       1  DSS: negative time: P0003" in capsys.readouterr().out
    assert main(["cohort", "check", "nothing"]) == 2
    assert "holds no cohort" in capsys.readouterr().err
