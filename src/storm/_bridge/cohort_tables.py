"""Tables of a cohort: checked, and written whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storm._checks import check_new_key
from storm._files import replacing
from storm._logging import warn

#: Files and the folder of features.
PATIENTS, SLIDES, FACTS, FEATURES = "patients.parquet", "slides.parquet", "cohort.json", "features"
#: Version of the folder's layout.
FORMAT = 1
#: Status of a slide.
WAITING, DONE, FAILED = "waiting", "done", "failed: "
#: Names that an error or a warning lists.
_LISTED = 10
#: Seconds for which a process waits for another that writes the tables, which takes milliseconds.
_PATIENCE = 60


def names(who: Sequence[Any]) -> str:
    """Names for a message: the first ten, and how many more."""
    listed = ", ".join(map(str, who[:_LISTED]))
    return f"{listed} and {len(who) - _LISTED} more" if len(who) > _LISTED else listed


@contextmanager
def tables_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from the tables of a cohort while the block reads and writes them.

    Raises
    ------
    TimeoutError
        If another process holds them for more than a minute.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "tables.lock")
    try:
        lock.acquire(timeout=_PATIENCE)
    except Timeout as error:
        msg = f"another process holds {lock.lock_file} since more than {_PATIENCE} s; end it, or remove the file"
        raise TimeoutError(msg) from error
    try:
        yield
    finally:
        lock.release()


def checked_patients(patients: pd.DataFrame) -> pd.DataFrame:
    """A copy of the table of patients, with text as its index.

    Raises
    ------
    TypeError
        If it is not a DataFrame.
    ValueError
        If a patient has no name, or two rows.
    """
    return _indexed(patients, "patient", argument="patients")


def checked_slides(slides: pd.DataFrame) -> pd.DataFrame:
    """A copy of the table of slides, with text as its index and all columns that a cohort keeps.

    Raises
    ------
    TypeError
        If it is not a DataFrame.
    KeyError
        If the column ``patient`` is missing.
    ValueError
        If a slide has no name or patient, two rows, or a name that cannot be that of a folder.
    """
    table = _indexed(slides, "slide", argument="slides")
    if "patient" not in table:
        msg = f"slides needs a column 'patient' that says whose each slide is; there are {list(table.columns)}"
        raise KeyError(msg)
    if len(nobody := list(table.index[table["patient"].isna()])):
        msg = f"slides has no patient for {len(nobody)} slides: {names(nobody)}; fill the column 'patient'"
        raise ValueError(msg)
    table["patient"] = table["patient"].astype(str)
    for name in table.index:
        check_new_key(name, name="slide")
    folded = table.index.str.casefold()
    if folded.has_duplicates:
        twice = list(table.index[folded.duplicated(keep=False)])
        msg = f"slides differ in upper and lower case only, which some file systems do not: {names(twice)}; rename them"
        raise ValueError(msg)
    path = table["path"] if "path" in table else pd.Series(None, index=table.index, dtype=object)
    table["path"] = [None if pd.isna(one) else str(one) for one in path]
    for column, default in (("status", WAITING), ("n_tiles", 0), ("sha256", "")):
        table[column] = table[column].fillna(default) if column in table else default
    table["n_tiles"] = table["n_tiles"].astype(np.int64)
    first = ["patient", "path", "status", "n_tiles", "sha256"]
    return table[[*first, *(column for column in table if column not in first)]]


def _indexed(table: pd.DataFrame, kind: str, *, argument: str) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame):
        msg = f"{argument} is a {type(table).__name__}; give a DataFrame with a row for each {kind}"
        raise TypeError(msg)
    table = table.set_index(kind) if kind in table and table.index.name != kind else table.copy()
    if table.index.nlevels > 1 or table.columns.has_duplicates:
        msg = f"{argument} has an index of several levels, or two columns of one name; give one of each"
        raise ValueError(msg)
    if (missing := int(np.sum(table.index.isna()))) > 0:
        msg = f"{argument} has {missing} rows without a {kind}; remove them"
        raise ValueError(msg)
    table.index = pd.Index(table.index.astype(str), name=kind)
    if table.index.has_duplicates:
        twice = list(dict.fromkeys(table.index[table.index.duplicated()]))
        msg = f"{argument} has more than one row for {len(twice)}: {names(twice)}; give each {kind} one row"
        raise ValueError(msg)
    table.columns = table.columns.astype(str)
    table.attrs = {}
    return table


def unmatched(patients: pd.DataFrame, slides: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Patients without a slide, and slides of somebody who is not among the patients."""
    without = list(patients.index[~patients.index.isin(slides["patient"])])
    nobody = list(slides.index[~slides["patient"].isin(patients.index)])
    return without, nobody


def warn_unmatched(patients: pd.DataFrame, slides: pd.DataFrame) -> None:
    """Warn of patients without slides and slides without patients, which take part in nothing."""
    without, nobody = unmatched(patients, slides)
    for who, what in ((without, "patients have no slide"), (nobody, "slides are of no patient of the cohort")):
        if who:
            msg = f"{len(who)} {what}, and take part in nothing: {names(who)}"
            warn(msg)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet; it appears whole."""
    with replacing(path) as scratch:
        table.to_parquet(scratch)
