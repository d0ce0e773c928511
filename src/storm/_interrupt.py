"""What Ctrl-C says: a sentence on what is kept, and how to go on, below Python's traceback or alone in the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def says_how_to_go_on(sentence: str | Callable[[], str]) -> Iterator[None]:
    """Add a note to an interruption of the block; the outermost says more than one inside it, and replaces its note.

    Parameters
    ----------
    sentence
        What is kept and what to do, or a function that returns it.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        interruption.__notes__ = [sentence if isinstance(sentence, str) else sentence()]
        raise
