"""Putting parts of a zarr store in their places, so that a kill at any moment leaves a store that opens.

What is new is made complete in a folder of its own first, and flushed to the disk. Then it and what it replaces are
exchanged in one step, where the system can do that. Elsewhere two renamings are needed; a record that was written
before the first of them lets the next call of STORM close the gap that a kill between them leaves. Consolidated
metadata, which describe the parts a second time, are dropped before the first part is replaced and written again after
the last: no reader ever meets a description of something else than what there is.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from storm._files import exchange, flush, remove
from storm._logging import logger
from storm.data.lock import SCRATCH, StoreBusyError, folder_beside, locked, set_aside

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

#: The scratch folder in the store itself, where nothing can be written beside it; zarr ignores it.
_INSIDE = ".storm"
#: Files that describe groups and arrays. They may be rewritten, so that a copy must not share them.
_METADATA = {"zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata"}
_RECORD = "record.json"


@contextmanager
def staging(store: Path) -> Iterator[Path]:
    """Lock a store and make a scratch folder for what is to be placed in it; see :func:`place`.

    A replacement that an earlier process did not finish is finished first.

    Parameters
    ----------
    store
        Path of the zarr store.

    Yields
    ------
    Path
        Empty folder on the file system of the store, which is removed in the end.

    Raises
    ------
    RuntimeError
        If another process of STORM works on the store.
    """
    with locked(store) as beside:
        for folder in _scratch_folders(store):
            _finish(store, folder)
        usable = beside is not None and beside.stat().st_dev == store.stat().st_dev
        scratch = beside / SCRATCH if beside is not None and usable else store / _INSIDE
        scratch.mkdir()
        try:
            yield scratch
        finally:
            _finish(store, scratch)


def recover(store: Path) -> None:
    """Finish a replacement that a killed process left unfinished, if there is one; to be called before writing.

    Parameters
    ----------
    store
        Path of the zarr store.
    """
    if any(folder.exists() for folder in _scratch_folders(store)):
        try:
            with locked(store):
                for folder in _scratch_folders(store):
                    _finish(store, folder)
        except StoreBusyError:
            return  # nothing was interrupted: the other process is at it
        except OSError as error:
            logger.warning("a replacement in %s that was interrupted cannot be finished now: %s", store, error)


def missing(store: Path) -> list[str]:
    """Parts of a store that a killed process took away, and :func:`recover` puts back; for those who only read.

    On Linux's local file systems there are none: parts are exchanged in one step, so that a store can be read whenever
    a process was killed.

    Parameters
    ----------
    store
        Path of the zarr store.
    """
    return [
        name
        for scratch in _scratch_folders(store)
        if (facts := _read_record(scratch / _RECORD)) is not None
        for target, old, _, name in _parts(store, scratch, facts)
        if old.exists() and not target.exists()
    ]


def place(store: Path, scratch: Path, parts: Sequence[tuple[Path, str]]) -> None:
    """Put complete parts where they belong in a store; on an error the store is as it was.

    Parameters
    ----------
    store
        Path of the zarr store.
    scratch
        Folder of :func:`staging`, in which the new parts lie.
    parts
        For each part the folder with the new one and its path in the store, such as ``"tables/table"``.
    """
    consolidated = is_consolidated(store)
    for new, _ in parts:
        flush(new)
    (scratch / "old").mkdir()
    record = {"targets": [name for _, name in parts], "new": [new.name for new, _ in parts]}
    _write_file(scratch / _RECORD, json.dumps(record | {"consolidated": consolidated}).encode(), scratch)
    done: list[tuple[Path, Path, Path]] = []
    try:
        if consolidated:
            _drop_consolidated(store, scratch)
        for k, (new, name) in enumerate(parts):
            target, old = store / name, scratch / "old" / str(k)
            _place_one(new, target, old)
            done.append((new, target, old))
    except BaseException:
        for new, target, old in reversed(done):
            _take_back(new, target, old)
        raise
    finally:
        if consolidated:
            consolidate(store, scratch)


def _place_one(new: Path, target: Path, old: Path) -> None:
    if not target.exists():
        new.replace(target)
    elif not exchange(new, target):
        target.replace(old)
        try:
            new.replace(target)
        except BaseException:
            old.replace(target)
            raise


def _take_back(new: Path, target: Path, old: Path) -> None:
    """Undo :func:`_place_one`, which leaves the old part in one of two places, or none where there was none."""
    if new.exists():
        exchange(new, target)
        return
    target.replace(new)
    if old.exists():
        old.replace(target)


def _finish(store: Path, scratch: Path) -> None:
    """Close the gap that a kill between two renamings left; nothing that exists in the store is touched."""
    if not scratch.exists():
        return
    record = scratch / _RECORD
    if record.exists():
        facts = _read_record(record)
        if facts is None:
            set_aside(scratch, reason="the record of an interrupted replacement cannot be read")
            return
        for target, old, fresh, name in _parts(store, scratch, facts):
            if old.exists() and not target.exists():
                (fresh if fresh.exists() else old).replace(target)
                logger.warning(
                    "%s of %s was being replaced when a process was killed; that is finished now", name, store
                )
        if facts["consolidated"] and not is_consolidated(store):
            consolidate(store, scratch)
        remove(record)  # first: without it the rest is waste, whatever there is of it
    remove(scratch)


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        names, parts = facts["targets"], facts["new"]
        whole = isinstance(facts["consolidated"], bool) and len(names) == len(parts)
        inside = all(_inside(name) for name in [*names, *parts])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return facts if whole and inside else None


def _parts(store: Path, scratch: Path, facts: dict[str, Any]) -> list[tuple[Path, Path, Path, str]]:
    """Of each part of a replacement its place, where its old and its new content may lie, and its name."""
    named = enumerate(zip(facts["targets"], facts["new"], strict=True))
    return [(store / name, scratch / "old" / str(k), scratch / new, name) for k, (name, new) in named]


def _inside(name: Any) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _scratch_folders(store: Path) -> tuple[Path, Path]:
    return folder_beside(store) / SCRATCH, store / _INSIDE


def clone(folder: Path, copy: Path) -> None:
    """Copy a part of a store without copying its chunks: those are shared as hard links, where that is possible.

    Sharing is safe, because chunks are never changed in place: a new one is written beside the old one and renamed.
    What is copied keeps its date, by which others see that it has not changed.

    Parameters
    ----------
    folder
        The part.
    copy
        Path of the copy, on the same file system.
    """
    share = not folder.is_symlink()  # what lies in somebody else's store is copied, not shared
    shutil.copytree(folder, copy, symlinks=False, copy_function=_link if share else shutil.copy2)


def _link(source: str, target: str) -> None:
    if os.path.basename(source) in _METADATA or os.path.islink(source):
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or files of another user
        shutil.copy2(source, target)


def is_consolidated(group: Path) -> bool:
    """Whether the metadata of a stored group describe all that is below it."""
    if (group / ".zmetadata").exists():
        return True
    return bool(_metadata(group).get("consolidated_metadata"))


def consolidate(group: Path, scratch: Path) -> None:
    """Let the metadata of a stored group describe all that is below it, as zarr does, but in one step.

    Parameters
    ----------
    group
        Folder of the group.
    scratch
        Folder for unfinished files, on the same file system.
    """
    import zarr
    from zarr.storage import LocalStore, WrapperStore

    class Captured(WrapperStore):
        """Reads from a folder, and keeps what is to be written."""

        def __init__(self, store: Store, written: dict[str, bytes]) -> None:
            super().__init__(store)
            self.written = written

        def _with_store(self, store: Store) -> Captured:
            return Captured(store, self.written)

        async def set(self, key: str, value: Buffer) -> None:
            self.written[key] = value.to_bytes()

    written: dict[str, bytes] = {}
    with warnings.catch_warnings():
        # Parquet files and the scratch folder are not part of the hierarchy, and format 3 has no standard for this yet.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(Captured(LocalStore(group), written))
    name = ".zmetadata" if ".zmetadata" in written else "zarr.json"
    _write_file(group / name, written[name], scratch)


def _drop_consolidated(group: Path, scratch: Path) -> None:
    if (group / ".zmetadata").exists():
        (group / ".zmetadata").unlink()
    else:
        kept = {name: value for name, value in _metadata(group).items() if name != "consolidated_metadata"}
        _write_file(group / "zarr.json", json.dumps(kept, indent=2).encode(), scratch)


def _metadata(group: Path) -> dict[str, Any]:
    path = group / "zarr.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_file(path: Path, content: bytes, scratch: Path) -> None:
    part = scratch / "part"
    part.write_bytes(content)
    if path.exists():
        shutil.copymode(path, part)
    flush(part)
    part.replace(path)
