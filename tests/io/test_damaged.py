"""Damaged images: sizes that cannot be, headers cut and changed, chunks lost and broken."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import spatialdata
import tifffile
import zarr
from PIL import Image
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale

from storm import io
from storm._bridge.image import make_reader
from storm.data.stored import missing_chunks
from storm.io import _declared
from storm.io._declared import check_whole_image


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(40, 255, (300, 400, 3), dtype=np.uint8)


def refused(path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        io.slide(path, um_per_px=0.5)
    assert path.name in str(error.value)


# ----------------------------------------------------------------------------------------------------- declared sizes


def tiff_without_data(path: Path, width: int, height: int, *, tile: int | None = None, count: int = 1) -> Path:
    """A little-endian TIFF of one directory that declares an image, and 64 bytes of pixels."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 2), (277, 3, 1, 3)]
    if tile is None:
        tags += [(273, 4, count, 8), (278, 4, 1, height), (279, 4, count, 64)]
    else:
        tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, count, 8), (325, 4, count, 64)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 72) + bytes(64) + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def png_without_data(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.fixture
def reads_st(tmp_path: Path):
    """``io.st`` with four spots and an image of choice."""
    names = ["1x1", "2x1", "1x2", "2x2"]
    pd.DataFrame(np.ones((4, 2), dtype=int), index=names, columns=["A", "B"]).to_csv(tmp_path / "c.tsv", sep="\t")
    places = pd.DataFrame([(1, 1), (2, 1), (1, 2), (2, 2)], columns=["x", "y"])
    places[["pixel_x", "pixel_y"]] = places[["x", "y"]] * 40
    places.to_csv(tmp_path / "s.tsv", sep="\t", index=False)
    return lambda image: io.st(tmp_path / "c.tsv", tmp_path / "s.tsv", image)


@pytest.mark.parametrize(
    ("write", "suffix", "size", "words"),
    [
        (tiff_without_data, "tif", (1_000_000, 1_000_000), r"declares an image of 1,000,000 × 1,000,000 pixels"),
        (tiff_without_data, "tif", (200_000, 200_000), r"200,000 × 200,000 pixels, which its \d+ bytes cannot hold"),
        (png_without_data, "png", (1_000_000, 1_000_000), r"declares an image of 1,000,000 × 1,000,000 pixels"),
        (png_without_data, "png", (60_000, 60_000), r"60,000 × 60,000 pixels, which its \d+ bytes cannot hold"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, reads_st, write, suffix: str, size, words: str) -> None:
    """Nothing of that size is allocated; both readers give one answer."""
    path = write(tmp_path / f"he.{suffix}", *size)
    before = psutil.Process().memory_info().rss
    refused(path, words)
    with pytest.raises(ValueError, match=words):
        reads_st(path)
    assert psutil.Process().memory_info().rss - before < 100e6


def test_a_tile_that_is_larger_than_its_image(tmp_path: Path) -> None:
    refused(tiff_without_data(tmp_path / "he.tif", 100, 100, tile=200_000), "cannot hold")


def test_a_list_of_tiles_that_is_too_short(tmp_path: Path) -> None:
    refused(tiff_without_data(tmp_path / "he.tif", 50_000, 50_000, tile=512), "list of its tiles or strips")


def test_no_tile_was_stored(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(128, 128), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileByteCounts", "TileOffsets"):
            tag = file.pages[0].tags[name]
            tag.overwrite([0] * tag.count)
    refused(path, "none of its tiles was stored")


def test_omezarr_of_a_size_that_cannot_be(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "he.zarr", mode="w")
    group.create_array("0", shape=(3, 10**7, 10**7), chunks=(3, 10**4, 10**4), dtype="uint8")
    axes = [{"name": name, "type": "space"} for name in "cyx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    refused(tmp_path / "he.zarr", r"10,000,000 × 10,000,000 pixels")


def test_a_picture_above_the_limit_of_pillow(tmp_path: Path, pixels: np.ndarray, reads_st, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # it refuses what has more than twice as many
    path = tmp_path / "he.png"
    Image.fromarray(pixels).save(path)
    for sdata in (io.slide(path, um_per_px=0.5), reads_st(path)):
        np.testing.assert_array_equal(sdata["he"]["scale0"]["image"].to_numpy().transpose(1, 2, 0), pixels)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_more_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "he.png"
    path.write_bytes(bytes(10_000))
    check_whole_image(path, (3000, 4000))
    monkeypatch.setattr(_declared, "_BYTES_PER_PX", 10**9)
    with pytest.raises(ValueError, match=r"he\.png.*GB of memory.*GB are free: store it as a tiled"):
        check_whole_image(path, (3000, 4000))


# -------------------------------------------------------------------------------------------------------- headers


def seeds(folder: Path, pixels: np.ndarray) -> list[Path]:
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    description = "Aperio Image Library\r\n400x300|AppMag = 20|MPP = 0.5"
    writers = {
        "tiles.tif": (pixels, {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}),
        "plain.tif": (pixels, {"photometric": "rgb", "metadata": None}),
        "slide.svs": (pixels, {"photometric": "rgb", "tile": (64, 64), "description": description, "metadata": None}),
        "he.ome.tif": (planes, {"photometric": "minisblack", "metadata": {"axes": "CYX", "PhysicalSizeX": 0.5}}),
        "stack.tif": (planes, {"imagej": True}),
        "palette.tif": (pixels[..., 0], {"photometric": "palette", "colormap": np.zeros((3, 256), dtype=np.uint16)}),
    }
    for name, (data, options) in writers.items():
        tifffile.imwrite(folder / name, data, **options)
    for suffix in ("png", "jpg", "webp", "bmp"):
        Image.fromarray(pixels).save(folder / f"picture.{suffix}")
    return sorted(folder.iterdir())


@pytest.mark.timeout(120)
def test_changed_bytes_give_a_picture_or_a_clear_error(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "whole").mkdir()
    rng = random.Random(0)
    outcomes = {"read": 0, "refused": 0, "unclear": 0}
    for seed in seeds(tmp_path / "whole", pixels[:90, :120]):
        data = seed.read_bytes()
        for _ in range(10):
            changed = bytearray(data)
            # headers are at the front, and the directories of TIFFs may be anywhere
            reach = rng.choice((16, 400, len(data)))
            for _ in range(rng.choice((1, 1, 2, 4))):
                changed[rng.randrange(min(reach, len(data)))] = rng.choice((0, 1, 127, 255))
            if rng.random() < 0.2:
                changed = changed[: rng.randrange(len(changed))]
            path = tmp_path / seed.name
            path.write_bytes(changed)
            try:
                sdata = io.slide(path, um_per_px=0.5)
                sdata["he"]["scale0"]["image"].data[:, :64, :64].compute(scheduler="synchronous")
                outcomes["read"] += 1
            except (ValueError, ImportError) as error:
                outcomes["refused" if path.name in str(error) else "unclear"] += 1
    assert outcomes["unclear"] == 0
    assert min(outcomes["read"], outcomes["refused"]) > 10


# --------------------------------------------------------------------------------------------------------- chunks


def stored(folder: Path, pixels: np.ndarray, *, factors: list[int] | None = None) -> Path:
    """A SpatialData store with one image in chunks of 64 pixels."""
    element = Image2DModel.parse(
        np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=factors,
        chunks=(3, 64, 64),
        transformations={"um": Scale([0.5, 0.5], axes=("x", "y"))},
    )
    path = folder / "section.zarr"
    spatialdata.SpatialData(images={"he": element}).write(path)
    return path


def reader_of(path: Path):
    sdata = spatialdata.read_zarr(path)
    return make_reader(sdata["he"], image_key="he", coordinate_system="um", um_per_unit=1.0)


def chunk_files(path: Path, level: int) -> list[Path]:
    array = zarr.open_array(level_of(path, level), mode="r")
    assert not missing_chunks(array)
    grid = np.ndindex(*(-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)))
    return [level_of(path, level) / array.metadata.encode_chunk_key(at) for at in grid]


def level_of(path: Path, level: int) -> Path:
    return sorted(folder for folder in (path / "images" / "he").iterdir() if folder.is_dir())[level]


@pytest.mark.parametrize("level", [0, 1])
def test_a_lost_chunk_that_another_level_shows(tmp_path: Path, pixels: np.ndarray, level: int) -> None:
    path = stored(tmp_path, pixels, factors=[2])
    reader_of(path)
    chunk_files(path, level)[3].unlink()
    with pytest.raises(ValueError, match=rf"image 'he' is damaged: 1 chunks of level {level} are missing.*copy the"):
        reader_of(path)


def test_a_lost_chunk_without_a_witness(tmp_path: Path, pixels: np.ndarray) -> None:
    path = stored(tmp_path, pixels)
    chunk_files(path, 0)[3].unlink()
    with pytest.warns(UserWarning, match=r"image 'he': 1 chunks of level 0 .* are missing.*not copied completely"):
        reader_of(path)


def test_no_chunk_at_all(tmp_path: Path, pixels: np.ndarray) -> None:
    path = stored(tmp_path, pixels, factors=[2])
    for level in (0, 1):
        for file in chunk_files(path, level):
            file.unlink()
    with pytest.warns(UserWarning, match=r"image 'he': 35 chunks of level 0 .*, 12 chunks of level 1 .* are missing"):
        reader_of(path)


def test_chunks_that_are_black_are_not_lost(tmp_path: Path, pixels: np.ndarray) -> None:
    """A store leaves out chunks of zeros: the scanner's black frame is read without a word."""
    black = pixels.copy()
    black[:130] = 0
    path = stored(tmp_path, black, factors=[2])
    array = zarr.open_array(level_of(path, 0), mode="r")
    assert len(missing_chunks(array)) >= 7
    patch = reader_of(path).read(np.array([[100.0, 20.0]]), field_um=8, out_px=16)
    assert not patch.any()


def test_lost_chunks_of_an_omezarr(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "he.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for k in (0, 1):
        data = np.ascontiguousarray(pixels[:: 2**k, :: 2**k].transpose(2, 0, 1))
        group.create_array(str(k), data=data, chunks=(1, 64, 64))
    axes = [{"name": name, "type": "space"} for name in "cyx"]
    datasets = [{"path": "0"}, {"path": "1"}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets, "version": "0.4"}]
    io.slide(path, um_per_px=0.5)
    (path / "0" / "1.2.3").unlink()
    refused(path, "1 chunks of level 0 are missing")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, None])
def test_a_broken_chunk_names_its_image(tmp_path: Path, pixels: np.ndarray, damage: bytes | None) -> None:
    path = stored(tmp_path, pixels)
    file = chunk_files(path, 0)[0]
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(ValueError, match=r"image 'he' \(level 0\) cannot be read: its chunk in row 0, column 0"):
        reader_of(path).read(np.array([[10.0, 10.0]]), field_um=8, out_px=16)


def test_a_broken_tile_of_a_slide_names_its_file_and_image(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    reader = make_reader(io.slide(path, um_per_px=0.5)["he"], image_key="he", coordinate_system="um", um_per_unit=1.0)
    with pytest.raises(ValueError, match=r"image 'he' \(level 0\) cannot be read.*he\.tif is damaged: tile 0"):
        reader.read(np.array([[10.0, 10.0]]), field_um=8, out_px=16)
