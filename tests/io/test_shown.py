"""Pictures come out as a viewer shows them, or are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from storm import io
from storm.data.channels import rgb_order
from storm.io._open import open_image

SHAPE = (150, 210)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Red grows along x, green along y: any flip, turn or exchange of channels is seen."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.stack([x, y, (x // 16 + y // 16) % 2 * 90 + 60], axis=-1).astype(np.uint8)


def pixels_of(path: Path) -> np.ndarray:
    """Full-resolution pixels of a slide (y, x, 3), by way of its reader."""
    level = io.slide(path, um_per_px=0.5)["he"]["scale0"]["image"].data
    return level.compute(scheduler="synchronous").transpose(1, 2, 0)


def refused(path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        io.slide(path, um_per_px=0.5)
    assert path.name in str(error.value)


# ----------------------------------------------------------------------------------------------------- orientation

#: What is stored, so that a viewer that obeys the tag shows the picture (TIFF 6.0, page 36).
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}
LAYOUTS = {
    "tiles": {"tile": (64, 48), "compression": "zlib"},
    "strips": {"rowsperstrip": 16, "compression": "lzw"},
    "not compressed": {},
    "planes": {"tile": (64, 48), "planarconfig": "separate"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tag", STORED)
def test_orientation_of_a_tiff(tmp_path: Path, picture: np.ndarray, tag: int, layout: str) -> None:
    path, stored = tmp_path / "he.tif", np.ascontiguousarray(STORED[tag](picture))
    if layout == "planes":
        stored = np.ascontiguousarray(stored.transpose(2, 0, 1))
    tags = [(274, "H", 1, tag, True)]
    tifffile.imwrite(path, stored, photometric="rgb", metadata=None, extratags=tags, **LAYOUTS[layout])
    np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), picture)  # a viewer that obeys the tag
    np.testing.assert_array_equal(pixels_of(path), picture)


def test_orientation_of_a_pyramid_and_of_one_piece(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags, path = [(274, "H", 1, 6, True)], tmp_path / "he.tif"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2):
            stored = np.ascontiguousarray(np.rot90(picture[::step, ::step], 1))
            file.write(stored, photometric="rgb", tile=(32, 32), metadata=None, extratags=tags, subfiletype=step - 1)
    opened = open_image(path)
    np.testing.assert_array_equal(
        opened.levels[1].compute(scheduler="synchronous").transpose(1, 2, 0), picture[::2, ::2]
    )
    monkeypatch.setattr("storm.io._tiff._HUGE_TILE_PX", 100)
    assert isinstance(open_image(path).levels[0], np.ndarray)
    np.testing.assert_array_equal(open_image(path).levels[0].transpose(1, 2, 0), picture)


def test_blocks_of_a_turned_level_are_its_tiles(tmp_path: Path, picture: np.ndarray, monkeypatch) -> None:
    from storm.io import _lazy, _tiff

    monkeypatch.setattr(_lazy, "CHUNK", 64)
    path = tmp_path / "he.tif"
    stored = np.ascontiguousarray(np.rot90(picture, 1))
    tifffile.imwrite(
        path, stored, photometric="rgb", tile=(64, 64), compression="zlib", extratags=[(274, "H", 1, 6, True)]
    )
    decoded, decode = [], _tiff.TiffLevel._decode
    monkeypatch.setattr(_tiff.TiffLevel, "_decode", lambda self, page, k: decoded.append(k) or decode(self, page, k))
    np.testing.assert_array_equal(pixels_of(path), picture)
    assert sorted(decoded) == list(range(4 * 3))


def test_unknown_orientation(tmp_path: Path, picture: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "he.tif", picture, photometric="rgb", extratags=[(274, "H", 1, 9, True)])
    refused(tmp_path / "he.tif", "orientation 9")


@pytest.mark.parametrize("tag", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_of_a_picture(tmp_path: Path, picture: np.ndarray, tag: int, suffix: str) -> None:
    path, exif = tmp_path / f"he.{suffix}", Image.Exif()
    exif[274] = tag
    Image.fromarray(np.ascontiguousarray(STORED[tag](picture))).save(path, exif=exif, quality=98, subsampling=0)
    assert np.abs(pixels_of(path).astype(int) - picture).mean() < 3


# --------------------------------------------------------------------------------------- transparency and palettes


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "planes", "png", "webp", "png palette", "png key"])
def test_what_is_transparent_shows_paper(tmp_path: Path, picture: np.ndarray, kind: str) -> None:
    opacity = np.zeros(SHAPE, dtype=np.uint8)
    opacity[:, :70], opacity[:, 70:140] = 255, 100
    share = opacity[..., None] / 255
    wanted = picture * share + 255 * (1 - share)
    stored, path = picture.copy(), tmp_path / "he.tif"
    stored[:, 140:] = 0  # black lies below what is transparent
    rgba = np.dstack([stored, opacity])
    if kind in ("unassalpha", "planes"):
        planes = {"planarconfig": "separate", "tile": (64, 64)} if kind == "planes" else {"tile": (64, 64)}
        rgba = np.ascontiguousarray(rgba.transpose(2, 0, 1)) if kind == "planes" else rgba
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], metadata=None, **planes)
    elif kind == "assocalpha":
        rgba[..., :3] = np.round(stored * share)
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    elif kind == "png palette":
        path = path.with_suffix(".png")
        indexed = Image.fromarray(np.where(opacity > 0, 1, 0).astype(np.uint8), mode="P")
        indexed.putpalette([0, 0, 0, 200, 80, 160])
        indexed.save(path, transparency=0)
        wanted = np.where((opacity > 0)[..., None], [200, 80, 160], 255)
    elif kind == "png key":
        path = path.with_suffix(".png")
        Image.fromarray(stored).save(path, transparency=(0, 0, 0))
        wanted = np.where((stored == 0).all(axis=-1, keepdims=True), 255, stored)
    else:
        path = path.with_suffix(f".{kind}")
        Image.fromarray(rgba).save(path, lossless=True, exact=True)
    assert np.abs(pixels_of(path) - wanted).max() <= 1.5


def test_an_extra_sample_that_is_not_alpha_is_left_out(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, np.dstack([picture, picture[..., :1]]), photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(pixels_of(path), picture)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_of_a_tiff(tmp_path: Path, bits: int) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 256, SHAPE, dtype=np.uint8)
    colours = rng.integers(0, 256, (3, 256), dtype=np.uint16)
    path = tmp_path / "he.tif"
    stored = colours if bits == 8 else colours * 257
    tifffile.imwrite(path, index, photometric="palette", colormap=stored.astype(np.uint16), tile=(64, 64))
    np.testing.assert_array_equal(pixels_of(path), colours.astype(np.uint8)[:, index].transpose(1, 2, 0))


# ---------------------------------------------------------------------------------------------- colours and samples


@pytest.mark.parametrize(
    ("photometric", "words"),
    [("minisblack", "gray"), ("miniswhite", "0 is white"), ("cielab", "CIELAB"), ("ycbcr", "YCbCr")],
)
def test_three_samples_that_are_not_rgb(tmp_path: Path, picture: np.ndarray, photometric: str, words: str) -> None:
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, picture, photometric="rgb", tile=(64, 64), compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(tifffile.PHOTOMETRIC[photometric.upper()])
    refused(path, words)


def test_inks(tmp_path: Path, picture: np.ndarray) -> None:
    inks = np.dstack([255 - picture, np.zeros(SHAPE, dtype=np.uint8)])
    tifffile.imwrite(tmp_path / "he.tif", inks, photometric="separated", metadata=None)
    refused(tmp_path / "he.tif", "CMYK")
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "he.jpg")
    refused(tmp_path / "he.jpg", "CMYK")


def test_planes_that_are_inverted(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "he.ome.tif"
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="miniswhite", metadata={"axes": "CYX"})
    refused(path, "0 is white")


def test_other_depths(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "he.tif"
    for pixels in (picture.astype(np.uint16) * 257, picture.astype(np.uint16) * 16, picture / np.float32(255)):
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64))
        refused(path, "holds 3 channels of (uint16|float32)")
    tifffile.imwrite(path, picture.view(np.int8), photometric="rgb")
    refused(path, "int8")
    tifffile.imwrite(path, picture[..., 0], photometric="minisblack", tile=(64, 64))
    refused(path, "1 channel of uint8")
    for mode, words in (
        ("L", "1 channel of uint8"),
        ("1", "1 channel of bool"),
        ("I;16", "uint16"),
        ("LA", "2 channels"),
    ):
        Image.fromarray(picture).convert("L").convert(mode).save(tmp_path / "he.png")
        refused(tmp_path / "he.png", words)


def test_four_bits_are_not_taken_for_eight(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, picture >> 4, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["BitsPerSample"].overwrite((4, 4, 4))
    refused(path, "4 bits per sample")


# --------------------------------------------------------------------------------------------------------- channels

STAINS = ["DAPI", "CD3", "CD8"]


def ome(path: Path, pixels: np.ndarray, **channels) -> Path:
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX", "Channel": channels})
    return path


@pytest.mark.parametrize(
    "channels",
    [
        {"Name": STAINS},
        {"Name": ["red", "green", "DAPI"]},
        {"Name": ["Channel 0", "Channel 1", "Cy5"]},
        {"Fluor": STAINS},
        {"EmissionWavelength": [461, 519, 570]},
        {"Color": [0x0000FFFF, 0x00FF00FF, 0x00FFFFFF]},  # blue, green, cyan
    ],
)
def test_fluorescence_of_eight_bits(tmp_path: Path, picture: np.ndarray, channels: dict) -> None:
    refused(ome(tmp_path / "if.ome.tif", picture, **channels), "not red, green and blue")


@pytest.mark.parametrize(
    ("channels", "order"),
    [
        ({}, [0, 1, 2]),
        ({"Name": ["Channel:0:0", "Channel:0:1", "Channel:0:2"]}, [0, 1, 2]),
        ({"Name": ["Red", "Green", "Blue"]}, [0, 1, 2]),
        ({"Name": ["b", "g", "r"]}, [2, 1, 0]),
        ({"Color": [0x0000FFFF, 0x00FF00FF, -16776961]}, [2, 1, 0]),
        ({"Color": [-1, -1, -1]}, [0, 1, 2]),
    ],
)
def test_planes_that_are_red_green_and_blue(tmp_path: Path, picture: np.ndarray, channels: dict, order) -> None:
    path = ome(tmp_path / "he.ome.tif", picture, **channels)
    np.testing.assert_array_equal(pixels_of(path), picture[..., order])


def test_four_planes(tmp_path: Path, picture: np.ndarray) -> None:
    refused(ome(tmp_path / "if.ome.tif", np.dstack([picture, picture[..., :1]])), "4 channels without names")


def test_samples_of_a_stain(tmp_path: Path, picture: np.ndarray) -> None:
    """Three samples of one page may be one channel that emits light."""
    path = tmp_path / "he.ome.tif"
    metadata = {"axes": "YXS", "Channel": {"EmissionWavelength": [461]}}
    tifffile.imwrite(path, picture, photometric="rgb", metadata=metadata)
    refused(path, "EmissionWavelength 461")
    tifffile.imwrite(path, picture, photometric="rgb", metadata={"axes": "YXS", "Channel": {"Name": ["Brightfield"]}})
    np.testing.assert_array_equal(pixels_of(path), picture)


def test_stack_of_imagej(tmp_path: Path, picture: np.ndarray) -> None:
    path, planes = tmp_path / "stack.tif", np.ascontiguousarray(picture.transpose(2, 0, 1))
    tables = np.zeros((3, 3, 256), dtype=np.uint8)
    for k in range(3):
        tables[k, 2 - k] = np.arange(256)  # the first channel is blue
    for metadata, order in (({}, [0, 1, 2]), ({"LUTs": list(tables)}, [2, 1, 0]), ({"Labels": STAINS}, None)):
        tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX", "mode": "composite", **metadata})
        if order is None:
            refused(path, "DAPI")
        else:
            np.testing.assert_array_equal(pixels_of(path), picture[..., order])


@pytest.mark.parametrize(
    ("channels", "order"),
    [
        ([{"label": name} for name in STAINS], None),
        ([{"label": "0", "color": colour} for colour in ("0000FF", "00FF00", "FFFF00")], None),
        ([{"label": "0", "color": colour} for colour in ("0000FF", "00FF00", "FF0000")], [2, 1, 0]),
        ([{"label": name, "color": "FFFFFF"} for name in ("red", "green", "blue")], [0, 1, 2]),
        (None, [0, 1, 2]),
    ],
)
def test_omero_channels(tmp_path: Path, picture: np.ndarray, channels, order) -> None:
    group = zarr.open_group(tmp_path / "he.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.ascontiguousarray(picture.transpose(2, 1, 0)), chunks=(3, 64, 64))
    axes = [{"name": "c", "type": "channel"}] + [{"name": a, "type": "space"} for a in "xy"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}], "version": "0.4"}]
    if channels is not None:
        group.attrs["omero"] = {"channels": channels}
    if order is None:
        refused(tmp_path / "he.zarr", "not red, green and blue")
    else:
        np.testing.assert_array_equal(pixels_of(tmp_path / "he.zarr"), picture[..., order])


def test_names_of_an_element(picture: np.ndarray) -> None:
    from spatialdata.models import Image2DModel

    from storm._bridge.image import check_image

    planes = picture.transpose(2, 0, 1)
    with pytest.raises(ValueError, match=r"image 'if' has the channels \['DAPI', 'CD3', 'CD8'\].*image_key="):
        check_image(Image2DModel.parse(planes, dims=("c", "y", "x"), c_coords=STAINS), "if")
    for names, order in ((["r", "g", "b"], (0, 1, 2)), (["blue", "green", "red"], (2, 1, 0)), ([0, 1, 2], (0, 1, 2))):
        assert check_image(Image2DModel.parse(planes, dims=("c", "y", "x"), c_coords=names), "he") == order


def test_rgb_order() -> None:
    assert rgb_order(["Green", " red", "BLUE"]) == (1, 0, 2)
    assert rgb_order(["Channel 1", "Channel 2", "Channel 3"]) == (0, 1, 2)
    assert rgb_order(["", "", ""], [(0, 255, 0), (255, 0, 0), (0, 0, 255)]) == (1, 0, 2)
    assert rgb_order(["", "", ""], [None, (255, 255, 255), (255, 255, 255)]) == (0, 1, 2)
    for names in (["r", "r", "b"], ["r", "g"], ["r", "g", "b", "a"], ["C3", "C4", "CK"], ["R", "G", "DAPI"]):
        assert rgb_order(names) is None
    assert rgb_order(["", "", ""], [(0, 255, 0), (255, 0, 0), (0, 255, 255)]) is None
