"""Optimiser and schedule of pretraining (paper, Methods: *Pretraining settings*)."""

from __future__ import annotations

import re

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from storm.pretraining.config import PretrainConfig

_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def layer_id(name: str, *, tile_depth: int, depth: int) -> int:
    """Layer that a parameter belongs to, counted from the bottom.

    With a tile encoder: its stem is 0, its blocks are 1 to ``tile_depth``. Then come the projections with the modality
    embeddings, the blocks of the spatial encoder, and everything above them (last norm, decoders).

    Parameters
    ----------
    name
        Name of the parameter, ``"tiles.…"`` for one of the tile encoder, else as in :class:`storm.model.Storm`.
    tile_depth
        Blocks of the tile encoder; 0 where it is not trained.
    depth
        Blocks of the spatial encoder.

    Returns
    -------
    int
        At most ``top_layer(tile_depth=tile_depth, depth=depth)``.
    """
    block = _BLOCK.search(name)
    if name.startswith("tiles."):
        if block:
            return int(block.group(1)) + 1
        # Norms behind the last block go with it; patch, position and register embeddings are the stem.
        return tile_depth if re.search(r"(?:^|\.)(?:fc_)?norm\.", name) else 0
    base = tile_depth + 1 if tile_depth else 0
    if name.startswith(("project.", "modality.")):
        return base
    if name.startswith("blocks.") and block:
        return base + 1 + int(block.group(1))
    return top_layer(tile_depth=tile_depth, depth=depth)


def top_layer(*, tile_depth: int, depth: int) -> int:
    """The highest :func:`layer_id`."""
    return depth + 1 + (tile_depth + 1 if tile_depth else 0)


def lr_scale(name: str, *, tile_depth: int, depth: int, decay: float, over: str) -> float:
    """Factor on the learning rate of a parameter.

    ``over="tiles"`` decays within the tile encoder only: with 0.7 and twelve blocks, 0.7¹² = 0.0138 at its stem, 1 at
    its last block and everywhere above. ``over="all"`` decays from the decoders down: 8·10⁻⁴ at the stem of H0-mini
    below six blocks.
    """
    layer = layer_id(name, tile_depth=tile_depth, depth=depth)
    top = tile_depth if over == "tiles" else top_layer(tile_depth=tile_depth, depth=depth)
    if over == "tiles" and not name.startswith("tiles."):
        return 1.0
    return decay ** (top - layer)


def make_optimiser(network: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW; weight matrices decay; biases, norms, modality embeddings and mask tokens do not."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = lr_scale(
            name, tile_depth=0, depth=network.config.depth, decay=config.layer_decay, over=config.layer_decay_over
        )
        groups.setdefault((parameter.ndim > 1, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": config.weight_decay if matrix else 0.0, "lr_scale": scale}
            for (matrix, scale), parameters in groups.items()
        ],
        lr=config.lr, betas=(config.beta1, config.beta2),
    )  # fmt: skip


def make_schedule(optimiser: torch.optim.Optimizer, config: PretrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine to ``min_lr``; ``step_update(step)`` depends on the step alone."""
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    return CosineLRScheduler(
        optimiser, t_initial=total - warmup, lr_min=config.min_lr, warmup_t=warmup, warmup_lr_init=0.0,
        warmup_prefix=True, t_in_epochs=False,
    )  # fmt: skip
