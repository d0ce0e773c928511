"""Forked processes: torch runs on one thread where its other threads stayed behind in the parent.

A fork copies the calling thread only. If torch has run on several threads before, OpenMP in the child still counts on
its other threads, and the first operation that is large enough to be shared among them waits forever. With one thread
nothing is shared, and everything goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from storm._logging import logger

#: Seconds by which two clocks may differ that are read one after the other, one of them in steps of 10 ms.
_TOLERANCE = 0.05

_threads_before = False


def watch_forks() -> None:
    """From now on, let torch run on one thread in forked processes whose parent may have started more.

    It does so at once, if this process was forked after torch had been imported: storm was not there to see it.
    """
    if not hasattr(os, "register_at_fork"):
        return
    os.register_at_fork(before=_count_threads, after_in_child=_stay_alone)
    if "torch" in sys.modules and _was_forked():
        _use_one_thread()


def _count_threads() -> None:
    global _threads_before
    _threads_before = _n_threads() > 1


def _stay_alone() -> None:
    if _threads_before:
        _use_one_thread()


def _use_one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_num_threads"):  # not imported, or half of it
        return
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        logger.debug("process %d was forked after threads had started: torch runs on one thread here", os.getpid())


def _n_threads() -> int:
    """Threads of this process, those of compiled libraries included; 2 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 2


def _was_forked() -> bool:
    """Whether this process was forked from another Python: modules are then older than the process itself.

    Only Linux tells when a process started; elsewhere the answer is no.
    """
    try:
        # The 22nd field; the second one is a name in parentheses that may hold spaces.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return False
    record = logging.LogRecord("storm", logging.DEBUG, "", 0, "", None, None)
    # Seconds since the module logging was imported, which torch imports too.
    return record.relativeCreated / 1000 > age + _TOLERANCE
