"""Several stores as one study: embedded on shared axes, or clustered into one set of domains."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate, chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import storm
from storm._bridge import recover
from storm._bridge.counts import named_layers
from storm._inference.joint import embed_together
from storm._inference.joint_steps import Last, look_at, run_network
from storm._interrupt import says_how_to_go_on
from storm.cli import _commands, _joint_store, _many
from storm.cli._done import INPUTS, embedding_of, settings_of
from storm.cli._foreign import refuse
from storm.cli._inputs import marks_of
from storm.cli._say import print_warning
from storm.cli._section import Job, Outcome, hold_for, release
from storm.cli._skip import split
from storm.cli._stores import Section, open_section
from storm.data.journal import journal_name, journal_of
from storm.data.lock import locked

#: What is said of a section after the steps that take long.
_SAID: dict[Callable[..., Any], str] = {look_at: "read and encoded", run_network: "through the network"}


def run(command: str, options: dict[str, Any], *, debug: bool, quiet: bool) -> int:
    """Run ``storm embed --joint`` or ``storm domains --joint`` on the stores in ``options["paths"]``.

    All sections are computed before the first of them is stored. What a killed run finished lies beside the stores, and
    the next one goes on from there.

    Returns
    -------
    int
        Exit status: 0, or 2 if a section failed; then none is stored, unless it was storing that failed.

    Raises
    ------
    FileNotFoundError, FileExistsError, KeyError, ValueError
        If something is wrong before anything runs, or with the sections together; then nothing is stored.
    """
    if command == "embed" and len(options["paths"]) == 1:
        return _many.run(command, options, debug=debug, quiet=quiet)  # its sections, if there are several, are a study
    paths: list[Path] = options.pop("paths")
    place = {name: options.pop(name) for name in ("workers", "scheduler", "retries")}
    summary: Path | None = options.pop("summary")
    if summary is not None:
        _many.check_summary(summary)
    refuse(paths)
    skip: bool = options.pop("skip_existing")
    if options.pop("dry_run"):
        from storm.cli._dry_run import dry_run

        return dry_run(command, paths, options, workers=place["workers"], skip=skip, study=True)
    jobs = _many.plan(command, paths, options, old=skip)
    study = sorted(str(path.resolve()) for path in paths)
    if skip:
        waiting, others = split(jobs, study=study)
        if not waiting or any(one.error is not None for one in others):
            others += [Outcome(job.shown, error="not computed, because of the others", tries=0) for job in waiting]
            return _many.run_jobs([], command, **place, summary=summary, debug=debug, quiet=quiet, others=others)
        if others:
            print_warning(f"{len(others)} of {len(jobs)} sections are done, but a study is computed as a whole")
    told = [
        {**settings_of(command, job.options), "study": study, INPUTS: marks_of(command, job.options)} for job in jobs
    ]
    jobs = [replace(job, options={**job.options, "told": own}) for job, own in zip(jobs, told, strict=True)]
    try:
        if command == "embed":
            embedding = _Embedding(jobs, debug=debug, quiet=quiet)
            embedding.run(**place)
            rows = embedding.rows()
        else:
            rows = _domains(jobs, quiet=quiet, **place)
    finally:
        release()
    print(_many.table_of(rows))
    if summary is not None:
        _many.write_summary(summary, rows)
    failed = sum(row.error is not None and row.tries > 0 for row in rows)
    if failed:
        stored = "" if any(row.error is None for row in rows) else "; none is stored"
        print(f"storm {command}: error: {failed} of {len(rows)} sections failed{stored}", file=sys.stderr)
    return 2 if failed else 0


class _FailedError(Exception):
    """A step failed in some stores; their outcomes say why."""


class _Embedding:
    """The joint embedding of some stores: its steps are jobs, one for each store.

    Parameters
    ----------
    jobs
        One for each store, with the options of the command.
    debug, quiet
        Options of the command.
    """

    def __init__(self, jobs: Sequence[Job], *, debug: bool, quiet: bool) -> None:
        self._jobs, self._debug, self._quiet = list(jobs), debug, quiet
        self._outcomes = {job.shown: Outcome(job.shown, seconds=0.0, tries=0) for job in jobs}
        self._n_sections = [0] * len(jobs)
        self._run_all: Callable[[list[Job], Callable[[Outcome], None]], None]

    def run(self, *, workers: int | None, scheduler: str | None, retries: int) -> None:
        """Embed and store the sections; whether each has succeeded is in :meth:`rows`."""
        options = self._jobs[0].options
        hold_for(self._jobs[0].run)
        model = _commands.load_model(options["model"], options["tile_encoder"])
        readout = options["readout"] or model.settings["readout"]
        if readout != "adaptive" or options["modality"] == "he":
            alone = "--modality he" if options["modality"] == "he" else f"--readout {readout}"
            msg = f"--joint gives sections shared axes of expression, which {alone} has not; leave --joint out"
            raise ValueError(msg)
        kept = "finished steps are kept beside the stores; the same command goes on from there"
        with says_how_to_go_on(kept), ExitStack() as folders, ExitStack() as locks:
            stores = []
            for k, job in enumerate(self._jobs):
                store, folder = _place(job, locks, folders, shared=scheduler is not None)
                stores.append(store)
                self._jobs[k] = self._job(k, folder=folder, shown=job.shown)
            with _many.executor(self._jobs, workers=workers, scheduler=scheduler, retries=retries) as self._run_all:
                try:
                    lasts = embed_together(self._over, model, batch=options["batch"], seed=options["seed"])
                    locks.close()  # storing locks each store by itself
                    self._store(lasts)
                except _FailedError:
                    return
                for store in stores:  # only now: a run that was killed while it stored goes on from there
                    if store is not None:
                        with journal_of(store, options["key_added"]):
                            pass

    def rows(self) -> list[Outcome]:
        """What came of each store."""
        waiting = "not stored, because of the others"
        return [
            one if one.error or one.result else replace(one, error=waiting, tries=0) for one in self._outcomes.values()
        ]

    def _over(self, step: Callable[..., Any], *each: Sequence[Any], **shared: Any) -> list[Any]:
        """Run a step in the sections of all stores; see :data:`storm._types.Over`."""
        own = [self._by_store(values) for values in each]
        jobs = [
            self._job(k, _joint_store.run_step, step=step, each=[values[k] for values in own], shared=shared)
            for k in range(len(self._jobs))
        ]
        found = self._go(jobs, said=_SAID.get(step, ""))
        self._n_sections = [len(values) for values in found]
        return list(chain.from_iterable(found))

    def _store(self, lasts: Sequence[Last]) -> None:
        self._go(
            [self._job(k, _joint_store.store_results, lasts=own) for k, own in enumerate(self._by_store(lasts))],
            said=None,
        )

    def _by_store(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Values of all sections, as those of each store."""
        return [values[start:end] for start, end in pairwise(accumulate(self._n_sections, initial=0))]

    def _job(self, k: int, command: str | Callable[..., _commands.Done] = "embed", **arguments: Any) -> Job:
        """The job of store k, with other work and more arguments."""
        return replace(self._jobs[k], command=command, options={**self._jobs[k].options, **arguments})

    def _go(self, jobs: list[Job], *, said: str | None) -> list[Any]:
        """Run a job for each store, and return what they give; ``said`` is reported in place of their messages."""
        values: dict[str, Any] = {}

        def finished(outcome: Outcome) -> None:
            values[outcome.section] = outcome.value
            before = self._outcomes[outcome.section]
            news = replace(
                outcome,
                value=None,
                result=outcome.result if said is None else said,
                error=_without_name(outcome.error, outcome.section),
                warnings=[text for text in outcome.warnings if text not in before.warnings],
            )
            number = f"{len(values)}/{len(jobs)}"
            _many.report(news, "embed", number=number, debug=self._debug, quiet=self._quiet or said == "")
            self._outcomes[outcome.section] = replace(
                news,
                result=outcome.result if said is None else None,
                seconds=(before.seconds or 0) + (outcome.seconds or 0),
                peak_gib=max((peak for peak in (before.peak_gib, outcome.peak_gib) if peak is not None), default=None),
                tries=max(before.tries, outcome.tries),
                warnings=before.warnings + news.warnings,
            )

        self._run_all(jobs, finished)
        if any(one.error is not None for one in self._outcomes.values()):
            raise _FailedError
        return [values[job.shown] for job in jobs]


def _place(job: Job, locks: ExitStack, folders: ExitStack, *, shared: bool) -> tuple[Path | None, Path]:
    """Lock a store, and find a place for unfinished work.

    Returns
    -------
    store
        The store, or the one that is to be written, beside which the folder lies; ``None`` if it lies elsewhere.
    folder
        For unfinished work.

    Raises
    ------
    PermissionError
        If workers that may be on other machines need the folder, and nothing can be written beside the stores.
    RuntimeError
        If another process works on the store.
    """
    path, out = job.options["path"], job.options["out"]
    recover(path)
    for store in (path.resolve(), *([] if out is None else [out])):
        store.parent.mkdir(parents=True, exist_ok=True)
        beside = locks.enter_context(locked(store))
        if beside is not None:
            return store, beside / journal_name(job.options["key_added"])
    if shared:
        msg = (
            f"nothing can be written beside {job.shown}, where the workers of --scheduler leave unfinished work for "
            "each other; give --out, a folder that all of them can write to"
        )
        raise PermissionError(msg)
    return None, Path(folders.enter_context(TemporaryDirectory(prefix="storm-")))


def _without_name(error: str | None, name: str) -> str | None:
    """The text of an error that will be printed after the name of its store."""
    return error and error.removeprefix(f"section {name!r}: ").removeprefix(f"{name}: ")


def _domains(
    jobs: Sequence[Job], *, quiet: bool, workers: int | None, scheduler: str | None, retries: int
) -> list[Outcome]:
    """Find one set of domains in all stores: a single clustering, in this process."""
    if scheduler is not None or workers not in (None, 1):
        text = "domains --joint is one clustering of all sections, in one process; --workers and --scheduler do nothing"
        print(f"storm: warning: {text}", file=sys.stderr)
    start = time.perf_counter()
    release()
    sections = [_open_for_clustering(job) for job in jobs]
    options = jobs[0].options
    storm.tl.domains(
        [section.sdata for section in sections],
        **{name: value for name, value in options.items() if name not in ("path", "out", "told")},
    )
    done = [
        _commands.store_domains(
            section,
            {**job.options["told"], "from": embedding_of(section.sdata.tables, options["use_rep"])},
            table_key=options["table_key"],
            key_added=options["key_added"],
        )
        for job, section in zip(jobs, sections, strict=True)
    ]
    seconds = time.perf_counter() - start
    if not quiet:
        print(f"{len(jobs)} sections together ({seconds:.1f} s)", file=sys.stderr)
    return [
        Outcome(job.shown, n=one.n, result=one.message, seconds=seconds / len(jobs))
        for job, one in zip(jobs, done, strict=True)
    ]


def _open_for_clustering(job: Job) -> Section:
    """Open a section whose result goes into its own store without its counts: all sections are held at once."""
    section = open_section(job.options["path"], job.options["out"], table_key=job.options["table_key"])
    if section.out is None:
        for table in section.sdata.tables.values():
            table.X = None
            for name in named_layers(table):
                del table.layers[name]
    return section
