"""Tiles of small slides are decoded once, by whoever reads them first; many open slides hold no more than one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import tifffile

import storm
from planted_pixels import smooth
from storm.encoders import get_encoder
from storm.io import _kept
from storm.io._kept import KeptTiles
from storm.io._tiff import TiffLevel


@pytest.fixture
def path(tmp_path):
    pixels = np.moveaxis(smooth(700, 900, sigma=2.0), 0, 2)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(128, 128), compression="zlib", photometric="rgb")
    return tmp_path / "slide.tif"


@pytest.fixture
def decoded(monkeypatch):
    """Tiles that were decoded, one entry for each time."""
    tiles, keep = [], KeptTiles.keep

    def count(self, at, tile):
        tiles.append(at)
        keep(self, at, tile)

    monkeypatch.setattr(KeptTiles, "keep", count)
    return tiles


def whole(level: TiffLevel) -> np.ndarray:
    return level.read(0, 0, level.shape)


def test_tissue_checksum_and_encoder_decode_a_slide_once(path, decoded):
    slide = storm.io.slide(path, um_per_px=0.5)
    storm.tl.encode_tiles(slide, get_encoder("stain-texture"), field_um=60)
    assert len(slide.tables["tiles"]) > 10
    assert len(decoded) == len(set(decoded)) == 6 * 8


def test_what_is_kept_is_what_the_file_holds(path, decoded):
    level = TiffLevel(path, 0, 0)
    first = whole(level)
    np.testing.assert_array_equal(whole(level), first)
    np.testing.assert_array_equal(np.moveaxis(first, 0, 2), tifffile.imread(path))
    assert len(decoded) == 6 * 8


def test_tiles_are_copied_line_by_line(path):
    """Channels lie side by side in a block, as decoders return them, whatever the tiles are that it is made of."""
    level = TiffLevel(path, 0, 0)
    block = level.read(128, 256, (300, 200))
    assert block.transpose(1, 2, 0).flags.c_contiguous
    np.testing.assert_array_equal(np.moveaxis(block, 0, 2), tifffile.imread(path)[128:428, 256:456])


def test_a_large_level_is_not_kept(path, decoded, monkeypatch):
    monkeypatch.setattr(_kept, "_MOST_BYTES", 1000)
    level = TiffLevel(path, 0, 0)
    np.testing.assert_array_equal(whole(level), whole(level))
    assert len(decoded) == 2 * 6 * 8


def test_only_the_level_that_was_read_last_keeps_its_tiles(path, decoded):
    one, two = TiffLevel(path, 0, 0), TiffLevel(path, 0, 0)
    for level in (one, two, two, one):
        whole(level)
    assert len(decoded) == 3 * 6 * 8


def test_a_copy_in_another_process_keeps_its_own(path):
    level = TiffLevel(path, 0, 0)
    pixels = whole(level)
    assert len(pickle.dumps(level)) < 2000
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(level))), pixels)
