"""Each chunk of an image is decoded once, and one thread reads ahead."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter

import dask.array as da
import numpy as np
import pytest

from planted_pixels import IDENTITY, noise, pyramid
from storm.data.patches import ImageLevel, PatchReader
from storm.data.prefetch import prefetched
from storm.data.sources import ArraySource, DaskSource, Source, as_source
from storm.data.sweep import Sweep


class Counting(ArraySource):
    """Counts how often each chunk is decoded and how many of them are alive."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.decoded: Counter = Counter()

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        self.decoded[i, j] += 1
        return super().read_chunk(i, j)


@pytest.mark.parametrize(("height", "width"), [(900, 400), (400, 900)])
@pytest.mark.parametrize("field", [20, 130, 300])
def test_every_needed_chunk_is_decoded_once(height: int, width: int, field: int) -> None:
    image = noise(height, width)
    source = Counting(image, chunks_yx=(64, 48))
    centres = np.random.default_rng(0).uniform((-20, -20), (width + 20, height + 20), (300, 2))
    reader = PatchReader([ImageLevel(source, IDENTITY)])
    batches = list(reader.iter_patches(centres, field_um=field, out_px=16, batch_size=37))
    assert set(source.decoded.values()) == {1}

    index = np.concatenate([i for i, _ in batches])
    assert index.dtype == np.int64
    assert sorted(index) == np.flatnonzero(reader.inside(centres)).tolist()
    needed = {
        (i, j)
        for x, y in centres[index]
        for i in range(int(max(y - field / 2, 0) // 64), int((min(y + field / 2, height) - 1e-9) // 64) + 1)
        for j in range(int(max(x - field / 2, 0) // 48), int((min(x + field / 2, width) - 1e-9) // 48) + 1)
    }
    assert set(source.decoded) == needed

    # order and company of a patch change nothing about it
    alone = np.stack([reader.read(centres[k : k + 1], field_um=field, out_px=16)[0] for k in index[:20]])
    np.testing.assert_array_equal(np.concatenate([p for _, p in batches])[:20], alone)


class Weighing(ArraySource):
    """Counts the bytes of the chunks that are alive."""

    alive = peak = 0

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        chunk = super().read_chunk(i, j).copy()
        self.alive += chunk.nbytes
        self.peak = max(self.peak, self.alive)
        weakref.finalize(chunk, self._gone, chunk.nbytes)
        return chunk

    def _gone(self, size: int) -> None:
        self.alive -= size


@pytest.mark.parametrize(("height", "width"), [(3000, 500), (500, 3000)])
def test_memory_is_bounded_by_the_shorter_axis(height: int, width: int) -> None:
    source = Weighing(np.zeros((3, height, width), dtype=np.uint8), chunks_yx=(50, 50))
    rects = np.random.default_rng(0).integers((0, 0), (width - 60, height - 60), (4000, 2))
    sweep = Sweep(source, rects=np.hstack([rects, rects + 60]), max_px=100_000)
    assert sum(len(canvas.rows) for canvas in sweep) == 4000
    assert source.peak == sweep.held_bytes  # foretold
    # a band is two chunks high, a patch reaches over two more rows: these along all columns, the band along some
    assert source.peak <= 5 * 10 * 50 * 50 * 3
    assert source.alive == 0


def test_irregular_blocks() -> None:
    image = noise(100, 90)
    source = as_source(da.from_array(image, chunks=((3,), (13, 50, 37), (60, 7, 23))) + 0)
    assert isinstance(source, DaskSource)
    assert source.grid == (3, 3)
    assert source.chunks_yx == (50, 60)
    reader = PatchReader([ImageLevel(source, IDENTITY)])
    centres = np.random.default_rng(0).uniform(15, 75, (20, 2)).round()
    patches = reader.read(centres, field_um=30, out_px=30)
    for patch, (x, y) in zip(patches, centres.astype(int), strict=True):
        np.testing.assert_array_equal(patch, np.moveaxis(image[:, y - 15 : y + 15, x - 15 : x + 15], 0, 2))


# ------------------------------------------------------------------------------------------ the prefetch


def workers() -> int:
    return sum(t.name == "storm-prefetch" and t.is_alive() for t in threading.enumerate())


def test_prefetch_gives_the_same_batches() -> None:
    reader = pyramid(noise(300, 200))
    centres = np.random.default_rng(0).uniform(0, 200, (101, 2))
    options = {"field_um": 20, "out_px": 20, "batch_size": 10}
    direct = list(reader.iter_patches(centres, **options, prefetch=0))
    ahead = list(reader.iter_patches(centres, **options, prefetch=3))
    assert [len(i) for i, _ in ahead] == [10] * 10 + [1]
    for (i, a), (j, b) in zip(direct, ahead, strict=True):
        np.testing.assert_array_equal(i, j)
        np.testing.assert_array_equal(a, b)
    assert workers() == 0


class Broken(ArraySource):
    def read_chunk(self, i: int, j: int) -> np.ndarray:
        if i == 2:
            msg = "chunk (2, *) is damaged"
            raise OSError(msg)
        return super().read_chunk(i, j)


def test_errors_in_the_thread_reach_the_caller() -> None:
    source: Source = Broken(noise(400, 60), chunks_yx=(50, 50))
    reader = PatchReader([ImageLevel(source, IDENTITY)])
    centres = np.column_stack([np.full(40, 30.0), np.linspace(10, 390, 40)])
    batches = reader.iter_patches(centres, field_um=10, out_px=10, batch_size=4)
    assert len(next(batches)[0]) == 4
    with pytest.raises(OSError, match="damaged"):
        list(batches)
    assert workers() == 0


def test_closing_early_stops_the_thread() -> None:
    reader = pyramid(noise(300, 200))
    centres = np.random.default_rng(0).uniform(0, 200, (500, 2))
    batches = reader.iter_patches(centres, field_um=20, out_px=20, batch_size=5)
    next(batches)
    assert workers() == 1
    batches.close()
    assert workers() == 0


def test_prefetch_runs_no_further_ahead_than_told() -> None:
    made = []

    def make():
        for k in range(20):
            made.append(k)
            yield k

    items = prefetched(make, depth=2)
    assert next(items) == 0
    time.sleep(0.3)
    assert len(made) <= 1 + 2 + 1  # taken, waiting in the queue, in the thread's hand
    assert list(items) == list(range(1, 20))
