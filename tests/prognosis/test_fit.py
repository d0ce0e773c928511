"""Outcome networks: what they learn, what they store, what they refuse."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import storm
from storm.metrics import concordance
from storm.prognosis import Cohort, OutcomeFit, OutcomeModel, cross_validate, explain, fit, load_model, split

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:lifelines", "ignore::FutureWarning:lifelines")

QUICK = OutcomeFit(epochs=6, tiles_per_bag=24, width=16, n_latents=4, patients_per_batch=16, lr=5e-3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    """60 patients, two thirds of whom die, with strong effects."""
    effects = {"harmful": 1.5, "protective": -1.5, "programme": 1.5}
    folder = tmp_path_factory.mktemp("cohort") / "c"
    return storm.datasets.toy_cohort(folder, n_patients=60, seed=1, effects=effects, n_tiles=(30, 60))


@pytest.fixture(scope="module")
def folds(cohort: Cohort):
    return split(cohort, endpoint="DSS", folds=3)


@pytest.fixture(scope="module")
def model(cohort: Cohort, folds) -> OutcomeModel:
    training = list(folds.index[folds["fold"] != 0])
    return fit(cohort, "DSS", patients=training, config=QUICK, network="mean", baselines=False, device="cpu")


def weights(model: OutcomeModel) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def same(first: OutcomeModel, second: OutcomeModel) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_planted_hazard_is_learned(cohort: Cohort, folds, model: OutcomeModel) -> None:
    found = model.predict(cohort, list(folds.index[folds["fold"] == 0]), device="cpu")
    truth = cohort.endpoint("DSS").loc[found.index]
    oracle = concordance(truth["time"], truth["event"], cohort.patients.loc[found.index, "oracle"])
    assert concordance(truth["time"], truth["event"], found["risk"]) > 0.65 < oracle
    assert set(found["group"]) == {"high", "low"}
    assert ((found["risk"] > model.cutoff) == (found["group"] == "high")).all()
    assert not found["seen"].any()


def test_what_is_stored_is_of_the_training_patients(cohort: Cohort, folds, model: OutcomeModel) -> None:
    training, held = model.patients["train"], model.patients["validation"]
    assert not set(training) & set(held)
    assert {*training, *held} == set(folds.index[folds["fold"] != 0])
    risk = model.predict(cohort, list(held), allow_seen=True, device="cpu")["risk"]
    assert model.cutoff == pytest.approx(risk.median())
    # every patient has the same weight in the standardisation, whatever the number of tiles
    expected = np.mean([cohort.bag(name).he.mean(axis=0) for name in training], axis=0)
    np.testing.assert_allclose(model.network.standard("he").mean, expected, atol=1e-5)
    events = cohort.endpoint("DSS").loc[list(held), "event"].mean()
    overall = cohort.endpoint("DSS")["event"].mean()
    assert abs(events - overall) < 0.2


def test_a_model_comes_back(cohort: Cohort, model: OutcomeModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    assert same(model, again)
    assert (again.cutoff, again.endpoint, again.patients) == (model.cutoff, "DSS", model.patients)
    new = [
        name for name in cohort.patients.index if name not in {*model.patients["train"], *model.patients["validation"]}
    ]
    first, second = (one.predict(cohort, new[:5], times=[300.0], device="cpu") for one in (model, again))
    assert first.equals(second)
    damaged = tmp_path / "m" / "outcome.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"abcd")
    with pytest.raises(ValueError, match=r"sha256|checksum"):
        load_model(tmp_path / "m")


def test_survival_falls_with_time_and_risk(cohort: Cohort, folds, model: OutcomeModel) -> None:
    found = model.predict(cohort, list(folds.index[folds["fold"] == 0]), times=[100.0, 600.0], device="cpu")
    assert (found["survival_100"] >= found["survival_600"]).all()
    by_risk = found.sort_values("risk")["survival_600"]
    assert by_risk.is_monotonic_decreasing if model.baseline["slope"] > 0 else by_risk.is_monotonic_increasing


def test_a_call_again_gives_the_same_bits_and_an_interrupted_run_too(
    cohort: Cohort, model: OutcomeModel, folds, tmp_path: Path, monkeypatch
) -> None:
    training = list(folds.index[folds["fold"] != 0])
    options = {"patients": training, "config": QUICK, "network": "mean", "baselines": False, "device": "cpu"}
    from storm.prognosis import _train

    step, calls = _train._step, 0

    def until_killed(*args):
        nonlocal calls
        calls += 1
        if calls == 8:  # in the middle of the fourth epoch
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(_train, "_step", until_killed)
    with pytest.raises(KeyboardInterrupt):
        fit(cohort, "DSS", out=tmp_path / "run", **options)
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints" / "mean").iterdir())[-1] == "step-000000003"
    monkeypatch.setattr(_train, "_step", step)
    resumed = fit(cohort, "DSS", out=tmp_path / "run", **options)
    assert same(model, resumed)
    assert resumed.notes["losses"] == model.notes["losses"]
    assert same(load_model(tmp_path / "run"), model)
    with pytest.raises(ValueError, match=r"holds a run with other \['seed', 'train', 'validation'\]"):
        fit(cohort, "DSS", out=tmp_path / "run", seed=3, **options)


@pytest.mark.parametrize("loss", ["nll", "bce"])
def test_other_losses(cohort: Cohort, loss: str) -> None:
    endpoint = "response" if loss == "bce" else "DSS"
    found = fit(
        cohort, endpoint, loss=loss, network="abmil", modality="st", baselines=False, config=QUICK, device="cpu"
    )
    assert found.modalities == ("st",)
    assert found.network.config.outputs == (4 if loss == "nll" else 1)
    score = found.notes["validation"]["score"]["abmil"]
    assert 0 <= score <= 1
    assert (found.baseline is None) == (loss == "bce" or "no_baseline" in found.notes)
    if loss == "nll":
        assert len(found.edges) == 3
        assert np.all(np.diff(found.edges) > 0)


def test_baselines_are_trained_beside_it(cohort: Cohort, caplog) -> None:
    few = OutcomeFit(epochs=1, tiles_per_bag=8, width=16, n_latents=2)
    with caplog.at_level("INFO", logger="storm"):
        found = fit(cohort, "OS", config=few, device="cpu")
    assert list(found.notes["validation"]["score"]) == ["perceiver", "abmil", "mean"]
    assert "validation patients, one split: perceiver" in caplog.text
    assert found.network.config.network == "perceiver"


def test_cross_validation_predicts_everybody_once(cohort: Cohort, folds) -> None:
    few = OutcomeFit(epochs=1, tiles_per_bag=8, width=16, n_latents=2)
    found = cross_validate(cohort, folds, networks=["mean"], config=few, device="cpu")
    assert sorted(found["patient"]) == sorted(folds.index)
    assert (found.set_index("patient")["fold"] == folds["fold"].reindex(found["patient"])).all()
    assert found.attrs["endpoint"] == "DSS"
    few_left = folds.iloc[:4].assign(fold=[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"without fold 0: .* patients with .* events are left to train on"):
        cross_validate(cohort, few_left, endpoint="DSS", networks=["mean"], config=few, device="cpu")


def test_a_folder_is_no_cohort(cohort: Cohort, folds, model: OutcomeModel) -> None:
    """As of the commands, which take the folder: what to type is said before anything runs."""
    for run in (
        lambda: fit("folder", "DSS"),
        lambda: cross_validate("folder", folds),
        lambda: model.predict("folder"),
    ):
        with pytest.raises(TypeError, match=r"cohort is a str; give a storm\.prognosis\.Cohort"):
            run()
    with pytest.raises(TypeError, match=r"split is a str, not a data frame; give what storm\.prognosis\.split"):
        cross_validate(cohort, "folds.csv")


def test_patients_who_were_seen(cohort: Cohort, model: OutcomeModel, caplog) -> None:
    with caplog.at_level("WARNING", logger="storm"):
        others = model.predict(cohort, device="cpu")
    number = len(model.patients["train"]) + len(model.patients["validation"])
    assert len(others) == len(cohort.patients) - number
    assert f"{number} of {len(cohort.patients)} patients are left out: trained on" in caplog.text
    with pytest.raises(ValueError, match="whose risks would flatter"):
        model.predict(cohort, [model.patients["train"][0]], device="cpu")
    everybody = model.predict(cohort, list(cohort.patients.index), allow_seen=True, device="cpu")
    assert everybody["seen"].sum() == len(model.patients["train"]) + len(model.patients["validation"])


@pytest.mark.parametrize(("fact", "value"), [("genes", ["g"]), ("seed", 7), ("encoder_sha256", "of another")])
def test_a_cohort_with_other_features(cohort: Cohort, model: OutcomeModel, tmp_path: Path, fact: str, value) -> None:
    """Whatever fact differs, or is known of one cohort only: its numbers mean something else."""
    shutil.copytree(cohort.folder, tmp_path / "other")
    other = Cohort(tmp_path / "other")
    other.facts[fact] = value
    for call in (lambda: model.predict(other, device="cpu"), lambda: explain(model, other, "P0001", device="cpu")):
        with pytest.raises(ValueError, match=rf"made differently from those the model was trained on \({fact}"):
            call()
    other = Cohort(tmp_path / "other")
    other.facts["storm_version"] = "9"  # who wrote the folder does not matter
    assert len(model.predict(other, device="cpu")) > 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"network": "transformer"}, ValueError, "network='transformer' is not an option"),
        ({"loss": "mse"}, ValueError, "loss='mse' is not an option"),
        ({"modality": "rna"}, ValueError, "modality='rna' is not an option"),
        ({"patients": ["nobody"]}, KeyError, "1 patients are not in the cohort"),
        ({"patients": ["P0000", "P0000"]}, ValueError, "named twice"),
        ({"patients": "P0000"}, TypeError, "patients='P0000' is a str; give a list of names"),
        ({"patients": 3}, TypeError, "patients=3 is a int"),
        ({"config": {"epochs": 2}}, TypeError, "config is a dict"),
        ({"validation": 0.9}, ValueError, "validation"),
        ({"validation": ["nobody"]}, ValueError, "validation names"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_arguments(cohort: Cohort, options, error, words) -> None:
    with pytest.raises(error, match=words):
        fit(cohort, "DSS", **{"device": "cpu", "config": QUICK} | options)


def test_patients_to_predict(cohort: Cohort, model: OutcomeModel) -> None:
    with pytest.raises(KeyError, match=r"1 patients are not in the cohort: \['nobody'\]"):
        model.predict(cohort, [cohort.patients.index[0], "nobody"], allow_seen=True)
    with pytest.raises(ValueError, match="named twice"):
        model.predict(cohort, [cohort.patients.index[0]] * 2, allow_seen=True)


def test_bad_endpoints(cohort: Cohort) -> None:
    with pytest.raises(KeyError, match="PFI"):
        fit(cohort, "PFI", device="cpu")
    with pytest.raises(KeyError, match="there is no column 'grade'"):
        fit(cohort, "grade", loss="bce", device="cpu")
    with pytest.raises(ValueError, match="'age' is neither 0 nor 1"):
        fit(cohort, "age", loss="bce", device="cpu")


def test_nobody_has_an_event(cohort: Cohort, tmp_path: Path) -> None:
    shutil.copytree(cohort.folder, tmp_path / "c")
    calm = Cohort(tmp_path / "c")
    calm.patients["DSS_event"] = 0
    with pytest.raises(ValueError, match="0 events"):
        fit(calm, "DSS", device="cpu", config=QUICK)


def test_few_events_are_a_warning(cohort: Cohort) -> None:
    truth = cohort.endpoint("DSS")
    few = [*truth.index[truth["event"]][:9], *truth.index[~truth["event"]][:12]]
    one = OutcomeFit(epochs=1, tiles_per_bag=8, width=16)
    with pytest.warns(UserWarning, match="events to train on"):
        found = fit(cohort, "DSS", patients=few, network="mean", baselines=False, config=one, device="cpu")
    assert found.baseline is None
    assert "validation patients have an event" in found.notes["no_baseline"]
    rest = [name for name in cohort.patients.index if name not in few]
    with pytest.raises(ValueError, match="predicts no survival"):
        found.predict(cohort, rest[:2], times=[1.0], device="cpu")


_TWO = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from storm.prognosis import Cohort, fit
from test_fit import STILL
fit(Cohort(sys.argv[2]), "DSS", config=STILL, network="abmil", baselines=False, device="cpu", out=sys.argv[3])
"""
STILL = OutcomeFit(epochs=2, tiles_per_bag=24, width=16, patients_per_batch=15, dropout=0.0)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(cohort: Cohort, tmp_path: Path) -> None:
    """Risk sets are those of the whole batch, not of each process's part of it."""
    alone = fit(cohort, "DSS", config=STILL, network="abmil", baselines=False, device="cpu")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
         sys.executable, "-c", _TWO, str(Path(__file__).parent), str(cohort.folder), str(tmp_path / "run")],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    together = load_model(tmp_path / "run")
    np.testing.assert_allclose(together.notes["losses"], alone.notes["losses"], rtol=1e-4)
    for name, value in weights(alone).items():
        if name == "head.4.bias":  # risks are relative: its gradient is zero but for rounding, which AdamW enlarges
            continue
        torch.testing.assert_close(weights(together)[name], value, rtol=1e-3, atol=2e-4, msg=name)


def test_a_bag_too_large_for_the_device(model: OutcomeModel, cohort: Cohort, monkeypatch, caplog) -> None:
    """It is computed on the CPU, with the same numbers, and that is said."""
    from storm.model.outcome import Outcome

    known = {*model.patients["train"], *model.patients["validation"]}
    who = [name for name in cohort.patients.index if name not in known]
    expected = model.predict(cohort, who[:2], device="cpu")
    forward, calls = Outcome.forward, []

    def full(self, bags, mask):
        calls.append(mask.shape)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, bags, mask)

    monkeypatch.setattr(Outcome, "forward", full)
    with caplog.at_level("WARNING", logger="storm"):
        found = model.predict(cohort, who[:2], device="cpu")
    assert found.equals(expected)
    assert (
        f"{who[0]} has {expected['n_tiles'].iloc[0]} tiles, too many for cpu: it is computed on the CPU" in caplog.text
    )
