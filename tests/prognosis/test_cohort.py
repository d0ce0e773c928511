"""A cohort's folder: tables, bags, endpoints, and what is refused."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import storm
from storm.prognosis import Cohort, add_features

GENES = ["CD3E", "MKI67"]


def tables(n: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    patients = pd.DataFrame(
        {"DSS_time": np.arange(1.0, n + 1), "DSS_event": np.arange(n) % 2}, index=[f"p{k}" for k in range(n)]
    )
    slides = pd.DataFrame({"patient": [*patients.index, "p0"]}, index=[*(f"s{k}" for k in range(n)), "s0b"])
    return patients, slides


def tiles(n: int, *, seed: int = 0, dim: int = 4) -> dict:
    rng = np.random.default_rng(seed)
    return {"he": rng.normal(size=(n, dim)), "st": rng.random((n, 2)), "xy_um": np.stack([np.arange(n)] * 2, axis=1)}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    patients, slides = tables()
    return Cohort.create(tmp_path / "c", patients=patients, slides=slides)


def test_features_come_back(cohort: Cohort) -> None:
    """Values to the precision of float16, each beside its place, whatever the order; all slides of a patient."""
    given = {slide: tiles(n, seed=n) for slide, n in (("s0", 1300), ("s0b", 40), ("s1", 3))}
    for slide, one in given.items():
        add_features(cohort, slide, **one, genes=GENES, per_tile={"id": np.arange(len(one["he"]))})
    again = Cohort(cohort.folder)
    assert (again.modalities, again.he_dim, again.genes) == (("he", "st"), 4, tuple(GENES))
    bag = again.bag("p0")
    assert bag.slides == ("s0", "s0b")
    assert (len(bag), bag.he.dtype, bag.st.dtype, bag.xy_um.dtype) == (1340, np.float32, np.float32, np.float32)
    assert np.bincount(bag.slide).tolist() == [1300, 40]
    for at, slide in enumerate(bag.slides):
        rows, expected = bag.slide == at, given[slide]
        own = bag.xy_um[rows, 0].astype(int)
        assert sorted(own) == list(range(len(own)))
        np.testing.assert_allclose(bag.he[rows], expected["he"][own], atol=2e-3)
        np.testing.assert_allclose(bag.st[rows], expected["st"][own], atol=5e-4)
        assert again.features(slide)["id"][:].tolist() == own.tolist()
        assert again.features(slide)["he"].chunks[0] == min(512, len(own))
    # Random order: the first chunk is a sample of the slide.
    assert abs(bag.xy_um[:512, 0].mean() - 650) < 5 * 375 / np.sqrt(512)
    assert again.slides.loc["s0", ["status", "n_tiles"]].tolist() == ["done", 1300]
    assert again.slides.loc["s2", "status"] == "waiting"
    with pytest.raises(ValueError, match="no slide of patient 'p2'"):
        again.bag("p2")
    with pytest.raises(KeyError, match="no patient 'nobody'"):
        again.bag("nobody")


def test_samples_are_uniform(cohort: Cohort) -> None:
    """Every tile of every slide is as likely as every other, and none is drawn twice."""
    add_features(cohort, "s0", **tiles(1300), genes=GENES)
    add_features(cohort, "s0b", **tiles(100), genes=GENES)
    rng = np.random.default_rng(0)
    drawn = np.zeros((2, 1300))
    for _ in range(400):
        bag = cohort.bag("p0", n_tiles=140, rng=rng)
        assert len(np.unique(np.column_stack([bag.slide, bag.xy_um]), axis=0)) == len(bag) == 140
        np.add.at(drawn, (bag.slide, bag.xy_um[:, 0].astype(int)), 1)
    counts = np.concatenate([drawn[0], drawn[1, :100]])
    # 40 expected of each; runs of neighbours are drawn together, so that the spread is a little above binomial.
    assert abs(counts[:1300].mean() - 40) < 1
    assert counts.min() > 10
    assert counts.max() < 80
    assert len(cohort.bag("p0", n_tiles=5000, rng=rng)) == 1400
    with pytest.raises(ValueError, match="n_tiles=3 draws at random; give rng="):
        cohort.bag("p0", n_tiles=3)
    again = [cohort.bag("p0", n_tiles=9, rng=np.random.default_rng(4)).he for _ in range(2)]
    np.testing.assert_array_equal(*again)
    cohort.bag("p0").xy_um[:] = 0
    assert cohort.bag("p0").xy_um.max() == 1299
    copy = pickle.loads(pickle.dumps(cohort))
    np.testing.assert_array_equal(copy.bag("p0", n_tiles=9, rng=np.random.default_rng(4)).he, again[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": ["CD3E", "MKI67 "]}, r"genes \(2 in the cohort, 2 here, 1 and 1"),
        ({"genes": ["MKI67", "CD3E"]}, r"genes \(2 in the cohort, 2 here, 0 and 0"),
        ({"genes": None, "st": None}, r"modalities \(2 in the cohort, 1 here"),
        ({"he": np.zeros((5, 3))}, r"he_dim \(4 in the cohort, 3 here\)"),
        ({"facts": {"field_um": 55}}, r"field_um \(112 in the cohort, 55 here\)"),
        ({"facts": {}}, r"field_um \(112 in the cohort, None here\)"),
        ({"facts": {"genes": 1}}, "which the cohort keeps itself"),
        ({"genes": ["CD3E"]}, "st has 2 columns, and genes names 1"),
        ({"he": np.zeros((4, 4))}, r"xy_um has shape \(5, 2\); expected \(4, 2\)"),
        ({"he": np.full((5, 4), np.nan)}, "not finite for 5 of 5 tiles"),
        ({"he": np.full((5, 4), 7e4)}, "ends at 65504"),
        ({"he": np.zeros((0, 4))}, "has no tiles|shape"),
        ({"per_tile": {"he": np.zeros(5)}}, "under another name"),
        ({"per_tile": {"n": np.zeros(4)}}, "a row for each of 5 tiles"),
    ],
)
def test_other_features_are_refused(cohort: Cohort, change: dict, message: str) -> None:
    good = tiles(5) | {"genes": GENES, "facts": {"field_um": 112}}
    add_features(cohort, "s0", **good)
    with pytest.raises(ValueError, match=message):
        add_features(cohort, "s1", **(good | change))
    assert Cohort(cohort.folder).slides["status"].tolist() == ["done", "waiting", "waiting", "waiting"]
    assert not cohort.path_of("s1").exists()
    add_features(cohort, "s1", **good)


def test_duplicate_slides_are_named(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    add_features(cohort, "s0", **tiles(5), genes=GENES)
    with caplog.at_level(logging.WARNING, "storm"):
        add_features(cohort, "s1", **tiles(5), genes=GENES)
    assert "slide s1 is the same file as s0" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s: (pd.concat([p, p.iloc[:1]]), s), "patients has more than one row for 1: p0"),
        (lambda p, s: (p, pd.concat([s, s.iloc[:1]])), "slides has more than one row for 1: s0"),
        (lambda p, s: (p, s.rename(index={"s0": "a/b"})), "slide='a/b' cannot be stored"),
        (lambda p, s: (p, s.rename(index={"s0": "S1"})), "upper and lower case"),
        (lambda p, s: (p, s.assign(patient=[None, "p1", "p2", "p0"])), "no patient for 1 slides: s0"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, change, message: str) -> None:
    patients, slides = change(*tables())
    with pytest.raises(ValueError, match=message):
        Cohort.create(tmp_path / "c", patients=patients, slides=slides)
    assert not (tmp_path / "c").exists()


def test_who_belongs_to_nobody_is_named(tmp_path: Path) -> None:
    patients, slides = tables()
    with pytest.warns(UserWarning, match="1 patients have no slide, and take part in nothing: p2"):
        Cohort.create(tmp_path / "a", patients=patients, slides=slides.drop(index="s2"))
    with pytest.warns(UserWarning, match="1 slides are of no patient of the cohort, and take part in nothing: s2"):
        Cohort.create(tmp_path / "b", patients=patients.drop(index="p2"), slides=slides)
    with pytest.raises(KeyError, match="needs a column 'patient'"):
        Cohort.create(tmp_path / "c", patients=patients, slides=slides.drop(columns="patient"))
    with pytest.raises(FileExistsError, match="holds a cohort already"):
        Cohort.create(tmp_path / "a", patients=patients, slides=slides)
    with pytest.raises(FileNotFoundError, match=r"Cohort\.create"):
        Cohort(tmp_path / "nothing")


def test_endpoint_names_who_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patients, slides = tables(5)
    patients["DSS_time"] = [3, np.nan, 0, 2.5, 9]
    cohort = Cohort.create(tmp_path / "c", patients=patients, slides=slides)
    for slide in ("s0", "s1", "s2", "s3"):
        add_features(cohort, slide, he=np.ones((2, 3)) * int(slide[1]), xy_um=np.zeros((2, 2)))
    with caplog.at_level(logging.WARNING, "storm"):
        table = cohort.endpoint("DSS")
    assert table.index.tolist() == ["p0", "p3"]
    assert table.to_dict("list") == {"time": [3.0, 2.5], "event": [False, True]}
    assert table["event"].dtype == bool
    assert table.attrs["left_out"] == {
        "no time or no event": ["p1"],
        "a time of 0": ["p2"],
        "no slide with features": ["p4"],
    }
    for text in ("with no time or no event: p1", "with a time of 0: p2", "with no slide with features: p4"):
        assert text in caplog.text
    cohort.patients.loc["p3", "DSS_time"] = -4
    with pytest.raises(ValueError, match=r"DSS_time is negative or infinite for 1 patients.*: p3"):
        cohort.endpoint("DSS")
    cohort.patients["DSS_event"] = cohort.patients["DSS_event"].replace(1, 2)
    cohort.patients["DSS_time"] = 1.0
    with pytest.raises(ValueError, match="DSS_event is neither 0 nor 1 for 2 patients: p1, p3"):
        cohort.endpoint("DSS")
    with pytest.raises(KeyError, match=r"endpoint 'OS' needs the columns .* there are \['DSS'\]"):
        cohort.endpoint("OS")


def test_tables_are_saved(cohort: Cohort) -> None:
    cohort.patients["site"] = ["a", "b", None]
    cohort.patients["ok"] = pd.array([True, None, False], dtype="boolean")
    cohort.save()
    again = Cohort(cohort.folder)
    pd.testing.assert_frame_equal(again.patients, cohort.patients)
    other = Cohort(cohort.folder)
    add_features(other, "s1", **tiles(3), genes=GENES)
    add_features(again, "s0", **tiles(4, seed=2), genes=GENES)
    # Each has written its own slide, and kept the other's on the disk.
    again.reload()
    assert again.slides["n_tiles"].to_dict() == {"s0": 4, "s1": 3, "s2": 0, "s0b": 0}


def test_changes_that_are_not_saved(cohort: Cohort) -> None:
    """They stay when features are added, and a slide that is not stored yet gets none."""
    cohort.slides["scanner"] = ["x", "y", "z", "x"]
    add_features(cohort, "s1", **tiles(3), genes=GENES)
    assert cohort.slides["scanner"].tolist() == ["x", "y", "z", "x"]
    assert cohort.slides.loc["s1", "status"] == "done"
    cohort.slides.loc["new"] = cohort.slides.loc["s0"]
    with pytest.raises(KeyError, match=r"no slide 'new' in the stored .*cohort\.save"):
        add_features(cohort, "new", **tiles(3), genes=GENES)
    cohort.save()
    add_features(cohort, "new", **tiles(4), genes=GENES)
    assert Cohort(cohort.folder).slides.loc["new", ["patient", "scanner", "n_tiles"]].tolist() == ["p0", "x", 4]


def test_mean_features(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    given = [tiles(30, seed=1), tiles(10, seed=2)]
    for slide, one in zip(("s0", "s0b"), given, strict=True):
        add_features(cohort, slide, **one, genes=GENES)
    with caplog.at_level(logging.WARNING, "storm"):
        adata = cohort.to_anndata()
    assert "2 patients without features are rows of NaN: p1, p2" in caplog.text
    assert adata.obs_names.tolist() == ["p0", "p1", "p2"]
    assert adata.var_names.tolist() == ["he_0", "he_1", "he_2", "he_3", *GENES]
    assert adata.var["modality"].tolist() == ["he"] * 4 + ["st"] * 2
    expected = np.concatenate([np.concatenate([one[name] for one in given]).mean(axis=0) for name in ("he", "st")])
    np.testing.assert_allclose(adata.X[0], expected, atol=1e-3)
    assert np.isnan(adata.X[1:]).all()
    assert adata.obs["n_tiles"].tolist() == [40, 0, 0]


@pytest.mark.parametrize("bad", [None, 3, "", [], np.zeros(2), pd.NA, ("a",)])
def test_malformed_arguments(cohort: Cohort, bad) -> None:
    """Each is refused in words of our own, and nothing is changed."""
    good = {**tiles(3), "genes": GENES}
    calls = {
        "cohort": lambda: storm.prognosis.check(bad),
        "folder": lambda: Cohort(bad),
        "patient": lambda: cohort.bag(bad),
        "slide": lambda: add_features(cohort, bad, **good),
        "effects": lambda: storm.datasets.toy_cohort(cohort.folder / "toy", effects=3 if bad is None else bad),
        "n_tiles": lambda: storm.datasets.toy_cohort(cohort.folder / "toy", n_tiles=bad),
        "facts": lambda: add_features(cohort, "s0", **good, facts=3 if bad is None else bad),
        "paths": lambda: storm.prognosis.add_slides(cohort, [bad]),
    }
    for call in calls.values():
        with pytest.raises((TypeError, ValueError, KeyError, FileNotFoundError)) as error:
            call()
        path = Path(error.traceback[-1].path)
        assert "storm" in path.parts
        assert any(
            word in str(error.value)
            for word in ("give ", "there is no ", "holds no cohort", "is no list", "of no slide")
        )
    assert (Cohort(cohort.folder).slides["status"] == "waiting").all()


def test_damaged_facts(cohort: Cohort) -> None:
    (cohort.folder / "cohort.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="has format 7"):
        Cohort(cohort.folder)
    (cohort.folder / "cohort.json").write_text('{"format":')
    with pytest.raises(ValueError, match="is damaged"):
        storm.prognosis.Cohort(cohort.folder)
