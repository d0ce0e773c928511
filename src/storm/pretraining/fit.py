"""Masked pretraining on cached spot embeddings, on one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.scheduler import CosineLRScheduler

from storm._logging import logger
from storm.model.storm import Storm
from storm.pretraining.held_out import Best, evaluate
from storm.pretraining.objective import Masking, masked_loss
from storm.pretraining.sections import SectionTensors, TrainingSection


@dataclass(frozen=True)
class FitConfig:
    """Optimisation (paper, Methods: *Pretraining settings*, whose numbers are for 1.2 M spots on eight GPUs).

    Attributes
    ----------
    epochs, warmup_epochs, batch_size, lr, weight_decay
        AdamW with a cosine after a linear warm-up. The paper: 1000, 40, 1024, 1e-4, 0.05.
    clip
        Largest norm of the gradient.
    masking
        How windows are masked.
    patience
        Epochs without a lower loss on the validation sections after which training ends; ``None`` for never.
    seed
        Of the order of the windows and the masks.
    """

    epochs: int = 1000
    warmup_epochs: float = 40
    batch_size: int = 1024
    lr: float = 1e-4
    weight_decay: float = 0.05
    clip: float = 1.0
    masking: Masking = field(default_factory=Masking)
    patience: int | None = None
    seed: int = 0


def fit(
    network: Storm,
    sections: Sequence[TrainingSection],
    config: FitConfig,
    *,
    validation: Sequence[TrainingSection] = (),
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train a network in place.

    Parameters
    ----------
    network
        With decoders, on the device to train on.
    sections
        Training sections; every batch holds windows of one section, batches of all sections are shuffled.
    config
        Optimisation.
    validation
        Sections, or parts of them, whose loss is measured after each epoch, under the same masks every time. The
        network ends with the weights of the epoch at which it was lowest.
    on_epoch
        Called with each epoch's record.

    Returns
    -------
    list of dict
        Per epoch: mean loss of each modality, learning rate and seconds; with ``validation`` also ``"val_<modality>"``.

    Raises
    ------
    ValueError
        If there is no section, or the network has no decoder.
    """
    if not sections or not network.decoders:
        msg = "fitting needs at least one section and a network with decoders (decoder_depth above 0)"
        raise ValueError(msg)
    tensors = [SectionTensors(section) for section in sections]
    generator = torch.Generator().manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    decay, plain = _parameter_groups(network)
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr, betas=(0.9, 0.95),
    )  # fmt: skip
    per_epoch = sum(-(-len(section.rows()) // config.batch_size) for section in tensors)
    warmup = min(int(config.warmup_epochs * per_epoch), config.epochs * per_epoch - 1)
    schedule = CosineLRScheduler(
        optimiser, t_initial=config.epochs * per_epoch - warmup, warmup_t=warmup, warmup_lr_init=0.0,
        warmup_prefix=True, t_in_epochs=False,
    )  # fmt: skip
    modalities = {name for section in tensors for name in section.values}
    unseen = [SectionTensors(section) for section in validation]
    network.train()
    history, step, best = [], 0, Best()
    for epoch in range(config.epochs):
        started, sums = time.perf_counter(), {}
        for section, rows in _batches(tensors, config.batch_size, rng):
            schedule.step_update(step)
            losses = masked_loss(
                network, section, rows, masking=config.masking, generator=generator, modalities=modalities
            )
            step += 1
            if not losses:
                continue
            optimiser.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            for name, loss in losses.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + loss.item(), count + 1)
        record = {name: total / count for name, (total, count) in sums.items()}
        if unseen:
            losses = evaluate(network, unseen, masking=config.masking)
            record |= {f"val_{name}": loss for name, loss in losses.items()}
            if losses:
                best.take(network, epoch, sum(losses.values()))
        record |= {"epoch": epoch, "lr": optimiser.param_groups[0]["lr"], "seconds": time.perf_counter() - started}
        logger.info("epoch %d: %s", epoch, record)
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
        if best.known and config.patience is not None and epoch - best.epoch >= config.patience:
            break
    best.give(network)
    network.eval()
    return history


def _parameter_groups(network: Storm) -> tuple[list, list]:
    """Weight matrices decay; biases, norms, modality embeddings and mask tokens do not."""
    decay = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return decay, plain


def _batches(tensors, size, rng):
    jobs = []
    for section in tensors:
        rows = section.rows()
        order = rows[torch.from_numpy(rng.permutation(len(rows)))]
        jobs += [(section, part) for part in order.split(size)]
    for job in rng.permutation(len(jobs)):
        yield jobs[job]
