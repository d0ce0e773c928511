"""Several threads decode chunks: pixels, order and memory are those of one, and none of them outlives its iterator."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from planted_pixels import IDENTITY, noise
from storm.data.patches import ImageLevel, PatchReader
from storm.data.prefetch import mapped
from storm.data.sources import ArraySource

CENTRES = np.random.default_rng(0).uniform((0, 0), (390, 500), (80, 2))
OPTIONS = {"field_um": 21, "out_px": 24, "batch_size": 7}


class Watched(ArraySource):
    """Pixels that pretend to be decoded; remembers which chunk was read when, and by which thread."""

    in_memory = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.read, self.threads, self.damaged = [], set(), None

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        self.read.append((i, j))
        self.threads.add(threading.current_thread().name)
        time.sleep(0.002 if (i + j) % 2 else 0)  # so that they do not become ready in the order in which they begin
        if (i, j) == self.damaged:
            msg = "a damaged chunk"
            raise ValueError(msg)
        return super().read_chunk(i, j)


def watched() -> tuple[Watched, PatchReader]:
    source = Watched(noise(500, 390), chunks_yx=(48, 64))
    return source, PatchReader([ImageLevel(source, IDENTITY)])


def decoders() -> int:
    gc.collect()
    return sum(thread.name.startswith(("storm-decode", "storm-prefetch")) for thread in threading.enumerate())


@pytest.mark.parametrize("way", ["iter_patches", "iter_canvases"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_order_and_pixels_are_those_of_one_thread(way: str, prefetch: int) -> None:
    one, reader = watched()
    expected = list(getattr(reader, way)(CENTRES, **OPTIONS, prefetch=0))
    many, reader = watched()
    batches = list(getattr(reader, way)(CENTRES, **OPTIONS, prefetch=prefetch, threads=3))
    assert sorted(many.read) == sorted(one.read) == sorted(set(one.read))
    assert len(many.threads) == 3
    assert all(name.startswith("storm-decode") for name in many.threads)
    assert decoders() == 0
    for a, b in zip(expected, batches, strict=True):
        if way == "iter_patches":
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])
            continue
        np.testing.assert_array_equal(a.index, b.index)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        for x0, y0, x1, y1 in np.rint(a.boxes).astype(int):  # pixels that no patch needs are arbitrary
            np.testing.assert_array_equal(a.pixels[:, y0:y1, x0:x1], b.pixels[:, y0:y1, x0:x1])


def test_pixels_in_memory_need_no_threads() -> None:
    reader = PatchReader([ImageLevel(ArraySource(noise(500, 390)), IDENTITY)])
    batches = reader.iter_patches(CENTRES, **OPTIONS, prefetch=0, threads=3)
    next(batches)
    assert decoders() == 0


def test_threads_run_no_further_ahead_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, ahead in ((10**9, 2 * 3), (2 * 3 * 48 * 64, 2), (1, 1)):
        monkeypatch.setattr("storm.data.sweep._AHEAD_BYTES", allowed)
        source, reader = watched()
        canvases = reader.iter_canvases(CENTRES, **OPTIONS, prefetch=0, threads=3)
        own = needed(next(canvases))
        time.sleep(0.2)
        assert len(source.read) == len(own) + ahead
        canvases.close()
        assert decoders() == 0


def needed(canvas) -> set[tuple[int, int]]:
    """Chunks of 48 × 64 pixels in which patches of a canvas lie."""
    half = OPTIONS["field_um"] / 2
    low = np.clip(np.floor(CENTRES[canvas.index] - half), 0, None) // (64, 48)
    high = np.clip(np.ceil(CENTRES[canvas.index] + half), 0, (390, 500)) - 1
    ends = np.column_stack([low, high // (64, 48)]).astype(int)
    return {(i, j) for x0, y0, x1, y1 in ends for i in range(y0, y1 + 1) for j in range(x0, x1 + 1)}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_reaches_the_consumer_and_stops_all(prefetch: int) -> None:
    source, reader = watched()
    list(reader.iter_canvases(CENTRES, **OPTIONS, prefetch=0))
    place = len(source.read) // 2
    source.damaged = source.read[place]
    source.read.clear()
    with pytest.raises(ValueError, match="a damaged chunk"):
        list(reader.iter_canvases(CENTRES, **OPTIONS, prefetch=prefetch, threads=2))
    assert decoders() == 0
    assert len(source.read) <= place + 1 + 2 * 2


@pytest.mark.parametrize("prefetch", [0, 2])
def test_closing_and_forgetting_stop_the_threads(prefetch: int) -> None:
    _, reader = watched()
    for end in ("close", "forget"):
        canvases = reader.iter_canvases(CENTRES, **OPTIONS, prefetch=prefetch, threads=2)
        next(canvases)
        assert decoders() >= 2
        if end == "close":
            canvases.close()
        del canvases
        assert decoders() == 0


def test_results_are_given_up_when_nobody_waits() -> None:
    done: list[int] = []

    def slow(k: int) -> int:
        time.sleep(0.02)
        done.append(k)
        return k

    results = mapped(slow, range(1000), threads=2, ahead=50)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()
    assert len(done) <= 3 + 2 * 2  # of fifty that waited, those at work


_INTERRUPTED = """
import os, signal, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_decoding_threads import CENTRES, OPTIONS, watched
_, reader = watched()
for k, _ in enumerate(reader.iter_canvases(CENTRES, **OPTIONS, threads=3)):
    if k == 2:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
"""


@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_process() -> None:
    folder = __file__.rpartition("/")[0]
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, folder], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
