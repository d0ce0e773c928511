"""Slides become features: each tile encoded once, nothing of a slide's own mean, and one bad slide stops nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import storm
from storm._bridge.cohort_writing import record
from storm._inference import slide_features as engine
from storm.prognosis import Cohort, add_features, add_slides, check

#: The toy's tiles are unlike what the packaged head was trained on, and the head standardises by slide.
pytestmark = pytest.mark.filterwarnings("ignore:.*unlike those that the head was trained on:UserWarning")


@pytest.fixture(scope="module")
def picture(toy_once) -> np.ndarray:
    """Pixels of a drawn section."""
    return np.ascontiguousarray(np.asarray(toy_once["he"]["scale0"]["image"]).transpose(1, 2, 0))


@pytest.fixture
def slides(tmp_path: Path, picture: np.ndarray) -> pd.DataFrame:
    """Two pieces of tissue of 700 µm, a file that is no image, and a file that is not there."""
    size = min(picture.shape[:2]) // 2
    Image.fromarray(picture[:size, :size]).save(tmp_path / "A.png")
    Image.fromarray(picture[-size:, -size:]).save(tmp_path / "B.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = [str(tmp_path / name) for name in ("A.png", "bad.png", "B.png", "gone.png")]
    table = pd.DataFrame({"patient": ["p0", "p1", "p1", "p2"], "path": paths}, index=["A", "bad", "B", "gone"])
    return table.assign(um_per_px=700 / size)


@pytest.fixture
def cohort(tmp_path: Path, slides: pd.DataFrame) -> Cohort:
    patients = pd.DataFrame({"OS_time": [1.0, 2, 3], "OS_event": [1, 0, 1]}, index=["p0", "p1", "p2"])
    return Cohort.create(tmp_path / "c", patients=patients, slides=slides)


def test_one_bad_slide_stops_nothing(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []
    original = engine.tile_embedding

    def counted(spots, *args, **kwargs):
        calls.append(len(spots))
        return original(spots, *args, **kwargs)

    monkeypatch.setattr(engine, "tile_embedding", counted)
    with caplog.at_level(logging.WARNING, "storm"):
        table = add_slides(cohort, device="cpu")
    assert "2 of 4 slides failed: bad, gone" in caplog.text
    assert "standardises each slide by itself" in caplog.text
    assert table.loc[["A", "B"], "status"].tolist() == ["done", "done"]
    assert table.loc["bad", "status"].startswith("failed: ")
    assert "bad.png" in table.loc["bad", "status"]
    assert table.loc["gone", "status"].startswith("failed: there is no image")
    # Each tile was encoded once, for the embedding and for the genes together.
    assert calls == table.loc[["A", "B"], "n_tiles"].tolist()
    assert 20 < calls[0] <= 36
    bag = cohort.bag("p0")
    head = storm.load_model("storm-mini").head
    assert cohort.genes == tuple(gene for gene, r in zip(head.genes, head.reliability, strict=True) if not r <= 0)
    assert (cohort.facts["readout"], cohort.facts["field_um"], cohort.facts["model_name"]) == (
        "window",
        112.0,
        "storm-mini",
    )
    assert bag.st.shape == (calls[0], len(cohort.genes))
    assert bag.st.min() >= 0
    assert len(np.unique(bag.xy_um, axis=0)) == calls[0]
    # What is there is left alone; the failed ones are tried again.
    again = add_slides(Cohort(cohort.folder), device="cpu")
    assert calls == table.loc[["A", "B"], "n_tiles"].tolist()
    pd.testing.assert_frame_equal(again, table)
    report = check(cohort).set_index("finding")
    assert report.loc["slide failed", "names"] == ("bad", "gone")
    assert report.loc["file missing", "names"] == ("gone",)


def test_features_are_those_of_the_verbs(cohort: Cohort, slides: pd.DataFrame) -> None:
    """Virtual genes are those of ``tl.predict_expression`` on the same slide."""
    add_slides(cohort, ["A"], device="cpu")
    sdata = storm.io.slide(slides.loc["A", "path"], um_per_px=slides.loc["A", "um_per_px"])
    storm.tl.predict_expression(sdata, device="cpu")
    table = sdata.tables["tiles_storm"]
    bag = cohort.bag("p0")
    order = np.lexsort(np.round(bag.xy_um).T)
    expected = np.lexsort(np.round(sdata.tables["tiles"].obsm["spatial"]).T)
    assert table.var_names.tolist() == list(cohort.genes)
    np.testing.assert_allclose(bag.st[order], np.asarray(table.X)[expected], atol=3e-3)


def test_nothing_of_the_slide_s_own_mean(cohort: Cohort) -> None:
    """A tile's own embedding does not depend on what else is on the slide, far from it; slides differ in their mean."""
    add_slides(cohort, ["A", "B"], modality="he", readout="center", device="cpu")
    assert cohort.modalities == ("he",)
    a, b = cohort.bag("p0").he, cohort.bag("p1").he
    assert abs(a.mean(axis=0)).max() > 0.1
    assert not np.allclose(a.mean(axis=0), b.mean(axis=0), atol=0.05)


def test_interrupted_run_goes_on(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    from storm.prognosis import _add_slides

    original = _add_slides.slide_features

    def interrupted(sdata, plan, *, name: str):
        if name == "B":
            raise KeyboardInterrupt
        return original(sdata, plan, name=name)

    monkeypatch.setattr(_add_slides, "slide_features", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_slides(cohort, ["A", "B"], modality="he", device="cpu")
    assert cohort.slides.loc[["A", "B"], "status"].tolist() == ["done", "waiting"]
    # Killed between the features and the row of the table.
    record(cohort, "A", status="waiting", n_tiles=0, sha256="")
    seen = []

    def counted(sdata, plan, *, name: str):
        seen.append(name)
        return original(sdata, plan, name=name)

    monkeypatch.setattr(_add_slides, "slide_features", counted)
    table = add_slides(Cohort(cohort.folder), ["A", "B"], modality="he", device="cpu")
    assert seen == ["B"]
    assert table["status"].tolist() == ["done", "done"]
    assert table["n_tiles"].gt(0).all()


def test_what_is_refused_before_anything_is_read(cohort: Cohort, slides: pd.DataFrame, tiny_model) -> None:
    for readout in ("adaptive", "section", "reconstruction"):
        with pytest.raises(ValueError, match=f"readout='{readout}' gives each slide axes of its own"):
            add_slides(cohort, readout=readout)
    with pytest.raises(ValueError, match="readout='mean' is not an option"):
        add_slides(cohort, readout="mean")
    with pytest.raises(ValueError, match="1 of 2 genes are not the head's: NOGENE"):
        add_slides(cohort, genes=[storm.load_model("storm-mini").head.genes[0], "NOGENE"])
    with pytest.raises(ValueError, match="has no expression head"):
        add_slides(cohort, model=tiny_model)
    with pytest.raises(ValueError, match="trained on another model"):
        add_slides(cohort, model=tiny_model, head=storm.load_model("storm-mini").head)
    with pytest.raises(KeyError, match=r"1 files are of no slide of the cohort: other\.svs"):
        add_slides(cohort, ["A", "other.svs"])
    with pytest.raises(ValueError, match="slide 'A' is given twice"):
        add_slides(cohort, ["A", slides.loc["A", "path"]])
    assert (cohort.slides["status"] == "waiting").all()
    add_features(cohort, "A", he=np.ones((2, 3)), xy_um=np.zeros((2, 2)), facts={"encoder": "mine"})
    with pytest.raises(ValueError, match=r"model_sha256 \(None in the cohort, '\w+…' here\)"):
        add_slides(cohort)


def test_another_model_is_refused(cohort: Cohort, tiny_model) -> None:
    add_slides(cohort, ["A"], model=tiny_model, modality="he", device="cpu")
    with pytest.raises(ValueError, match="model_sha256"):
        add_slides(cohort, ["B"], modality="he", device="cpu")
    with pytest.raises(ValueError, match=r"field_um \(112.0 in the cohort, 55 here\)|field_um"):
        add_slides(cohort, ["B"], model=tiny_model, modality="he", field_um=55, device="cpu")
    # The same weights under another name are the same model.
    add_slides(cohort, ["B"], model=replace(tiny_model, name="other"), modality="he", device="cpu")
    assert cohort.slides.loc["B", "status"] == "done"


def test_check_names_what_is_wrong(cohort: Cohort, tmp_path: Path) -> None:
    add_features(cohort, "A", he=np.ones((2, 3)), xy_um=np.zeros((2, 2)))
    add_features(cohort, "B", he=np.ones((2, 3)), xy_um=np.zeros((2, 2)))
    cohort.patients = cohort.patients.assign(PFI_time=[5.0, -2, 0], PFI_event=[1, 2, None])
    cohort.patients.loc["p9"] = None
    report = check(cohort).set_index("finding")
    found = {finding: (row["status"], row["names"]) for finding, row in report.iterrows()}
    assert found == {
        "patient without slides": ("warn", ("p9",)),
        "slide waiting": ("warn", ("bad", "gone")),
        "duplicate slide": ("fail", ("A", "B")),
        "file missing": ("warn", ("gone",)),
        "OS: no time or no event": ("warn", ("p9",)),
        "PFI: no time or no event": ("warn", ("p2", "p9")),
        "PFI: time of 0": ("warn", ("p2",)),
        "PFI: negative time": ("fail", ("p1",)),
        "PFI: event neither 0 nor 1": ("fail", ("p1",)),
        "PFI: later than OS": ("fail", ("p0",)),
    }
    import shutil

    shutil.rmtree(cohort.path_of("B"))
    assert check(cohort).set_index("finding").loc["features lost", "names"] == ("B",)


@pytest.mark.slow
def test_real_slides(shared_data: Path, tmp_path: Path) -> None:
    """Two public slides, of which one does not say its µm per pixel, through the same door."""
    wsi = shared_data / "wsi"
    paths = [str(wsi / "tcga-cr-7395-01a-01-ts1.svs"), str(wsi / "cmu-1-small-region.svs"), str(wsi / "broken.svs")]
    slides = pd.DataFrame(
        {"patient": ["a", "b", "c"], "path": paths, "um_per_px": [0.5, None, None]}, index=list("xyz")
    )
    patients = pd.DataFrame({"DSS_time": [3.0, 4, 5], "DSS_event": [1, 0, 1]}, index=["a", "b", "c"])
    cohort = Cohort.create(tmp_path / "c", patients=patients, slides=slides)
    table = add_slides(cohort, device="cpu")
    assert table["status"].str.partition(":")[0].tolist() == ["done", "done", "failed"]
    assert 150 < table.loc["x", "n_tiles"] < 260  # 2.2 × 1.8 mm, less glass
    assert 30 < table.loc["y", "n_tiles"] < 117
    assert cohort.endpoint("DSS").index.tolist() == ["a", "b"]
    assert cohort.bag("a").st.shape[1] == len(cohort.genes) > 300
