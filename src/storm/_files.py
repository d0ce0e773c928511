"""Files and folders that appear whole, or not at all, and room on the disk that is reserved before it is used."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

#: Linux: "the path is relative to the working directory".
_AT_FDCWD = -100
#: Linux: "both paths exist; let each take the other's place".
_RENAME_EXCHANGE = 2
#: What file systems and kernels answer that cannot exchange two paths.
_CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
#: What file systems answer that cannot reserve room for a file.
_CANNOT_RESERVE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODEV}
#: A full disk, an exhausted quota, a limit on the size of files.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: Ending of a file or folder that is being written. It is removed without asking, so that it must be nobody else's.
_PART = ".storm-part"
#: Ending of a folder that makes room for another.
_OLD = ".storm-old"
#: Bytes that are written at a time where room cannot be reserved in another way.
_BLOCK = 4 * 1024**2


#: What AnnData announces about its next versions whenever it writes, once for each array.
_FORMAT_NEWS = ("zarr v3 autosharding", "Writing zarr v2 data will no longer be the default")


@contextmanager
def without_format_news() -> Iterator[None]:
    """Hide what AnnData announces about its file formats, where STORM itself writes: no user can act on it."""
    with warnings.catch_warnings():
        for text in _FORMAT_NEWS:
            warnings.filterwarnings("ignore", message=text, category=UserWarning)
        yield


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
        Where to write it: ``"<path>.storm-part"``, which does not exist yet. It is removed if the block raises, and
        ``path`` is then as it was.
    """
    scratch, old = (path.with_name(path.name + ending) for ending in (_PART, _OLD))
    remove(scratch)
    if old.exists() and not path.exists():  # an earlier process was killed between two renamings
        old.replace(path)
    try:
        yield scratch
        flush(scratch)
        if path.is_symlink() or not path.is_dir():
            scratch.replace(path)
        elif not exchange(scratch, path):
            # A folder that is not empty cannot be renamed over: it makes room first, and comes back on an error.
            remove(old)
            path.replace(old)
            try:
                scratch.replace(path)
            except BaseException:
                old.replace(path)
                raise
            remove(old)
    finally:
        remove(scratch)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing happens if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two existing paths take each other's place, in a single step that no kill can divide.

    Returns
    -------
    bool
        False where the system cannot do that; then nothing has happened. Linux can, on its usual local file systems.

    Raises
    ------
    OSError
        If one of the paths does not exist, or they lie on different file systems.
    """
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))


@lru_cache(maxsize=1)
def _renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function


def flush(path: Path) -> None:
    """Wait until what was written is on the disk itself.

    Parameters
    ----------
    path
        A file; or a folder, for all the files in it that have no second name (a hard link, which was stored before).
    """
    if not path.is_dir():
        _flush_one(path)
    for folder, _, files in os.walk(path):
        for name in files:
            file = os.path.join(folder, name)
            if os.stat(file).st_nlink == 1:
                _flush_one(file)


def _flush_one(path: str | Path) -> None:
    try:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        # Some systems cannot flush a file that is open for reading: then the order is theirs to keep.
        if error.errno in {errno.EIO, *_NO_ROOM}:
            raise


def reserve(file: BinaryIO, size: int) -> None:
    """Give a file room for ``size`` bytes on the disk, so that a memory map of it cannot run out of room.

    Writing to a map of a file without room ends the process (SIGBUS) rather than raise. What the file holds stays; new
    bytes are zero.

    Parameters
    ----------
    file
        File that is open for reading and writing.
    size
        Bytes from the beginning of the file.

    Raises
    ------
    OSError
        If the disk is full.
    """
    file.flush()
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
        else:
            return
    held = file.seek(0, os.SEEK_END)
    # A hole in what there is takes room too once it has been written.
    for at in range(0, held, _BLOCK):
        file.seek(at)
        block = file.read(min(_BLOCK, held - at))
        file.seek(at)
        file.write(block)
    file.seek(held)
    for at in range(held, size, _BLOCK):
        file.write(bytes(min(_BLOCK, size - at)))
    file.flush()


def is_no_room(error: OSError) -> bool:
    """Whether an error is that of a full disk, an exhausted quota or a limit on the size of files."""
    return error.errno in _NO_ROOM


@contextmanager
def full_disk_explained(path: Path | str, *, needed: int | None = None, advice: str = "") -> Iterator[None]:
    """Turn the error of a full disk into one that names the place and the room that is needed.

    Parameters
    ----------
    path
        What is being written.
    needed
        Bytes that it takes, where known.
    advice
        What to do, besides making room.

    Raises
    ------
    OSError
        With the number of the original error.
    """
    try:
        yield
    except OSError as error:
        if not is_no_room(error):
            raise
        takes = "" if needed is None else f", which takes {needed:,} bytes"
        msg = f"no room left on the disk ({error.strerror}) to write {path}{takes}{_free(path)}; make room{advice}"
        raise OSError(error.errno, msg) from error


def _free(path: Path | str) -> str:
    folder = Path(path)
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    with suppress(OSError):
        return f" ({shutil.disk_usage(folder).free:,} bytes are free)"
    return ""


def check_folder_writable(folder: Path, *, message: str = "", advice: str) -> None:
    """Raise unless files can be made in a folder; tried, because permissions alone do not tell (root, mounts).

    Parameters
    ----------
    folder
        An existing folder. It is unchanged afterwards.
    message
        Beginning of the error; by default it names the folder.
    advice
        What to do if it cannot be written, for the error.

    Raises
    ------
    PermissionError
        If it cannot be written.
    """
    try:
        tempfile.TemporaryFile(dir=folder, prefix=".storm-").close()
    except OSError as error:
        msg = f"{message or f'{folder} cannot be written'} ({error.strerror}); {advice}"
        raise PermissionError(msg) from error
