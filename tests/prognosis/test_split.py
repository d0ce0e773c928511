"""Folds hold whole groups and their share of the events; what leaks is named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storm.prognosis import Cohort, add_features, leakage, split

N = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of 60 patients of 12 sites, of whom 24 have an event; the slides of p3 and p4 are the same."""
    folder = tmp_path_factory.mktemp("split") / "c"
    rng = np.random.default_rng(0)
    patients = pd.DataFrame(
        {
            "OS_time": rng.uniform(1, 9, N),
            "OS_event": np.arange(N) % 5 < 2,
            "site": [f"S{k % 12:02d}" for k in range(N)],
        },
        index=[f"p{k}" for k in range(N)],
    )
    slides = pd.DataFrame({"patient": patients.index}, index=[f"s{k}" for k in range(N)])
    cohort = Cohort.create(folder, patients=patients, slides=slides)
    for k, slide in enumerate(slides.index):
        add_features(cohort, slide, he=np.full((2, 2), 3 if k == 4 else k), xy_um=np.zeros((2, 2)))
    return folder


@pytest.fixture
def cohort(folder: Path) -> Cohort:
    return Cohort(folder)


def test_events_are_spread(cohort: Cohort) -> None:
    table = split(cohort, endpoint="OS")
    events = cohort.endpoint("OS")["event"]
    assert sorted(table.index) == sorted(cohort.patients.index)
    assert table["fold"].value_counts().to_dict() == dict.fromkeys(range(5), 12)
    counts = events.groupby(table["fold"]).sum()
    assert counts.min() >= 4
    assert counts.max() <= 6  # 5 since scikit-learn 1.8
    assert table["fold"].equals(split(cohort, endpoint="OS")["fold"])
    assert not table["fold"].equals(split(cohort, endpoint="OS", seed=1)["fold"])


def test_rows_in_another_order_change_nothing(cohort: Cohort) -> None:
    table = split(cohort, endpoint="OS", group="site")
    cohort.patients = cohort.patients.iloc[np.random.default_rng(2).permutation(N)]
    pd.testing.assert_frame_equal(split(cohort, endpoint="OS", group="site"), table)


def test_sites_stay_whole(cohort: Cohort) -> None:
    table = split(cohort, endpoint="OS", group="site", folds=4)
    assert cohort.patients["site"].groupby(table["fold"]).nunique().sum() == 12
    assert [row["kind"] for row in table.attrs["leakage"] if row["kind"] == "site"] == []
    by_patient = split(cohort, endpoint="OS", folds=4)
    assert sum(row["kind"] == "site" for row in by_patient.attrs["leakage"]) == 12


def test_nested(cohort: Cohort) -> None:
    outer = split(cohort, endpoint="OS")
    training = outer.index[outer["fold"] != 0]
    inner = split(cohort, endpoint="OS", folds=3, patients=training)
    assert set(inner.index) == set(training)
    with pytest.raises(KeyError, match="1 of 2 patients are not in the cohort: nobody"):
        split(cohort, endpoint="OS", patients=["p0", "nobody"])


def test_leaks_are_named(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.DataFrame({"fold": np.arange(N) % 2}, index=cohort.patients.index)
    report = leakage(table, cohort)
    # p3 and p4, the same slide, are in different folds; sites k % 12 lie in one fold each.
    assert report[["kind", "folds", "patients"]].to_numpy().tolist() == [["slide", (0, 1), ("p3", "p4")]]
    twice = pd.concat([table, pd.DataFrame({"fold": [1]}, index=["p0"])])
    kinds = leakage(twice, cohort)
    assert kinds.loc[kinds["kind"] == "patient", "name"].tolist() == ["p0"]
    assert kinds.loc[kinds["kind"] == "site", "name"].tolist() == ["S00"]
    with pytest.raises(KeyError, match="1 patients of the split are not in the cohort: nobody"):
        leakage(pd.DataFrame({"fold": [1]}, index=["nobody"]), cohort)
    with caplog.at_level(logging.WARNING, "storm"):
        seeds = [split(cohort, endpoint="OS", seed=seed) for seed in range(3)]
    apart = [bool(one.loc["p3", "fold"] != one.loc["p4", "fold"]) for one in seeds]
    assert any(apart)
    assert caplog.text.count("the same slide is in the folds") == sum(apart)


def test_what_cannot_be_divided(cohort: Cohort) -> None:
    with pytest.raises(ValueError, match="there are 12 sites for folds=13"):
        split(cohort, endpoint="OS", folds=13, group="site")
    with pytest.raises(ValueError, match="there are 24 events among 60 patients for folds=25"):
        split(cohort, endpoint="OS", folds=25)
    cohort.patients["OS_event"] = np.arange(N) != 7
    assert split(cohort, endpoint="OS")["fold"].nunique() == 5
    # All events at one site.
    cohort.patients["OS_event"] = cohort.patients["site"] == "S03"
    with pytest.raises(ValueError, match=r"fold \d, \d has no event of OS \(5 in all\)"):
        split(cohort, endpoint="OS", folds=3, group="site")
    cohort.patients.loc["p3", "site"] = None
    with pytest.raises(ValueError, match="1 patients have no site: p3"):
        split(cohort, endpoint="OS", group="site")
    cohort.patients["site"] = "A"
    with pytest.raises(ValueError, match="one site \\('A'\\)"):
        split(cohort, endpoint="OS", group="site")
    del cohort.patients["site"]
    with pytest.raises(KeyError, match="reads the column 'site'"):
        split(cohort, endpoint="OS", group="site")
