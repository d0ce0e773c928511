"""One section of several: its job, and what came of it. This runs in the command's own process or in a worker's."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from storm.cli._say import one_line, quiet_neighbours

#: A worker of somebody's cluster may have several threads; the model held and Python's warnings are the process's.
_ONE_AT_A_TIME = Lock()
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Job:
    """One section to do.

    Attributes
    ----------
    command
        Name of the function in ``_commands``.
    options
        Its arguments, among them ``path`` and ``out``; paths are absolute.
    shown
        The section's path as the user gave it.
    run
        Identifies the command that was given: a model is held no longer than that.
    version
        Version of STORM that the command runs with.
    """

    command: str
    options: dict[str, Any]
    shown: str
    run: str
    version: str


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes
    ----------
    section
        The section's path as the user gave it.
    n
        Rows of the table that holds the result.
    result, error
        One line; one of the two is there.
    seconds
        Of the last try.
    peak_gib
        Largest resident memory of the process meanwhile, where the system tells it (Linux).
    tries
        How often it was begun.
    warnings
        STORM's own, a line each.
    traceback
        Of the error.
    """

    section: str
    n: int | None = None
    result: str | None = None
    error: str | None = None
    seconds: float | None = None
    peak_gib: float | None = None
    tries: int = 1
    warnings: list[str] = field(default_factory=list)
    traceback: str = ""


def run_section(job: Job) -> Outcome:
    """Do one section. An error of the data is an outcome too, it is not raised."""
    from storm.cli import _commands

    said: list[str] = []
    outcome = Outcome(job.shown, warnings=said)
    start = time.perf_counter()
    measured = _forget_peak()
    with quiet_neighbours(said.append):
        try:
            _hold_for(job.run)
            done = getattr(_commands, job.command)(**job.options)
            outcome = replace(outcome, n=done.n, result=done.said)
        except Exception as error:  # noqa: BLE001  it becomes a row of the summary, and the others go on
            outcome = replace(outcome, error=one_line(error), traceback=traceback.format_exc())
    return replace(outcome, seconds=time.perf_counter() - start, peak_gib=_peak_gib() if measured else None)


def run_section_on_worker(job: Job) -> Outcome:
    """The same in a worker of a cluster, which may be another machine with another installation."""
    import dask
    from distributed import get_worker

    import storm
    from storm._settings import settings

    at = f"the worker at {get_worker().address}"
    path: Path = job.options["path"]
    if storm.__version__ != job.version:
        msg = f"{at} has STORM {storm.__version__}, this command is of {job.version}; install the same on both"
        return Outcome(job.shown, error=msg)
    if not path.exists():
        msg = (
            f"{at} does not find {path}; a store must be at the same path on every worker (a file system that they "
            "share)"
        )
        return Outcome(job.shown, error=msg)
    # What is lazy in a section is computed right here; by default dask would hand it to the cluster as further tasks.
    with _ONE_AT_A_TIME, dask.config.set(scheduler="threads"):
        settings.verbosity = 0
        return run_section(job)


def dask_setup(worker: Any) -> None:
    """Called by dask in a worker that loads this module: Ctrl-C is for the command, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_run = ""


def _hold_for(run: str) -> None:
    """Drop the model of another command."""
    global _run
    if run != _run:
        release()
        _run = run


def release() -> None:
    """Drop the model that this process holds, if any."""
    if commands := sys.modules.get("storm.cli._commands"):
        commands.forget()


def _forget_peak() -> bool:
    """Let the system count the largest memory from now on; false where it cannot."""
    if sys.platform != "linux":
        return False
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _peak_gib() -> float | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return None
