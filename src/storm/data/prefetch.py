"""Iterators that run ahead of their consumer."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetched(make: Callable[[], Iterator[T]], *, depth: int) -> Iterator[T]:
    """Run an iterator in one background thread, at most ``depth`` items ahead.

    The thread starts with the first item. It ends when the iterator does, when it fails (the error is raised to the
    consumer) or when the generator is closed.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in make():
                if not put("item", item):
                    return
        except BaseException as error:  # noqa: BLE001 - whatever happens in the thread must reach the consumer
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=work, name="storm-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def mapped(function: Callable[[S], T], items: Iterable[S], *, threads: int, ahead: int) -> Generator[T, None, None]:
    """Apply a function to items in several threads, and yield the results in the order of the items.

    The threads start with the first item and live as long as the generator, so that none are left when a process forks
    later. An error is raised where its result would have come. When the generator ends, fails or is closed, items that
    wait are given up and those at work are waited for.

    Parameters
    ----------
    function
        Called in the threads, or in the calling thread if there is one only.
    items
        Its arguments.
    threads
        Number of threads.
    ahead
        Number of results, ready or at work, that may wait for the consumer.
    """
    if threads == 1:
        yield from map(function, items)
        return
    rest = iter(items)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="storm-decode")
    try:
        waiting = deque(pool.submit(function, item) for item in islice(rest, ahead))
        while waiting:
            first = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield first
            del first  # the consumer may drop it before the next is ready
    finally:
        pool.shutdown(cancel_futures=True)
