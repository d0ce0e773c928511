"""The checksum of an image: the same for the same picture however it is stored, another for any other picture."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr

from planted_pixels import IDENTITY, noise
from storm.data import fingerprint
from storm.data.fingerprint import image_checksum, pixel_sums
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
