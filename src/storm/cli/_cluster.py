"""Sections on a dask cluster: one started for the command on this machine, or any other by its address.

The sections are distributed here, one at a time to each worker, and not by dask's scheduler: it would give a worker
with eight threads eight sections, and would count a worker's death against every section that waits for that worker.
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

#: Seconds between two checks of the list of workers.
_LOOK = 1.0
#: Seconds to wait for an answer of the scheduler.
_PATIENCE = 15


@contextmanager
def start(workers: int, device: str | None) -> Iterator[Client]:
    """Start a cluster on this machine: spawned (never forked) processes, each with its own GPU if there are any."""
    # The user's OMP_NUM_THREADS wins, for all three variables: torch also obeys MKL's.
    threads = os.environ.get("OMP_NUM_THREADS") or str(threads_of_each(workers))
    limits = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    config = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": {**dask.config.get("distributed.nanny.pre-spawn-environ"), **limits},
    }
    scheduler = {
        "cls": Scheduler,
        # work() starts a section again whose worker died; the scheduler must not.
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "allowed_failures": 0},
    }
    nannies = specifications(workers, device)
    environment = dict(os.environ)
    try:
        with (
            silence_logging_cmgr(logging.CRITICAL),
            dask.config.set(config),
            _closing(SpecCluster(workers=nannies, scheduler=scheduler, silence_logs=logging.CRITICAL)) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
    finally:
        # dask also sets the workers' variables in this process.
        for name in set(os.environ) - set(environment):
            del os.environ[name]


@contextmanager
def _closing(cluster: SpecCluster) -> Iterator[SpecCluster]:
    """Close a cluster in the end; workers that dask has killed may end later than it waits for."""
    cluster.__enter__()
    try:
        yield cluster
    finally:
        with suppress(TimeoutError):
            cluster.__exit__(None, None, None)


def specifications(workers: int, device: str | None) -> dict[int, dict[str, Any]]:
    """Options of each worker of a cluster on this machine."""
    options = {
        "nthreads": 1,
        "host": "127.0.0.1",
        # A limit would kill the worker of a large section, and that of the next try too.
        "memory_limit": None,
        "dashboard": False,
        "silence_logs": logging.CRITICAL,
        # Its dask_setup makes the worker ignore Ctrl-C.
        "preload": [_section.__name__],
    }
    gpus = visible_gpus(device)
    # Set in the worker's process before it imports torch.
    environments: list[dict[str, str]] = [
        {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {} for i in range(workers)
    ]
    return {i: {"cls": Nanny, "options": {**options, "env": env}} for i, env in enumerate(environments)}


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Connect to a running cluster by its scheduler's address or file; its workers drop the loaded model at the end.

    Raises
    ------
    ConnectionError
        If no scheduler answers.
    """
    is_file = Path(address).is_file()
    with silence_logging_cmgr(logging.CRITICAL):
        try:
            client = Client(
                address=None if is_file else address,
                scheduler_file=address if is_file else None,
                set_as_default=False,
                timeout=_PATIENCE,
            )
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
        The cluster; workers may join and leave.
    jobs
        One per section.
    finished
        Called in this thread with each outcome as soon as it is known.
    retries
        How often a section is started again after its worker died.
    """
    waiting = deque((job, 1) for job in jobs)
    running: dict[Future, tuple[Job, int, str]] = {}
    idle = _Idle()
    try:
        while waiting or running:
            available = _workers(client)
            idle.update(available)
            for worker in sorted(available - {worker for _, _, worker in running.values()}):
                if waiting:
                    job, tries = waiting.popleft()
                    future = client.submit(
                        run_section_on_worker, job, workers=[worker], allow_other_workers=False, pure=False
                    )
                    running[future] = (job, tries, worker)
            _wait_for_one(client, running)
            available = _workers(client)
            for future, (job, tries, worker) in list(running.items()):
                if future.status == "pending" and worker in available:
                    continue
                del running[future]
                outcome = _outcome(future, job)
                if outcome is not None:
                    finished(replace(outcome, tries=tries))
                elif tries <= retries:
                    print(f"storm: warning: {job.shown}: its worker died; started again", file=sys.stderr)
                    waiting.append((job, tries + 1))
                else:
                    msg = "its worker died (if for lack of memory, give fewer --workers, which leaves more for each)"
                    finished(Outcome(job.shown, error=msg, tries=tries))
    except _LostError as error:
        # The state of running sections is unknown, and the waiting ones are not started.
        for job, tries in [*((job, tries) for job, tries, _ in running.values()), *((j, n - 1) for j, n in waiting)]:
            finished(Outcome(job.shown, error=str(error), tries=tries))
        running.clear()
    finally:
        if running:
            with suppress(OSError):
                client.cancel(list(running), force=True)


class _LostError(ConnectionError):
    """The scheduler is gone, and with it the results of running sections."""


def _workers(client: Client) -> set[str]:
    """Addresses of the present workers."""
    try:
        return set(client.nthreads())
    except OSError as error:
        msg = f"the cluster's scheduler no longer answers ({type(error).__name__})"
        raise _LostError(msg) from error


def _wait_for_one(client: Client, running: dict[Future, tuple[Job, int, str]]) -> None:
    """Wait until a section is done, but not for long, because workers may join or leave."""
    if not running:
        time.sleep(_LOOK)
    else:
        with client.as_current(), suppress(TimeoutError, CancelledError):
            wait(list(running), timeout=_LOOK, return_when="FIRST_COMPLETED")


def _outcome(future: Future, job: Job) -> Outcome | None:
    """Outcome of a job; ``None`` if its worker is gone."""
    if future.status == "finished":
        with suppress(TimeoutError, CancelledError):
            return future.result(timeout=_PATIENCE)
    elif future.status == "error":
        error = future.exception()
        if not isinstance(error, KilledWorker):
            msg = f"a worker could not start ({type(error).__name__}: {one_line(error)}); is STORM installed there?"
            return Outcome(job.shown, error=msg)
    future.cancel()
    return None


class _Idle:
    """Warn once if the cluster has no worker for a while."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.warned = False

    def update(self, available: set[str]) -> None:
        if available:
            self.since = None
            return
        self.since = self.since or time.monotonic()
        if not self.warned and time.monotonic() - self.since > _PATIENCE:
            self.warned = True
            print("storm: warning: the cluster has no worker; waiting for one (Ctrl-C gives up)", file=sys.stderr)
