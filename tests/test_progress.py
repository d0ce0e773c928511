"""Progress bars: in terminals and notebooks, silenced by ``settings.verbosity``, gone from files and pipes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from tqdm.auto import tqdm

import storm
from storm._progress import over_sections, progress


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
