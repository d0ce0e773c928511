"""Dense embeddings: planted tokens are found again, and the stain encoder says what it says tile by tile."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import storm
from planted_pixels import IDENTITY, smooth
from storm._bridge.read import read_spots
from storm._inference.dense import encode_dense
from storm._inference.device import Compute
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import as_source
from storm.data.spots import ScaleInfo, Spots
from storm.encoders import EncoderInfo, StainTexture, get_encoder, wrap_encoder
from storm.encoders.stain_dense import DenseStain
from storm.encoders.vit import PooledViT

TILE, PATCH = 32, 4
FIVE = Compute(devices=(torch.device("cpu"),), batch_size=5)
MANY = Compute(devices=(torch.device("cpu"),), batch_size=64)


def section(image: np.ndarray, centres) -> Spots:
    """Spots on an image of one µm per pixel."""
    centres = np.asarray(centres, dtype=float)
    reader = PatchReader([ImageLevel(as_source(image), IDENTITY)])
    ids = np.array([f"bin {k}" for k in range(len(centres))])
    return Spots(ids, centres, True, patches=reader, scale=ScaleInfo(1.0, 1.0, "planted"))


def tile_by_tile(spots: Spots, encoder: EncoderInfo, _: Compute, *, field_um: float) -> np.ndarray:
    """What the encoder says of the tile around each centre."""
    tiles = spots.patches.read(spots.centres, field_um=field_um, out_px=encoder.tile_px)
    x = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v or d).view(3, 1, 1) for v, d in ((encoder.mean, (0.0,) * 3), (encoder.std, (1.0,) * 3)))
    with torch.inference_mode():
        return torch.cat([encoder.build()(part) for part in ((x - mean) / std).split(64)]).numpy()


class Planted(nn.Module):
    """A patch's token is a linear function of its pixels, the class token the mean of the tokens."""

    num_prefix_tokens = 1

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        kernel = torch.randn(width, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
        self.kernel = nn.Parameter(kernel / PATCH, requires_grad=False)
        self.tiles, self.held = 0, []

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        self.tiles += len(x)
        self.alive = max(getattr(self, "alive", 0), sum(ref() is not None for ref in self.held))
        tokens = torch.conv2d(x, self.kernel, stride=PATCH).flatten(2).mT
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        self.held.append(weakref.ref(tokens))
        return tokens


def planted(pooling: str = "cls+mean"):
    backbone = Planted()
    module = PooledViT(backbone, pooling=pooling)
    info = wrap_encoder(
        module, name="planted", dim=12 if pooling == "cls+mean" else 6, tile_px=TILE, field_um=TILE, patch_px=PATCH
    )
    return backbone, info


def grid(low: float, high: float, step: float) -> np.ndarray:
    line = np.arange(low, high + 1e-9, step)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


# Tiles stand where the middle of the centres' extent says: 5 × 5 of them here, [0, 160) in either direction.
COVER = grid(4, 156, PATCH)
INNER = (COVER >= TILE / 2).all(axis=1) & (COVER <= 160 - TILE / 2).all(axis=1)


def test_patch_tokens_at_whole_tokens_are_exact_across_the_borders_of_tiles():
    backbone, info = planted()
    spots = section(smooth(200, 200), COVER)
    dense = encode_dense(spots, info, FIVE, field_um=float(TILE))
    assert backbone.tiles == 25 + 2  # and the first tile twice more, to see that its tokens are pooled as expected
    exact = tile_by_tile(spots, info, FIVE, field_um=float(TILE))
    assert INNER.sum() > 1000
    np.testing.assert_allclose(dense[INNER, 6:], exact[INNER, 6:], atol=2e-6)
    # the class token, which knows nothing of where it is, only in the middles of the tiles
    middle = INNER & ((COVER - TILE / 2) % TILE == 0).all(axis=1)
    assert middle.sum() == 25
    np.testing.assert_allclose(dense[middle], exact[middle], atol=2e-6)


@pytest.mark.parametrize(("overlap", "local_um"), [(1, 32), (1, 12), (1, 4), (2, 32), (4, 32)])
def test_on_a_ramp_every_place_gets_its_own_value(overlap, local_um):
    """Linear between tokens, between tiles and across tiles: no seam."""
    ramp = np.zeros((3, 200, 200), dtype=np.uint8)
    ramp[0], ramp[1] = np.mgrid[:200, :200][::-1]
    _, info = planted()
    rng = np.random.default_rng(0)
    centres = np.concatenate([COVER[[0, -1]], COVER, rng.uniform(48, 112, (200, 2))])
    spots = section(ramp, centres)
    dense = encode_dense(spots, info, FIVE, field_um=float(TILE), overlap=overlap, local_um=local_um)[-200:]
    kernel = info.build().backbone.kernel.sum(dim=(2, 3)).numpy()
    offset = tile_by_tile(section(ramp, [[80, 80]]), info, FIVE, field_um=float(TILE))[0]
    slope = (centres[-200:] - 80) / 255 @ np.tile(kernel[:, :2].T, 2)
    # A window that ends within a token takes the whole token's value: where it ends so on one side only, because the
    # tile ends on the other, this is a shift by 0.1 px at most.
    np.testing.assert_allclose(dense, offset + slope, atol=1e-5 if overlap == 1 else 5e-4)


def test_a_window_of_one_patch_is_bilinear_interpolation():
    _, info = planted("cls")
    image = smooth(200, 200)
    dense = encode_dense(section(image, COVER), info, FIVE, field_um=float(TILE), local_um=PATCH, patch_tokens=True)
    # corners of four patches
    pixels = torch.from_numpy(image).float()[None] / 255
    tokens = torch.conv2d(pixels, info.build().backbone.kernel, stride=PATCH)
    corners = torch.nn.functional.avg_pool2d(tokens, 2, stride=1)[0].permute(1, 2, 0).numpy()
    column, row = (COVER / PATCH - 1).astype(int).T
    np.testing.assert_allclose(dense, corners[row, column], atol=2e-6)


def test_rows_are_those_of_the_table_and_outside_is_nan():
    _, info = planted()
    image = smooth(200, 200)
    rng = np.random.default_rng(1)
    centres = rng.uniform(0, 200, (300, 2))
    centres[::7] += 200
    centres[5] = np.nan
    for encoder, compute, field_um in ((info, FIVE, float(TILE)), (get_encoder("stain-texture"), MANY, 112.0)):
        spots = section(image, centres)
        dense = encode_dense(spots, encoder, compute, field_um=field_um)
        assert dense.dtype == np.float32
        np.testing.assert_array_equal(np.isfinite(dense).all(axis=1), spots.patches.inside(centres))
        assert np.isnan(dense[5]).all()
        order = rng.permutation(300)
        np.testing.assert_allclose(
            encode_dense(section(image, centres[order]), encoder, compute, field_um=field_um), dense[order], atol=1e-4
        )
        nowhere = encode_dense(section(image, centres[::7][:3] + 500), encoder, compute, field_um=field_um)
        assert np.isnan(nowhere).all()


def test_no_tile_is_encoded_where_no_centre_is():
    backbone, info = planted()
    far = np.concatenate([grid(40, 60, 4), grid(840, 860, 4)])
    encode_dense(section(smooth(900, 900, sigma=1), far), info, FIVE, field_um=float(TILE))
    assert backbone.tiles <= 2 * 4 + 2
    assert backbone.alive <= 2  # tokens are not kept


def test_blocks_have_one_size_however_large_the_image_is():
    class Recorded:
        seen: tuple = ()

        def __init__(self, module: nn.Module, tile_px: int) -> None:
            self.tile_px = tile_px

        def __call__(self, block: torch.Tensor, corners: np.ndarray) -> torch.Tensor:
            Recorded.seen += (tuple(block.shape),)
            assert (corners >= 0).all()
            assert (corners + self.tile_px <= block.shape[1]).all()
            assert len(corners) <= 4096
            x, y = corners.T + self.tile_px // 2
            return block[0, y, x][:, None]

    tall = np.broadcast_to((np.arange(30_000, dtype=np.uint32) // 120).astype(np.uint8)[:, None], (3, 30_000, 700))
    info = replace(wrap_encoder(nn.Identity(), name="recorded", dim=1, tile_px=64, field_um=64), dense=Recorded)
    centres = np.stack(np.meshgrid(np.arange(4, 700, 40), np.arange(4, 30_000, 40)), axis=-1).reshape(-1, 2)
    dense = encode_dense(section(tall, centres), info, FIVE, field_um=64.0)
    assert len(Recorded.seen) < 2 * 60
    assert max(Recorded.seen) <= (3, 64 + 512 + 4, 64 + 512 + 4)
    np.testing.assert_allclose(dense[:, 0] * 255, centres[:, 1] // 120, atol=1e-3)


@pytest.mark.parametrize("pooling", ["cls", "cls+mean", "token", "avg"])
def test_in_the_middle_of_a_tile_a_transformer_says_what_it_says(pooling):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    inside = pooling in ("cls", "cls+mean")
    network = VisionTransformer(
        img_size=TILE, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0,
        global_pool="" if inside else pooling, reg_tokens=2,
    )  # fmt: skip
    module = (PooledViT(network, pooling=pooling) if inside else network).eval()
    info = wrap_encoder(
        module, name="vit", dim=48 if pooling == "cls+mean" else 24, tile_px=TILE, field_um=TILE,
        mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.2), patch_px=8,
    )  # fmt: skip
    # Tiles at x = 50, 82 and 114, and, beyond the border of the image, at 18.
    spots = section(smooth(60, 130), [[2, 30], [50, 30], [82, 30], [114, 30], [129.9999, 30]])
    dense = encode_dense(spots, info, FIVE, field_um=float(TILE))
    exact = tile_by_tile(spots, info, FIVE, field_um=float(TILE))
    np.testing.assert_allclose(dense[1:4], exact[1:4], atol=1e-4)
    assert not np.allclose(dense[0], exact[0], atol=1e-3)


def test_what_has_no_dense_side_says_so():
    spots = section(smooth(100, 100), [[50, 50]])
    plain = wrap_encoder(lambda x: x.mean((2, 3)), name="plain", dim=3, tile_px=TILE, field_um=TILE)
    with pytest.raises(ValueError, match=r"'plain' has no dense side.*h-optimus-0.*stain-texture"):
        encode_dense(spots, plain, FIVE, field_um=float(TILE))

    class Other(Planted):
        """Pools its tokens in a way of its own."""

        global_pool = "avg"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.forward_features(x).amax(dim=1)

    other = wrap_encoder(Other(), name="other", dim=6, tile_px=TILE, field_um=TILE)
    with pytest.raises(ValueError, match="'other' has no dense side"):
        encode_dense(spots, other, FIVE, field_um=float(TILE))
    _, info = planted()
    wrong = [{"local_um": 40.0}, {"local_um": 0.0}, {"overlap": 0}, {"overlap": 1.5}, {"patch_tokens": True}]
    for bad in (*wrong, {"local_um": 8.0, "overlap": 2}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            encode_dense(spots, info, FIVE, field_um=float(TILE), **bad)
    with pytest.raises(ValueError, match="gave shape"):
        encode_dense(spots, replace(info, dim=5), FIVE, field_um=float(TILE))


@pytest.mark.parametrize("tile_px", [112, 45, 30])
def test_stain_statistics_of_overlapping_fields_equal_those_of_tiles(tile_px):
    module = StainTexture(1.0).eval()
    block = torch.from_numpy(smooth(190, 170, sigma=1.5)).float() / 255
    rng = np.random.default_rng(0)
    corners = np.column_stack([rng.integers(0, 171 - tile_px, 40), rng.integers(0, 191 - tile_px, 40)])
    corners[:6, 1] = corners[0, 1]
    corners[6] = corners[0]
    with torch.inference_mode():
        dense = DenseStain(module, tile_px)(block, corners)
        exact = module(torch.stack([block[:, y : y + tile_px, x : x + tile_px] for x, y in corners]))
    assert dense.dtype == torch.float32
    torch.testing.assert_close(dense, exact, atol=3e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def bins() -> Spots:
    return read_spots(storm.datasets.toy("visium_hd", n=250), table=False)


def test_stain_texture_on_bins(bins):
    """The image is resized from 0.5 to 1 µm/px, and the filter sees no pixel beyond a tile or a block."""
    encoder = get_encoder("stain-texture")
    dense, exact = (f(bins, encoder, MANY, field_um=112.0) for f in (encode_dense, tile_by_tile))
    apart = np.abs(dense - exact) / exact.std(axis=0)
    assert np.sqrt(np.square(apart).mean()) < 0.01
    assert apart.max() < 0.2
    scaled = [(x - exact.mean(axis=0)) / exact.std(axis=0) for x in (dense, exact)]
    cosine = (scaled[0] * scaled[1]).sum(axis=1) / np.prod([np.linalg.norm(x, axis=1) for x in scaled], axis=0)
    assert cosine.min() > 0.999


def test_stain_texture_on_places_between_pixels(bins):
    """Fields are moved by half a pixel at most."""
    encoder = get_encoder("stain-texture")
    rng = np.random.default_rng(0)
    low, high = bins.centres.min(axis=0), bins.centres.max(axis=0)
    cells = replace(bins, centres=rng.uniform(low, high, bins.centres.shape))
    dense, exact = (f(cells, encoder, MANY, field_um=112.0) for f in (encode_dense, tile_by_tile))
    scaled = [(x - exact.mean(axis=0)) / exact.std(axis=0) for x in (dense, exact)]
    cosine = (scaled[0] * scaled[1]).sum(axis=1) / np.prod([np.linalg.norm(x, axis=1) for x in scaled], axis=0)
    assert np.percentile(cosine, 5) > 0.99
