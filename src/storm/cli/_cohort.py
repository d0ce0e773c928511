"""``storm cohort add | check | split``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import storm
from storm._bridge.cohort_tables import names
from storm._files import replacing
from storm.cli import _many
from storm.cli._stores import check_new_path
from storm.prognosis import Cohort


def run(options: dict[str, Any], *, debug: bool, quiet: bool) -> int:
    """Run a task on a cohort, and return the exit status.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError, KeyError
        If something is wrong before anything runs.
    """
    task = options.pop("task")
    if task == "add":
        return _add(options, debug=debug, quiet=quiet)
    return _check(**options) if task == "check" else _split(**options)


def _add(options: dict[str, Any], *, debug: bool, quiet: bool) -> int:
    folder, given, summary = options["folder"], options.pop("paths"), options["summary"]
    cohort = _cohort(folder, options.pop("patients"), options.pop("slides"))
    if summary is not None:
        _many.check_summary(summary)
    if given:
        files = list(given)
    else:
        waiting = cohort.slides["path"].notna() & (cohort.slides["status"] != "done")
        files = [Path(path).expanduser() for path in cohort.slides.loc[waiting, "path"]]
    missing = [] if given else [path for path in files if not path.exists()]
    for path in missing:
        print(f"storm cohort add: {path}: error: does not exist", file=sys.stderr)
    there = [path for path in files if path not in missing]
    if not there:
        print(f"{cohort}: nothing to add")
        return 2 if missing else 0
    placing = {name: options.pop(name) for name in ("workers", "scheduler", "retries", "summary")}
    jobs = _many.plan("add_slide", there, {**options, "out": None})
    status = _many.run_jobs(
        jobs, "cohort add", **placing, debug=debug, quiet=quiet, noun="slides", go_on="the same command adds the others"
    )
    cohort.reload()
    print(cohort)
    return status or (2 if missing else 0)


def _cohort(folder: Path, patients: Path | None, slides: Path | None) -> Cohort:
    """The cohort in a folder; it is made from tables, or has their new rows added to its own."""
    people, table = (None if path is None else _table(path) for path in (patients, slides))
    if table is not None and slides is not None and "path" in table:
        beside = slides.absolute().parent
        table["path"] = [
            None if pd.isna(one) else os.path.normpath(beside / Path(one).expanduser()) for one in table["path"]
        ]
    if not (folder / "patients.parquet").exists() and people is not None and table is not None:
        return Cohort.create(folder, patients=people, slides=table)
    cohort = Cohort(folder)
    for name, new in (("patients", people), ("slides", table)):
        if new is not None:
            setattr(cohort, name, _extended(getattr(cohort, name), new, kind=name))
    if people is not None or table is not None:
        cohort.save()
        cohort.reload()
    return cohort


def _table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix != ".csv":
        msg = f"{path} ends in neither .csv nor .parquet"
        raise ValueError(msg)
    return pd.read_csv(path, dtype={"patient": str, "slide": str})


def _extended(old: pd.DataFrame, new: pd.DataFrame, *, kind: str) -> pd.DataFrame:
    """A table with the rows of another that it does not have yet."""
    key = str(old.index.name)
    new = new.set_index(key) if key in new else new
    new.index = new.index.astype(str)
    both = new.index.intersection(old.index)
    columns = [name for name in new if name in old]
    same = (old.loc[both, columns].astype(str) == new.loc[both, columns].astype(str)).all(axis=1)
    if len(other := list(both[~same])):
        msg = (
            f"{len(other)} {kind} have other values in the cohort than in the table: {names(other)}; change "
            f"them in Python, then cohort.save()"
        )
        raise ValueError(msg)
    added = new[~new.index.isin(old.index)]
    return (
        old if added.empty else pd.concat([old, added.reindex(columns=[*old, *added.columns.difference(old.columns)])])
    )


def _check(*, folder: Path) -> int:
    cohort = Cohort(folder)
    print(cohort)
    report = storm.prognosis.check(cohort)
    for row in report.to_dict("records"):
        print(f"{row['status']}  {row['n']:>6}  {row['finding']}: {names(row['names'])}")
    if report.empty:
        print("nothing is wrong or missing")
    return int((report["status"] == "fail").any())


def _split(*, folder: Path, endpoint: str, out: Path, **how: Any) -> int:
    check_new_path(out)
    cohort = Cohort(folder)
    table = storm.prognosis.split(cohort, endpoint=endpoint, **how)
    events = cohort.endpoint(endpoint)["event"]
    target = Path(os.path.abspath(out))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as scratch:
        if target.suffix == ".json":
            table.reset_index().to_json(scratch, orient="records", indent=1)
        else:
            table.to_csv(scratch)
    counts = table.assign(event=events).groupby("fold")["event"].agg(patients="size", events="sum")
    print(counts.to_string())
    leaks = pd.Series([row["kind"] for row in table.attrs["leakage"]], dtype=object).value_counts()
    shared = ", ".join(f"{n} of kind {kind}" for kind, n in leaks.items()) or "nothing"
    print(f"in several folds: {shared}")
    print(f"{len(table)} patients: {out}")
    return 0
