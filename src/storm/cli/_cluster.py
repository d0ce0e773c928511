"""Sections on a dask cluster: one of our own on this machine, or any by its address.

The sections are handed out here, one per worker at a time and to that very worker, rather than left to the scheduler:
it would give a worker with eight threads eight sections, and count a worker's death against every section that waits
there.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, wait
from distributed.scheduler import KilledWorker
from distributed.utils import silence_logging_cmgr

from storm.cli import _section
from storm.cli._machine import threads_of_each, visible_gpus
from storm.cli._say import one_line
from storm.cli._section import Job, Outcome, run_section_on_worker

#: Seconds between two looks at which workers there are.
_LOOK = 1.0
#: Seconds after which a scheduler that does not answer is given up.
_PATIENCE = 15


@contextmanager
def start(workers: int, device: str | None) -> Iterator[Client]:
    """A cluster on this machine: processes of their own, started afresh (never forked), each with its GPU if any."""
    # What the user's environment says goes first, for all three: torch listens to MKL's as well.
    threads = os.environ.get("OMP_NUM_THREADS") or str(threads_of_each(workers))
    limits = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    config = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": {**dask.config.get("distributed.nanny.pre-spawn-environ"), **limits},
    }
    scheduler = {
        "cls": Scheduler,
        # A section whose worker died is begun again from here.
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "allowed_failures": 0},
    }
    nannies = specifications(workers, device)
    environment = dict(os.environ)
    try:
        with (
            silence_logging_cmgr(logging.CRITICAL),
            dask.config.set(config),
            SpecCluster(workers=nannies, scheduler=scheduler, silence_logs=logging.CRITICAL) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
    finally:
        # dask sets the variables for its workers here as well
        for name in set(os.environ) - set(environment):
            del os.environ[name]


def specifications(workers: int, device: str | None) -> dict[int, dict[str, Any]]:
    """What each worker of our own cluster is started with."""
    options = {
        "nthreads": 1,
        "host": "127.0.0.1",
        # A section needs what it needs: a limit would kill it, and the next try too.
        "memory_limit": None,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        # It makes the worker ignore Ctrl-C.
        "preload": [_section.__name__],
    }
    gpus = visible_gpus(device)
    # set in the worker's process before it imports torch
    seen = [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(workers)]
    return {i: {"cls": Nanny, "options": {**options, "env": env}} for i, env in enumerate(seen)}


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """A cluster that is there already, by its scheduler's address or file; its workers forget our model at the end.

    Raises
    ------
    ConnectionError
        If no scheduler answers.
    """
    where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    with silence_logging_cmgr(logging.CRITICAL):
        try:
            client = Client(**where, set_as_default=False, timeout=_PATIENCE)
        except (OSError, ValueError) as error:
            msg = f"no scheduler answers at --scheduler {address} ({one_line(error)}); give tcp://HOST:PORT or its file"
            raise ConnectionError(msg) from error
        with client:
            try:
                yield client
            finally:
                with suppress(OSError):
                    client.run(_section.release, on_error="ignore")


def work(client: Client, jobs: list[Job], finished: Callable[[Outcome], None], *, retries: int) -> None:
    """Give every worker one section at a time until all are done.

    Parameters
    ----------
    client
        The cluster; workers may come and go.
    jobs
        One per section.
    finished
        Called in this thread with each outcome as it comes.
    retries
        How often a section is begun again after its worker died.
    """
    waiting = deque((job, 1) for job in jobs)
    running: dict[Future, tuple[Job, int, str]] = {}
    idle = _Idle()
    try:
        while waiting or running:
            there = _workers(client)
            idle.look(there)
            for worker in sorted(there - {worker for _, _, worker in running.values()}):
                if waiting:
                    job, tries = waiting.popleft()
                    future = client.submit(
                        run_section_on_worker, job, workers=[worker], allow_other_workers=False, pure=False
                    )
                    running[future] = (job, tries, worker)
            _wait_for_one(client, running)
            there = _workers(client)
            for future, (job, tries, worker) in list(running.items()):
                if future.status == "pending" and worker in there:
                    continue
                del running[future]
                outcome = _outcome(future, job)
                if outcome is not None:
                    finished(replace(outcome, tries=tries))
                elif tries <= retries:
                    print(f"storm: warning: {job.shown}: its worker died; begun again", file=sys.stderr)
                    waiting.append((job, tries + 1))
                else:
                    msg = "its worker died (of too little memory? Fewer workers at a time leave more for each)"
                    finished(Outcome(job.shown, error=msg, tries=tries))
    except _LostError as error:
        # What was being done is not known, and the rest will not be begun.
        for job, tries in [*((job, tries) for job, tries, _ in running.values()), *((j, n - 1) for j, n in waiting)]:
            finished(Outcome(job.shown, error=str(error), tries=tries))
        running.clear()
    finally:
        if running:
            with suppress(OSError):
                client.cancel(list(running), force=True)


class _LostError(ConnectionError):
    """The scheduler is gone, and with it all that was going on."""


def _workers(client: Client) -> set[str]:
    """Addresses of the workers that there are now."""
    try:
        return set(client.nthreads())
    except OSError as error:
        msg = f"the cluster's scheduler no longer answers ({type(error).__name__})"
        raise _LostError(msg) from error


def _wait_for_one(client: Client, running: dict[Future, tuple[Job, int, str]]) -> None:
    """Wait until a section is done, but not for long: a worker may come or go."""
    if not running:
        time.sleep(_LOOK)
    else:
        with client.as_current(), suppress(TimeoutError, CancelledError):
            wait(list(running), timeout=_LOOK, return_when="FIRST_COMPLETED")


def _outcome(future: Future, job: Job) -> Outcome | None:
    """What came of a job; ``None`` if its worker is gone, and the answer with it."""
    if future.status == "finished":
        with suppress(TimeoutError, CancelledError):
            return future.result(timeout=_PATIENCE)
    elif future.status == "error":
        error = future.exception()
        if not isinstance(error, KilledWorker):
            msg = f"a worker could not begin ({type(error).__name__}: {one_line(error)}); is STORM installed there?"
            return Outcome(job.shown, error=msg)
    future.cancel()
    return None


class _Idle:
    """Say once that there is nobody to work."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.said = False

    def look(self, there: set[str]) -> None:
        if there:
            self.since = None
            return
        self.since = self.since or time.monotonic()
        if not self.said and time.monotonic() - self.since > _PATIENCE:
            self.said = True
            print("storm: warning: the cluster has no worker; waiting for one (Ctrl-C gives up)", file=sys.stderr)
