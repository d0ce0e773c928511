"""Where pixels come from: arrays, zarr and dask, also after pickling and in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from planted_pixels import IDENTITY, noise
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import DaskSource, ZarrSource, as_source, zarr_behind


@pytest.fixture
def stored(tmp_path: Path) -> tuple[np.ndarray, zarr.Array]:
    image = noise(120, 100)
    array = zarr.create_array(tmp_path / "image.zarr", name="s0", shape=image.shape, dtype="u1", chunks=(1, 32, 40))
    array[:] = image
    return image, array


def test_zarr_is_read_without_dask(stored, tmp_path: Path) -> None:
    image, array = stored
    lazy = da.from_zarr(array)
    assert zarr_behind(lazy).path == array.path
    assert zarr_behind(lazy + 1) is None
    assert zarr_behind(lazy[:, 5:]) is None
    assert zarr_behind(da.zeros((3, 9, 9), dtype="u1")) is None
    for data in (lazy, array):
        source = as_source(data)
        assert isinstance(source, ZarrSource)
        assert source.chunks_yx == (32, 40)
        np.testing.assert_array_equal(source.read_chunk(3, 2), np.moveaxis(image[:, 96:, 80:], 0, 2))
    assert isinstance(as_source(lazy[:, 5:]), DaskSource)
    by_path = ZarrSource(tmp_path / "image.zarr", "s0", channels=(2, 1, 0))
    np.testing.assert_array_equal(by_path.read_chunk(0, 0), np.moveaxis(image[::-1, :32, :40], 0, 2))


def test_zarr_of_format_2(tmp_path: Path) -> None:
    image = noise(64, 64)
    array = zarr.create_array(tmp_path / "a.zarr", shape=image.shape, dtype="u1", chunks=(3, 32, 32), zarr_format=2)
    array[:] = image
    source = pickle.loads(pickle.dumps(as_source(da.from_zarr(array))))
    assert isinstance(source, ZarrSource)
    np.testing.assert_array_equal(source.read_chunk(1, 0), np.moveaxis(image[:, 32:, :32], 0, 2))


def test_blocks_of_single_channels() -> None:
    image = noise(64, 64)
    source = as_source(da.from_array(image, chunks=(1, 32, 32)) + 0)
    np.testing.assert_array_equal(source.read_chunk(1, 0), np.moveaxis(image[:, 32:, :32], 0, 2))


def test_a_block_that_is_one_task_needs_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    image, read = noise(64, 64), []

    def block(y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        read.append((y, x))
        if x:
            msg = "a damaged tile"
            raise ValueError(msg)
        return image[:, y : y + shape[0], x : x + shape[1]]

    blocks = {("lazy", 0, i, j): (block, 32 * i, 32 * j, (32, 32)) for i in (0, 1) for j in (0, 1)}
    lazy = da.Array(blocks, "lazy", ((3,), (32, 32), (32, 32)), dtype=np.uint8)
    several, one = as_source(lazy + 1 - 1), as_source(lazy)
    for source in (several, one):
        assert isinstance(source, DaskSource)
        for i in (0, 1):
            np.testing.assert_array_equal(
                source.read_chunk(i, 0), np.moveaxis(image[:, 32 * i : 32 * i + 32, :32], 0, 2)
            )
        monkeypatch.setattr("dask.get", None)
    assert read == [(0, 0), (32, 0)] * 2
    with pytest.raises(
        ValueError, match=r"the image cannot be read: its chunk in row 1, column 1 .*\(a damaged tile\)"
    ):
        one.read_chunk(1, 1)


@pytest.mark.parametrize("graph", ["array", "task", "another", "concatenated"])
def test_a_block_of_any_graph(graph: str) -> None:
    image, key = noise(40, 40), ("lazy", 0, 0, 0)
    blocks = {
        "array": {key: image},
        "task": {key: (np.asarray, image)},
        "another": {key: ("held", 0), ("held", 0): image},
        "concatenated": {
            key: (np.concatenate, [("held", 0), ("held", 1)]),
            ("held", 0): image[:2],
            ("held", 1): image[2:],
        },
    }[graph]
    source = as_source(da.Array(blocks, "lazy", ((3,), (40,), (40,)), dtype=np.uint8))
    np.testing.assert_array_equal(source.read_chunk(0, 0), np.moveaxis(image, 0, 2))


def test_sharded_zarr_is_read_by_its_inner_chunks(tmp_path: Path) -> None:
    image = noise(128, 128)
    array = zarr.create_array(
        tmp_path / "image.zarr", shape=image.shape, dtype="u1", chunks=(3, 32, 32), shards=(3, 64, 64)
    )
    array[:] = image
    source = as_source(da.from_zarr(array))
    assert source.chunks_yx == (32, 32)
    np.testing.assert_array_equal(source.read_chunk(1, 3), np.moveaxis(image[:, 32:64, 96:], 0, 2))


def test_blocks_cut_from_one_piece_are_noticed() -> None:
    import dask

    image = noise(80, 80)
    page = da.from_delayed(dask.delayed(lambda: image)(), image.shape, "u1")
    assert as_source(page.rechunk((3, 10, 10))).shared_leaves
    assert not as_source(page).shared_leaves
    assert not as_source(da.from_array(image, chunks=(3, 10, 10)) + 1).shared_leaves
    assert as_source(da.from_array(image, chunks=(3, 10, 10)) + 1).in_memory


def patch_sum(reader: PatchReader) -> int:
    return int(reader.read(np.array([[50.0, 60.0]]), field_um=40, out_px=20).astype(int).sum())


@pytest.mark.parametrize("kind", ["array", "zarr", "dask"])
def test_reader_survives_pickling(kind: str, stored) -> None:
    image, array = stored
    data = {"array": image, "zarr": array, "dask": da.from_zarr(array)[:, 1:]}[kind]
    reader = PatchReader([ImageLevel(as_source(data), IDENTITY)])
    packed = pickle.dumps(reader)
    assert kind != "zarr" or len(packed) < 2000
    assert patch_sum(pickle.loads(packed)) == patch_sum(reader)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_no_deadlock_in_workers(start: str, stored) -> None:
    """A dask read in the parent starts threads that a forked child waits for: the reader must not need them."""
    _, array = stored
    lazy = da.from_zarr(array)
    lazy.sum().compute(scheduler="threads")
    centres = np.array([[50.0, 60.0]])
    for data in (lazy, lazy[:, 1:]):
        reader = PatchReader([ImageLevel(as_source(data), IDENTITY)])
        expected = reader.read(centres, field_um=40, out_px=20)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as pool:
            answer = pool.submit(reader.read, centres, field_um=40, out_px=20).result(timeout=60)
        np.testing.assert_array_equal(answer, expected)
