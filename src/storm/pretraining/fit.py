"""Masked pretraining on cached spot embeddings, on one device."""

# A loop of its own beside `train`: all in memory, an early stop with the best weights, no processes and no resuming.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from storm._checks import check_whole
from storm._logging import logger
from storm._progress import progress
from storm.model.storm import Storm
from storm.pretraining.config_groups import OptimiserConfig
from storm.pretraining.divergence import check_losses, check_weights
from storm.pretraining.held_out import Best, evaluate
from storm.pretraining.objective import Masking, masked_loss
from storm.pretraining.optimise import make_optimiser, make_schedule
from storm.pretraining.sections import SectionTensors, TrainingSection


def fit(
    network: Storm,
    sections: Sequence[TrainingSection],
    config: OptimiserConfig,
    *,
    masking: Masking | None = None,
    patience: int | None = None,
    seed: int = 0,
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
        Optimiser and schedule, of at least one epoch.
    masking
        How windows are masked; ``Masking()`` by default.
    patience
        Stops after so many epochs without a lower loss on the validation sections; ``None`` never stops early.
    seed
        Random seed of the order of the windows and of the masks.
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
        If there is no section, the network has no decoder, or a loss or a weight becomes infinite or NaN.
    """
    if not sections or not network.decoders:
        msg = "fitting needs at least one section and a network with decoders (decoder_depth above 0)"
        raise ValueError(msg)
    check_whole(config.epochs, name="epochs")
    masking = Masking() if masking is None else masking
    tensors = [SectionTensors(section) for section in sections]
    unseen = [SectionTensors(section) for section in validation]
    modalities = {name for section in tensors for name in section.values}
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    optimiser = make_optimiser(network, config)
    per_epoch = sum(-(-len(section.rows()) // config.batch_size) for section in tensors)
    schedule = make_schedule(optimiser, config, per_epoch)
    network.train()
    history: list[dict[str, float]] = []
    step, best = 0, Best()
    for epoch in progress(range(config.epochs), desc="epochs", unit="epoch"):
        started = time.perf_counter()
        sums: dict[str, tuple[float, int]] = {}
        for section, rows in _batches(tensors, config.batch_size, rng):
            schedule.step_update(step)
            losses = masked_loss(network, section, rows, masking=masking, generator=generator, modalities=modalities)
            step += 1
            if not losses:
                continue
            values = {name: loss.item() for name, loss in losses.items()}
            check_losses(values, lr=config.lr, when=f"in epoch {epoch}")
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            for name, value in values.items():
                total, count = sums.get(name, (0.0, 0))
                sums[name] = (total + value, count + 1)
        check_weights(network, lr=config.lr, when=f"after epoch {epoch}")
        record = {name: total / count for name, (total, count) in sums.items()}
        if unseen:
            held_out = evaluate(network, unseen, masking=masking)
            check_losses(held_out, lr=config.lr, when=f"on held-out spots after epoch {epoch}")
            record |= {f"val_{name}": loss for name, loss in held_out.items()}
            if held_out:
                best.take(network, epoch, sum(held_out.values()))
        record |= {"epoch": epoch, "lr": optimiser.param_groups[0]["lr"], "seconds": time.perf_counter() - started}
        logger.info("epoch %d: %s", epoch, record)
        history.append(record)
        if on_epoch is not None:
            on_epoch(record)
        if best.known and patience is not None and epoch - best.epoch >= patience:
            break
    best.give(network)
    network.eval()
    return history


def _batches(
    sections: Sequence[SectionTensors], size: int, rng: np.random.Generator
) -> Iterator[tuple[SectionTensors, Tensor]]:
    jobs = []
    for section in sections:
        rows = section.rows()
        order = rows[torch.from_numpy(rng.permutation(len(rows)))]
        jobs += [(section, part) for part in order.split(size)]
    for job in rng.permutation(len(jobs)):
        yield jobs[job]
