"""A process that is killed between any two of its changes to the file system, acted out within the test's process.

From the k-th change below a folder on, none happens: every attempt raises, also those of a clean-up. What lies on the
disk then is what a kill at that moment leaves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from storm import _files

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Audit events of Python that announce a change, and the positions of paths and of the folders they are relative to.
_EVENTS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.utime": ((0, 3),),
}


class Killed(BaseException):
    """No handler of errors sees it."""


class Counter:
    """Counts changes below a folder.

    Attributes
    ----------
    changes
        One line for each change that happened, or was prevented first.
    """

    def __init__(self, folder: Path, last: int | None, torn: bool) -> None:
        self.folder, self.last, self.torn = str(folder), last, torn
        self.changes: list[str] = []
        self.killed = False

    def step(self, event: str, paths: list[str], *, made: str | None = None) -> None:
        """Count a change that is about to happen, or prevent it."""
        if not any(path.startswith(self.folder) for path in paths):
            return
        if self.killed:
            raise Killed
        self.changes.append(f"{event} {' '.join(path.removeprefix(self.folder) for path in paths)}")
        if self.last is not None and len(self.changes) > self.last:
            self.killed = True
            if self.torn and made is not None:  # killed while it writes: there is half a file
                global _active
                _active = None
                Path(made).write_bytes(b'{"half": ')
                _active = self
            raise Killed


_active: Counter | None = None


def _absolute(path: Any, folder: Any) -> str | None:
    if isinstance(path, int):
        return None
    path = os.fsdecode(path)
    if not os.path.isabs(path) and isinstance(folder, int) and folder >= 0:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _active is None:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(flags, int) and flags & _WRITING and (name := _absolute(path, None)) is not None:
            _active.step("open", [name], made=name)
    elif event in _EVENTS:
        pairs = [(args[k], None if at is None else args[at]) for k, at in _EVENTS[event]]
        _active.step(event, [name for pair in pairs if (name := _absolute(*pair)) is not None])


sys.addaudithook(_hook)


@contextmanager
def killed_after(folder: Path, changes: int | None = None, *, torn: bool = False) -> Iterator[Counter]:
    """Count the changes below a folder that the block makes, and let it die after so many of them.

    Parameters
    ----------
    folder
        Changes elsewhere are not counted and happen.
    changes
        How many happen; ``None`` for all.
    torn
        If the change that does not happen is that of writing a file, half of it is there.
    """
    global _active
    counter = Counter(folder, changes, torn)
    real = _files._renameat2

    def counted() -> Callable[..., int] | None:
        rename = real()

        def exchange(*args: Any) -> int:
            counter.step("exchange", [os.fsdecode(args[1]), os.fsdecode(args[3])])
            return rename(*args)

        return None if rename is None else exchange

    _files._renameat2 = counted
    _active = counter
    try:
        yield counter
    except Killed:
        assert counter.killed
    finally:
        _active = None
        _files._renameat2 = real
