"""``storm.pp.check`` in use: how the image is stored, time and memory, bad calls, the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import spatialdata
from spatialdata.transformations import Affine, set_transformation

import storm
from section_images import pixels_of, with_image
from storm._bridge import read_spots
from storm._inference.device import Compute
from storm.cli import main
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import ArraySource
from storm.data.windows import make_windows
from storm.pp import _estimate
from storm.pp._image import chunks_needed

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture
def check(tiny_model):
    """The check with a model whose genes are the toy's, without measuring time."""

    def run(sdata, **options):
        return storm.pp.check(sdata, **{"model": tiny_model, "estimate": False} | options)

    return run


# ---------------------------------------------------------------------------------------------- image


def test_chunks_are_counted_as_they_are_needed() -> None:
    source = ArraySource(np.zeros((3, 700, 900), dtype=np.uint8), chunks_yx=(64, 128))
    reader = PatchReader([ImageLevel(source, np.array([[1.0, 0, 0], [0, 1.0, 0]]))])
    centres = np.random.default_rng(0).uniform(0, 1, (5, 2)) * (900, 700)
    n, pixels = chunks_needed(source, reader, centres, field_um=112.0, tile_px=112)
    needed = np.zeros((700, 900), dtype=bool)
    for x, y in centres:
        needed[int(max(y - 56, 0)) : int(np.ceil(y + 56)), int(max(x - 56, 0)) : int(np.ceil(x + 56))] = True
    seen = set(map(tuple, (np.argwhere(needed) // (64, 128)).tolist()))
    area = sum((min(64 * i + 64, 700) - 64 * i) * (min(128 * j + 128, 900) - 128 * j) for i, j in seen)
    assert (n, pixels) == (len(seen), area)


def test_unreadable_pixels_are_told(toy, check, tmp_path: Path) -> None:
    toy.write(tmp_path / "a.zarr")
    chunks = [p for p in (tmp_path / "a.zarr" / "images" / "he").rglob("*") if p.is_file() and p.parent.name.isdigit()]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(chunk.read_bytes()[:40])
    report = check(spatialdata.read_zarr(tmp_path / "a.zarr"))
    assert report["image"].verdict == "fail"
    assert "cannot be read" in report["image"].value
    assert report["scale"].verdict == "ok"


def test_what_is_slow_to_read_is_told(toy, check, tmp_path: Path, monkeypatch) -> None:
    toy.write(tmp_path / "a.zarr")
    stored = spatialdata.read_zarr(tmp_path / "a.zarr")
    report = check(stored)
    assert report["chunks"].verdict == "ok"
    height = report["chunks"].facts["chunk_height"]
    monkeypatch.setattr("storm._bridge.image.HUGE_CHUNK_PX", 1000)
    report = check(stored)
    assert report["chunks"].verdict == "warn"
    assert "chunks=(3, 512, 512)" in report["chunks"].explanation
    # The chunks are those that are stored, not the pieces that they are cut into.
    assert report["chunks"].facts["chunk_height"] == height


def test_a_transformation_that_cannot_be_inverted_is_told(toy, check) -> None:
    flat = Affine([[1, 0, 0], [2, 0, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(toy["he"], flat, "um")
    report = check(toy)
    assert report["image"].verdict == "fail"
    assert "cannot be inverted" in report["image"].explanation


def test_an_image_of_other_pixels_is_told(toy, check) -> None:
    report = check(with_image(toy, pixels_of(toy).astype(np.uint16)))
    assert report["image"].verdict == "fail"
    assert "uint16" in report["image"].explanation


# ---------------------------------------------------------------------------------------------- time and memory


def test_the_time_is_that_of_a_few_times_all(toy, tiny_model, monkeypatch) -> None:
    """Every measurement takes half a second here: what is left is how it is extrapolated."""

    def half_a_second(run) -> float:
        run()
        return 0.5

    monkeypatch.setattr(_estimate, "_second_time", half_a_second)
    monkeypatch.setattr(_estimate, "_TILES", 40)
    monkeypatch.setattr(_estimate, "_WINDOWS", 30)
    monkeypatch.setattr(_estimate, "_ROWS", 25)
    spots = read_spots(toy)
    windows, compute = make_windows(spots.centres), Compute.of("cpu")
    seconds = {}
    for part in ("_tiles", "_expression", "_network"):
        plain = getattr(_estimate, part)

        def noted(*args, part=part, plain=plain, **kwargs):
            seconds[part] = plain(*args, **kwargs)
            return seconds[part]

        monkeypatch.setattr(_estimate, part, noted)
    time, memory = _estimate.estimate_rows(spots, windows, tiny_model, compute, field_um=112.0)
    n = len(spots)
    last = 40 if n >= 200 else n % 40 or 40
    assert seconds["_tiles"]["tile encoder"] == pytest.approx(0.5 * n / last)
    assert seconds["_tiles"]["decoding"] == 0  # in memory
    assert seconds["_expression"] == pytest.approx(0.5 * n / 25)
    assert seconds["_network"] == pytest.approx(0.5 * n / 30)
    whole = sum(seconds["_tiles"].values()) + seconds["_expression"] + seconds["_network"]
    assert time.facts["seconds"] == pytest.approx(whole)
    assert memory.verdict == "info"
    assert memory.facts["bytes"] < 1e9
    monkeypatch.setattr(_estimate.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    _, memory = _estimate.estimate_rows(spots, windows, tiny_model, compute, field_um=112.0)
    assert memory.verdict == "warn"


def test_the_check_takes_the_devices_that_embed_takes(toy, tiny_model) -> None:
    one, two = (storm.pp.check(toy, model=tiny_model, device=device) for device in ("cpu", "cpu,cpu"))
    assert "on cpu, cpu," in two["time"].explanation
    assert [row.name for row in two.rows] == [row.name for row in one.rows]


@pytest.mark.slow
def test_the_time_is_of_the_right_size(toy, tiny_model) -> None:
    from time import perf_counter

    report = storm.pp.check(toy, model=tiny_model, device="cpu")
    storm.tl.embed(toy, model=tiny_model, device="cpu")
    start = perf_counter()
    storm.tl.embed(toy, model=tiny_model, device="cpu", key_added="again")
    taken = perf_counter() - start
    # Other work shares the machine: an order of magnitude is what is promised here.
    assert taken / 10 < report["time"].facts["seconds"] < 10 * taken
    assert report["memory"].facts["bytes"] < 1e9
    assert report["time"].verdict == "info"
    text_only = storm.pp.check(toy["table"].copy(), model=tiny_model, device="cpu")["time"]
    assert text_only.facts["seconds"] < report["time"].facts["seconds"]


# ---------------------------------------------------------------------------------------------- bad calls


def test_bad_calls_raise(toy, check) -> None:
    for key, match in (
        ("image_key", "image_key='nope' is not in sdata.images"),
        ("table_key", "table_key='nope' is not in sdata.tables"),
        ("shapes_key", "shapes_key='nope' is not in"),
        ("coordinate_system", "coordinate_system='nope' is not in the object"),
        ("layer", "layer='nope' is not in layers"),
    ):
        with pytest.raises(KeyError, match=match):
            check(toy, **{key: "nope"})
    with pytest.raises(TypeError, match="expected a SpatialData"):
        check(toy["table"].X)
    with pytest.raises(ValueError, match="field_um=0"):
        check(toy, field_um=0)
    with pytest.raises(ValueError, match="um_per_px=-1"):
        check(toy, um_per_px=-1)
    with pytest.raises(ValueError, match=r"device='nope' is not the name of a device"):
        check(toy, estimate=True, device="nope")
    with pytest.raises(ValueError, match="the object holds no table"):
        check(spatialdata.SpatialData(images={"he": toy["he"]}), store=True)
    toy["second"] = toy["he"]
    with pytest.raises(ValueError, match=r"several images; choose the H&E image with image_key="):
        check(toy)


# ---------------------------------------------------------------------------------------------- command line


def test_command_line(toy, tiny_model, tmp_path: Path, capsys) -> None:
    model = tmp_path / "model"
    tiny_model.save(model)
    toy.write(tmp_path / "good.zarr")
    with_image(toy, pixels_of(toy)[:, ::-1].copy()).write(tmp_path / "flipped.zarr")
    before = sorted(p.name for p in tmp_path.iterdir())
    options = ["--model", str(model), "--no-estimate"]
    assert main(["check", str(tmp_path / "good.zarr"), *options, "--strict"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'good.zarr'}: 13 checks: 13 ok")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    both = [str(tmp_path / name) for name in ("good.zarr", "flipped.zarr")]
    assert main(["check", *both, *options, "--figures", str(tmp_path / "seen")]) == 1
    assert "y looks mirrored" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "seen").iterdir()} == {"good.png", "flipped.png"}
    assert main(["check", both[0], str(tmp_path / "nothing.zarr"), *options]) == 2
    assert "nothing.zarr does not exist" in capsys.readouterr().err
    assert main(["check", both[0], *options, "--image-key", "nope"]) == 2
    same = str(tmp_path / "other" / "good.zarr")
    capsys.readouterr()
    assert main(["check", both[0], same, *options, "--figures", str(tmp_path / "seen")]) == 2
    assert "would both be drawn to" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "seen")
