"""The checksum of an image: the same for the same picture however it is stored, another for any other picture."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from planted_pixels import IDENTITY, noise
from storm.data import fingerprint
from storm.data.fingerprint import image_checksum, pixel_sums, summing
from storm.data.patches import ImageLevel, PatchReader
from storm.data.scratch import ScratchSource
from storm.data.sources import ArraySource, as_source

IMAGE = noise(170, 140)
SIZE = {"field_um": 20, "out_px": 20}


def value(image: np.ndarray) -> str:
    return image_checksum(PatchReader([ImageLevel(ArraySource(image), IDENTITY)]), **SIZE).value


def test_it_does_not_depend_on_the_chunks(tmp_path: Path) -> None:
    expected = pixel_sums(ArraySource(IMAGE))
    array = zarr.create_array(tmp_path / "a.zarr", shape=IMAGE.shape, chunks=(1, 33, 50), dtype="u1")
    array[:] = IMAGE
    sources = [
        ArraySource(IMAGE, chunks_yx=(7, 31)),
        as_source(array),
        as_source(da.from_array(IMAGE, chunks=(3, 60, 45)) + np.uint8(0)),
        ScratchSource(ArraySource(IMAGE, chunks_yx=(170, 140))),
        ArraySource(IMAGE[[2, 0, 1]], channels=(1, 2, 0)),
    ]
    for source in sources:
        np.testing.assert_array_equal(pixel_sums(source), expected)


def test_every_pixel_counts() -> None:
    """One step of one channel of one pixel, wherever it is."""
    rng = np.random.default_rng(0)
    values = {value(IMAGE)}
    for _ in range(200):
        changed = IMAGE.copy()
        changed[tuple(rng.integers(n) for n in IMAGE.shape)] ^= 1
        values.add(value(changed))
    assert len(values) > 195  # some places are drawn twice
    assert value(IMAGE) == value(IMAGE.copy())


@pytest.mark.parametrize("change", ["rows", "columns", "channels", "transposed", "shifted", "complement"])
def test_the_same_pixels_elsewhere(change: str) -> None:
    square = noise(140, 140)
    changed = {
        "rows": square[:, ::-1],
        "columns": square[:, :, ::-1],
        "channels": square[::-1],
        "transposed": square.transpose(0, 2, 1),
        "shifted": np.roll(square, 1, axis=2),
        "complement": 255 - square,
    }[change]
    assert value(np.ascontiguousarray(changed)) != value(square)


def test_the_sums_are_exact() -> None:
    """Against whole numbers of any size."""
    image = noise(5, 9)
    rows = fingerprint._mixed(np.arange(10, dtype=np.uint64).reshape(5, 2)) | 1
    columns = (fingerprint._mixed(~np.arange(18, dtype=np.uint64).reshape(9, 2)) >> np.uint64(44)) | 1
    for channel in range(3):
        for k in range(2):
            total = sum(
                int(image[channel, y, x]) * int(rows[y, k]) * int(columns[x, k]) for y in range(5) for x in range(9)
            )
            assert pixel_sums(ArraySource(image))[channel, k] == total % 2**64


def test_a_large_level_is_compared_at_a_coarser_one(monkeypatch: pytest.MonkeyPatch) -> None:
    half = np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])  # a pixel of the coarser level is 2 µm wide
    levels = [ImageLevel(ArraySource(IMAGE), IDENTITY), ImageLevel(ArraySource(noise(85, 70, seed=1)), half)]
    reader = PatchReader(levels)
    assert image_checksum(reader, **SIZE).compared == "all pixels at 1 µm/px"
    monkeypatch.setattr(fingerprint, "_MOST_PX", 10_000)
    assert image_checksum(reader, **SIZE).compared == "all pixels at 2 µm/px"
    monkeypatch.setattr(fingerprint, "_MOST_PX", 10)
    assert image_checksum(reader, **SIZE).compared == "all pixels at 2 µm/px"


class Counting(ArraySource):
    """Pixels that remember which chunks were decoded."""

    in_memory = False

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.read: list[tuple[int, int]] = []

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        self.read.append((i, j))
        return super().read_chunk(i, j)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_was_read_for_patches_is_not_decoded_again(threads: int) -> None:
    source = Counting(IMAGE, chunks_yx=(40, 30))
    reader = PatchReader([ImageLevel(source, IDENTITY)])
    centres = np.random.default_rng(0).uniform((0, 0), (90, 170), (60, 2))  # nothing in the two columns to the right
    plain = reader.read(centres, **SIZE)
    source.read.clear()
    both = summing(reader, **SIZE)
    for index, patches in both.iter_patches(centres, **SIZE, threads=threads):
        np.testing.assert_array_equal(patches, plain[index])
    seen = len(source.read)
    assert 0 < seen < source.grid[0] * source.grid[1]
    assert image_checksum(both, **SIZE) == image_checksum(
        PatchReader([ImageLevel(ArraySource(IMAGE), IDENTITY)]), **SIZE
    )
    assert sorted(source.read) == list(np.ndindex(*source.grid))
    assert image_checksum(both, **SIZE) == image_checksum(reader, **SIZE)


def test_a_level_that_is_not_read_is_summed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches come from a level that is too large for the checksum."""
    reader = PatchReader(
        [ImageLevel(ArraySource(IMAGE), IDENTITY), ImageLevel(ArraySource(IMAGE[:, ::2, ::2]), IDENTITY / 2)]
    )
    monkeypatch.setattr(fingerprint, "_MOST_PX", 10_000)
    both = summing(reader, **SIZE)
    both.read(np.full((1, 2), 50.0), **SIZE)
    assert image_checksum(both, **SIZE) == image_checksum(reader, **SIZE)
    assert image_checksum(both, **SIZE).compared == "all pixels at 2 µm/px"


def test_a_change_is_noticed_whether_it_was_read_or_not() -> None:
    for at in ((0, 5, 5), (2, 169, 139)):
        changed = IMAGE.copy()
        changed[at] ^= 1
        both = summing(PatchReader([ImageLevel(ArraySource(changed, chunks_yx=(40, 30)), IDENTITY)]), **SIZE)
        both.read(np.full((1, 2), 10.0), **SIZE)
        assert image_checksum(both, **SIZE).value != value(IMAGE)
