"""Optimiser and schedule of pretraining (paper, Methods: *Pretraining settings*)."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from storm.encoders.loading import inner_module
from storm.model.storm import Storm
from storm.pretraining.config_groups import OptimiserConfig
from storm.pretraining.layers import tile_layers

_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def layer_id(name: str, *, depth: int) -> int:
    """Layer of the spatial encoder that a parameter belongs to, counted from the bottom.

    The projections with the modality embeddings are 0, then come the blocks, and everything above them (last norm,
    decoders) is ``depth + 1``.

    Parameters
    ----------
    name
        Name of the parameter in :class:`storm.model.Storm`.
    depth
        Its number of blocks.
    """
    block = _BLOCK.search(name)
    if name.startswith(("project.", "modality.")):
        return 0
    return 1 + int(block.group(1)) if block else depth + 1


def lr_scales(network: Storm, tiles: nn.Module | None, *, decay: float, over: str) -> dict[nn.Parameter, float]:
    """Factor on the learning rate of every parameter.

    ``over="tiles"`` decays within the tile encoder only: with 0.7 and twelve blocks, 0.7¹² = 0.0138 at its stem, 1 at
    its last block and everywhere above. ``over="all"`` decays from the decoders down: 8·10⁻⁴ at the stem of H0-mini
    below six blocks.

    Parameters
    ----------
    network
        The spatial encoder with its decoders.
    tiles
        Tile encoder, or ``None`` where it is not trained; see :func:`storm.pretraining.layers.tile_layers`.
    decay
        Factor from layer to layer downwards.
    over
        ``"tiles"`` or ``"all"``.
    """
    depth = network.config.depth
    below = {} if tiles is None else tile_layers(tiles)
    n_below = max(below.values()) + 1 if below else 0
    layers = {p: n_below + layer_id(name, depth=depth) for name, p in network.named_parameters()}
    if tiles is not None:
        layers |= {p: below[name] for name, p in tiles.named_parameters()}
    top = n_below - 1 if over == "tiles" else n_below + depth + 1
    return {p: decay ** max(top - layer, 0) for p, layer in layers.items()}


def make_optimiser(network: Storm, config: OptimiserConfig, *, tiles: nn.Module | None = None) -> torch.optim.AdamW:
    """Make AdamW over all parameters with gradients.

    Weight matrices decay; biases, norms, modality embeddings and mask tokens do not, nor what a tile encoder of timm
    excludes (positions, class token, registers).

    Parameters
    ----------
    network
        The spatial encoder with its decoders.
    config
        Learning rate, its decay from layer to layer, weight decay and moments.
    tiles
        Tile encoder, or ``None`` where it is not trained.
    """
    plain: set[nn.Parameter] = set()
    if tiles is not None:
        inner: Any = inner_module(tiles)
        excluded = inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else ()
        plain = {parameter for name, parameter in inner.named_parameters() if name in excluded}
    scales = lr_scales(network, tiles, decay=config.layer_decay, over=config.layer_decay_over)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter, scale in scales.items():
        if parameter.requires_grad:
            groups.setdefault((parameter.ndim > 1 and parameter not in plain, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": config.weight_decay if matrix else 0.0, "lr_scale": scale}
            for (matrix, scale), parameters in groups.items()
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
    )


def make_schedule(optimiser: torch.optim.Optimizer, config: OptimiserConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine to ``min_lr``; ``step_update(step)`` depends on the step alone.

    A warm-up of a broken number of steps is rounded to the nearest whole number of them.

    Parameters
    ----------
    optimiser
        See :func:`make_optimiser`.
    config
        Epochs, warm-up, and the learning rates.
    steps_per_epoch
        Number of steps of an epoch.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    return CosineLRScheduler(
        optimiser,
        t_initial=total - warmup,
        lr_min=config.min_lr,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )
