"""The compiled filter gives Pillow's pixels, and is used where it pays."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from planted_pixels import IDENTITY, noise
from storm.data import resample
from storm.data._resize import resize_boxes
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import ArraySource

TURNED = {
    "upright": np.array([[1.0, 0, 0.3], [0, 1, 0.7]]),
    "mirrored": np.array([[-1.3, 0, 140.4], [0, 1.3, 2.0]]),
    "upside down": np.array([[1.3, 0, 2.0], [0, -1.3, 140.4]]),
    "quarter turn": np.array([[0, -1.3, 140.4], [1.3, 0, 2.2]]),
    "transposed": np.array([[0, 1.3, 1.4], [1.1, 0, 2.2]]),
    "anisotropic": np.array([[0.8, 0, 1.4], [0, 1.7, 2.2]]),
}
SIZES = [(224.0, 224), (220.3, 224), (163.7, 100), (100.0, 31), (33.1, 8), (16.0, 16), (5.2, 40), (0.4, 3), (90.0, 1)]


def pillow(canvas: np.ndarray, rect: np.ndarray, box: np.ndarray, out_px: int) -> np.ndarray:
    x0, y0, x1, y1 = rect
    a, b, c, d = map(float, box)
    crop = Image.fromarray(np.ascontiguousarray(np.moveaxis(canvas[:, y0:y1, x0:x1], 0, 2)))
    wide = crop.resize((out_px, crop.height), Image.Resampling.BICUBIC, box=(a, 0, c, crop.height))
    return np.asarray(wide.resize((out_px, out_px), Image.Resampling.BICUBIC, box=(0, b, out_px, d)))


@pytest.mark.parametrize(("field", "out_px"), SIZES)
def test_equal_to_pillow_in_every_pixel(field: float, out_px: int) -> None:
    """Noise is the hardest: every weight counts, and sums run over both ends of the range."""
    rng, canvas = np.random.default_rng(0), noise(400, 300)
    canvas[:, :150] = np.where(canvas[:, :150] > 127, 255, 0)
    low = rng.uniform(0, (300 - field - 1, 400 - field - 1), (12, 2))
    low[:4] = low[:4].round()  # whole pixels
    low[4:6, 0] = low[4:6, 0].round()
    boxes = np.hstack([low, low + field * rng.uniform(0.9, 1, (12, 1))])
    boxes[:3, 2:] = boxes[:3, :2] + field
    rects = np.hstack([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])]).astype(np.int64)
    inner = (boxes - np.tile(rects[:, :2], 2)).astype(np.float32)
    made = np.zeros((12, out_px, out_px, 3), dtype=np.uint8)
    resize_boxes(canvas, rects, inner, made)
    expected = np.stack([pillow(canvas, r, b, out_px) for r, b in zip(rects, inner, strict=True)])
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("name", TURNED)
def test_reader_gives_the_same_patches_either_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PatchReader([ImageLevel(ArraySource(noise(300, 260), chunks_yx=(64, 64)), TURNED[name])])
    x0, y0, x1, y1 = reader.extent_um
    centres = np.random.default_rng(0).uniform((x0, y0), (x1, y1), (60, 2))  # some hang over the edge
    patches = {}
    resample._compiled.cache_clear()
    for way, worth in (("pillow", np.inf), ("compiled", 0)):
        monkeypatch.setattr(resample, "_WORTH_S", worth)
        patches[way] = reader.read(centres, field_um=30 * reader.um_per_px, out_px=24)
    np.testing.assert_array_equal(patches["compiled"], patches["pillow"])


def test_compiled_where_it_pays() -> None:
    filters = {out: resample.Resampler(IDENTITY, field_um=out, out_px=out) for out in (16, 224)}
    resample._compiled.cache_clear()
    assert not filters[224].compiles(1000)
    assert not filters[16].compiles(3000)
    assert filters[16].compiles(100_000)
    assert filters[224].compiles(1)  # now it is there
    resample._compiled.cache_clear()
    assert filters[224].compiles(3000)
    assert not resample.Resampler(np.array([[1, 0.4, 0], [-0.4, 1, 0]]), field_um=20, out_px=20).compiles(10**6)


def test_without_numba_pillow_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "storm.data._resize", None)
    resample._compiled.cache_clear()
    try:
        assert not resample.Resampler(IDENTITY, field_um=20, out_px=224).compiles(10**6)
    finally:
        resample._compiled.cache_clear()
