"""The documentation is complete: every public name has an API entry, every written key a row in ``outputs.md``."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import storm
from storm import _keys

if TYPE_CHECKING:
    pass

DOCS = Path(__file__).resolve().parents[1] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the tests run outside of the repository: no docs here")


def api_entries() -> set[str]:
    """Dotted names in the autosummary lists below ``docs/api``."""
    entries = set()
    for page in (DOCS / "api").glob("*.md"):
        module = "storm"
        for line in page.read_text().splitlines():
            if match := re.match(r"\.\. currentmodule:: (\S+)", line):
                module = match.group(1)
            elif match := re.fullmatch(r"   ([A-Za-z_]\w*)", line):
                entries.add(f"{module}.{match.group(1)}")
    return entries


def test_every_public_name_has_an_api_entry() -> None:
    public = set()
    for room in (storm, *(getattr(storm, name) for name in storm.__all__)):
        if isinstance(room, ModuleType):
            public |= {f"{room.__name__}.{name}" for name in room.__all__ if callable(getattr(room, name))}
    assert public == api_entries() - {"storm.settings"}


def test_every_key_is_in_outputs() -> None:
    page = (DOCS / "outputs.md").read_text()
    keys = {name: value for name, value in vars(_keys).items() if name.isupper() and isinstance(value, str)}
    assert keys
    assert [name for name, value in keys.items() if f'"{value}"' not in page] == []


def test_tutorials_are_stored_without_outputs() -> None:
    for notebook in (DOCS.parent / "tutorials").glob("*.ipynb"):
        text = notebook.read_text()
        assert '"outputs": []' in text
        assert '"output_type"' not in text, f"{notebook.name}: clear its outputs, the build runs it"


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_results_go_into_the_store_that_they_came_from(toy, tmp_path: Path) -> None:
    """The lines printed in ``outputs.md`` store a changed table and a new one beside an image that is not written."""
    import spatialdata

    toy.write(path := tmp_path / "a.zarr")
    sdata = spatialdata.read_zarr(path)
    sdata["table"].obs["storm_domain"] = sdata["table"].obs["domain"].astype("category")
    sdata["table_storm"] = sdata["table"].copy()
    image = {file: file.stat().st_mtime_ns for file in (path / "images").rglob("*") if file.is_file()}
    code = re.search(r"\(saving\)=.*?```python\n(.*?)```", (DOCS / "outputs.md").read_text(), re.DOTALL)
    assert code is not None
    exec(code.group(1), {"sdata": sdata})
    again = spatialdata.read_zarr(path)
    assert list(again["table"].obs["storm_domain"]) == list(sdata["table"].obs["storm_domain"])
    assert again["table_storm"].shape == sdata["table_storm"].shape
    assert {file: file.stat().st_mtime_ns for file in image} == image


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_first_example_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed example runs, on a smaller section, and writes the keys that its comments name."""
    import matplotlib.pyplot as plt

    toy = storm.datasets.toy("visium", n=300)

    code = re.search(r"```python\n(.*?)```", (DOCS.parent / page).read_text(), flags=re.S).group(1)
    monkeypatch.setattr(storm.datasets, "toy", lambda *_: toy)
    exec(compile(code, page, "exec"), {})
    plt.close("all")
    table = toy.tables["table"]
    promised = {name for comment in re.findall(r"#(.*)", code) for name in re.findall(r'"(\w+)"', comment)}
    assert promised >= {"X_storm", "storm_domain", "table_storm"}
    assert promised <= {*table.obsm, *table.obs, *table.layers, *toy.tables}
