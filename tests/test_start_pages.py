"""The pages below ``docs/start`` and the list on the start page run as they are printed, on small drawn files."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the tests run outside of the repository: no docs here")
PAGES = sorted(path.stem for path in (DOCS / "start").glob("*.md"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with the writers of example files importable as in the build of the docs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DOCS))
    yield tmp_path
    plt.close("all")
    sys.modules.pop("example_files", None)


def cells(page: str) -> list[str]:
    """The code of a page's cells, hidden ones too."""
    found = re.findall(r"```\{code-cell\}\n(.*?)```", page, flags=re.S)
    return [re.sub(r"^:tags:.*\n", "", cell) for cell in found]


def commands(page: str) -> list[list[str]]:
    """Arguments of each ``storm …`` line in a console box."""
    boxes = re.findall(r"```console\n(.*?)```", page, flags=re.S)
    lines = [line[2:] for box in boxes for line in box.splitlines() if line.startswith("$ storm ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def run(code: str, names: dict[str, object]) -> None:
    with warnings.catch_warnings():
        # what a page warns of, it says in its text
        warnings.simplefilter("ignore", UserWarning)
        exec(compile(code, "page", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_as_printed(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    from storm.cli import main

    text = (DOCS / "start" / f"{page}.md").read_text()
    names: dict[str, object] = {}
    for cell in cells(text):
        run(cell, names)
    assert plt.get_fignums(), "a page that leads to a figure draws one"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for arguments in commands(text):
            assert main(arguments) == 0, (arguments, capsys.readouterr().err)


def held() -> list[str]:
    """What the start page says to type, one line for each shape of data."""
    table = (DOCS / "index.md").read_text().split("## What you hold")[1]
    return re.findall(r"^\| [^|]+ \| `(data = [^`]+)` \|", table, flags=re.M)


def then() -> str:
    """What it says to type after any of them."""
    table = (DOCS / "index.md").read_text().split("## What you hold")[1]
    return re.search(r"```python\n(.*?)```", table, flags=re.S)[1]


@pytest.fixture(scope="module")
def all_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the start page holds; for reading only."""
    folder = tmp_path_factory.mktemp("held")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(DOCS))
        import example_files

        example_files.section("section.zarr", n=100)
        example_files.visium("outs", "HE.tif", n=100)
        example_files.visium_anndata("visium.h5ad", "HE.tif", n=100)
        example_files.counts("cells.h5ad", n=200)
        example_files.visium_hd("outs_hd", "HE_hd.btf", n=200)
        example_files.xenium("output-XETG", "HE_xenium.tif", n=200)
        example_files.slide("biopsy.svs", n=100)
        example_files.sections("AB", n=60)
    return folder


@pytest.mark.parametrize("line", held(), ids=lambda line: re.search(r'"([^"]+)"', line)[1])
def test_what_you_hold(line: str, all_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(all_files)
    names: dict[str, object] = {}
    run("import scanpy as sc\nimport spatialdata\nimport storm\n" + line, names)
    run(then(), names)
    one = names["data"][0] if isinstance(names["data"], list) else names["data"]
    table = one if hasattr(one, "obsm") else next(iter(one.tables.values()))
    assert table.obs["storm_domain"].notna().any()
    assert plt.get_fignums()


def test_all_seven_shapes_have_a_page_and_a_line() -> None:
    assert len(PAGES) == 7
    table = (DOCS / "index.md").read_text().split("## What you hold")[1]
    assert sorted(set(re.findall(r"\{doc\}`start/([\w-]+)`", table))) == PAGES
    assert len(held()) >= 7
