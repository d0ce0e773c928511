"""Slides: formats, µm per pixel, laziness, and what is no slide."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from storm import io
from storm._bridge.read import read_spots
from storm.io import _tiff
from storm.io._lazy import HalvedLevel
from storm.io._open import open_image
from storm.io._openslide import open_openslide
from storm.io._pyramid import halve
from storm.io._tiff import TiffLevel, open_tiff

SIZE = (1000, 1300)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def levels(file: tifffile.TiffWriter, pixels: np.ndarray, *, sub: bool, metadata=None, **options) -> None:
    options = {"photometric": "rgb", "tile": (256, 256)} | options
    if sub:
        options["subfiletype"] = 0
    file.write(pixels, metadata=metadata, **({"subifds": 2} if sub else {}), **options)
    for step in (2, 4):
        file.write(pixels[::step, ::step], metadata=None, **options | {"subfiletype": 1})


def um_tags(um: float) -> dict:
    return {"resolution": (10_000 / um, 10_000 / um), "resolutionunit": 3}


def write(path: Path, kind: str, pixels: np.ndarray) -> Path:
    """One of the layouts in which TIFF holds an RGB image."""
    path = path / f"{kind}.tif"
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if kind == "pyramid":
        with tifffile.TiffWriter(path) as file:
            levels(file, pixels, sub=False, compression="deflate", **um_tags(0.5))
    elif kind == "ome":
        path = path.with_name("he.ome.tif")
        size = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
        with tifffile.TiffWriter(path) as file:
            levels(file, pixels, sub=True, metadata={"axes": "YXS", **size})
    elif kind == "ome channels":
        path = path.with_name("channels.ome.tif")
        tifffile.imwrite(path, planes, photometric="minisblack", tile=(256, 256), metadata={"axes": "CYX"})
    elif kind == "planes":
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(256, 256))
    elif kind == "alpha":
        rgba = np.dstack([pixels, np.full(SIZE, 255, dtype=np.uint8)])
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(128, 128))
    elif kind == "bigtiff jpeg":
        path = path.with_suffix(".btf")
        tifffile.imwrite(path, pixels, photometric="rgb", compression="jpeg", tile=(256, 256), bigtiff=True)
    else:
        strips = {"thin strips": 8, "one strip": SIZE[0], "not compressed": SIZE[0]}[kind]
        compression = None if kind == "not compressed" else "lzw"
        tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, rowsperstrip=strips)
    return path


KINDS = {
    "pyramid": (0.5, 3),
    "ome": (0.25, 3),
    "ome channels": (None, 1),
    "planes": (None, 1),
    "alpha": (None, 1),
    "bigtiff jpeg": (None, 1),
    "thin strips": (None, 1),
    "one strip": (None, 1),
    "not compressed": (None, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tiff(tmp_path: Path, pixels: np.ndarray, kind: str) -> None:
    path = write(tmp_path, kind, pixels)
    um, n_levels = KINDS[kind]
    opened = open_image(path)
    assert opened.um_per_px == (None if um is None else pytest.approx(um))
    assert opened.size == SIZE[::-1]
    assert [level.shape[1:] for level in opened.levels] == [(1000, 1300), (500, 650), (250, 325)][:n_levels]
    wanted = tifffile.imread(path)
    wanted = wanted[..., :3] if wanted.shape[-1] == 4 else wanted
    wanted = wanted if wanted.shape[-1] == 3 else wanted.transpose(1, 2, 0)
    np.testing.assert_array_equal(opened.levels[0].compute().transpose(1, 2, 0), wanted)

    level = pickle.loads(pickle.dumps(open_tiff(path)[0][0]))
    with ThreadPoolExecutor(4) as pool:  # as dask reads when it writes a store
        boxes = list(pool.map(lambda y: level.read(y, 130, (77, 400)), range(0, 800, 50)))
    for y, box in zip(range(0, 800, 50), boxes, strict=True):
        np.testing.assert_array_equal(box.transpose(1, 2, 0), wanted[y : y + 77, 130:530])


def test_each_tile_is_decoded_once(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "pyramid", pixels)
    seen = []
    decode = TiffLevel._decode

    def counted(self: TiffLevel, page, index: int):
        seen.append((self._level, index))
        return decode(self, page, index)

    monkeypatch.setattr(TiffLevel, "_decode", counted)
    sdata = io.slide(path)
    assert not seen  # nothing is decoded by opening
    reader = read_spots_of(sdata)
    centres = np.random.default_rng(0).uniform(0, 500, (400, 2))
    reader.read(centres, field_um=40, out_px=80)
    assert len(seen) == len(set(seen))
    assert {level for level, _ in seen} == {0}
    seen.clear()
    reader.read(centres, field_um=160, out_px=80)
    assert {level for level, _ in seen} == {2}


def read_spots_of(sdata):
    """The patch reader of an object that holds nothing but an image."""
    from storm._bridge.image import make_reader

    return make_reader(sdata.images["he"], image_key="he", coordinate_system="um", um_per_unit=1.0)


def test_levels_that_a_file_lacks(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2301, 2600, 3), dtype=np.uint8)
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(240, 240))
    opened = open_image(path)
    assert [level.shape[1:] for level in opened.levels] == [(2301, 2600), (1150, 1300), (575, 650)]
    wanted = halve(pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(opened.levels[1].compute(), wanted)
    np.testing.assert_array_equal(opened.levels[2].compute(), halve(wanted))
    coarse = HalvedLevel(open_tiff(path)[0][0])
    np.testing.assert_array_equal(coarse.read(101, 203, (300, 411)), wanted[:, 101:401, 203:614])


def test_one_huge_piece_is_decoded_once(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tiff, "_HUGE_TILE_PX", 100_000)
    opened = open_image(write(tmp_path, "one strip", pixels))
    assert isinstance(opened.levels[0], np.ndarray)
    np.testing.assert_array_equal(opened.levels[0].transpose(1, 2, 0), pixels)
    assert not isinstance(open_image(write(tmp_path, "not compressed", pixels)).levels[0], np.ndarray)


def test_picture(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(pixels).save(tmp_path / "he.png")
    sdata = io.slide(tmp_path / "he.png", um_per_px=0.5)
    np.testing.assert_array_equal(sdata["he"]["scale0"]["image"].to_numpy().transpose(1, 2, 0), pixels)
    # larger than what Pillow lets pass
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    np.testing.assert_array_equal(open_image(tmp_path / "he.png").levels[0].transpose(1, 2, 0), pixels)


@pytest.mark.parametrize("version", ["0.4", "0.5", "nested"])
@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc"])
def test_ome_zarr(tmp_path: Path, pixels: np.ndarray, version: str, axes: str) -> None:
    kinds = {"c": "channel", "t": "time"}
    group = root = zarr.open_group(tmp_path / "he.zarr", mode="w", zarr_format=3 if version == "0.5" else 2)
    if version == "nested":
        group = root.create_group("0")
    datasets = []
    for k, step in enumerate((1, 2)):
        data = pixels[::step, ::step].transpose(*("yxc".index(a) for a in axes if a in "yxc"))
        data = data[tuple(slice(None) if a in "yxc" else None for a in axes)]
        group.create_array(str(k), data=data, chunks=tuple(min(256, n) for n in data.shape))
        scale = [0.25 * step if a in "yx" else 1.0 for a in axes]
        datasets.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    told = [{"name": a, "type": kinds.get(a, "space")} | ({"unit": "micrometer"} if a in "yx" else {}) for a in axes]
    image = [{"axes": told, "datasets": datasets, "version": "0.4"}]
    group.attrs.update({"ome": {"multiscales": image}} if version == "0.5" else {"multiscales": image})
    sdata = io.slide(tmp_path / "he.zarr")
    assert sdata.attrs["storm_io"]["um_per_px"] == 0.25
    np.testing.assert_array_equal(sdata["he"]["scale0"]["image"].to_numpy().transpose(1, 2, 0), pixels)
    assert sdata["he"]["scale1"]["image"].shape == (3, 500, 650)


# ------------------------------------------------------------------------------------------------------- OpenSlide


def test_openslide_sees_the_same(tmp_path: Path, pixels: np.ndarray) -> None:
    pytest.importorskip("openslide")
    path = write(tmp_path, "pyramid", pixels)
    found, _, _ = open_openslide(path)
    assert [level.shape for level in found] == [(1000, 1300), (500, 650), (250, 325)]
    for level, other in zip(found, open_tiff(path)[0], strict=True):
        np.testing.assert_array_equal(level.to_dask().compute(), other.to_dask().compute())
        again = pickle.loads(pickle.dumps(level))
        np.testing.assert_array_equal(again.read(30, 40, (50, 60)), other.read(30, 40, (50, 60)))


def test_without_openslide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openslide" else find(name, *a))
    path = tmp_path / "slide.mrxs"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(ImportError, match=r"slide\.mrxs.*pip install 'storm-spatial\[slide\]'"):
        io.slide(path)
    path = tmp_path / "slide.dcm"  # which nothing else can read, so that nothing else was tried
    path.write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(ImportError, match=r"^reading .*slide\.dcm needs the package 'openslide'"):
        io.slide(path)


# ------------------------------------------------------------------------------------------------ µm per pixel, errors


def test_the_scale_is_that_of_the_image_and_not_of_its_label(tmp_path: Path, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        for part, um in ((pixels[:100, :120], 20.0), (pixels, 0.25)):
            facts = {"PhysicalSizeX": um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": um, "PhysicalSizeYUnit": "µm"}
            file.write(part, photometric="rgb", metadata={"axes": "YXS", **facts})
    sdata = io.slide(tmp_path / "two.ome.tif")
    assert sdata.attrs["storm_io"]["um_per_px"] == 0.25
    np.testing.assert_array_equal(sdata["he"]["scale0"]["image"].to_numpy().transpose(1, 2, 0), pixels)


def test_scale(tmp_path: Path, pixels: np.ndarray) -> None:
    silent = write(tmp_path, "thin strips", pixels)
    with pytest.raises(ValueError, match=r"thin strips\.tif does not tell its µm per pixel; pass um_per_px="):
        io.slide(silent)
    assert io.slide(silent, um_per_px=0.3).attrs["storm_io"]["um_per_px"] == 0.3
    told = write(tmp_path, "pyramid", pixels)
    assert io.slide(told).attrs["storm_io"]["um_per_px_source"] == "the TIFF's resolution tags"
    assert io.slide(told, um_per_px=0.51).attrs["storm_io"]["um_per_px"] == 0.51
    with pytest.raises(ValueError, match=r"0\.25 from the argument um_per_px, 0\.5 from the TIFF's resolution tags"):
        io.slide(told, um_per_px=0.25)
    with pytest.raises(ValueError, match="um_per_px=-1"):
        io.slide(told, um_per_px=-1)


SIZES = [
    ("0.5", 0.5),
    ("0,500000", 0.5),  # a scanner's program on a machine with a European locale
    ("1", 1.0),
    ("0", None),
    ("-0.5", None),
    ("unknown", None),
    ("nan", None),
    ("1e12", None),
    ("", None),
]


@pytest.mark.parametrize("openslide", [True, False])
@pytest.mark.parametrize(("text", "um"), SIZES)
@pytest.mark.parametrize("kind", ["svs", "ome"])
def test_sizes_that_are_not_a_scale(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch, kind: str, text: str, um, openslide: bool
) -> None:
    import importlib.util

    if not openslide:  # the plain installation
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *a: None if name == "openslide" else find(name, *a)
        )
    if kind == "svs":
        path = tmp_path / "slide.svs"
        description = f"Aperio Image Library v1\r\n1300x1000|AppMag = 20|MPP = {text}"
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), description=description, metadata=None)
    else:
        path = tmp_path / "slide.ome.tif"
        facts = {f"PhysicalSize{axis}": text for axis in "XY"}
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), metadata={"axes": "YXS", **facts})
    assert open_image(path).um_per_px == um
    if um is None:
        with pytest.raises(ValueError, match=r"does not tell its µm per pixel; pass um_per_px="):
            io.slide(path)
    assert io.slide(path, um_per_px=um or 0.25).attrs["storm_io"]["um_per_px"] == (um or 0.25)


@pytest.mark.parametrize("um", [1e12, 1e-9, True, "0.5", float("nan"), -0.5])
def test_a_scale_that_no_image_has(tmp_path: Path, pixels: np.ndarray, um) -> None:
    with pytest.raises((ValueError, TypeError), match="um_per_px"):
        io.slide(write(tmp_path, "thin strips", pixels), um_per_px=um)


@pytest.mark.parametrize(("resolution", "um"), [((300, 300), None), ((72, 72), None), ((50_800, 50_800), 0.5)])
def test_resolution_of_a_print_is_none(tmp_path: Path, pixels: np.ndarray, resolution, um) -> None:
    tifffile.imwrite(tmp_path / "he.tif", pixels, photometric="rgb", resolution=resolution, resolutionunit=2)
    assert open_image(tmp_path / "he.tif").um_per_px == (None if um is None else pytest.approx(um))


def test_pixels_that_are_not_square(tmp_path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "he.tif", pixels, photometric="rgb", resolution=(20_000, 10_000), resolutionunit=3)
    with pytest.raises(ValueError, match=r"not square: 0\.5 × 1 µm"):
        io.slide(tmp_path / "he.tif")


def test_what_is_no_slide(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        io.slide(tmp_path / "nowhere.svs")
    noise = tmp_path / "noise.svs"
    noise.write_bytes(b"no slide at all" * 20)
    with pytest.raises((ValueError, ImportError), match=r"noise\.svs cannot be read as an image; tried as TIFF"):
        io.slide(noise)
    whole = write(tmp_path, "pyramid", pixels)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises((ValueError, ImportError), match=r"cut\.tif"):
        io.slide(cut)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    half = tmp_path / "half.png"
    half.write_bytes((tmp_path / "he.png").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"half\.png cannot be read as an image; tried as picture"):
        io.slide(half)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder cannot be read as an image; tried as OME-Zarr"):
        io.slide(tmp_path / "folder")


def test_file_that_ends_too_early(tmp_path: Path, pixels: np.ndarray) -> None:
    """Its directory stands at the front, so that it opens, and the last tiles are missing, or the list of tiles."""
    whole = write(tmp_path, "alpha", pixels)
    with tifffile.TiffFile(whole) as file:
        listed = file.pages[0].tags["TileByteCounts"].valueoffset
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: listed + 4])
    with pytest.raises(ValueError, match=r"cut\.tif is truncated: the list of its tiles"):
        io.slide(cut)
    cut.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.tif is truncated"):
        io.slide(cut)


def test_damaged_tile(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write(tmp_path, "pyramid", pixels)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[5]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    sdata = io.slide(path)
    with pytest.raises(ValueError, match=r"pyramid\.tif is damaged: tile 5 of level 0"):
        sdata["he"]["scale0"]["image"].data.compute(scheduler="synchronous")


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_processes_have_a_file_of_their_own(tmp_path: Path, pixels: np.ndarray) -> None:
    """With one position in a file between them, readers get each other's tiles."""
    level = open_tiff(write(tmp_path, "pyramid", pixels))[0][0]
    level.read(0, 0, (10, 10))
    start, handle = multiprocessing.get_context("fork"), level._file.filehandle
    handle.seek(1)
    there, here = start.Pipe()
    with level._lock:  # as a thread may hold it that is not there in the fork
        worker = start.Process(target=lambda: here.send(level.read(300, 400, (200, 300))), daemon=True)
        worker.start()
        assert there.poll(60)
        found = there.recv()
        worker.join(60)
    np.testing.assert_array_equal(found, pixels[300:500, 400:700].transpose(2, 0, 1))
    assert handle.tell() == 1


def test_openslide_names_a_damaged_tile(tmp_path: Path, pixels: np.ndarray) -> None:
    pytest.importorskip("openslide")
    path = write(tmp_path, "pyramid", pixels)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[5]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    level = open_openslide(path)[0][0]
    with pytest.raises(ValueError, match=r"pyramid\.tif is damaged: level 0 cannot be decoded at x = 0, y = 0"):
        level.read(0, 0, level.shape)


@pytest.mark.parametrize("end", [6, 10, 40, 90, 130, 170])
def test_header_that_ends_too_early(tmp_path: Path, pixels: np.ndarray, end: int) -> None:
    """tifffile meets the end of the header as struct.error, IndexError and others."""
    cut = tmp_path / "cut.tif"
    cut.write_bytes(write(tmp_path, "alpha", pixels).read_bytes()[:end])
    with pytest.raises(ValueError, match=r"cut\.tif cannot be read as an image; tried as TIFF"):
        io.slide(cut)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 2), (5, 40, 50, 3)])
def test_what_is_no_rgb(tmp_path: Path, shape) -> None:
    photometric = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "if.tif", np.zeros(shape, dtype=np.uint8), photometric=photometric)
    with pytest.raises(ValueError, match=r"if\.tif holds"):
        io.slide(tmp_path / "if.tif", um_per_px=0.5)
    tifffile.imwrite(tmp_path / "if16.tif", np.zeros((40, 50, 3), dtype=np.uint16), photometric="rgb")
    with pytest.raises(ValueError, match=r"if16\.tif holds 3 channels of uint16"):
        io.slide(tmp_path / "if16.tif", um_per_px=0.5)
    Image.fromarray(np.zeros((40, 50), dtype=np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(ValueError, match=r"grey\.png holds 1 channel of uint8"):
        io.slide(tmp_path / "grey.png", um_per_px=0.5)


def test_spatialdata_store_is_not_opened_as_a_slide(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "section.zarr", mode="w")
    group.attrs["spatialdata_attrs"] = {"version": "0.2"}
    with pytest.raises(ValueError, match=r"spatialdata\.read_zarr"):
        io.slide(tmp_path / "section.zarr")


# ------------------------------------------------------------------------------------------------------------ real


def test_real_slides(shared_data: Path) -> None:
    folder = shared_data / "wsi"
    small = io.slide(folder / "cmu-1-small-region.svs")
    assert small.attrs["storm_io"]["um_per_px"] == 0.499
    assert "MPP" in small.attrs["storm_io"]["um_per_px_source"]
    with pytest.raises(ValueError, match=r"does not tell its µm per pixel; pass um_per_px="):
        io.slide(folder / "tcga-cr-7395-01a-01-ts1.svs")
    with pytest.raises((ValueError, ImportError), match=r"broken\.svs cannot be read as an image; tried as TIFF"):
        io.slide(folder / "broken.svs")
    large = io.slide(folder / "tcga-cr-7395-01a-01-ts1.svs", um_per_px=0.5)
    assert [large["he"][k]["image"].shape[1:] for k in ("scale0", "scale1")] == [(3567, 4443), (1783, 2221)]


def test_real_slides_are_what_openslide_reads(shared_data: Path) -> None:
    openslide = pytest.importorskip("openslide")
    for path in sorted((shared_data / "wsi").glob("[ct]*.svs")):
        found = open_image(path).levels  # and coarser ones, where the file has none
        with openslide.OpenSlide(path) as slide:
            for k, level in enumerate(found[: slide.level_count]):
                wanted = np.asarray(slide.read_region((0, 0), k, slide.level_dimensions[k]))[..., :3]
                np.testing.assert_array_equal(level.compute().transpose(1, 2, 0), wanted)


def test_real_slide_is_embedded(shared_data: Path, toy_once) -> None:
    import storm

    sdata = io.slide(shared_data / "wsi" / "cmu-1-small-region.svs")
    storm.tl.embed(sdata, modality="he", field_um=112.0)
    spots = read_spots(sdata, table=False)
    assert np.isfinite(sdata["tiles"].obsm["X_storm"]).all()
    assert spots.scale.um_per_px == pytest.approx(0.499)
    assert json.dumps(sdata.attrs["storm_io"])
