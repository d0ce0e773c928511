"""What a killed run leaves for the next one: finished rows and what they were made from, beside the store.

The next run with the same parameters goes on from there. A journal is an aid, never a condition: one that is damaged is
set aside, and the run starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from storm._files import is_no_room, replacing
from storm._logging import logger
from storm.data.lock import LOCK, SCRATCH, locked, set_aside
from storm.data.rows import DamagedRowsError, Rows

#: Keys that are names of folders on every system as they are.
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
#: Files of a stage: what it was made from, values, log of finished rows.
_ENDINGS = (".json", ".npy", ".log")


class Journal:
    """The rows of one run, and what they were made from.

    Parameters
    ----------
    folder
        Folder of the run; ``None`` for a run that leaves nothing behind.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def part(self, name: str) -> Journal:
        """The journal of a part of the run, which is removed with the whole."""
        return Journal(None if self.folder is None else self.folder / journal_name(name))

    def rows(self, name: str, shape: tuple[int, int], *, facts: dict[str, Any]) -> Rows:
        """Return the rows of one stage: those of an earlier run with the same facts, else new ones.

        Parameters
        ----------
        name
            Name of the stage.
        shape
            Number of rows and columns, (n, d).
        facts
            Everything that the values depend on; if any of it differs from the earlier run, the stage starts afresh.

        Returns
        -------
        Rows

        Raises
        ------
        OSError
            If the disk is full.
        """
        if self.folder is None:
            return Rows(shape)
        try:
            return self._stored_rows(self.folder, name, shape, json.loads(json.dumps(facts, default=str)))
        except OSError as error:
            if is_no_room(error):
                raise
            logger.warning("%s cannot be used (%s): this run cannot be resumed if it is killed", self.folder, error)
            return Rows(shape)

    def values(self, name: str) -> np.ndarray:
        """Values of a stage that has ended, float32, shape (n, d), mapped from its file.

        Raises
        ------
        OSError
            If the journal does not hold them.
        """
        if self.folder is None:
            msg = f"a run without a folder keeps no values of its stage {name!r}"
            raise FileNotFoundError(msg)
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def _stored_rows(self, folder: Path, name: str, shape: tuple[int, int], facts: dict[str, Any]) -> Rows:
        if folder.exists() and not folder.is_dir():
            set_aside(folder, reason="a file in place of the folder of a run")
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{name}{ending}" for ending in _ENDINGS]
        record, _, log = files
        for file in files:
            if file.exists() and not file.is_file():
                self._set_aside([file], reason=f"{file.name} is not a file")
        before = self._read_facts(record, files)
        if before != facts:
            if before is not None:
                changed = sorted(key for key in {*before, *facts} if before.get(key) != facts.get(key))
                logger.warning("an unfinished run is there, but with another %s: starting afresh", ", ".join(changed))
            log.unlink(missing_ok=True)
            with replacing(record) as part:
                part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        try:
            rows = Rows(shape, folder / name)
        except DamagedRowsError as error:
            self._set_aside(files[1:], reason=str(error))
            rows = Rows(shape, folder / name)
        if rows.done.any():
            logger.warning("going on after %d of %d rows, which an unfinished run left", rows.done.sum(), shape[0])
        return rows

    def _read_facts(self, record: Path, files: list[Path]) -> dict[str, Any] | None:
        if not record.exists():
            return None
        try:
            facts = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            self._set_aside(files, reason=f"{record.name} cannot be read: {type(error).__name__}")
            return None
        if not isinstance(facts, dict):
            self._set_aside(files, reason=f"{record.name} holds a {type(facts).__name__}, not a dictionary")
            return None
        return facts

    def _set_aside(self, files: list[Path], *, reason: str) -> None:
        """Move files out of the folder of the run, which is removed when the run has ended."""
        for file in files:
            if file.exists():
                folder = file.parent
                set_aside(file, reason=reason, folder=folder.parent, name=f"{folder.name}.{file.name}")

    def remove(self) -> None:
        """Forget the run: its results have been written."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def journal_of(store: Path | None, key: str) -> Iterator[Journal]:
    """Open the journal of a run whose results belong to a store, and keep other runs from the store meanwhile.

    The journal lies beside the store, in ``<store>.storm``, and is removed when the block ends without an error; after
    an error or a kill it stays for the next run.

    Parameters
    ----------
    store
        Path of the store; ``None`` for an object without one.
    key
        Key of the result.

    Yields
    ------
    Journal

    Raises
    ------
    RuntimeError
        If another process works on the store.
    """
    if store is None:
        yield Journal()
        return
    with locked(store) as beside:
        journal = Journal(None if beside is None else beside / journal_name(key))
        yield journal
        journal.remove()


@contextmanager
def on_disk(journals: Sequence[Journal]) -> Iterator[list[Journal]]:
    """The journals, those without a folder in a temporary one (in ``TMPDIR``), so that no values lie in memory."""
    with ExitStack() as stack:
        yield [
            journal
            if journal.folder is not None
            else Journal(Path(stack.enter_context(TemporaryDirectory(prefix="storm-", ignore_cleanup_errors=True))))
            for journal in journals
        ]


def journal_name(key: str) -> str:
    """Return the name of a run's folder: the key, if it can be one, else what is left of it with a checksum."""
    if _PLAIN.fullmatch(key) and key.casefold() not in (LOCK, SCRATCH) and not key.endswith("."):
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return re.sub(r"[^A-Za-z0-9_-]", "_", key)[:60] + "-" + digest[:12]
