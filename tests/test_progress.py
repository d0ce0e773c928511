"""Progress bars: in terminals and notebooks, silenced by ``settings.verbosity``, gone from files and pipes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import pytest
from tqdm.auto import tqdm

import storm
from storm._progress import over_sections, progress
from storm.prognosis import Cohort


class Terminal:
    """Standard error of a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(verbosity: int = 1) -> Iterator[Terminal]:
    """Standard error is a terminal; within a test, because pytest puts its own back between fixtures and tests."""
    storm.settings.verbosity = verbosity
    with redirect_stderr(Terminal()) as shown:  # type: ignore[type-var]
        yield shown


def test_sections_with_the_time_left():
    with terminal() as shown:
        for _ in over_sections(range(3)):
            list(progress(range(2), desc="tiles", unit="tile"))
    assert "sections: " in shown.text
    assert "3/3 [" in shown.text
    assert "tiles: " in shown.text
    assert shown.text.rstrip().splitlines()[-1].rpartition("\r")[2].startswith("sections: 100%"), "bars inside are gone"


def test_one_section_has_no_bar_of_sections():
    with terminal() as shown:
        list(over_sections(range(1)))
    assert shown.text == ""


def test_verbosity_silences():
    with terminal(verbosity=0) as shown:
        list(progress(range(3), desc="tiles", unit="tile"))
    assert shown.text == ""


def test_no_bars_in_files(capsys):
    storm.settings.verbosity = 1
    list(progress(range(3), desc="tiles", unit="tile"))
    assert capsys.readouterr().err == ""


def test_notebooks_have_bars(monkeypatch):
    """A notebook's output is no terminal, and has bars of its own."""
    storm.settings.verbosity = 1
    notebook = type("notebook", (tqdm,), {"__module__": "tqdm.notebook"})
    monkeypatch.setattr("tqdm.auto.tqdm", notebook)
    with progress(range(1), desc="tiles", unit="tile") as bar:
        assert not bar.disable


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    return storm.datasets.toy_cohort(tmp_path_factory.mktemp("cohort") / "cohort", n_patients=60, n_tiles=(10, 20))


def test_adapting_shows_epochs(toy, tiny_model):
    with terminal() as shown:
        storm.tl.adapt([toy.tables["table"], toy.tables["table"].copy()], model=tiny_model, modality="st", epochs=2)
    assert "sections: 100%" in shown.text
    assert "epochs: 100%" in shown.text


def test_fitting_a_head_shows_penalties_and_folds(toy, tiny_model):
    config = storm.HeadConfig(epochs=2, hidden=4)
    with terminal() as shown:
        storm.tl.fit_expression(toy, model=tiny_model, genes=list(toy.tables["table"].var_names[:5]), config=config)
    for bar in ("penalties tried: 100%", "folds: 100%", "epochs of the head: 100%"):
        assert bar in shown.text
    assert "sections: " not in shown.text, "there is one"


def test_stability_shows_clusterings(toy):
    with terminal() as shown:
        storm.tl.embed(toy, modality="st")
        storm.tl.domain_stability(toy, [3, 4], runs=3)
    assert "clusterings: 100%" in shown.text
    assert "6/6 [" in shown.text


def test_checking_several_shows_sections(toy):
    with terminal() as shown:
        storm.pp.check([toy.tables["table"], toy.tables["table"].copy()], estimate=False)
    assert "sections: 100%" in shown.text


def test_outcome_shows_networks_folds_and_gradients(cohort):
    config = storm.prognosis.OutcomeFit(epochs=2)
    split = storm.prognosis.split(cohort, endpoint="DSS", folds=2)
    with terminal() as shown:
        model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
    assert "networks: " not in shown.text, "there is one"
    assert "epochs: 100%" in shown.text
    with terminal() as shown:
        storm.prognosis.fit(cohort, "DSS", network="mean", config=config)
    assert "networks: 100%" in shown.text
    with terminal() as shown:
        storm.prognosis.cross_validate(cohort, split, networks=["mean", "abmil"], config=config)
    assert "folds: 100%" in shown.text
    assert "4/4 [" in shown.text
    with terminal() as shown:
        storm.prognosis.explain(model, cohort, cohort.patients.index[0], steps=8)
    assert "gradients: 100%" in shown.text
