"""The planted truth of a drawn cohort can be found in it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import storm
from storm.datasets import toy_cohort

N = 80


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return toy_cohort(tmp_path_factory.mktemp("toy") / "c", n_patients=N, seed=1, n_tiles=(60, 120))


def test_tables(cohort) -> None:
    assert (cohort.modalities, cohort.he_dim, len(cohort.genes)) == (("he", "st"), 64, 50)
    table = cohort.endpoint("DSS")
    assert len(table) == N
    assert 0.54 <= table["event"].mean() <= 0.61
    assert (cohort.patients["OS_event"] | ~cohort.patients["DSS_event"]).all()
    assert cohort.patients["OS_event"].sum() > cohort.patients["DSS_event"].sum()
    assert sorted(cohort.patients["site"].unique()) == [f"S{k}" for k in range(5)]
    assert len(cohort.slides) == N * 6 // 5
    sizes = cohort.slides.groupby("patient")["n_tiles"].sum()
    assert sizes.between(60, 120).all()


def test_oracle_orders_patients(cohort) -> None:
    table = cohort.endpoint("DSS")
    c = storm.metrics.concordance(table["time"], table["event"], cohort.patients["oracle"])
    assert 0.74 < c < 0.88
    levels = cohort.patients.filter(like="level_")
    np.testing.assert_allclose(levels.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(levels.std(ddof=0), 1)
    expected = 0.85 * (levels["level_harmful"] - levels["level_protective"] + levels["level_programme"])
    np.testing.assert_allclose(cohort.patients["oracle"], expected)


def test_levels_lie_in_the_tiles(cohort) -> None:
    """Shares of types and the programme's level are in the tiles; types differ in H&E, the programme does not show."""
    shares, programme = [], []
    for patient in cohort.patients.index:
        types = np.concatenate([cohort.features(slide)["type"][:] for slide in cohort.slides_of(patient)])
        shares.append(np.bincount(types, minlength=6) / len(types))
        programme.append(cohort.bag(patient).st[:, :5].mean())
    harmful, protective = np.log(np.array(shares)[:, :2] + 0.02).T
    assert cohort.facts["types"][:2] == ["harmful", "protective"]
    assert np.corrcoef(harmful, cohort.patients["level_harmful"])[0, 1] > 0.9
    assert np.corrcoef(protective, cohort.patients["level_protective"])[0, 1] > 0.9
    assert np.corrcoef(programme, cohort.patients["level_programme"])[0, 1] > 0.7
    patient = next(p for p, share in zip(cohort.patients.index, shares, strict=True) if share[0] > 0.25)
    bag = cohort.bag(patient)
    types = np.concatenate([cohort.features(slide)["type"][:] for slide in bag.slides])
    means = np.stack([bag.he[types == kind].mean(axis=0) for kind in np.unique(types)])
    nearest = np.unique(types)[np.square(bag.he[:, None] - means).sum(axis=-1).argmin(axis=1)]
    assert (nearest == types).mean() > 0.95


def test_no_effect_and_same_seed(tmp_path: Path) -> None:
    null = toy_cohort(tmp_path / "a", n_patients=12, effects={}, n_tiles=(10, 20))
    assert (null.patients["oracle"] == 0).all()
    again = toy_cohort(tmp_path / "b", n_patients=12, effects={}, n_tiles=(10, 20))
    assert null.patients.equals(again.patients)
    np.testing.assert_array_equal(null.bag("P0000").he, again.bag("P0000").he)
    site = toy_cohort(tmp_path / "d", n_patients=12, effects={"site": 2.0}, sites=3, n_tiles=(10, 20))
    assert site.patients.groupby("site")["oracle"].nunique().eq(1).all()
    with pytest.raises(ValueError, match="effects='stain' is not an option"):
        toy_cohort(tmp_path / "e", effects={"stain": 1.0})
    with pytest.raises(FileExistsError, match="holds a cohort already"):
        toy_cohort(tmp_path / "a", n_patients=12)
