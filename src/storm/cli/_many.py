"""Sections given to a command: a single one, or several, one after another or on a cluster, with a summary."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from storm._files import replacing
from storm.cli._foreign import refuse
from storm.cli._log import note
from storm.cli._section import Job, Outcome, release, run_section
from storm.cli._stores import check_new_path, check_parent

_COLUMNS = ("section", "status", "n", "seconds", "peak_gib", "tries", "result")
#: What a command does that is given again after Ctrl-C.
_GO_ON = "goes on with the others; of the last one, finished rows are kept as well"


def run(command: str, options: dict[str, Any], *, debug: bool, quiet: bool) -> int:
    """Run a command on the sections in ``options["paths"]``.

    Returns
    -------
    int
        Exit status: 0 if all succeeded, 2 if any failed, 130 after Ctrl-C.

    Raises
    ------
    FileNotFoundError, FileExistsError, ValueError
        If something is wrong before anything runs; for a single section, whatever its command raises.
    """
    paths: list[Path] = options.pop("paths")
    workers: int | None = options.pop("workers")
    scheduler: str | None = options.pop("scheduler")
    retries: int = options.pop("retries")
    summary: Path | None = options.pop("summary")
    skip: bool = options.pop("skip_existing")
    if options.pop("dry_run"):
        from storm.cli._dry_run import dry_run

        return dry_run(command, paths, options, workers=workers, skip=skip)
    if len(paths) == 1 and scheduler is None and summary is None and not skip:
        from storm.cli import _commands

        release()
        print(getattr(_commands, command)(path=paths[0], **options).message)
        return 0
    if summary is not None:
        check_summary(summary)
    refuse(paths)
    jobs = plan(command, paths, options, old=skip)
    others: list[Outcome] = []
    if skip:
        from storm.cli._skip import split

        jobs, others = split(jobs)
    return run_jobs(
        jobs,
        command,
        others=others,
        workers=workers,
        scheduler=scheduler,
        retries=retries,
        summary=summary,
        debug=debug,
        quiet=quiet,
        go_on=f"the same command{'' if skip else ' with --skip-existing'} {_GO_ON}",
    )


def run_jobs(
    jobs: list[Job],
    command: str,
    *,
    workers: int | None,
    scheduler: str | None,
    retries: int,
    summary: Path | None,
    debug: bool,
    quiet: bool,
    noun: str = "sections",
    go_on: str = f"the same command {_GO_ON}",
    others: Sequence[Outcome] = (),
) -> int:
    """Run jobs, print what becomes of each, and sum up.

    Parameters
    ----------
    jobs
        The jobs.
    command
        The command, as the user calls it.
    workers, scheduler, retries, summary, debug, quiet
        The options of that name.
    noun
        What the jobs are about.
    go_on
        What to do after Ctrl-C.
    others
        Outcomes of sections that are not run.

    Returns
    -------
    int
        Exit status, as that of :func:`run`.
    """
    outcomes: dict[str, Outcome] = {}
    started = time.monotonic()

    def finished(outcome: Outcome) -> None:
        outcomes[outcome.section] = outcome
        number = f"{len(outcomes)}/{len(jobs)}{time_left(time.monotonic() - started, len(outcomes), len(jobs))}"
        report(outcome, command, number=number, debug=debug, quiet=quiet)

    interrupted = False
    try:
        for one in others:
            if one.error is not None:
                report(one, command, number="", debug=debug, quiet=quiet)
        if jobs:
            with executor(jobs, workers=workers, scheduler=scheduler, retries=retries) as run_all:
                run_all(jobs, finished)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        release()
    rows = [*others, *(outcomes.get(job.shown, Outcome(job.shown, error="interrupted", tries=0)) for job in jobs)]
    failed = sum(row.error is not None for row in rows)
    print(table_of(rows))
    if skipped := sum(row.skipped for row in rows):
        print(f"{skipped} of {len(rows)} {noun} skipped: done before, with the same settings")
    if summary is not None:
        write_summary(summary, rows)
    if interrupted:
        done = sum(row.error is None for row in rows)
        print(f"storm {command}: interrupted: {done} of {len(rows)} {noun} are done and kept; {go_on}", file=sys.stderr)
        return 130
    if failed:
        print(f"storm {command}: error: {failed} of {len(rows)} {noun} failed", file=sys.stderr)
    return 2 if failed else 0


def time_left(seconds: float, done: int, total: int) -> str:
    """How long the others will take if they take as long as those that are done; nothing of less than a minute."""
    minutes = seconds / done * (total - done) / 60
    if minutes < 1:
        return ""
    return f", about {minutes:.0f} min left" if minutes < 90 else f", about {minutes / 60:.1f} h left"


def check_summary(path: Path) -> None:
    """Raise unless the summary can be written.

    Raises
    ------
    IsADirectoryError, NotADirectoryError, PermissionError
        If it cannot.
    FileExistsError
        If the file exists and is something else than an earlier summary.
    """
    if path.is_dir():
        msg = f"--summary {path} is a folder; give the name of a file, for example {path / 'summary.csv'}"
        raise IsADirectoryError(msg)
    check_parent(path, option="--summary", shown=path)
    if path.exists() and not _is_summary(path):
        msg = f"--summary {path} exists and is not a summary of storm; give another name, or remove it"
        raise FileExistsError(msg)


def _is_summary(path: Path) -> bool:
    """Whether a file is a summary of an earlier command, which this one may replace."""
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return next(csv.reader(file), None) == list(_COLUMNS)
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, csv.Error):
        return False
    return isinstance(rows, list) and all(isinstance(row, dict) and set(row) == set(_COLUMNS) for row in rows)


def plan(command: str, paths: list[Path], options: dict[str, Any], *, old: bool = False) -> list[Job]:
    """Check what can be checked before anything runs, and return one job per section.

    Parameters
    ----------
    command, paths, options
        What is to be run.
    old
        Whether stores to be written may exist.

    Raises
    ------
    FileNotFoundError
        If sections, or files that the options name, do not exist.
    FileExistsError
        If a store to be written exists.
    ValueError
        If a section is given twice, two would be written under one name, or the model or encoder is unknown.
    """
    from storm import __version__

    seen: dict[Path, Path] = {}
    for path in paths:
        other = seen.setdefault(path.resolve(), path)
        if other is not path:
            msg = f"{path} is given twice" + (f", also as {other}" if str(other) != str(path) else "")
            raise ValueError(msg)
    if missing := [str(path) for path in paths if not path.exists()]:
        msg = f"{', '.join(missing)} {'does' if len(missing) == 1 else 'do'} not exist"
        raise FileNotFoundError(msg)
    options = dict(options)
    targets = {
        name: _targets(paths, options.pop(name), name, old=old) for name in ("out", "table_out") if name in options
    }
    options = _absolute(options)
    run = uuid.uuid4().hex
    return [
        Job(
            command,
            {**options, "path": path.absolute(), **{name: own[k] for name, own in targets.items()}},
            str(path),
            run,
            __version__,
        )
        for k, path in enumerate(paths)
    ]


def _targets(paths: list[Path], out: Path | None, name: str, *, old: bool) -> list[Path | None]:
    """Store that each section is written to: a single one is ``out`` itself, several lie in the folder ``out``."""
    option = f"--{name.replace('_', '-')}"
    if out is None:
        return [None] * len(paths)
    if len(paths) == 1:
        if not (old and out.exists()):
            check_new_path(out, inside=paths[0], option=option)
        return [out.absolute()]
    targets: dict[Path, Path] = {}
    for path in paths:
        target = out / path.resolve().name
        if target in targets:
            msg = f"{targets[target]} and {path} would both be written to {target}; rename one, or run them apart"
            raise ValueError(msg)
        if not (old and target.exists()):
            check_new_path(target, inside=path, option=option)
        targets[target] = path
    return [target.absolute() for target in targets]


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Make the options' paths absolute, for processes with another working folder, after checking that they exist."""
    options = dict(options)
    for name, value in options.items():
        if isinstance(value, Path):
            options[name] = value.expanduser().absolute()
            if not value.expanduser().exists():
                msg = f"--{name.replace('_', '-')} {value} does not exist"
                raise FileNotFoundError(msg)
    if "model" in options:
        from storm._loading.fetch import find_model

        folder = find_model(options["model"], download=False, revision=None, token=None)
        # A folder of the user's. A packaged or hub model keeps its name, because its folder differs between machines.
        if folder == Path(options["model"]).expanduser():
            options["model"] = str(folder.absolute())
    if "encoder" in options:
        from storm.encoders import get_encoder

        get_encoder(options["encoder"])
    return options


@contextmanager
def executor(
    jobs: Sequence[Job], *, workers: int | None, scheduler: str | None, retries: int
) -> Iterator[Callable[[list[Job], Callable[[Outcome], None]], None]]:
    """Run jobs in this process if one worker is enough, otherwise on a cluster.

    Parameters
    ----------
    jobs
        The sections, which tell how many workers are of use.
    workers, scheduler, retries
        The options of the command.

    Yields
    ------
    function
        Runs some jobs, and hands over each outcome as soon as it is known. It may be called several times.
    """
    if scheduler is None and (workers == 1 or len(jobs) == 1):
        count = 1
    elif scheduler is None:
        from storm.cli._machine import workers_for

        count = workers_for(len(jobs), jobs[0].options.get("device"), wanted=workers)
    if scheduler is None and count == 1:

        def here(some: list[Job], finished: Callable[[Outcome], None]) -> None:
            for job in some:
                finished(run_section(job))

        yield here
        return
    from storm.cli import _cluster

    if scheduler is not None:
        cluster = _cluster.connect(scheduler)
    else:
        cluster = _cluster.start(count, jobs[0].options.get("device"))
    with cluster as client:
        yield partial(_cluster.work, client, retries=retries)


def report(outcome: Outcome, command: str, *, number: str, debug: bool, quiet: bool) -> None:
    """Print the outcome of a section as soon as it is known."""
    for text in outcome.warnings:
        print(f"storm: warning: {outcome.section}: {text}", file=sys.stderr)
    if outcome.error is not None:
        if outcome.traceback:
            if debug:
                print(outcome.traceback, file=sys.stderr, end="")
            else:
                note(outcome.traceback)
        print(f"storm {command}: {outcome.section}: error: {outcome.error}", file=sys.stderr)
    elif not quiet:
        print(f"[{number}] {outcome.section}: {outcome.result} ({outcome.seconds:.1f} s)", file=sys.stderr)


def _record(row: Outcome) -> dict[str, Any]:
    """A row of the summary."""
    values = asdict(replace(row, result=row.result if row.error is None else row.error, value=None))
    values["status"] = "ok" if row.error is None else "failed" if row.tries else "not done"
    if row.skipped:
        values["status"] = "skipped"
    return {name: values[name] for name in _COLUMNS}


def table_of(rows: list[Outcome]) -> str:
    """The summary as lines of text; the column of long texts stands last."""
    cells = [["section", "status", "n", "seconds", "GiB", "tries", "result or error"]]
    for row in map(_record, rows):
        cells.append(
            [
                row["section"],
                row["status"],
                "" if row["n"] is None else str(row["n"]),
                "" if row["seconds"] is None else f"{row['seconds']:.1f}",
                "" if row["peak_gib"] is None else f"{row['peak_gib']:.2f}",
                str(row["tries"]),
                row["result"],
            ]
        )
    widths = [max(len(line[i]) for line in cells) for i in range(6)]
    lines = []
    for line in cells:
        left = [line[i].ljust(widths[i]) for i in (0, 1)]
        right = [line[i].rjust(widths[i]) for i in range(2, 6)]
        lines.append("  ".join([*left, *right, line[6]]))
    return "\n".join(lines)


def write_summary(path: Path, rows: list[Outcome]) -> None:
    """Write the summary as CSV or JSON, by the file's ending; an older one is replaced when the new one is complete."""
    records = [_record(row) for row in rows]
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".json":
            json.dump(records, file, indent=1, ensure_ascii=False)
        else:
            table = csv.DictWriter(file, _COLUMNS)
            table.writeheader()
            table.writerows(records)
