"""Several stores as one study: embedded on shared axes, or clustered into one set of domains."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import storm
from storm.cli import _commands
from storm.cli._many import check_summary, plan, table_of, write_summary
from storm.cli._section import Outcome, release
from storm.cli._stores import Section, open_section


def run(command: str, options: dict[str, Any], *, quiet: bool) -> int:
    """Run ``storm embed --joint`` or ``storm domains --joint`` on the stores in ``options["paths"]``.

    All sections are computed before the first of them is stored. What a killed run finished lies beside the stores, and
    the next one goes on from there.

    Returns
    -------
    int
        Exit status 0.

    Raises
    ------
    FileNotFoundError, FileExistsError, KeyError, ValueError
        If something is wrong with any of the sections; then nothing is stored.
    """
    paths: list[Path] = options.pop("paths")
    workers, scheduler = options.pop("workers"), options.pop("scheduler")
    summary: Path | None = options.pop("summary")
    options.pop("retries")
    if scheduler is not None or workers not in (None, 1):
        msg = (
            "--joint works in one process, because sections share their axes; what takes long of H&E can be computed "
            "by workers before: storm encode --encoder NAME, with the model's tile encoder, whose result is used again"
        )
        raise ValueError(msg)
    if summary is not None:
        check_summary(summary)
    jobs = plan(command, paths, options)
    start = time.perf_counter()
    release()
    sections = [
        open_section(job.options["path"], job.options["out"], table_key=job.options["table_key"]) for job in jobs
    ]
    done = (_embed if command == "embed" else _domains)(sections, jobs[0].options)
    seconds = time.perf_counter() - start
    rows = [
        Outcome(job.shown, n=one.n, result=one.message, seconds=seconds / len(jobs))
        for job, one in zip(jobs, done, strict=True)
    ]
    if not quiet:
        print(f"{len(rows)} sections together ({seconds:.1f} s)", file=sys.stderr)
    print(table_of(rows))
    if summary is not None:
        write_summary(summary, rows)
    return 0


def _embed(sections: Sequence[Section], options: dict[str, Any]) -> list[_commands.Done]:
    loaded = storm.load_model(options["model"], tile_encoder=options["tile_encoder"])
    names = ("path", "out", "model", "tile_encoder")
    storm.tl.embed(
        [section.sdata for section in sections],
        model=loaded,
        **{name: value for name, value in options.items() if name not in names},
    )
    return [
        _commands.store_embedding(section, table_key=options["table_key"], key_added=options["key_added"])
        for section in sections
    ]


def _domains(sections: Sequence[Section], options: dict[str, Any]) -> list[_commands.Done]:
    names = ("path", "out")
    storm.tl.domains(
        [section.sdata for section in sections],
        **{name: value for name, value in options.items() if name not in names},
    )
    return [
        _commands.store_domains(section, table_key=options["table_key"], key_added=options["key_added"])
        for section in sections
    ]
