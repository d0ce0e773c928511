"""How the command line reports: an error or a warning is one line, and messages of other packages are hidden."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from storm._logging import is_ours, logger
from storm.cli._shell_words import in_shell_words

#: Names of the options of the command that runs; ``None`` where none does, and messages speak Python.
_options: frozenset[str] | None = None


@contextmanager
def speaking_shell(options: Collection[str]) -> Iterator[None]:
    """Let messages name the options of a command in place of the arguments of its function."""
    global _options
    before, _options = _options, frozenset(options)
    try:
        yield
    finally:
        _options = before


def said(text: str) -> str:
    """A text of STORM's in the words of the shell, while a command runs."""
    return text if _options is None else in_shell_words(text, _options)


def one_line(thing: BaseException | Warning | str) -> str:
    """An error or a warning as one line of text.

    The text of an error that another package raised begins with its type, because it may mean little by itself: the
    text of ``KeyError('x')`` is ``x``.
    """
    # A KeyError's str() is the repr of its text.
    text = str(thing.args[0]) if isinstance(thing, KeyError) and thing.args else str(thing)
    text = " ".join(text.split())
    if not text:
        return type(thing).__name__
    if isinstance(thing, BaseException) and not _is_ours(thing):
        return f"{type(thing).__name__}: {text}"
    return said(text)


def interrupted(command: str, interruption: KeyboardInterrupt) -> str:
    """One line on Ctrl-C: what is kept, and how to go on."""
    notes = getattr(interruption, "__notes__", None) or ["the same command starts again from the beginning"]
    return f"storm {command}: interrupted: {said(notes[0]).replace('the same call', 'the same command')}"


def _is_ours(error: BaseException) -> bool:
    """Whether STORM itself raised an error, or nobody has."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not frames or str(frames[-1].f_globals.get("__name__")).partition(".")[0] == "storm"


def print_warning(text: str) -> None:
    """Print one of STORM's warnings to stderr."""
    print(f"storm: warning: {text}", file=sys.stderr)


class _Handler(logging.Handler):
    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        self.report(one_line(record.getMessage()))


@contextmanager
def quiet_neighbours(report: Callable[[str], None] = print_warning) -> Iterator[None]:
    """Pass each of STORM's warnings to ``report`` as one line, and hide the warnings of other packages."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if is_ours(message):
            report(one_line(message))

    neighbour = logging.getLogger("spatialdata")
    level, handlers = neighbour.level, logger.handlers
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        neighbour.setLevel(logging.ERROR)
        logger.handlers = [_Handler(report)]
        try:
            yield
        finally:
            neighbour.setLevel(level)
            logger.handlers = handlers
