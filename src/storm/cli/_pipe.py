"""``storm check store | head``: a command whose output nobody reads any more ends, without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class ReaderGone(BaseException):
    """The reader of what a command prints, such as ``head``, is gone; its one argument is the stream."""


class _Watched:
    """A stream that tells a reader who is gone from any other broken pipe, such as that of a worker."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise ReaderGone(self._stream) from None

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise ReaderGone(self._stream) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def watched() -> Iterator[None]:
    """Raise :class:`ReaderGone` where a reader of the output is gone, at the latest at the end."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Watched(stream) for stream in streams)
    try:
        try:
            yield
        finally:
            # Here, where an error is handled, and not when Python ends.
            sys.stdout.flush()
    except ReaderGone as gone:
        # What Python still flushes at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), gone.args[0].fileno())
        raise
    finally:
        sys.stdout, sys.stderr = streams
