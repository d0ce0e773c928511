"""The example in the docstring of every public function runs as it is printed, and prints what it says."""

from __future__ import annotations

import doctest
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import storm

DOCS = Path(__file__).resolve().parents[1] / "docs"
# These read folders of vendors' software.
READS_FOLDERS = {"storm.io.cosmx", "storm.io.visium", "storm.io.visium_hd", "storm.io.xenium"}
# These read files or weights that cannot be part of a test; their examples are shown, and run only on a mirror.
NEEDS_FILES = {
    "storm.datasets.dlpfc",
    "storm.datasets.gene_sets",
    "storm.datasets.her2st",
    "storm.datasets.mob",
    "storm.datasets.signatures",
    "storm.datasets.starmap",
    "storm.datasets.tcga_bulk",
    "storm.expression.load_novae",
}


@pytest.fixture
def vendor_files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The folders that the examples of the vendors' readers name, drawn small, in the working folder."""
    name = request.node.callspec.params["name"]
    if name not in READS_FOLDERS:
        yield
        return
    if not DOCS.is_dir():
        pytest.skip("the tests run outside of the repository: no docs here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DOCS))
    import example_files

    match name.removeprefix("storm.io."):
        case "visium":
            example_files.visium("outs", "HE_slide.tif", n=100)
        case "visium_hd":
            example_files.visium_hd("outs", "HE_slide.btf", n=200)
        case "xenium":
            example_files.xenium("outs", "HE.ome.tif", "HE_imagealignment.csv", n=200)
        case "cosmx":
            example_files.cosmx("run1", n=200)
    yield
    sys.modules.pop("example_files", None)


def public_functions() -> dict[str, Callable[..., object]]:
    functions = {}
    for room in (storm, *(getattr(storm, name) for name in storm.__all__)):
        if isinstance(room, ModuleType):
            for name in room.__all__:
                if inspect.isfunction(member := getattr(room, name)):
                    functions[f"{room.__name__}.{name}"] = member
    return functions


FUNCTIONS = public_functions()


@pytest.fixture
def registry() -> Iterator[None]:
    """Encoders that an example registers are gone after it."""
    from storm.encoders import registry

    kept = dict(registry._REGISTRY), dict(registry._FAMILIES)
    yield
    for table, before in zip((registry._REGISTRY, registry._FAMILIES), kept, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.usefixtures("registry", "vendor_files")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(FUNCTIONS[name]) or "", {}, name, None, None)
    lines = [line for line in example.examples if not line.source.startswith(("import ", "from "))]
    runnable = [line for line in lines if not line.options.get(doctest.SKIP)]
    assert lines, f"the docstring of {name} has no example"
    assert bool(runnable) is (name not in NEEDS_FILES)
    report: list[str] = []
    with warnings.catch_warnings():
        # a reader who types the example sees scanpy's and pandas' remarks, which are not ours
        warnings.simplefilter("ignore")
        result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    plt.close("all")
    assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", sorted(name for name in NEEDS_FILES if name.startswith("storm.datasets.")))
def test_example_runs_on_a_mirror(
    name: str, shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    storm.settings.data_dir = shared_data
    storm.settings.cache_dir = tmp_path
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(FUNCTIONS[name]) or "", {}, name, None, None)
    for line in example.examples:
        line.options.pop(doctest.SKIP, None)
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    if "FileNotFoundError" in "".join(report):
        pytest.skip("the mirror here does not hold it")
    assert result.failed == 0, "".join(report)


def test_what_a_user_holds_is_shown_in_a_line_or_a_table(tmp_path: Path) -> None:
    """The last line of a notebook's cell shows an object: a sentence, and not all weights and genes that it holds."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    time, event = rng.exponential(size=50), np.ones(50)
    wrapped = storm.encoders.wrap_encoder(lambda tiles: tiles, name="mine", dim=4, tile_px=8, field_um=8.0)
    age = pd.DataFrame({"age": rng.normal(size=50)})
    cohort = storm.datasets.toy_cohort(tmp_path / "cohort", n_patients=20, n_tiles=(100, 120))
    config = storm.prognosis.OutcomeFit(epochs=1)
    outcome = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
    model = storm.load_model()
    shown = {
        "StormModel('storm-mini', trained": model,
        "ExpressionHead(500 genes": model.head,
        "EncoderInfo('h0-mini', 768 numbers": storm.encoders.get_encoder("h0-mini"),
        "LoadedEncoder('mine', 4 numbers": wrapped,
        "KaplanMeier(50 patients, median ": storm.metrics.kaplan_meier(time, event),
        "CoxModel of 50 patients, 50 events\n": storm.metrics.cox(time, event, age),
        "EmpiricalP(statistic=1, p=": storm.metrics.empirical_p(1.0, rng.normal(size=99)),
        "Zones(40 of 100 tiles high": storm.prognosis.zones(np.r_[rng.normal(-1, 0.3, 60), rng.normal(2, 0.3, 40)]),
        "OutcomeModel('mean', endpoint 'DSS', loss 'cox'": outcome,
        "Explanation(": storm.prognosis.explain(outcome, cohort, "P0001"),
    }
    for begin, held in shown.items():
        assert repr(held).startswith(begin)
        assert len(repr(held)) < 400, repr(held)
