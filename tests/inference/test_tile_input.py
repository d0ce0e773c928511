"""Tiles as a network reads them: the same bits as the description's normalisation, in memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import storm
from storm._bridge import read_spots
from storm._inference.device import Compute
from storm._inference.tile_input import TileInput, as_input
from storm._inference.tiles import encode_tiles
from storm.encoders import get_encoder, wrap_encoder

CPU = torch.device("cpu")


def patches(n: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["h0-mini", "stain-texture"])
def test_every_bit_is_that_of_the_description(name):
    encoder, prepare = get_encoder(name), TileInput(get_encoder(name), CPU)
    for n in (5, 9, 3):  # more than before, then fewer: the last batch
        x = prepare(patches(n))
        assert torch.equal(x, encoder.normalise(as_input(patches(n), CPU)))
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_every_byte_is_normalised_alike():
    encoder = get_encoder("uni")
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None, None], (1, 256, 4, 3)).copy()
    x = TileInput(encoder, CPU)(ramp)
    for channel, (mean, std) in enumerate(zip(encoder.mean, encoder.std, strict=True)):
        wanted = (np.arange(256) / 255 - mean) / std
        np.testing.assert_allclose(x[0, channel, :, 0].numpy(), wanted, rtol=1e-6, atol=1e-6)


def test_memory_is_used_again_and_follows_the_size():
    prepare = TileInput(get_encoder("uni"), CPU)
    first = prepare(patches(6)).data_ptr()
    assert prepare(patches(4)).data_ptr() == first
    assert prepare(patches(2, 32, 32)).shape == (2, 3, 32, 32)


def test_a_batch_on_the_processor_is_bounded_in_bytes():
    compute = Compute(devices=(CPU,))
    sizes = {px: compute.tile_batch(px) for px in (16, 112, 224, 448, 4096)}
    assert sizes == {16: 256, 112: 33, 224: 8, 448: 2, 4096: 1}
    assert Compute(devices=(torch.device("meta"),)).tile_batch(224) == 256
    assert Compute(devices=(CPU,), batch_size=50).tile_batch(224) == 50


def test_a_network_that_hands_on_its_input_keeps_its_rows_apart():
    """Rows are copied before the memory of their batch is written again."""
    spots = read_spots(storm.datasets.toy("visium", n=40), image=True, table=False)
    corner = wrap_encoder(
        lambda x: x[:, :, 0, 0], name="corner", dim=3, tile_px=16, field_um=80, mean=(0.5,) * 3, std=(0.2,) * 3
    )
    some, one = (
        encode_tiles(spots, corner, Compute(devices=(CPU,), batch_size=size), field_um=80.0) for size in (3, 40)
    )
    np.testing.assert_array_equal(some, one)
    assert len(np.unique(one, axis=0)) > 20
