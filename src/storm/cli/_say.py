"""How the command line talks: errors and warnings are a line each, and other packages are quiet."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def one_line(thing: BaseException | Warning | str) -> str:
    """An error or a warning as one line of text."""
    # A KeyError's str() is the repr of its text.
    text = str(thing.args[0]) if isinstance(thing, KeyError) and thing.args else str(thing)
    return " ".join(text.split()) or type(thing).__name__


def print_warning(text: str) -> None:
    """Show a warning of ours."""
    print(f"storm: warning: {text}", file=sys.stderr)


@contextmanager
def quiet_neighbours(say: Callable[[str], None] = print_warning) -> Iterator[None]:
    """Hand our own warnings to ``say``, a line each, and show nothing of what other packages tell their developers."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(one_line(message))

    neighbour = logging.getLogger("spatialdata")
    level = neighbour.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"storm(\.|$)")
        warnings.showwarning = show
        neighbour.setLevel(logging.ERROR)
        try:
            yield
        finally:
            neighbour.setLevel(level)
