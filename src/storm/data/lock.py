"""The folder beside a store, which STORM's processes leave things in, and the lock that lies in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from storm._logging import logger

#: File that is locked.
LOCK = "lock"
#: Folder for what is about to be placed in the store.
SCRATCH = "writing"


class StoreBusyError(RuntimeError):
    """Another process of STORM works on a store."""


def folder_beside(store: Path) -> Path:
    """Return the path of the folder beside a store, ``<store>.storm``; it exists only while there is a need for it."""
    store = store.absolute()
    return store.with_name(store.name + ".storm")


@contextmanager
def locked(store: Path) -> Iterator[Path | None]:
    """Keep other processes of STORM from a store, as long as the block runs.

    The lock is the operating system's: it ends with the process, whatever ends that.

    Parameters
    ----------
    store
        Path of the store.

    Yields
    ------
    Path or None
        Folder beside the store for what a run leaves; ``None`` where nothing can be written, and nothing is locked.

    Raises
    ------
    RuntimeError
        If another process has the lock.
    """
    from filelock import FileLock, Timeout

    beside = folder_beside(store)
    lock = FileLock(beside / LOCK)
    try:
        beside.mkdir(exist_ok=True)
        if (beside / LOCK).is_dir():
            set_aside(beside / LOCK, reason="a folder in place of the lock file")
        lock.acquire(timeout=0)
        if not (beside / LOCK).exists():  # the process before removed it between our opening and our locking it
            lock.release()
            beside.mkdir(exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout as error:
        msg = (
            f"another process of storm works on {store} (it holds {beside / LOCK}); wait until it has finished, or "
            "give the second one a copy of the store"
        )
        raise StoreBusyError(msg) from error
    except (OSError, NotImplementedError) as error:  # also a file system without locks
        if beside.is_file():
            logger.warning(
                "%s is a file, and STORM keeps unfinished runs in a folder of that name: an interrupted run cannot be "
                "resumed until the file has been moved",
                beside,
            )
        else:
            logger.info("nothing can be written beside %s (%s): an interrupted run cannot be resumed", store, error)
        yield None
        return
    try:
        yield beside
    finally:
        try:
            # While the lock is still held, so that nobody else's is removed.
            if {path.name for path in beside.iterdir()} <= {LOCK}:
                shutil.rmtree(beside, ignore_errors=True)
        finally:
            lock.release()


def set_aside(path: Path, *, reason: str, folder: Path | None = None, name: str | None = None) -> Path:
    """Give a damaged file or folder another name, with a warning, so that a new one can be made.

    Parameters
    ----------
    path
        The file or folder.
    reason
        What is wrong with it.
    folder
        Where to put it; by default it stays in its own folder.
    name
        Its name there before ``".damaged"``; by default its own.

    Returns
    -------
    Path
        Where it lies now.
    """
    folder, name = path.parent if folder is None else folder, path.name if name is None else name
    names = (f"{name}.damaged" if k == 1 else f"{name}.damaged-{k}" for k in count(1))
    target = next(folder / free for free in names if not (folder / free).exists())
    path.replace(target)
    logger.warning("%s is damaged (%s); it is not used, and lies in %s now", path, reason, target)
    return target
