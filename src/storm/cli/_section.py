"""One section of several: its job and its outcome. This runs in the command's own process or in a worker's."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from storm.cli._say import one_line, quiet_neighbours, speaking_shell
from storm.cli._shell_words import options_of

if TYPE_CHECKING:
    from storm.cli._commands import Done

#: A worker of a user's cluster may have several threads, but the loaded model and Python's warning filters belong to
#: the process.
_ONE_AT_A_TIME = Lock()
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Job:
    """The work on one section.

    Attributes
    ----------
    command
        Name of the function in ``_commands``, or the function itself.
    options
        Its arguments, among them ``path`` and ``out``; paths are absolute.
    shown
        The section's path as the user gave it.
    run
        Identifies the call of the command; a loaded model is dropped when the next one begins.
    version
        STORM version that the command runs with.
    """

    command: str | Callable[..., Done]
    options: dict[str, Any]
    shown: str
    run: str
    version: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Attributes
    ----------
    section
        The section's path as the user gave it.
    n
        Number of rows of the table that holds the result.
    result, error
        One line each; exactly one of the two is given.
    seconds
        Duration of the last try.
    peak_gib
        Largest resident memory of the process during the job in GiB, where the system reports it (Linux).
    tries
        How often the job was started.
    warnings
        STORM's warnings, a line each.
    traceback
        Traceback of the error.
    value
        What the function returned for another one, if it did.
    skipped
        Whether the section had been done before.
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
    value: Any = None
    skipped: bool = False


def run_section(job: Job) -> Outcome:
    """Run the job of one section. An error is returned as an outcome, not raised."""
    from storm.cli import _commands

    messages: list[str] = []
    outcome = Outcome(job.shown, warnings=messages)
    start = time.perf_counter()
    measured = _reset_peak()
    with speaking_shell(options_of(job.options)), quiet_neighbours(messages.append):
        try:
            hold_for(job.run)
            work = getattr(_commands, job.command) if isinstance(job.command, str) else job.command
            done = work(**job.options)
            outcome = replace(outcome, n=done.n, result=done.message, value=done.value)
        except Exception as error:  # noqa: BLE001  it becomes a row of the summary, and the other sections are done
            outcome = replace(outcome, error=one_line(error), traceback=traceback.format_exc())
    return replace(outcome, seconds=time.perf_counter() - start, peak_gib=_peak_gib() if measured else None)


def run_section_on_worker(job: Job) -> Outcome:
    """Run the job in a worker of a cluster, which may be another machine with another installation."""
    import dask
    from distributed import get_worker

    import storm
    from storm._settings import settings

    worker = f"the worker at {get_worker().address}"
    path: Path = job.options["path"]
    if storm.__version__ != job.version:
        msg = f"{worker} has STORM {storm.__version__}, but the command runs {job.version}; install the same on both"
        return Outcome(job.shown, error=msg)
    if not path.exists():
        msg = (
            f"{worker} does not find {path}; a store must have the same path on every worker (on a file system that "
            "they share)"
        )
        return Outcome(job.shown, error=msg)
    # Lazy parts of a section are computed in this worker; by default dask would submit them to the cluster as tasks.
    with _ONE_AT_A_TIME, dask.config.set(scheduler="threads"):
        settings.verbosity = 0
        return run_section(job)


def dask_setup(worker: Any) -> None:
    """Ignore Ctrl-C in a worker: the command handles it and ends its workers. dask calls this when a worker starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


_run = ""


def hold_for(run: str) -> None:
    """Drop the model of an earlier command."""
    global _run
    if run != _run:
        release()
        _run = run


def release() -> None:
    """Drop the model that this process holds, if any."""
    if commands := sys.modules.get("storm.cli._commands"):
        commands.forget()


def _reset_peak() -> bool:
    """Start to measure the largest memory from now on; false where the system cannot."""
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
