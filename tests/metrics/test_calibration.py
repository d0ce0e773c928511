"""Reclassification, calibration and subgroups against published reference values and definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm.metrics import (
    bootstrap_reclassification,
    brier,
    calibration_slope,
    calibration_table,
    cox,
    integrated_brier,
    log_rank,
    net_reclassification,
    subgroup_hazards,
)

# lifelines announces deprecations of its own dependencies
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lifelines", "ignore::FutureWarning:lifelines")

SMALL, LARGE = ["age", "tsize", "g3"], ["age", "tsize", "g3", "pnodes", "progrec", "h"]


@pytest.fixture(scope="module")
def breast() -> pd.DataFrame:
    """The German Breast Cancer Study Group's 686 patients, which lifelines brings along."""
    from lifelines.datasets import load_gbsg2

    data = load_gbsg2()
    columns = {"age": data["age"], "tsize": data["tsize"], "g3": data["tgrade"] == "III", "pnodes": data["pnodes"]}
    columns |= {"progrec": data["progrec"], "h": data["horTh"] == "yes"}
    numbers = pd.DataFrame(columns).astype(float).assign(time=data["time"].astype(float), event=data["cens"])
    return numbers.assign(grade=data["tgrade"].astype(str))


@pytest.fixture(scope="module")
def halves(breast) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first 343 patients, and the others."""
    return breast.iloc[:343], breast.iloc[343:]


@pytest.fixture(scope="module")
def moved(breast) -> tuple[np.ndarray, np.ndarray]:
    """Probability of an event within five years, by the small and by the large model."""
    from lifelines import CoxPHFitter

    found = []
    for columns in (SMALL, LARGE):
        fitter = CoxPHFitter().fit(breast[[*columns, "time", "event"]], "time", "event")
        found.append(1 - fitter.predict_survival_function(breast[columns], times=[1825]).to_numpy()[0])
    return found[0], found[1]


def test_reclassification(breast, moved) -> None:
    found = net_reclassification(breast.time, breast.event, moved, horizon=1825, cuts=(0.4, 0.6))
    assert (found.nri, found.events, found.non_events) == pytest.approx((0.382778, 0.125509, 0.257269), abs=1e-6)
    assert net_reclassification(breast.time, breast.event, moved, horizon=1825).nri == pytest.approx(0.512271, abs=1e-6)
    one = net_reclassification(breast.time, breast.event, moved, horizon=1825, cuts=(0.5,))
    assert (one.nri, one.events, one.non_events) == pytest.approx((0.148029, 0.174819, -0.026789), abs=1e-6)
    back = net_reclassification(breast.time, breast.event, moved[::-1], horizon=1825, cuts=(0.5,))
    assert (back.nri, back.n_up, back.n_down) == (-one.nri, one.n_down, one.n_up)
    drawn = bootstrap_reclassification(breast.time, breast.event, moved, horizon=1825, cuts=(0.4, 0.6), n_boot=200)
    np.testing.assert_allclose(np.percentile(drawn, [2.5, 97.5]), [0.277937, 0.491112], atol=1e-5)


def test_reclassification_without_censoring_counts_patients() -> None:
    rng = np.random.default_rng(0)
    time, old, new = rng.exponential(1, 80), rng.random(80), rng.random(80)
    found = net_reclassification(time, np.ones(80), (old, new), horizon=0.7)
    had, up = time <= 0.7, new > old
    assert found.events == pytest.approx(up[had].mean() - (~up)[had].mean())
    assert found.non_events == pytest.approx((~up)[~had].mean() - up[~had].mean())


def test_reclassification_says_what_it_cannot_know() -> None:
    time, event = np.array([1.0, 2, 3, 9]), np.array([1, 0, 0, 1])
    same = np.full(4, 0.3)
    none = net_reclassification(time, event, (same, same), horizon=5)
    assert none.nri == 0
    assert none.remarks == ("nobody moved up", "nobody moved down")
    up = net_reclassification(time, event, (same, [0.3, 0.5, 0.5, 0.3]), horizon=5)
    assert np.isnan(up.nri)
    assert up.remarks[0] == "of 2 patients that moved up nobody is followed to 5 (last follow-up 3)"
    never = net_reclassification(time, np.zeros(4), (same, [0.5, 0.1, 0.1, 0.1]), horizon=1)
    assert "nobody has an event until 1" in never.remarks
    assert np.isnan(never.nri)


@pytest.mark.parametrize("cuts", [(), (0.6, 0.4), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_limits_of_classes(cuts) -> None:
    with pytest.raises(ValueError, match="give limits that rise between 0 and 1"):
        net_reclassification([1, 2], [1, 0], ([0.1, 0.2], [0.2, 0.1]), horizon=1, cuts=cuts)


def test_a_model_on_other_patients(halves) -> None:
    first, rest = halves
    model = cox(first.time, first.event, first[LARGE])
    cut, risk = np.median(model.risk(first[LARGE])), model.risk(rest[LARGE])
    assert cut == pytest.approx(0.0142953937, abs=1e-9)
    high = risk > cut
    assert high.sum() == 166
    assert log_rank(rest.time, rest.event, high).statistic == pytest.approx(15.495573, abs=1e-6)
    ratio = cox(rest.time, rest.event, pd.DataFrame({"high": high.astype(float)})).table.loc["high"]
    assert ratio[["hr", "hr_lower", "hr_upper"]].tolist() == pytest.approx([1.940086, 1.386769, 2.714176], abs=1e-6)
    slope = calibration_slope(rest.time, rest.event, risk)
    assert (slope.slope, slope.se) == pytest.approx((0.989528, 0.159082), abs=1e-6)
    with pytest.raises(KeyError, match="h"):
        model.risk(rest[SMALL])


def test_predicted_survival_is_that_of_lifelines_at_its_events(halves) -> None:
    from lifelines import CoxPHFitter

    first, rest = halves
    at = np.sort(first.time[first.event == 1].unique())[[10, 50, 90]]
    fitter = CoxPHFitter().fit(first[[*LARGE, "time", "event"]], "time", "event")
    expected = fitter.predict_survival_function(rest[LARGE], times=at).to_numpy().T
    model = cox(first.time, first.event, first[LARGE])
    np.testing.assert_allclose(model.survival(rest[LARGE], at), expected, atol=1e-9)
    assert np.isnan(model.survival(rest[LARGE], 1e6)).all()
    np.testing.assert_array_equal(model.survival(rest[LARGE], 0), 1)


def test_integrated_brier(halves) -> None:
    from lifelines import CoxPHFitter

    first, rest = halves
    times = np.arange(365, 1826, 73)
    fitter = CoxPHFitter().fit(first[[*LARGE, "time", "event"]], "time", "event")
    survival = fitter.predict_survival_function(rest[LARGE], times=times).to_numpy().T
    train = (first.time, first.event)
    found = integrated_brier(rest.time, rest.event, survival, times=times, train=train)
    assert found == pytest.approx(0.168025, abs=1e-6)
    with pytest.raises(ValueError, match="ascending"):
        integrated_brier(rest.time, rest.event, survival, times=times[::-1])
    assert brier(rest.time, rest.event, survival, times=times, train=train).min() < found


def test_groups_of_rising_risk(halves) -> None:
    first, rest = halves
    survival = cox(first.time, first.event, first[LARGE]).survival(rest[LARGE], 1825)[:, 0]
    table = calibration_table(rest.time, rest.event, survival, horizon=1825)
    assert table["n"].sum() == len(rest)
    assert (np.diff(table["predicted"]) < 0).all()
    assert ((table["lower"] < table["observed"]) & (table["observed"] < table["upper"])).all()
    # predictions are right for most groups: the interval of the observed survival holds the predicted one
    assert ((table["lower"] < table["predicted"]) & (table["predicted"] < table["upper"])).mean() >= 0.8
    beyond = calibration_table(rest.time, rest.event, survival, horizon=1e5)
    # the survival of the worst fifth ends at 0: their last patient has an event
    assert beyond["observed"].isna().tolist() == [True, True, True, True, False]
    assert beyond["observed"].iloc[4] == 0


def test_subgroups(breast) -> None:
    risk = cox(breast.time, breast.event, breast[LARGE]).risk(breast[LARGE])
    found = subgroup_hazards(breast.time, breast.event, risk > np.median(risk), subgroups=breast["grade"])
    assert found.table["hr"].tolist() == pytest.approx([1.431494, 2.270973, 2.618727], abs=1e-6)
    assert found.interaction is not None
    assert (found.interaction.statistic, found.interaction.p) == pytest.approx((1.233888, 0.539591), abs=1e-6)
    assert found.interaction.df == 2


def test_subgroups_that_cannot_be_estimated() -> None:
    rng = np.random.default_rng(1)
    time, event, high = rng.exponential(1, 60), np.ones(60), np.arange(60) % 2
    part = np.repeat(["A", "B", "C"], 20)
    event[part == "B"] = 0
    high[part == "C"] = 1
    found = subgroup_hazards(time, event, high, subgroups=part)
    assert found.table["remark"].tolist() == ["", "no events", "all patients are high"]
    assert found.interaction is None
    assert np.isfinite(found.table.loc["A", "hr"])
    with pytest.raises(ValueError, match="two or more parts"):
        subgroup_hazards(time, event, high, subgroups=np.full(60, "A"))
