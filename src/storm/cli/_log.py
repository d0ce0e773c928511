"""``--log FILE``: all that a command prints, with the time of each line, and the tracebacks of its errors."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

#: Beginning of the file: a file that begins otherwise is not added to.
_MARK = "# log of storm\n"

_open: list[TextIO] = []


@contextmanager
def logged(path: Path | None, words: Sequence[str]) -> Iterator[None]:
    """Copy what is printed into a file, to whose end it is added.

    Parameters
    ----------
    path
        The file; ``None`` for no copy.
    words
        The command, for its first line.

    Raises
    ------
    FileExistsError
        If the file exists and is no log.
    OSError
        If it cannot be written.
    """
    if path is None:
        yield
        return
    from storm import __version__
    from storm.cli._stores import check_parent

    check_parent(path, option="--log", shown=path)
    if path.exists() and (not path.is_file() or (path.stat().st_size and not _is_log(path))):
        msg = f"--log {path} exists and is no log of storm; give another name, or remove it"
        raise FileExistsError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        if not path.stat().st_size:
            file.write(_MARK)
        _open.append(file)
        note(f"storm {__version__}: {shlex.join(['storm', *words])}")
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Copied(stream) for stream in streams)
        try:
            yield
        finally:
            for copied in (sys.stdout, sys.stderr):
                if isinstance(copied, _Copied):
                    copied.end()
            sys.stdout, sys.stderr = streams
            _open.pop()


def note(text: str) -> None:
    """Write into the log alone, if there is one."""
    for file in _open[-1:]:
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        file.writelines(f"{now} {line}\n" for line in text.splitlines())


def _is_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


class _Copied:
    """A stream whose whole lines go into the log, too; of a progress bar only its last state does."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        """Write text."""
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            note(line.rpartition("\r")[2])
        self._line = self._line.rpartition("\r")[2]
        return self._stream.write(text)

    def end(self) -> None:
        """Log what is left of the last line."""
        note(self._line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
