"""Files and folders that appear whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or folder beside its place, and let it take the place once it is whole.

    Parameters
    ----------
    path
        Where the file or folder belongs. What is there is replaced.

    Yields
    ------
    Path
        Where to write it: ``"<path>.part"``, which does not exist yet. It is removed if the block raises, and ``path``
        is then as it was.
    """
    scratch, old = (path.with_name(path.name + ending) for ending in (".part", ".old"))
    remove(scratch)
    try:
        yield scratch
        if path.is_dir() and not path.is_symlink():
            # A folder that is not empty cannot be renamed over: it makes room first, and comes back on an error.
            remove(old)
            path.replace(old)
            try:
                scratch.replace(path)
            except BaseException:
                old.replace(path)
                raise
            remove(old)
        else:
            scratch.replace(path)
    finally:
        remove(scratch)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
