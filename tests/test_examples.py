"""The example in the docstring of every public function runs as it is printed, and prints what it says."""

from __future__ import annotations

import doctest
import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import storm

# These read files or weights that cannot be part of a test; their examples are shown, and not run.
NEEDS_FILES = {
    "storm.datasets.gene_sets",
    "storm.datasets.her2st",
    "storm.datasets.mob",
    "storm.datasets.signatures",
    "storm.expression.load_novae",
    "storm.io.cosmx",
    "storm.io.visium",
    "storm.io.visium_hd",
    "storm.io.xenium",
}


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


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(FUNCTIONS[name]) or "", {}, name, None, None)
    runnable = [line for line in example.examples if not line.options.get(doctest.SKIP)]
    assert example.examples, f"the docstring of {name} has no example"
    assert bool(runnable) is (name not in NEEDS_FILES)
    report: list[str] = []
    with warnings.catch_warnings():
        # a reader who types the example sees scanpy's and pandas' remarks, which are not ours
        warnings.simplefilter("ignore")
        result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    plt.close("all")
    assert result.failed == 0, "".join(report)
