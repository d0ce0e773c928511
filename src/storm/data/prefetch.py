"""An iterator that runs ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

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
