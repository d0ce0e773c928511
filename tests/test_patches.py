"""Patches: true in µm (against planted colours and spatialdata's rasterization), each chunk decoded once."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from storm.data.patches import ImageLevel, PatchReader, Sweep, prefetched
from storm.data.sources import ArraySource, DaskSource, Source, ZarrSource, as_source, zarr_behind

IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def affine(linear, shift=(0.0, 0.0)) -> np.ndarray:
    return np.column_stack([np.asarray(linear, dtype=float), shift])


def turn(degrees: float, scale: float = 1.0) -> np.ndarray:
    a = np.deg2rad(degrees)
    return scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


class Counting(ArraySource):
    """Counts how often each chunk is decoded and how many of them are alive."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.decoded: Counter = Counter()

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        self.decoded[i, j] += 1
        return super().read_chunk(i, j)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def smooth(height: int, width: int, sigma: float = 4.0, seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    planes = [gaussian_filter(p, sigma) for p in np.random.default_rng(seed).normal(size=(3, height, width))]
    return np.stack([np.interp(p, (p.min(), p.max()), (0, 255)) for p in planes]).round().astype(np.uint8)


# ------------------------------------------------------------------------------------------- truth in µm

PX = {
    "half": affine(turn(0, 2.0), (3.3, -1.7)),
    "coarse": affine(turn(0, 0.41), (11.0, 17.2)),
    "mirrored": affine([[-1.3, 0], [0, 1.3]], (140.4, 2.0)),
    "upside down": affine([[1.3, 0], [0, -1.3]], (2.0, 140.4)),
    "quarter turn": affine([[0, -1.3], [1.3, 0]], (140.4, 2.2)),
    "transposed": affine([[0, 1.3], [1.1, 0]], (1.4, 2.2)),
    "anisotropic": affine([[0.8, 0], [0, 1.7]], (1.4, 2.2)),
    "rotated": affine(turn(33, 1.4), (60.0, 5.0)),
    "sheared": affine([[1.2, 0.4], [0, 0.9]], (3.0, 4.0)),
}


@pytest.mark.parametrize("name", PX)
def test_colour_is_a_function_of_position(name: str) -> None:
    """Red and green are planted as linear functions of µm; every pixel of every patch must show its own position."""
    um_to_px, size = PX[name], 150
    px = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=-1)
    um = (px - um_to_px[:, 2]) @ np.linalg.inv(um_to_px[:, :2]).T
    low, high = um.min(axis=(0, 1)), um.max(axis=(0, 1))
    slope = np.array([230, 160]) / (high - low)
    image = np.zeros((3, size, size), dtype=np.uint8)
    dither = np.random.default_rng(0).uniform(size=um.shape)  # unbiased rounding
    image[:2] = np.moveaxis(np.floor((um - low) * slope + dither), -1, 0)
    reader = PatchReader([ImageLevel(as_source(image), um_to_px)])

    field, out = 24 * reader.um_per_px, 20
    middle = (np.array([size / 2, size / 2]) - um_to_px[:, 2]) @ np.linalg.inv(um_to_px[:, :2]).T
    centres = middle + np.random.default_rng(1).uniform(-0.6, 0.6, (30, 2)) * field
    patches = reader.read(centres, field_um=field, out_px=out).astype(float)

    at = (np.arange(out) + 0.5) / out * field - field / 2
    x = centres[:, None, None, 0] + at[None, None, :]
    y = centres[:, None, None, 1] + at[None, :, None]
    error = np.stack([patches[..., 0] - (x - low[0]) * slope[0], patches[..., 1] - (y - low[1]) * slope[1]], axis=-1)
    inner = error[:, 3:-3, 3:-3]
    assert np.abs(inner).max() < 2.5  # rounding, twice
    # means over a patch see a shift of a sixth of a pixel, means over all patches one of a fortieth
    shift_px = inner.mean(axis=(1, 2)) / slope / reader.um_per_px
    assert np.abs(shift_px).max() < 0.16
    assert np.abs(shift_px.mean(axis=0)).max() < 0.025
    assert (patches[..., 2] == 0).all()


@pytest.mark.parametrize("name", ["half", "mirrored", "anisotropic", "rotated", "sheared"])
def test_agrees_with_rasterize(name: str) -> None:
    """spatialdata samples the nearest pixel at the *corner* of each target pixel; the box is shifted accordingly."""
    from spatialdata import rasterize
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine

    um_to_px, size, out = PX[name], 220, 48
    px_to_um = np.linalg.inv(np.vstack([um_to_px, [0, 0, 1]]))
    image = smooth(size, size, sigma=9)
    element = Image2DModel.parse(
        image, dims=("c", "y", "x"), transformations={"um": Affine(px_to_um, ("x", "y"), ("x", "y"))}
    )
    reader = PatchReader([ImageLevel(as_source(image), um_to_px)])
    field = 60 * reader.um_per_px
    centre = px_to_um[:2, :2] @ [size / 2 + 4.4, size / 2 - 7.1] + px_to_um[:2, 2]
    ours = reader.read(centre[None], field_um=field, out_px=out)[0].astype(float)

    half_target = np.full(2, field / out / 2)
    half_source = px_to_um[:2, :2] @ [0.5, 0.5]
    low = centre - field / 2 + half_target - half_source
    theirs = rasterize(
        element,
        axes=("x", "y"),
        min_coordinate=low.tolist(),
        max_coordinate=(low + field).tolist(),
        target_coordinate_system="um",
        target_width=out,
    )
    theirs = np.moveaxis(theirs.data.compute(scheduler="synchronous"), 0, 2).astype(float)
    gradient = np.abs(np.diff(theirs, axis=1)).max()
    difference = np.abs(ours - theirs)[2:-2, 2:-2]
    assert difference.max() <= gradient + 2  # nearest neighbour is off by up to half a pixel both ways
    assert np.abs((ours - theirs)[2:-2, 2:-2].mean()) < 0.15
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.998


def test_pixels_are_copied_where_nothing_is_resized() -> None:
    image = noise(90, 70)
    patch = PatchReader([ImageLevel(as_source(image), IDENTITY)]).read(np.array([[30.0, 50.0]]), field_um=20, out_px=20)
    np.testing.assert_array_equal(patch[0], np.moveaxis(image[:, 40:60, 20:40], 0, 2))


def test_down_sampling_is_antialiased() -> None:
    stripes = np.zeros((3, 200, 200), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    for linear in (turn(0), turn(20)):
        reader = PatchReader([ImageLevel(as_source(stripes), affine(linear, (100, 100)))])
        patch = reader.read(np.zeros((1, 2)), field_um=96, out_px=24)
        assert np.abs(patch[0, 2:-2, 2:-2].astype(float) - 127.5).max() < 12


def test_beyond_the_image_is_white() -> None:
    reader = PatchReader([ImageLevel(as_source(np.zeros((3, 60, 80), dtype=np.uint8)), IDENTITY)])
    centres = np.array([[0.0, 0.0], [79.9, 59.9], [40.0, 30.0], [80.0, 30.0], [-0.1, 30.0], [np.nan, 3.0]])
    np.testing.assert_array_equal(reader.inside(centres), [True, True, True, False, False, False])
    patches = reader.read(centres, field_um=20, out_px=20)
    assert (patches[0, :10] == 255).all()
    assert (patches[0, :, :10] == 255).all()
    assert (patches[0, 10:, 10:] == 0).all()
    assert (patches[1, 12:, :] == 255).all()
    assert (patches[2] == 0).all()
    assert (patches[3:] == 255).all()
    assert reader.extent_um == (0, 0, 80, 60)


# ------------------------------------------------------------------------------------------------ levels


def pyramid(image: np.ndarray) -> PatchReader:
    levels = [ImageLevel(as_source(np.ascontiguousarray(image[:, ::f, ::f])), IDENTITY / f) for f in (4, 1, 2)]
    return PatchReader(levels)


def test_level_is_chosen_for_the_wanted_resolution() -> None:
    reader = pyramid(noise(256, 256))
    assert [level.um_per_px for level in reader.levels] == [1, 2, 4]
    assert reader.level_for(64, 128) == 0  # finer than there is: the finest
    assert reader.level_for(64, 64) == 0
    assert reader.level_for(64, 33) == 1  # 1.94 µm/px, level of 2.0: within 5 %
    assert reader.level_for(64, 36) == 0
    assert reader.level_for(64, 10) == 2


def test_coarse_level_agrees_with_fine_level() -> None:
    image = smooth(512, 512, sigma=12)
    coarse = image.reshape(3, 128, 4, 128, 4).mean(axis=(2, 4)).round().astype(np.uint8)
    fine = PatchReader([ImageLevel(as_source(image), IDENTITY)])
    both = PatchReader([ImageLevel(as_source(image), IDENTITY), ImageLevel(as_source(coarse), IDENTITY / 4)])
    centres = np.random.default_rng(0).uniform(150, 350, (10, 2))
    a = fine.read(centres, field_um=128, out_px=32).astype(int)
    b = both.read(centres, field_um=128, out_px=32).astype(int)
    assert both.level_for(128, 32) == 1
    assert np.abs(a - b)[:, 2:-2, 2:-2].max() <= 2


def test_bad_arguments() -> None:
    reader = pyramid(noise(64, 64))
    with pytest.raises(ValueError, match="field_um=0"):
        reader.read(np.zeros((1, 2)), field_um=0, out_px=8)
    with pytest.raises(ValueError, match="whole number"):
        reader.read(np.zeros((1, 2)), field_um=8, out_px=8.5)
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        reader.iter_patches(np.zeros((1, 3)), field_um=8, out_px=8)
    with pytest.raises(ValueError, match="at least one"):
        PatchReader([])
    with pytest.raises(ValueError, match="affine"):
        ImageLevel(as_source(noise(8, 8)), np.zeros((2, 3)))
    with pytest.raises(TypeError, match="uint8"):
        as_source(np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="three channels"):
        as_source(np.zeros((2, 8, 8), dtype=np.uint8))


def test_no_centre_no_patch() -> None:
    reader = pyramid(noise(64, 64))
    assert list(reader.iter_patches(np.zeros((0, 2)), field_um=8, out_px=8)) == []
    assert list(reader.iter_patches(np.full((4, 2), -9.0), field_um=8, out_px=8)) == []
    assert reader.read(np.zeros((0, 2)), field_um=8, out_px=8).shape == (0, 8, 8, 3)


# ------------------------------------------------------------------------------------------ chunks, once


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


@pytest.mark.parametrize(("height", "width"), [(3000, 500), (500, 3000)])
def test_memory_is_bounded_by_the_shorter_axis(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ArraySource(np.zeros((3, height, width), dtype=np.uint8), chunks_yx=(50, 50))
    rects = np.random.default_rng(0).integers((0, 0), (width - 60, height - 60), (4000, 2))
    sweep = Sweep(source, rects=np.hstack([rects, rects + 60]))
    held = []
    cut = Sweep._crop
    monkeypatch.setattr(Sweep, "_crop", lambda self, row, store: (cut(self, row, store), held.append(len(store)))[0])
    assert sum(1 for _ in sweep) == 4000
    assert max(held) <= 4 * 10  # a patch covers up to three rows of chunks, one more is on its way


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


# ----------------------------------------------------------------------------------------------- sources


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
