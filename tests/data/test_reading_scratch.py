"""Chunks too large to be held are decoded once, into a scratch file."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest

from planted_pixels import IDENTITY, noise
from storm.data import scratch
from storm.data.patches import ImageLevel, PatchReader
from storm.data.scratch import ScratchSource
from storm.data.sources import ArraySource, as_source

CENTRES = np.random.default_rng(0).uniform((0, 0), (140, 170), (50, 2))
OPTIONS = {"field_um": 20, "out_px": 20}


class Counting(ArraySource):
    decoded = 0

    def read_chunk(self, i: int, j: int) -> np.ndarray:
        self.decoded += 1
        return super().read_chunk(i, j)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_PIECE_PX", 32)


def reader_of(source) -> PatchReader:
    return PatchReader([ImageLevel(source, IDENTITY)])


@pytest.mark.parametrize("chunks", [(170, 140), (100, 90), (170, 50)])
def test_pieces_are_the_image_and_chunks_are_decoded_once(chunks: tuple[int, int]) -> None:
    image = noise(170, 140)
    huge = Counting(image, chunks_yx=chunks, channels=(2, 0, 1))
    source = ScratchSource(huge)
    assert source.chunks_yx == (32, 32)
    expected = reader_of(ArraySource(image, channels=(2, 0, 1))).read(CENTRES, **OPTIONS)
    for _ in range(3):
        np.testing.assert_array_equal(reader_of(source).read(CENTRES, **OPTIONS), expected)
    assert huge.decoded == np.prod(huge.grid)


def test_only_chunks_that_are_needed() -> None:
    huge = Counting(noise(170, 140), chunks_yx=(85, 70))
    reader_of(ScratchSource(huge)).read(np.array([[20.0, 20], [60, 70]]), **OPTIONS)
    assert huge.decoded == 1


def test_blocks_cut_from_one_page() -> None:
    image, times = noise(170, 140), []
    page = dask.delayed(lambda: times.append(1) or image, pure=False)()
    source = as_source(da.from_delayed(page, image.shape, "u1").rechunk((3, 10, 10)))
    assert source.shared_leaves
    source = ScratchSource(source.as_one_block())
    np.testing.assert_array_equal(
        reader_of(source).read(CENTRES, **OPTIONS), reader_of(ArraySource(image)).read(CENTRES, **OPTIONS)
    )
    assert len(times) == 1


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_has_a_file_of_its_own(start: str) -> None:
    reader = reader_of(ScratchSource(ArraySource(noise(170, 140), chunks_yx=(170, 140))))
    expected = reader.read(CENTRES, **OPTIONS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as pool:
        answer = pool.submit(reader.read, CENTRES, **OPTIONS).result(timeout=60)
    np.testing.assert_array_equal(answer, expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(CENTRES, **OPTIONS), expected)
    np.testing.assert_array_equal(reader.read(CENTRES, **OPTIONS), expected)


def test_no_room_for_the_file(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noticed before anything is decoded; what lies in the file already can still be read."""
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    image = noise(800, 700)
    huge = Counting(image, chunks_yx=(400, 700))
    source = ScratchSource(huge)
    np.testing.assert_array_equal(source.read_chunk(0, 0), np.moveaxis(image[:, :32, :32], 0, 2))
    with pytest.raises(OSError, match=r"takes 840,000 bytes .*are free\); make room, set TMPDIR"):
        source.read_chunk(13, 0)
    assert huge.decoded == 1
    np.testing.assert_array_equal(source.read_chunk(0, 1), np.moveaxis(image[:, :32, 32:64], 0, 2))


def test_a_write_that_fails_leaves_no_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up in spite of the room that was reserved: the next attempt starts from the beginning."""
    source = ScratchSource(Counting(noise(170, 140), chunks_yx=(170, 140)))
    stream, calls = source._file.stream, []

    class Full:
        def __getattr__(self, name: str) -> object:
            return getattr(stream, name)

        def write(self, data: bytes) -> int:
            calls.append(len(data))
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
            return stream.write(data)

    monkeypatch.setattr(source._file, "stream", Full())
    with pytest.raises(OSError, match="no room left"):
        source.read_chunk(0, 0)
    assert not source._file.starts
    np.testing.assert_array_equal(source.read_chunk(0, 0), np.moveaxis(noise(170, 140)[:, :32, :32], 0, 2))
    assert source.source.decoded == 2
