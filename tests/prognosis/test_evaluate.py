"""The report on patients whom no model was trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storm.metrics import concordance, cox, log_rank
from storm.prognosis import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lifelines", "ignore::FutureWarning:lifelines")

LARGE = ["age", "tsize", "g3", "pnodes", "progrec", "h"]


@pytest.fixture(scope="module")
def study() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Patients of the German Breast Cancer Study Group, and the risks of its second half by models of the first."""
    from lifelines.datasets import load_gbsg2

    data = load_gbsg2()
    columns = {"age": data["age"], "tsize": data["tsize"], "g3": data["tgrade"] == "III", "pnodes": data["pnodes"]}
    columns |= {"progrec": data["progrec"], "h": data["horTh"] == "yes"}
    patients = pd.DataFrame(columns).astype(float)
    patients = patients.assign(
        RFS_time=data["time"].astype(float),
        RFS_event=data["cens"],
        grade=data["tgrade"].astype(str),
        relapse=data["cens"],
    )
    patients.index = [f"p{k}" for k in range(len(patients))]
    first, rest = patients.iloc[:343], patients.iloc[343:]
    tables = []
    for names in (LARGE, ["age", "tsize", "g3"]):
        model = cox(first["RFS_time"], first["RFS_event"], first[names])
        risk, cut = model.risk(rest[names]), np.median(model.risk(first[names]))
        table = pd.DataFrame({"risk": risk, "group": np.where(risk > cut, "high", "low")}, index=rest.index)
        tables.append(table.assign(survival_1825=model.survival(rest[names], 1825)[:, 0]))
    return patients, tables[0], tables[1]


def test_a_report(study) -> None:
    patients, risks, small = study
    found = evaluate(
        risks, patients, endpoint="RFS", baseline=small, covariates=["age", "grade"], subgroups=["grade"], horizon=1825,
        n_boot=1000,
    )  # fmt: skip
    value = found.summary["value"]
    assert (value["patients"], value["high risk"]) == (343, 166)
    assert value["Harrell C"] == pytest.approx(0.6607996, abs=1e-6)
    # one fold: the resamples are those of storm.metrics.bootstrap_concordance, whose golden values these are
    assert found.summary.loc["Harrell C", ["lower", "upper"]].tolist() == pytest.approx([0.614899, 0.708058], abs=1e-6)
    difference = found.summary.loc["difference of C"]
    assert difference["value"] == pytest.approx(value["Harrell C"] - value["C of the baseline"])
    assert difference[["lower", "upper"]].tolist() == pytest.approx([0.031510, 0.126194], abs=1e-6)
    ratio = found.summary.loc["hazard ratio, high against low"]
    assert ratio[["value", "lower", "upper"]].tolist() == pytest.approx([1.940086, 1.386769, 2.714176], abs=1e-6)
    assert found.test.statistic == pytest.approx(15.495573, abs=1e-6)
    np.testing.assert_allclose(
        [found.curves["high"].at([1825])[0], found.curves["low"].at([1825])[0]], [0.378299, 0.592578], atol=1e-6
    )
    assert value["calibration slope"] == pytest.approx(0.99, abs=0.02)
    assert list(found.subgroups["grade"].table.index) == ["I", "II", "III"]
    assert list(found.multivariable.table.index) == ["high risk", "age", "grade_II", "grade_III"]
    assert "NRI at 1825, continuous" in found.summary.index
    assert len(found.calibration) == 5


def test_risks_of_folds_are_never_pooled(study) -> None:
    """A shift of one fold's risks changes nothing; its cut-off moves with it."""
    patients, risks, _ = study
    folds = risks.assign(fold=np.arange(len(risks)) % 3)
    shifted = folds.assign(risk=folds["risk"] + 100 * folds["fold"])
    one, two = (evaluate(table, patients, endpoint="RFS", n_boot=20) for table in (folds, shifted))
    assert one.summary["value"].equals(two.summary["value"])
    outcome = patients.loc[folds.index]
    expected = [
        concordance(outcome["RFS_time"][own], outcome["RFS_event"][own], folds["risk"][own])
        for own in (folds["fold"] == k for k in range(3))
    ]
    np.testing.assert_allclose(one.by_fold["c"], expected)
    assert one.summary.loc["Harrell C", "value"] == pytest.approx(np.mean(expected))


def test_the_order_of_rows_does_not_matter(study) -> None:
    patients, risks, _ = study
    shuffled = evaluate(risks, patients.sample(frac=1, random_state=0), endpoint="RFS", n_boot=5)
    expected = log_rank(
        patients.loc[risks.index, "RFS_time"], patients.loc[risks.index, "RFS_event"], risks["group"] == "high"
    )
    assert shuffled.test.statistic == pytest.approx(expected.statistic)


def test_a_response(study) -> None:
    from sklearn.metrics import roc_auc_score

    patients, risks, small = study
    found = evaluate(risks, patients, endpoint="relapse", n_boot=50)
    expected = roc_auc_score(patients.loc[risks.index, "relapse"], risks["risk"])
    assert found.summary.loc["AUROC", "value"] == pytest.approx(expected)
    assert found.summary.loc["AUROC", "lower"] < expected < found.summary.loc["AUROC", "upper"]
    assert "by chance" in found.summary.loc["AUPRC", "note"]
    other = evaluate(risks, patients, endpoint="relapse", baseline=small, n_boot=50)
    below = roc_auc_score(patients.loc[small.index, "relapse"], small["risk"])
    row = other.summary.loc["difference of AUROC"]
    assert row["value"] == pytest.approx(expected - below)
    assert row["lower"] < row["value"] < row["upper"]


def test_no_cut_off_is_made_here(study) -> None:
    patients, risks, _ = study
    with pytest.raises(KeyError, match=r"lack \['group'\].*None is made of the patients who are reported"):
        evaluate(risks.drop(columns="group"), patients, endpoint="RFS")


def test_what_limits_a_measure_is_said(study) -> None:
    patients, risks, _ = study
    found = evaluate(risks.drop(columns="survival_1825"), patients, endpoint="RFS", horizon=1825, n_boot=5)
    assert "predict with times=[1825]" in found.summary.loc["Brier score at 1825", "note"]
    late = evaluate(risks, patients, endpoint="RFS", horizon=1e5, n_boot=5)
    assert late.summary.loc["AUC at 100000", "note"] == "nobody is followed to 100000"
    same = evaluate(risks.assign(group="low"), patients, endpoint="RFS", covariates=["age"], n_boot=5)
    assert "all patients are in one group" in same.summary.loc["high risk", "note"]
    assert same.test is None
    assert list(same.curves) == ["low"]


def test_missing_covariates(study) -> None:
    patients, risks, _ = study
    holes = patients.assign(age=patients["age"].where(np.arange(len(patients)) % 7 > 0))
    with pytest.raises(ValueError, match=r"covariates are missing for some of 343 patients: \{'age': 49\}"):
        evaluate(risks, holes, endpoint="RFS", covariates=["age"], n_boot=5)
    found = evaluate(risks, holes, endpoint="RFS", covariates=["age"], missing="drop", n_boot=5)
    assert "49 patients without a covariate left out" in found.summary.loc["hazard ratio beside covariates", "note"]
    with pytest.raises(ValueError, match="the same for all patients"):
        evaluate(risks, patients.assign(flat=1.0), endpoint="RFS", covariates=["flat"], n_boot=5)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda r: pd.concat([r, r]), ValueError, "predicted twice"),
        (lambda r: r.assign(risk=r["risk"].where(r["risk"] > 0)), ValueError, "a risk that is missing or infinite"),
        (lambda r: r.assign(group="High"), ValueError, "343 of 343 patients have a group other than 'high' and 'low'"),
        (lambda r: r.assign(seen=True), ValueError, "was trained on 343 of the patients"),
        (lambda r: r.rename(index={"p400": "someone"}), KeyError, "1 patients have no clinical data"),
        (lambda r: pd.concat([r.assign(network="a"), r.assign(network="b")]), ValueError, "evaluate one"),
    ],
)
def test_bad_predictions(study, change, error, words) -> None:
    patients, risks, _ = study
    with pytest.raises(error, match=words):
        evaluate(change(risks), patients, endpoint="RFS", n_boot=5)
    with pytest.raises(KeyError, match="there is no column 'OS_time'"):
        evaluate(risks, patients, endpoint="OS", n_boot=5)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("RFS_event", 2, "1 of 343 patients have RFS_event that is neither 0 nor 1: .'p400'"),
        ("RFS_time", -1.0, "zero, negative or infinite: .'p400'"),
        ("RFS_time", np.nan, "1 patients have no RFS"),
    ],
)
def test_bad_follow_up(study, column, value, words) -> None:
    patients, risks, _ = study
    wrong = patients.copy()
    wrong.loc["p400", column] = value
    with pytest.raises(ValueError, match=words):
        evaluate(risks, wrong, endpoint="RFS", n_boot=5)


def test_something_else_than_tables(study) -> None:
    patients, risks, _ = study
    with pytest.raises(TypeError, match="predictions is a str, not a data frame; give what OutcomeModel"):
        evaluate("risks.csv", patients, endpoint="RFS")
    with pytest.raises(TypeError, match="baseline is a str"):
        evaluate(risks, patients, endpoint="RFS", baseline="mean")
    with pytest.raises(TypeError, match=r"patients is a object, not a data frame; give cohort\.patients"):
        evaluate(risks, object(), endpoint="RFS")
    with pytest.raises(TypeError, match=r"covariates='age' is text; give a list of columns: covariates=\['age'\]"):
        evaluate(risks, patients, endpoint="RFS", covariates="age")


def test_some_without_predicted_survival(study) -> None:
    patients, risks, _ = study
    holes = risks.assign(survival_1825=risks["survival_1825"].where(np.arange(len(risks)) > 9))
    found = evaluate(holes, patients, endpoint="RFS", horizon=1825, n_boot=5)
    assert "10 patients have no survival_1825" in found.summary.loc["Brier score at 1825", "note"]


def test_folds_that_cannot_be_judged_are_named(study) -> None:
    """A fold without comparable pairs does not count in the mean over folds, and the note says which."""
    patients, risks, small = study
    people = patients.loc[risks.index].copy()
    folds = risks.assign(fold=np.arange(len(risks)) % 4)
    people.loc[(folds["fold"] == 2).to_numpy(), ["RFS_event", "relapse"]] = 0
    found = evaluate(folds, people, endpoint="RFS", baseline=small.assign(fold=folds["fold"]), horizon=1825, n_boot=5)
    assert np.isnan(found.by_fold.loc[2, "c"])
    assert found.summary.loc["Harrell C", "value"] == pytest.approx(found.by_fold["c"].mean())
    for name in ("Harrell C", "C of the baseline", "difference of C"):
        assert "1 of 4 folds lack comparable pairs and do not count: fold 2" in found.summary.loc[name, "note"]
    for name in ("Uno C until 1825", "AUC at 1825"):
        assert "1 of 4 folds lack patients to compare at 1825" in found.summary.loc[name, "note"]
    response = evaluate(folds, people, endpoint="relapse", n_boot=5)
    assert (
        "1 of 4 folds lack responses of either kind and do not count: fold 2" in response.summary.loc["AUROC", "note"]
    )
    assert "by chance; 1 of 4 folds" in response.summary.loc["AUPRC", "note"]
    whole = evaluate(risks.assign(fold=folds["fold"]), patients, endpoint="RFS", n_boot=5)
    assert whole.summary.loc["Harrell C", "note"] == ""


def test_columns_that_tell_nothing_are_named(study) -> None:
    patients, risks, _ = study
    people = patients.assign(ward="A", lost=np.nan)
    with pytest.raises(ValueError, match=r"covariates \['ward'\] are the same for all patients"):
        evaluate(risks, people, endpoint="RFS", covariates=["age", "ward"], n_boot=5)
    with pytest.raises(ValueError, match=r"no patient has all covariates: \{'lost': 343\} of 343 are missing"):
        evaluate(risks, people, endpoint="RFS", covariates=["lost"], missing="drop", n_boot=5)
    for name in ("ward", "lost"):
        with pytest.raises(ValueError, match=f"subgroups: all patients have the same '{name}'"):
            evaluate(risks, people, endpoint="RFS", subgroups=["grade", name], n_boot=5)
