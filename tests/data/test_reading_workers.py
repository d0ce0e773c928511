"""Reading in threads and forked processes, after dask has started threads in the parent: nothing waits for ever."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from planted_pixels import IDENTITY, noise
from storm.data import resample
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import as_source

CENTRES = np.random.default_rng(0).uniform((0, 0), (200, 240), (64, 2))
OPTIONS = {"field_um": 21, "out_px": 24}


@pytest.fixture(params=["zarr", "sharded", "dask"])
def lazy(request, tmp_path: Path) -> da.Array:
    """A lazy image that dask has just read with threads, as a plot or a tissue mask would."""
    layout = {"chunks": (3, 32, 32), "shards": (3, 64, 64)} if request.param == "sharded" else {"chunks": (3, 64, 64)}
    array = zarr.create_array(tmp_path / "image.zarr", shape=(3, 240, 200), dtype="u1", **layout)
    array[:] = noise(240, 200)
    lazy = da.from_zarr(array)
    lazy = lazy + np.uint8(0) if request.param == "dask" else lazy
    lazy.mean().compute(scheduler="threads")
    return lazy


class Patches(Dataset):
    def __init__(self, reader: PatchReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(CENTRES)

    def __getitem__(self, k: int) -> torch.Tensor:
        return torch.from_numpy(self.reader.read(CENTRES[k : k + 1], **OPTIONS)[0])


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
def test_workers_of_a_data_loader(lazy: da.Array, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """This deadlocks readers that go through dask's thread pool, which is dead in a forked child."""
    if compiled:
        monkeypatch.setattr(resample, "_WORTH_S", 0)
    reader = PatchReader([ImageLevel(as_source(lazy), IDENTITY)])
    expected = reader.read(CENTRES, **OPTIONS)
    ahead = reader.iter_patches(CENTRES, **OPTIONS, batch_size=4, threads=2)
    next(ahead)  # threads that read ahead live while the workers fork
    loader = DataLoader(Patches(reader), batch_size=16, num_workers=2, multiprocessing_context="fork", timeout=60)
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), expected)
    ahead.close()


@pytest.mark.timeout(120)
def test_threads_share_a_reader(lazy: da.Array) -> None:
    reader = PatchReader([ImageLevel(as_source(lazy), IDENTITY)])
    expected = reader.read(CENTRES, **OPTIONS)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda k: reader.read(CENTRES[k::8], **OPTIONS), range(8)))
    for k, part in enumerate(parts):
        np.testing.assert_array_equal(part, expected[k::8])


@pytest.mark.timeout(120)
def test_threads_decode_the_same_pixels(lazy: da.Array) -> None:
    reader = PatchReader([ImageLevel(as_source(lazy), IDENTITY)])
    expected = reader.read(CENTRES, **OPTIONS)
    out = np.zeros_like(expected)
    for index, patches in reader.iter_patches(CENTRES, **OPTIONS, batch_size=4, threads=3):
        out[index] = patches
    np.testing.assert_array_equal(out, expected)


def workers() -> int:
    return sum(t.name == "storm-prefetch" and t.is_alive() for t in threading.enumerate())


@pytest.mark.parametrize("way", ["iter_patches", "iter_canvases"])
def test_an_abandoned_iterator_leaves_no_thread(way: str) -> None:
    reader = PatchReader([ImageLevel(as_source(noise(240, 200)), IDENTITY)])
    batches = getattr(reader, way)(CENTRES, **OPTIONS, batch_size=2)
    assert workers() == 0  # it starts with the first item
    next(batches)
    assert workers() == 1
    del batches
    gc.collect()
    assert workers() == 0


def test_a_consumer_s_own_error_stops_the_thread() -> None:
    reader = PatchReader([ImageLevel(as_source(noise(240, 200)), IDENTITY)])

    def consume() -> None:
        for _ in reader.iter_patches(CENTRES, **OPTIONS, batch_size=2):
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    gc.collect()
    assert workers() == 0
