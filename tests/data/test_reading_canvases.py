"""Canvases and the filter on the device: the same patches as the reader's, cut elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from planted_pixels import IDENTITY, noise, pyramid, smooth
from storm.data import resample
from storm.data.crop import crop_patches
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import ArraySource
from storm.data.sweep import Sweep

AXES = {
    "upright": np.array([[1.0, 0, 0.3], [0, 1, 0.7]]),
    "mirrored": np.array([[-1.3, 0, 140.4], [0, 1.3, 2.0]]),
    "upside down": np.array([[1.3, 0, 2.0], [0, -1.3, 140.4]]),
    "quarter turn": np.array([[0, -1.3, 140.4], [1.3, 0, 2.2]]),
    "transposed": np.array([[0, 1.3, 1.4], [1.1, 0, 2.2]]),
    "anisotropic": np.array([[0.8, 0, 1.4], [0, 1.7, 2.2]]),
}


def cut(reader: PatchReader, centres: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray]:
    """Patches by way of canvases, in the order of the centres, and how often each centre came."""
    out = np.full((len(centres), options["out_px"], options["out_px"], 3), 255.0)
    times = np.zeros(len(centres), dtype=int)
    for canvas in reader.iter_canvases(centres, **options):
        turn = {"flip_x": canvas.flip_x, "flip_y": canvas.flip_y, "turned": canvas.turned}
        patches = crop_patches(torch.from_numpy(canvas.pixels), canvas.boxes, out_px=options["out_px"], **turn)
        assert patches.dtype == torch.float32
        out[canvas.index] = patches.permute(0, 2, 3, 1).numpy()
        times[canvas.index] += 1
    return out, times


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize(("field", "out_px"), [(30, 24), (12, 40), (150, 20), (24, 24)])
def test_patches_are_those_of_the_reader(name: str, field: int, out_px: int) -> None:
    reader = PatchReader([ImageLevel(ArraySource(noise(300, 260), chunks_yx=(64, 64)), AXES[name])])
    x0, y0, x1, y1 = reader.extent_um
    centres = np.random.default_rng(0).uniform((x0 - 9, y0 - 9), (x1 + 9, y1 + 9), (70, 2))  # some hang over, some miss
    options = {"field_um": field * reader.um_per_px, "out_px": out_px}
    expected = reader.read(centres, **options)
    patches, times = cut(reader, centres, **options, batch_size=16)
    np.testing.assert_array_equal(times, reader.inside(centres))
    difference = np.abs(patches - expected)
    assert difference.max() <= 1
    assert difference.mean() < 5e-4


def test_whole_pixels_are_copied() -> None:
    canvas = noise(60, 50)
    patches = crop_patches(torch.from_numpy(canvas), np.array([[3.0, 5, 19, 21]]), out_px=16)
    np.testing.assert_array_equal(patches[0].numpy(), canvas[:, 5:21, 3:19])


def test_boxes_may_hang_over_the_canvas() -> None:
    """As if the canvas had been larger, of the colour that fills."""
    canvas = smooth(60, 50)
    large = np.pad(canvas, ((0, 0), (40, 40), (40, 40)), constant_values=7)
    boxes = np.array([[-9.7, 3.2, 10.6, 23.5], [35.1, 45.9, 60.0, 70.8], [-30, -30, -9.5, -9.5], [-8.0, -8, 60, 70]])
    boxes[3, 3] = 60.0
    hanging = crop_patches(torch.from_numpy(canvas), boxes, out_px=18, fill=7)
    lying = crop_patches(torch.from_numpy(large), boxes + 40, out_px=18)
    assert (hanging - lying).abs().max() <= 1
    assert (hanging - lying).abs().mean() < 1e-3
    assert (hanging[2] == 7).all()


def test_fields_of_different_sizes_in_one_call() -> None:
    canvas = torch.from_numpy(noise(90, 80))
    boxes = np.array([[2.2, 3.3, 22.8, 23.9], [10, 10, 60.5, 60.5], [5.5, 7, 9, 70]])
    together = crop_patches(canvas, boxes, out_px=16)
    alone = torch.cat([crop_patches(canvas, box[None], out_px=16) for box in boxes])
    assert (together - alone).abs().max() <= 1
    assert (together - alone).abs().mean() < 1e-3


def test_canvases_are_small_and_hold_a_batch() -> None:
    reader = PatchReader([ImageLevel(ArraySource(noise(900, 700), chunks_yx=(64, 64)), IDENTITY)])
    centres = np.random.default_rng(0).uniform((0, 0), (700, 900), (3000, 2))
    canvases = list(reader.iter_canvases(centres, field_um=20, out_px=20, batch_size=50, max_px=160 * 160))
    assert max(len(canvas.index) for canvas in canvases) <= 50
    assert max(canvas.pixels[0].size for canvas in canvases) <= 160 * 160
    for canvas in canvases:
        height, width = canvas.pixels.shape[1:]
        assert (canvas.boxes >= 0).all()
        assert (canvas.boxes[:, 2:] <= (width, height)).all()
    assert sum(canvas.pixels[0].size for canvas in canvases) < 3 * 900 * 700  # little is sent twice
    assert sorted(np.concatenate([canvas.index for canvas in canvases])) == list(range(3000))


@pytest.mark.parametrize("channels_last", [False, True])
def test_canvases_lie_in_memory_as_the_chunks_do(channels_last: bool) -> None:
    """Which is faster to copy; the compiled filter gets planes."""
    image = noise(300, 260)
    stored = np.ascontiguousarray(image.transpose(1, 2, 0)).transpose(2, 0, 1) if channels_last else image
    source = ArraySource(stored, chunks_yx=(64, 48))
    centres = np.random.default_rng(0).uniform((-9, -9), (269, 309), (70, 2))
    reader = PatchReader([ImageLevel(source, IDENTITY)])
    canvases = list(reader.iter_canvases(centres, field_um=20, out_px=20, batch_size=16))
    planes = Sweep(source, rects=rects_of(reader, centres), max_px=16_000_000, max_rows=16)
    for canvas, plane in zip(canvases, planes, strict=True):
        assert canvas.pixels.transpose(1, 2, 0).flags.c_contiguous == channels_last
        assert plane.pixels.flags.c_contiguous
        np.testing.assert_array_equal(canvas.index, np.flatnonzero(reader.inside(centres))[plane.rows])
        for x0, y0, x1, y1 in np.rint(canvas.boxes).astype(int):
            np.testing.assert_array_equal(canvas.pixels[:, y0:y1, x0:x1], plane.pixels[:, y0:y1, x0:x1])
            wanted = np.full((3, y1 - y0, x1 - x0), 255)
            top, left = y0 + plane.y0, x0 + plane.x0
            here = image[:, max(top, 0) : top + y1 - y0, max(left, 0) : left + x1 - x0]
            wanted[:, max(-top, 0) :, max(-left, 0) :][:, : here.shape[1], : here.shape[2]] = here
            np.testing.assert_array_equal(plane.pixels[:, y0:y1, x0:x1], wanted)


def rects_of(reader: PatchReader, centres: np.ndarray) -> np.ndarray:
    """Whole pixels that fields of 20 µm need at 1 µm per pixel."""
    resampler = resample.Resampler(IDENTITY, field_um=20, out_px=20)
    return resampler.rects(resampler.boxes(centres[reader.inside(centres)]))


def test_the_level_is_the_reader_s() -> None:
    reader = pyramid(noise(512, 512))
    (canvas,) = reader.iter_canvases(np.array([[250.0, 250]]), field_um=160, out_px=40)
    assert canvas.pixels.shape == (3, 41, 41)  # 40 pixels of the level of 4 µm/px, from the middle of one on
    assert list(reader.iter_canvases(np.zeros((0, 2)), field_um=8, out_px=8)) == []


def test_rotated_images_have_no_boxes() -> None:
    turned = np.array([[1, 0.4, 0], [-0.4, 1, 100]])
    reader = PatchReader([ImageLevel(ArraySource(noise(300, 260)), turned)])
    assert not reader.boxes_suffice(20, 20)
    with pytest.raises(ValueError, match="use iter_patches"):
        reader.iter_canvases(np.array([[100.0, 100]]), field_um=20, out_px=20)
    assert pyramid(noise(64, 64)).boxes_suffice(20, 20)


def test_bad_arguments() -> None:
    canvas = torch.zeros((3, 20, 20), dtype=torch.uint8)
    box = np.array([[1.0, 1, 5, 5]])
    with pytest.raises(TypeError, match="uint8"):
        crop_patches(canvas.float(), box, out_px=4)
    with pytest.raises(ValueError, match=r"\(3, h, w\)"):
        crop_patches(canvas.permute(1, 2, 0), box, out_px=4)
    with pytest.raises(ValueError, match=r"\(b, 4\)"):
        crop_patches(canvas, box[0], out_px=4)
    with pytest.raises(ValueError, match="x0 < x1"):
        crop_patches(canvas, np.array([[1.0, 1, 1, 5]]), out_px=4)
    assert crop_patches(canvas, np.zeros((0, 4)), out_px=4).shape == (0, 3, 4, 4)


def test_both_filters_of_the_reader_agree_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "_WORTH_S", 0)
    reader = PatchReader([ImageLevel(ArraySource(smooth(300, 260)), AXES["mirrored"])])
    centres = np.random.default_rng(0).uniform(20, 90, (40, 2))
    expected = reader.read(centres, field_um=31.7, out_px=56)
    patches, _ = cut(reader, centres, field_um=31.7, out_px=56)
    assert np.abs(patches - expected).max() <= 1
    assert (patches != expected).mean() < 1e-3
