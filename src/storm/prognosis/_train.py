"""The training loop of an outcome network, on all devices of lightning's Fabric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from storm._interrupt import says_how_to_go_on
from storm._logging import logger
from storm._progress import progress
from storm.model.outcome import Outcome
from storm.pretraining.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from storm.prognosis._bags import draw_batch
from storm.prognosis._config import OutcomeFit
from storm.prognosis._target import Target, loss_of

if TYPE_CHECKING:
    from storm._bridge.cohort import Cohort


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What is learned, from whom.

    Attributes
    ----------
    cohort
        The cohort.
    patients
        Training patients.
    target
        Their outcome, in the same order.
    modalities
        Which vectors of the tiles are read.
    config
        How.
    seed
        Random seed of weights, order, tiles and dropout.
    """

    cohort: Cohort
    patients: Sequence[str]
    target: Target
    modalities: Sequence[str]
    config: OutcomeFit
    seed: int


def train(network: Outcome, task: Task, fabric: Any, *, checkpoints: Path | None = None) -> list[float]:
    """Train a network in place; return the mean loss of each epoch.

    Every batch compares ``patients_per_batch`` patients, over all processes. One in which nobody has an event says
    nothing about a risk and is left out. What is drawn in a step depends on the seed and the step alone, so that a run
    that goes on from a checkpoint has the bits of one that was not interrupted.

    Parameters
    ----------
    network
        The network, whose inputs are standardised.
    task
        What it learns.
    fabric
        Launched.
    checkpoints
        Folder for a checkpoint after each epoch; ``None`` keeps none.

    Returns
    -------
    list of float

    Raises
    ------
    ValueError
        If a loss becomes infinite or NaN.
    """
    config = task.config
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    state: dict[str, Any] = {"step": 0, "losses": []}
    network = network.to(fabric.device).train().requires_grad_(True)
    found = None if checkpoints is None else find_checkpoint(checkpoints)
    if found is not None:
        state = load_checkpoint(found, network, optimiser)
        logger.info("going on after epoch %d", state["step"])
    wrapped, steps = fabric.setup(network, optimiser)
    bar = progress(total=config.epochs, initial=state["step"], desc="epochs", unit="epoch", shown=fabric.is_global_zero)
    with (
        says_how_to_go_on(partial(_what_is_kept, checkpoints, state, config.epochs)),
        bar,
        torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []),
    ):
        for epoch in range(state["step"], config.epochs):
            for group in steps.param_groups:
                group["lr"] = config.lr * 0.5 * (1 + np.cos(np.pi * epoch / config.epochs))
            losses = []
            for number, rows in enumerate(batches(task, epoch)):
                torch.manual_seed(_number(task.seed, epoch, number, fabric.global_rank))
                losses.append(_step(fabric, wrapped, steps, task, rows, epoch))
            state["losses"].append(float(np.mean(losses)) if losses else 0.0)
            state["step"] = epoch + 1
            bar.update()
            if checkpoints is not None and fabric.is_global_zero:
                save_checkpoint(checkpoints, network, optimiser, state=state, keep=2)
            fabric.barrier()
    network.to("cpu").eval().requires_grad_(False)
    return list(state["losses"])


def batches(task: Task, epoch: int) -> list[np.ndarray]:
    """Patients of each step of an epoch, shuffled; those of a batch that says nothing are left out."""
    size = task.config.patients_per_batch
    order = np.random.default_rng([task.seed, epoch]).permutation(len(task.patients))
    # The last batch is as large as the others: few patients have a poor risk set.
    parts = np.array_split(order, max(round(len(order) / size), 1))
    return [part for part in parts if task.target.has_signal(part)]


def _step(fabric: Any, network: Any, optimiser: Any, task: Task, rows: np.ndarray, epoch: int) -> float:
    """One update by the patients of all processes; return the loss."""
    world, rank = fabric.world_size, fabric.global_rank
    share = -(-len(rows) // world)
    # Each process has as many patients as the others; who is there twice is counted once below.
    own = np.resize(rows, share * world)[rank * share : (rank + 1) * share]
    bags, mask = draw_batch(
        task.cohort,
        [task.patients[row] for row in own],
        task.modalities,
        n_tiles=task.config.tiles_per_bag,
        seeds=[(task.seed, epoch, int(row)) for row in own],
    )
    bags = {name: values.to(fabric.device) for name, values in bags.items()}
    outputs = network(bags, mask.to(fabric.device))
    if world > 1:
        outputs = fabric.all_gather(outputs, sync_grads=True).flatten(0, 1)[: len(rows)]
    time, event = (value.to(fabric.device) for value in task.target.tensors(rows))
    loss = loss_of(task.target.loss, outputs, time, event)
    value = float(loss.detach())
    if not np.isfinite(value):
        msg = f"the loss is {value} in epoch {epoch + 1}; try a smaller lr than {task.config.lr:g}"
        raise ValueError(msg)
    optimiser.zero_grad(set_to_none=True)
    fabric.backward(loss)
    fabric.clip_gradients(network, optimiser, max_norm=task.config.clip)
    optimiser.step()
    return value


def _number(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, dtype=np.uint64)[0] >> 1)


def _what_is_kept(checkpoints: Path | None, state: Mapping[str, Any], total: int) -> str:
    """What to say of an interruption."""
    done = f"epoch {state['step']} of {total} was reached"
    if checkpoints is None or not state["step"]:
        return f"{done}, and nothing of it is kept; the same call trains again (with out=, epochs are kept)"
    return f"{done} and is kept in {checkpoints}; the same call goes on from there"
