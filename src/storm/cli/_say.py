"""How the command line talks: errors and warnings are a line each, and other packages are quiet."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from storm._logging import logger


def one_line(thing: BaseException | Warning | str) -> str:
    """An error or a warning as one line of text."""
    # A KeyError's str() is the repr of its text.
    text = str(thing.args[0]) if isinstance(thing, KeyError) and thing.args else str(thing)
    return " ".join(text.split()) or type(thing).__name__


def print_warning(text: str) -> None:
    """Show a warning of ours."""
    print(f"storm: warning: {text}", file=sys.stderr)


class _Say(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(one_line(record.getMessage()))


@contextmanager
def quiet_neighbours(say: Callable[[str], None] = print_warning) -> Iterator[None]:
    """Hand what STORM warns of to ``say``, a line each, and show nothing of what other packages tell developers."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(one_line(message))

    neighbour = logging.getLogger("spatialdata")
    level, handlers = neighbour.level, logger.handlers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"storm(\.|$)")
        warnings.showwarning = show
        neighbour.setLevel(logging.ERROR)
        logger.handlers = [_Say(say)]
        try:
            yield
        finally:
            neighbour.setLevel(level)
            logger.handlers = handlers
