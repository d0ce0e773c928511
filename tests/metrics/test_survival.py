"""Survival metrics against published reference values and definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm.metrics import (
    bootstrap_concordance,
    brier,
    concordance,
    cox,
    cumulative_auc,
    empirical_p,
    kaplan_meier,
    log_rank,
    uno_concordance,
)

# lifelines announces deprecations of its own dependencies
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lifelines", "ignore::FutureWarning:lifelines")

TIME, EVENT = np.array([1, 2, 2, 3, 4, 4, 5, 6]), np.array([1, 1, 1, 1, 0, 1, 1, 0])
RISK = np.array([0.9, 0.8, 0.8, 0.3, 0.7, 0.3, 0.2, 0.1])
GROUP = np.array([1, 1, 1, 0, 1, 0, 0, 0])


@pytest.fixture(scope="module")
def breast() -> pd.DataFrame:
    """The German Breast Cancer Study Group's 686 patients, which lifelines brings along."""
    from lifelines.datasets import load_gbsg2

    data = load_gbsg2()
    columns = {"age": data["age"], "tsize": data["tsize"], "g3": data["tgrade"] == "III", "pnodes": data["pnodes"]}
    columns |= {"progrec": data["progrec"], "h": data["horTh"] == "yes"}
    return pd.DataFrame(columns).astype(float).assign(time=data["time"].astype(float), event=data["cens"])


@pytest.fixture(scope="module")
def risks(breast) -> dict[str, np.ndarray]:
    """Linear predictors of the small and the large model."""
    found = {}
    for name, columns in {"m1": ["age", "tsize", "g3"], "m2": ["age", "tsize", "g3", "pnodes", "progrec", "h"]}.items():
        found[name] = breast[columns].to_numpy() @ cox(breast.time, breast.event, breast[columns]).table.coef.to_numpy()
    return found


def test_curve_test_and_concordance_by_hand() -> None:
    event = np.array([1, 1, 0, 1, 0, 1, 1, 0])
    curve = kaplan_meier(TIME, event)
    np.testing.assert_allclose(curve.survival, [1, 0.875, 0.75, 0.6, 0.45, 0.225, 0.225])
    np.testing.assert_array_equal(curve.time, [0, 1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(curve.at_risk, [8, 8, 7, 5, 4, 2, 1])
    np.testing.assert_allclose(curve.at([0.5, 2, 3.9, 7]), [1, 0.75, 0.6, np.nan])
    assert (curve.lower[1:-2] < curve.survival[1:-2]).all()
    assert concordance(TIME, event, RISK) == pytest.approx(0.8571429, abs=1e-7)
    test = log_rank(TIME, event, GROUP)
    assert test.statistic == pytest.approx(0.4584217, abs=1e-7)
    assert test.df == 1


def test_models_of_a_published_cohort(breast) -> None:
    columns = ["age", "tsize", "g3", "pnodes", "progrec", "h"]
    model = cox(breast.time, breast.event, breast[columns])
    assert model.table.hr[["g3", "pnodes", "h"]].tolist() == pytest.approx([1.227049, 1.051853, 0.720463], abs=1e-6)
    assert model.table.loc["g3", ["hr_lower", "hr_upper"]].tolist() == pytest.approx([0.940775, 1.600435], abs=1e-6)
    assert model.log_likelihood == pytest.approx(-1740.788568, abs=1e-6)
    assert model.lr_statistic == pytest.approx(94.632337, abs=1e-6)
    assert model.table.p_ph["age"] == pytest.approx(0.00211, abs=5e-6)
    assert (model.n, model.n_events) == (686, 299)


def test_ranking_in_a_published_cohort(breast, risks) -> None:
    time, event = breast.time, breast.event
    assert concordance(time, event, risks["m1"]) == pytest.approx(0.593228, abs=1e-6)
    assert concordance(time, event, risks["m2"]) == pytest.approx(0.681004, abs=1e-6)
    assert uno_concordance(time, event, risks["m1"], tau=1825) == pytest.approx(0.579247, abs=1e-6)
    assert uno_concordance(time, event, risks["m2"], tau=1825) == pytest.approx(0.668142, abs=1e-6)
    high = risks["m2"] > np.median(risks["m2"])
    assert log_rank(time, event, high).statistic == pytest.approx(56.174231, abs=1e-6)
    assert kaplan_meier(time[high], event[high]).at(1825) == pytest.approx(0.354933, abs=1e-6)
    assert kaplan_meier(time[~high], event[~high]).at(1825) == pytest.approx(0.622071, abs=1e-6)
    early = (time < 2400).to_numpy()
    auc = cumulative_auc(time[early], event[early], risks["m2"][early], times=[365, 1095, 1825], train=(time, event))
    np.testing.assert_allclose(auc, [0.746624, 0.728011, 0.718618], atol=1e-6)


def test_a_model_on_patients_that_it_was_not_fitted_to(breast) -> None:
    columns = ["age", "tsize", "g3", "pnodes", "progrec", "h"]
    first, rest = breast.iloc[:343], breast.iloc[343:]
    weights = cox(first.time, first.event, first[columns]).table.coef.to_numpy()
    risk, train = rest[columns].to_numpy() @ weights, (first.time, first.event)
    assert concordance(rest.time, rest.event, risk) == pytest.approx(0.6607996, abs=1e-6)
    assert uno_concordance(rest.time, rest.event, risk, tau=1825, train=train) == pytest.approx(0.653781, abs=1e-6)
    small = ["age", "tsize", "g3"]
    other = rest[small].to_numpy() @ cox(first.time, first.event, first[small]).table.coef.to_numpy()
    drawn = bootstrap_concordance(rest.time, rest.event, risk, baseline=other, n_boot=1000, seed=0)
    assert drawn["c"].mean() == pytest.approx(0.660422, abs=1e-6)
    np.testing.assert_allclose(np.percentile(drawn["c"], [2.5, 97.5]), [0.614899, 0.708058], atol=1e-6)
    np.testing.assert_allclose(np.percentile(drawn["difference"], [2.5, 97.5]), [0.031510, 0.126194], atol=1e-6)


def test_brier_score(breast) -> None:
    from lifelines import CoxPHFitter

    columns = ["age", "tsize", "g3", "pnodes", "progrec", "h"]
    first, rest = breast.iloc[:343], breast.iloc[343:]
    fitter = CoxPHFitter().fit(first[[*columns, "time", "event"]], "time", "event")
    times = [365, 1095, 1825]
    survival = fitter.predict_survival_function(rest[columns], times=times).to_numpy().T
    scored = brier(rest.time, rest.event, survival, times=times, train=(first.time, first.event))
    np.testing.assert_allclose(scored, [0.056225, 0.189964, 0.183229], atol=1e-6)


def test_without_censoring_concordances_agree_and_the_auc_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    time, event = rng.permutation(60) + 1.0, np.ones(60)
    risk = -time + rng.normal(0, 25, 60)
    assert uno_concordance(time, event, risk) == pytest.approx(concordance(time, event, risk))
    from sklearn.metrics import roc_auc_score

    assert cumulative_auc(time, event, risk, times=20)[0] == pytest.approx(roc_auc_score(time <= 20, risk))
    assert brier(time, event, np.full((60, 1), 0.5), times=30)[0] == pytest.approx(0.25)


def test_a_sign_is_never_turned() -> None:
    assert concordance(TIME, EVENT, -RISK) == pytest.approx(1 - concordance(TIME, EVENT, RISK))


def test_empirical_p_counts_the_statistic_itself() -> None:
    assert empirical_p(3.0, [1, 2, 3, 4]).p == pytest.approx(3 / 5)
    assert empirical_p(9.0, np.zeros(99)).p == pytest.approx(0.01)
    with pytest.raises(ValueError, match="one finite number per draw"):
        empirical_p(1.0, [])


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([0, 1, 2], [1, 1, 0], r"1 of 3 patients .*rows \[0\]"),
        ([np.nan, 1, -2], [1, 1, 0], r"2 of 3 patients .*rows \[0, 2\]"),
        ([1, 2, 3], [1, 2, 0], r"rows \[1\] hold something else"),
        ([1, 2, 3], [1, 0], "one of each per patient"),
        ([], [], "one of each per patient"),
        (["a", "b"], [1, 0], "give numbers"),
    ],
)
def test_bad_follow_up(time, event, message) -> None:
    for call in (kaplan_meier, lambda t, e: concordance(t, e, np.zeros(len(t)))):
        with pytest.raises(ValueError, match=message):
            call(time, event)


def test_nothing_to_compare() -> None:
    none = np.zeros(8)
    for call in (lambda: concordance(TIME, none, RISK), lambda: log_rank(TIME, none, GROUP)):
        with pytest.raises(ValueError, match="none of the 8 patients has an event"):
            call()
    assert (kaplan_meier(TIME, none).survival == 1).all()
    with pytest.raises(ValueError, match="all patients are in group"):
        log_rank(TIME, EVENT, np.ones(8))
    with pytest.raises(ValueError, match="1 of them missing"):
        log_rank(TIME, EVENT, [None, *GROUP[1:]])
    with pytest.raises(ValueError, match="missing or infinite for 1 of 8"):
        concordance(TIME, EVENT, [np.nan, *RISK[1:]])
    with pytest.raises(ValueError, match="no two patients can be compared"):
        concordance([1.0, 2.0], [0, 1], [0.0, 1.0])


def test_covariates(breast) -> None:
    time, event = breast.time, breast.event
    with pytest.raises(ValueError, match=r"\['grade'\] hold no numbers"):
        cox(time, event, pd.DataFrame({"grade": ["I"] * len(breast)}))
    with pytest.raises(ValueError, match=r"\{'age': 1\}"):
        cox(time, event, breast[["age"]].mask(breast.index.to_series() == 3))
    with pytest.raises(ValueError, match="the same for all"):
        cox(time, event, breast[["age"]].assign(one=1.0))
    with pytest.warns(UserWarning, match="events for 6 covariates"):
        cox(time[:60], event[:60], breast[["age", "tsize", "g3", "pnodes", "progrec", "h"]][:60])
