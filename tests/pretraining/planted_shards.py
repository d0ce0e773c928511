"""Packed sections of several platforms, on which H&E and expression follow two smooth fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from storm.data.windows import make_windows
from storm.pretraining.config import PretrainConfig
from storm.pretraining.shards import Shard, write_shard

GENES = [f"G{i}" for i in range(40)]
HE_DIM = 89


def planted_shard(
    folder: Path, *, name: str, kind: str = "square", pitch: float = 100.0, genes: slice = slice(None), he: bool = True,
    seed: int = 0, n: int = 16,
) -> Shard:  # fmt: skip
    """A section of about n² spots; fields are functions of the place in pitches."""
    rng = np.random.default_rng(seed)
    i, j = (a.ravel().astype(float) for a in np.meshgrid(np.arange(n), np.arange(n)))
    xy = np.stack([i, j], 1)
    if kind == "hex":
        xy = np.stack([i + 0.5 * (j % 2), j * np.sqrt(3) / 2], 1)
    if kind == "cells":
        xy = rng.uniform(0, n, size=(n * n, 2))
    fields = np.stack([np.sin(xy[:, 0] / 2.5 + seed), np.cos(xy[:, 1] / 2.0 + seed)], 1)
    mix = np.random.default_rng(7)
    to_he, to_st = mix.normal(size=(2, HE_DIM)), mix.normal(size=(2, len(GENES)))
    tiles = (fields @ to_he + 0.5 * rng.normal(size=(len(xy), HE_DIM))).astype(np.float32)
    counts = rng.poisson(np.exp(0.7 * fields @ to_st + 2.0))
    counts[0] = 0  # a spot without counts
    tiles[1] = np.nan  # and one outside the image
    names = GENES[genes]
    return write_shard(
        folder / name, name=name, centres=xy * pitch, windows=make_windows(xy * pitch),
        counts=csr_matrix(counts[:, genes]), genes=names, he=tiles if he else None, facts={"platform": kind},
    )  # fmt: skip


def planted_corpus(folder: Path, *, n: int = 16) -> list[Shard]:
    """A Visium-like section, a square one of another panel without H&E, and cells of a third panel."""
    return [
        planted_shard(folder, name="visium", kind="hex", pitch=100, seed=0, n=n),
        planted_shard(folder, name="bins", kind="square", pitch=8, genes=slice(5, None), he=False, seed=1, n=n),
        planted_shard(folder, name="cells", kind="cells", pitch=12, genes=slice(0, 30), seed=2, n=n),
    ]


def planted_config(folder: Path, **changes) -> PretrainConfig:
    """A run that takes a second or two."""
    values = {
        "shards": str(folder / "shards"), "out": str(folder / "run"), "tile_encoder": "stain-texture", "size": "tiny",
        "expression_dim": 8, "min_genes": 10, "epochs": 2, "warmup_epochs": 0.5, "batch_size": 64, "section_batch": 32,
        "lr": 3e-3, "validation_share": 0.15, "accelerator": "cpu", "devices": 1, "checkpoint_steps": 5,
    }  # fmt: skip
    return PretrainConfig.from_dict(values | changes)
