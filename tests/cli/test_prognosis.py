"""``storm prognosis`` from folds to a report."""

from __future__ import annotations

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import storm
from storm.cli import main
from storm.prognosis import Cohort, load_model, split

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lifelines", "ignore::FutureWarning:lifelines")

QUICK = ["--epochs", "2", "--tiles-per-bag", "16", "--width", "16", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A cohort with a site whose name is HTML, and its folds."""
    path = tmp_path_factory.mktemp("prognosis")
    cohort = storm.datasets.toy_cohort(path / "c", n_patients=45, seed=0, n_tiles=(20, 40))
    cohort.patients["<b>sex</b>"] = np.where(np.arange(45) % 2, "f", "m")
    cohort.save()
    split(cohort, endpoint="DSS", folds=3).reset_index().to_csv(path / "folds.csv", index=False)
    return path


def test_everybody_by_folds_and_a_report(work: Path, capsys) -> None:
    fit = ["prognosis", "fit", str(work / "c"), "--endpoint", "DSS", "--split", str(work / "folds.csv"), *QUICK]
    assert main([*fit, "--network", "mean", "--out", str(work / "cv")]) == 0
    risks = pd.read_csv(work / "cv" / "risks.csv")
    assert sorted(risks["network"].unique()) == ["abmil", "mean"]
    assert (risks["network"] == "mean").sum() == 45
    said = capsys.readouterr().out
    assert "45 patients in 3 folds" in said
    assert "judge it with storm prognosis evaluate --network mean" in said
    judge = ["prognosis", "evaluate", str(work / "cv" / "risks.csv"), "--cohort", str(work / "c"), "--endpoint", "DSS"]
    more = ["--network", "mean", "--baseline", "abmil", "--covariates", "age", "--subgroups", "<b>sex</b>"]
    assert main([*judge, *more, "--n-boot", "20", "--out", str(work / "report.html"), "--quiet"]) == 0
    page = (work / "report.html").read_text()
    assert "Harrell C" in capsys.readouterr().out
    assert page.count("data:image/png;base64,") >= 3
    assert "<b>sex" not in page  # names of columns are text, never markup
    assert "&lt;b&gt;sex" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is fetched
    assert main([*judge, "--network", "none", "--out", str(work / "x.html"), "--quiet"]) == 2
    assert "has ['abmil', 'mean']" in capsys.readouterr().err
    assert main([*judge, "--out", str(work / "x.html"), "--quiet"]) == 2
    assert "several networks, ['abmil', 'mean']; choose one: --network abmil" in capsys.readouterr().err


def test_a_model_is_applied_and_explained(work: Path, capsys) -> None:
    fit = ["prognosis", "fit", str(work / "c"), "--endpoint", "DSS", "--split", str(work / "folds.csv"), *QUICK]
    assert main([*fit, "--fold", "0", "--network", "mean", "--no-baselines", "--out", str(work / "m")]) == 0
    assert "validation patients: mean" in capsys.readouterr().out
    folds = pd.read_csv(work / "folds.csv").set_index("patient")["fold"]
    model = load_model(work / "m")
    assert {*model.patients["train"], *model.patients["validation"]} == set(folds.index[folds != 0])
    apply = ["prognosis", "predict", str(work / "c"), "--model", str(work / "m"), "--device", "cpu", "--quiet"]
    assert main([*apply, "--out", str(work / "risks.csv")]) == 0
    risks = pd.read_csv(work / "risks.csv").set_index("patient")
    assert sorted(risks.index) == sorted(folds.index[folds == 0])
    expected = model.predict(Cohort(work / "c"), list(risks.index), device="cpu")
    np.testing.assert_allclose(risks["risk"], expected["risk"])
    assert main([*apply, "--out", str(work / "risks.csv")]) == 2  # a file that exists is not replaced
    who = risks.index[0]
    explain = ["prognosis", "explain", str(work / "c"), "--model", str(work / "m"), "--patients", who, "--steps", "8"]
    assert main([*explain, "--device", "cpu", "--quiet", "--out", str(work / "why")]) == 0
    table = anndata.read_h5ad(work / "why" / f"{who}.h5ad")
    difference = table.uns["storm"]["risk"] - table.uns["storm"]["reference"]
    assert table.obs["storm_risk"].sum() == pytest.approx(difference, rel=1e-3, abs=1e-5)


def test_folds_that_are_none(work: Path, capsys) -> None:
    fit = ["prognosis", "fit", str(work / "c"), "--endpoint", "DSS", "--out", str(work / "no"), *QUICK]
    assert main([*fit, "--fold", "0"]) == 2
    assert "needs --split" in capsys.readouterr().err
    assert main([*fit, "--split", str(work / "folds.csv"), "--fold", "7"]) == 2
    assert "has the folds ['0', '1', '2']" in capsys.readouterr().err
    assert not (work / "no").exists()


def test_a_patient_whose_name_is_a_path(tmp_path: Path, capsys) -> None:
    """Nothing is written beside the folder that was asked for."""
    cohort = storm.datasets.toy_cohort(tmp_path / "c", n_patients=45, seed=0, n_tiles=(20, 30))
    name, evil = cohort.patients.index[0], "../evil"
    cohort.patients = cohort.patients.rename(index={name: evil})
    cohort.slides["patient"] = cohort.slides["patient"].replace(name, evil)
    cohort.save()
    fit = ["prognosis", "fit", str(tmp_path / "c"), "--endpoint", "DSS", "--network", "mean", "--no-baselines"]
    assert main([*fit, *QUICK, "--out", str(tmp_path / "m")]) == 0
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    argv = ["prognosis", "explain", str(tmp_path / "c"), "--model", str(tmp_path / "m"), "--patients", evil]
    assert main([*argv, "--device", "cpu", "--quiet", "--out", str(tmp_path / "why")]) == 2
    assert "patient='../evil'" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
