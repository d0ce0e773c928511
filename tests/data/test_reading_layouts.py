"""However an image is stored, its chunks are what zarr says they are."""

from __future__ import annotations

import itertools
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec

from planted_pixels import IDENTITY, noise
from storm.data.chunks import chunk_files
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import ZarrSource, as_source

SHAPE = (3, 130, 150)
WHOLE = {"chunks": (3, 32, 40)}

READ_HERE = {
    "plain": WHOLE,
    "zstd, checked": WHOLE | {"compressors": ZstdCodec(level=3, checksum=True)},
    "blosc": WHOLE | {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle")},
    "gzip": WHOLE | {"compressors": GzipCodec()},
    "two codecs": WHOLE | {"compressors": [GzipCodec(), ZstdCodec()]},
    "not compressed": WHOLE | {"compressors": None},
    "one channel": {"chunks": (1, 32, 40)},
    "two channels": {"chunks": (2, 32, 40)},
    "whole image": {"chunks": SHAPE},
    "larger than the image": {"chunks": (4, 200, 200)},
    "grey fill": WHOLE | {"fill_value": 7},
    "shards": {"chunks": (3, 32, 32), "shards": (3, 64, 96)},
    "shards of single channels": {"chunks": (1, 32, 32), "shards": (3, 64, 64)},
    "shards, index first": {"chunks": (3, 32, 32), "shards": {"shape": (3, 64, 64), "index_location": "start"}},
    "shards of blosc": {"chunks": (3, 32, 32), "shards": (3, 64, 64), "compressors": BloscCodec()},
    "format 2": WHOLE | {"zarr_format": 2},
    "format 2, nested": WHOLE | {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "format 2, blosc": WHOLE | {"zarr_format": 2, "compressors": numcodecs.Blosc()},
    "format 2, not compressed": WHOLE | {"zarr_format": 2, "compressors": None},
}
LEFT_TO_ZARR = {
    "format 2, columns first": WHOLE | {"zarr_format": 2, "order": "F"},
    "format 2, filter": WHOLE | {"zarr_format": 2, "filters": [numcodecs.Delta("u1")]},
    "transposed": WHOLE | {"filters": TransposeCodec(order=(2, 0, 1))},
}


def store(path: Path, layout: dict) -> zarr.Array:
    array = zarr.create_array(path / "image.zarr", name="a/s0", shape=SHAPE, dtype="u1", **layout)
    array[:, :90] = noise(*SHAPE[1:])[:, :90]  # below lie chunks that were never written, and a shard
    return array


@pytest.mark.parametrize("name", [*READ_HERE, *LEFT_TO_ZARR])
def test_chunks_are_what_zarr_says(name: str, tmp_path: Path) -> None:
    array = store(tmp_path, (READ_HERE | LEFT_TO_ZARR)[name])
    assert (chunk_files(array) is None) == (name in LEFT_TO_ZARR)
    source = ZarrSource.from_array(array)
    for i, j in itertools.product(*map(range, source.grid)):
        y, x = slice(*source.y_edges[i : i + 2]), slice(*source.x_edges[j : j + 2])
        np.testing.assert_array_equal(source.read_chunk(i, j), np.moveaxis(array[:, y, x], 0, 2))


def test_other_stores_are_left_to_zarr() -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=SHAPE, dtype="u1", **WHOLE)
    array[:] = image = noise(*SHAPE[1:])
    assert chunk_files(array) is None
    np.testing.assert_array_equal(ZarrSource.from_array(array).read_chunk(0, 0), np.moveaxis(image[:, :32, :40], 0, 2))


def test_a_damaged_chunk_is_an_error(tmp_path: Path) -> None:
    array = store(tmp_path, WHOLE)
    (tmp_path / "image.zarr/a/s0/c/0/1/1").write_bytes(b"not zstd")
    source = ZarrSource.from_array(array)
    source.read_chunk(0, 0)
    with pytest.raises((RuntimeError, ValueError)):
        source.read_chunk(1, 1)


@pytest.mark.parametrize("interleaved", [True, False])
def test_tiles_of_a_tiff(interleaved: bool, tmp_path: Path) -> None:
    """A tiled TIFF behind dask is read tile by tile, each once."""
    import dask.array as da
    import tifffile

    image = noise(130, 150)
    pixels = np.moveaxis(image, 0, 2) if interleaved else image
    options = {"planarconfig": "contig" if interleaved else "separate", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(32, 48), compression="zlib", **options)
    with tifffile.imread(tmp_path / "image.tif", aszarr=True) as tiles:
        lazy = da.from_zarr(zarr.open_array(tiles, mode="r"))
        source = as_source(lazy.transpose(2, 0, 1) if interleaved else lazy)
        assert source.chunks_yx == (32, 48)
        reader = PatchReader([ImageLevel(source, IDENTITY)])
        centres = np.random.default_rng(0).uniform(0, 130, (30, 2))
        expected = PatchReader([ImageLevel(as_source(image), IDENTITY)]).read(centres, field_um=20, out_px=20)
        np.testing.assert_array_equal(reader.read(centres, field_um=20, out_px=20), expected)


@pytest.mark.parametrize("pyramid", [None, [2, 2]])
def test_a_section_read_from_disk_is_decoded_here(pyramid: list[int] | None, tmp_path: Path) -> None:
    from spatialdata import SpatialData, read_zarr
    from spatialdata.models import Image2DModel

    from storm._bridge.image import make_reader

    image = noise(130, 150)
    element = Image2DModel.parse(image, dims=("c", "y", "x"), scale_factors=pyramid, chunks=(3, 64, 64))
    SpatialData(images={"he": element}).write(tmp_path / "section.zarr")
    stored = read_zarr(tmp_path / "section.zarr")["he"]
    reader = make_reader(stored, image_key="he", coordinate_system="global", um_per_unit=0.5)
    assert len(reader.levels) == (3 if pyramid else 1)
    assert all(level.source._files is not None for level in reader.levels)
    patch = reader.read(np.array([[30.0, 40.0]]), field_um=20, out_px=40)
    np.testing.assert_array_equal(patch[0], np.moveaxis(image[:, 60:100, 40:80], 0, 2))
