"""``stain-texture``: the numbers of its definition, with kernels in two dimensions and in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from storm.encoders import StainTexture, get_encoder

SCALES = (1.5, 3.0, 6.0, 12.0)
#: The first of ``tiles(2, 112, 112)``, by the first version, which filtered in two dimensions and single precision.
GOLDEN = [
    0.8440534, -0.2536831, 0.7016531, 0.2045587, 0.50927, 0.5108172, 0.5078303, 0.4617073, 0.3645922, 0.137073,
    0.08863814, 0.1115704, 0.1105705, 0.1127013, 0.1600653, 0.5263458, 0.8058549, 1.124883, 1.649816, -0.8411335,
    -0.4943044, -0.2621428, -0.01883338, 0.3436401, 0.4977454, 0.6060243, 0.6922567, 0.7851523, 0.9367999, 0.8754504,
    -0.2828878, 0.7060755, 0.197384, 0.4993735, 0.515031, 0.5044881, 0.9089468, 0.7888098, 0.513935, 2.085664e-07,
    0.002472626, 0.1046515, 0.08308779, 0.1057573, 0.08298942, 0.2681644, 0.2106945, 0.2101726, 0.1641215, 0.2334669,
    0.1842815, 0.02413346, 0.03717092, 0.08688212, 0.06789227, 0.08877472, 0.0676645, 0.222729, 0.1698128, 0.1488472,
    0.1166343, 0.1972322, 0.1496926, 0.05560756, 0.09111086, 0.05268089, 0.04321468, 0.05593868, 0.04128777,
    0.1383648, 0.1069799, 0.08453348, 0.07060148, 0.1201108, 0.09323196, 0.0923353, 0.1486677, 0.02552882, 0.02877135,
    0.02796657, 0.02696891, 0.06982733, 0.0677516, 0.04294231, 0.04265094, 0.05870599, 0.06165909, 0.1806398,
    0.2234958,
]  # fmt: skip


def tiles(n: int, height: int, width: int) -> Tensor:
    """Smooth colours, as bytes over 255."""
    noise = np.random.default_rng(0).random((n, 3, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 1.2, 1.2))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return torch.from_numpy(np.round(smooth * 255) / 255).float()


def texture(stains: Tensor, sigma: float) -> Tensor:
    """Blobs, edges, ridges and coherence of each stain (B, 2, H, W), with two-dimensional kernels."""
    radius, step = max(1, int(np.ceil(3 * sigma))), max(1, round(sigma / 2))
    t = torch.arange(-radius, radius + 1, dtype=torch.float64)
    g = torch.exp(-t.square() / (2 * sigma**2))
    g = g / g.sum()
    d, dd = -t / sigma * g, (t.square() / sigma**2 - 1) * g
    dd = dd - dd.mean()
    kernels = torch.stack([torch.outer(*pair) for pair in ((g, d), (d, g), (g, dd), (dd, g), (d, d))])
    batch, channels, height, width = stains.shape
    pad = min(radius, height - 1, width - 1)
    padded = F.pad(stains.reshape(-1, 1, height, width), (pad,) * 4, mode="reflect")
    gx, gy, gxx, gyy, gxy = (F.conv2d(padded, k[None, None], stride=step).view(batch, channels, -1) for k in kernels)
    blob = gxx + gyy
    jxx, jyy, jxy = (v.mean(-1) for v in (gx * gx, gy * gy, gx * gy))
    coherence = ((jxx - jyy).square() + 4 * jxy.square()).sqrt() / (jxx + jyy + 1e-6)
    ridge = ((gxx - gyy).square() + 4 * gxy.square()).sqrt()
    means = [v.mean(-1) for v in (F.relu(-blob), F.relu(blob), torch.hypot(gx, gy), ridge)]
    return torch.cat([*means[:2], blob.std(-1), *means[2:], coherence], dim=1)


def defined(x: Tensor) -> Tensor:
    """The encoder's definition at 1 µm per pixel, in double precision."""
    x = x.double()
    stains = F.normalize(torch.tensor([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)]).double(), dim=1)
    density = -torch.log((x * 255 + 1) / 256)
    stains = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(stains))[:, :2]
    total, chroma = density.mean(1, keepdim=True), x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    smooth = F.avg_pool2d(torch.cat([stains, total, chroma, x], dim=1), 2)
    quarter, flat = [side // 4 for side in smooth.shape[2:]], smooth.flatten(2)
    at = [round(q * (flat.shape[-1] - 1)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    inner = smooth[..., quarter[0] : -quarter[0], quarter[1] : -quarter[1]].mean((-1, -2))
    parts = [flat.mean(-1), flat.std(-1), flat[:, :3].sort(-1).values[..., at].flatten(1), inner]
    nuclei, glass = F.avg_pool2d(stains[:, :1], 3, stride=1, padding=1), torch.sigmoid((0.12 - total) / 0.02)
    masks = [torch.sigmoid((nuclei - level) / 0.05) for level in (0.3, 0.5, 0.8)]
    masks += [glass, torch.sigmoid((F.avg_pool2d(glass, 11, stride=5) - 0.6) / 0.1)]
    return torch.cat([*parts, *(m.mean((-1, -2)) for m in masks), *(texture(stains, s) for s in SCALES)], dim=1)


@pytest.mark.parametrize("size", [(112, 112), (64, 71), (30, 45)])
def test_numbers_are_those_of_the_definition(size):
    x = tiles(3, *size)
    torch.testing.assert_close(StainTexture(1.0)(x).double(), defined(x), atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_tile_of_one_colour_has_no_texture(value):
    x = torch.full((2, 3, 112, 112), value)
    torch.testing.assert_close(StainTexture(1.0)(x).double(), defined(x), atol=3e-6, rtol=3e-6)


def test_golden_values():
    got = get_encoder("stain-texture").build()(tiles(2, 112, 112))
    torch.testing.assert_close(got[0], torch.tensor(GOLDEN), atol=3e-6, rtol=3e-6)


def test_numbers_do_not_depend_on_batch_layout_or_precision():
    module, x = StainTexture(1.0), tiles(19, 112, 112)
    whole = module(x)
    torch.testing.assert_close(torch.cat([module(part) for part in x.split(5)]), whole, atol=3e-7, rtol=3e-7)
    assert torch.equal(module(x.contiguous(memory_format=torch.channels_last)), whole)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), whole)
