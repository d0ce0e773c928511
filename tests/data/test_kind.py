"""The kind of an image by its pixels, and patches that are enlarged."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import hed2rgb

from storm.data.enlarged import enlargement, enlargement_advice, warn_if_enlarged
from storm.data.kind import image_kind, kind_of
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import ArraySource


def stained(seed: int = 0, share: float = 0.6) -> np.ndarray:
    """Blots of haematoxylin and eosin on glass, mixed by Beer and Lambert's law: uint8 (200, 200, 3)."""
    rng = np.random.default_rng(seed)
    blots = rng.random((25, 25)).repeat(8, axis=0).repeat(8, axis=1)
    density = np.zeros((200, 200, 3))
    density[..., 0] = np.where(blots < share / 2, 0.12, 0)
    density[..., 1] = np.where(blots < share, 0.15, 0)
    return (255 * np.clip(hed2rgb(density), 0, 1)).round().astype(np.uint8)


def glowing(seed: int = 0) -> np.ndarray:
    """Cells that glow in three colours in the dark."""
    rng = np.random.default_rng(seed)
    cells = rng.random((25, 25, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return np.where(cells > 0.8, 200, 6).astype(np.uint8)


def test_kinds() -> None:
    he = stained()
    assert kind_of(he).kind == "bright"
    assert kind_of(stained(share=1.0)).kind == "bright"  # tissue from edge to edge
    assert kind_of(glowing()).kind == "dark"
    assert kind_of(255 - he).kind == "dark"  # a negative
    assert kind_of(he[..., :1].repeat(3, axis=-1)).kind == "gray"
    assert kind_of(np.full((50, 50, 3), 240, dtype=np.uint8)).kind == "empty"
    numbers = kind_of(glowing())
    assert numbers.dark == pytest.approx((glowing().mean(axis=-1) < 50).mean())


def reader(pixels: np.ndarray, um_per_px: float) -> PatchReader:
    source = ArraySource(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return PatchReader([ImageLevel(source, np.array([[1 / um_per_px, 0, 0], [0, 1 / um_per_px, 0]]))])


def test_only_what_lies_around_the_centres_counts() -> None:
    """A scanner's black frame is not the section."""
    pixels = np.zeros((400, 400, 3), dtype=np.uint8)
    pixels[100:300, 100:300] = stained()
    inside = np.stack(np.meshgrid(np.arange(240, 360, 20), np.arange(240, 360, 20)), axis=-1).reshape(-1, 2) * 1.0
    assert image_kind(reader(pixels, 1.5), inside, field_um=60).kind == "bright"
    assert kind_of(pixels).kind == "dark"


def test_enlargement() -> None:
    coarse = reader(stained(), 1.0)
    assert enlargement(coarse, field_um=112, out_px=224) == pytest.approx(2.0)
    assert enlargement(coarse, field_um=448, out_px=224) == pytest.approx(0.5)
    assert enlargement_advice(2.0) == ""
    warn_if_enlarged(coarse, field_um=112, out_px=224)
    with pytest.warns(UserWarning, match=r"2\.1 times coarser than the tile encoder's input"):
        warn_if_enlarged(reader(stained(), 1.05), field_um=112, out_px=224)
