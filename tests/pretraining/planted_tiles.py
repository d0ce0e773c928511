"""Packed sections with pixels: colour and stripes of a tile follow two smooth fields, as its expression does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from planted_shards import GENES, planted_config
from storm.data.windows import make_windows
from storm.encoders import EncoderInfo, get_encoder, register, wrap_encoder
from storm.pretraining.config import PretrainConfig
from storm.pretraining.shards import Shard, write_shard
from storm.pretraining.start import tile_encoder_of

PX = 32


class SmallNet(nn.Module):
    """A tile encoder of one's own: timm does not know it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 3, 1, 1))
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Sequential(nn.Conv2d(16, 24, 3), nn.ReLU()),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(self.stages(self.stem(x * self.scale))).flatten(1)


def small_net() -> EncoderInfo:
    """Its description, registered once."""
    try:
        return get_encoder("small-net")
    except ValueError:
        from dataclasses import replace

        how = {"name": "small-net", "dim": 24, "tile_px": PX, "field_um": 55.0}
        return register(replace(wrap_encoder(SmallNet(), **how), architecture=SmallNet, sha256=None))


def tile_config(folder: Path, **changes) -> PretrainConfig:
    """A run that trains a tiny transformer with random weights, end to end."""
    values = {
        "tile_encoder": "timm:test_vit", "tile_init": "random", "tile_px": PX, "train_tiles": True,
        "batch_size": 32, "section_batch": 16, "lr": 1e-3, "refresh_tiles": 64,
    }  # fmt: skip
    return planted_config(folder, **(values | changes))


def draw_tiles(fields: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tiles uint8 (n, PX, PX, 3): the first field is the colour, the second the contrast of stripes."""
    x = np.arange(PX)
    stripes = np.sin(x / 2.0)[None, None, :, None] * (40 + 30 * fields[:, 1])[:, None, None, None]
    colour = np.stack([170 + 50 * fields[:, 0], 120 - 30 * fields[:, 0], 160 + 0 * fields[:, 0]], 1)
    noise = rng.normal(scale=12, size=(len(fields), PX, PX, 3))
    return np.clip(colour[:, None, None] + stripes + noise, 0, 255).astype(np.uint8)


def tile_shard(
    folder: Path, config: PretrainConfig, *, name: str, kind: str = "square", counts: bool = True, image: bool = True,
    seed: int = 0, n: int = 10,
) -> Shard:  # fmt: skip
    """A section of n² spots, packed as ``storm pretrain`` packs it."""
    rng = np.random.default_rng(seed)
    i, j = (a.ravel().astype(float) for a in np.meshgrid(np.arange(n), np.arange(n)))
    xy = np.stack([i + 0.5 * (j % 2), j * np.sqrt(3) / 2], 1) if kind == "hex" else np.stack([i, j], 1)
    fields = np.stack([np.sin(xy[:, 0] / 2.5 + seed), np.cos(xy[:, 1] / 2.0 + seed)], 1)
    expression = rng.poisson(np.exp(0.7 * fields @ np.random.default_rng(7).normal(size=(2, len(GENES))) + 2.0))
    tiles = he = None
    if image:
        tiles = draw_tiles(fields, rng)
        info = tile_encoder_of(config)
        mean, std = (np.array(v or d, np.float32) for v, d in ((info.mean, (0.0,) * 3), (info.std, (1.0,) * 3)))
        x = torch.from_numpy(((tiles / np.float32(255) - mean) / std).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode():
            he = info.build().eval()(x).numpy()
        he[1] = np.nan  # a spot outside the image
    return write_shard(
        folder / name, name=name, centres=xy * 100, windows=make_windows(xy * 100, size=config.data.window or None),
        counts=csr_matrix(expression) if counts else None, genes=GENES if counts else None, he=he, patches=tiles,
    )  # fmt: skip


def tile_corpus(config: PretrainConfig, *, n: int = 10) -> list[Shard]:
    """A hexagonal and a square section with H&E, and one without."""
    folder = Path(config.data.shards)
    return [
        tile_shard(folder, config, name="hex", kind="hex", seed=0, n=n),
        tile_shard(folder, config, name="square", seed=1, n=n),
        tile_shard(folder, config, name="bare", image=False, seed=2, n=n),
    ]
