"""The training loop, on all devices of lightning's Fabric: a CPU, one or several GPUs, several machines."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storm._interrupt import says_how_to_go_on
from storm._loading import StormModel
from storm._logging import logger
from storm._progress import progress
from storm.encoders import with_weights
from storm.pretraining.augment import Augmentation
from storm.pretraining.baselines import baseline_losses
from storm.pretraining.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from storm.pretraining.config import PretrainConfig
from storm.pretraining.distributed import MODALITIES, Job, Objective, epoch_steps, validation_jobs
from storm.pretraining.divergence import check_losses, check_weights
from storm.pretraining.objective import Masking
from storm.pretraining.optimise import make_optimiser, make_schedule
from storm.pretraining.prepare import open_prepared, prepared_library
from storm.pretraining.reader import Reader, fetch
from storm.pretraining.record import Record
from storm.pretraining.start import tile_encoder_of
from storm.pretraining.stream import StreamedBatch, StreamedSection
from storm.pretraining.tiles import TileTokens

_PATHS = ("sections", "shards", "out", "tile_weights", "expression_model")


def train(config: PretrainConfig) -> Path:
    """Train the prepared run to its end, from its last checkpoint where there is one.

    Called in every process of the run (``torchrun``). Interrupted at any moment, the next call goes on with the losses
    that the uninterrupted run would have had; on a CPU, to the bit.

    Parameters
    ----------
    config
        The run, for which :func:`storm.pretraining.prepare.prepare` was called.

    Returns
    -------
    Path
        Folder of the model, for :func:`storm.load_model`.

    Raises
    ------
    ValueError
        If ``out`` holds another run.
    """
    out = Path(config.run.out)
    fabric = make_fabric(config)
    # One process reads every packed section once for its checksum.
    model, sections = open_prepared(config, check=fabric.is_global_zero)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        _run(config, model, sections, fabric, out)
    return out / "model"


def make_fabric(config: PretrainConfig) -> Any:
    """Fabric for the machine, launched; several processes exchange gradients by DDP."""
    run = config.run
    # A batch may lack a modality; slopes never change.
    return launch(
        run.accelerator, devices=run.devices, nodes=run.nodes, precision=run.precision, find_unused_parameters=True
    )


def launch(
    accelerator: str,
    *,
    devices: int | str = "auto",
    nodes: int = 1,
    precision: str = "auto",
    find_unused_parameters: bool = False,
) -> Any:
    """Fabric on an accelerator, launched.

    Parameters
    ----------
    accelerator
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    devices
        Per machine; ``"auto"`` takes all GPUs, or the processes that ``torchrun`` started.
    nodes
        Machines.
    precision
        ``"fp32"``, ``"bf16"``, or ``"auto"`` for bfloat16 on a GPU that has it.
    find_unused_parameters
        Whether a step may leave some of the network out.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    number = devices
    on_gpu = accelerator in ("cuda", "gpu") and torch.cuda.is_available()
    if number == "auto":
        number = torch.cuda.device_count() if on_gpu else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    number = int(number)
    if precision == "auto":
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    strategy: str | DDPStrategy = "auto"
    if number * nodes > 1:
        strategy = DDPStrategy(find_unused_parameters=find_unused_parameters, broadcast_buffers=False)
    fabric = Fabric(
        accelerator=accelerator,
        devices=number,
        num_nodes=nodes,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def _run(
    config: PretrainConfig, model: StormModel, sections: Sequence[StreamedSection], fabric: Any, out: Path
) -> None:
    network = model.network.requires_grad_(True).train().to(fabric.device)
    tiles = _tiles(config, model, sections, fabric) if config.he.train_tiles else None
    # What a checkpoint holds.
    trained = network if tiles is None else nn.ModuleDict({"network": network, "tiles": tiles})
    masking = _masking(config)
    plain = Objective(network, masking, tiles)
    reader = Reader(sections, masking, augmentation=_augmentation(config), pixels=config.he.train_tiles)
    optimiser = make_optimiser(network, config.optimiser, tiles=None if tiles is None else tiles.module)
    objective, wrapped = fabric.setup(plain, optimiser)
    per_epoch = _steps_per_epoch(config, sections)
    total = config.optimiser.epochs * per_epoch if config.network.spatial_encoder else 0
    state: dict[str, Any] = {"step": 0, "sums": [0.0] * 2, "counts": [0.0] * 2}
    checkpoint = find_checkpoint(out / "checkpoints")
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, trained, optimiser)
        logger.info("going on from step %d", state["step"])
    fabric.barrier()
    record = Record(out, step=state["step"], epoch=state["step"] // max(per_epoch, 1), on=fabric.is_global_zero)
    held = validation_jobs(sections, config)
    if fabric.is_global_zero and checkpoint is None and held and total and config.data.window != 1:
        record.baselines(_baselines(sections, held, config))
    bar = progress(total=total, initial=state["step"], desc="steps", unit="step", shown=fabric.is_global_zero)
    schedule = make_schedule(optimiser, config.optimiser, per_epoch) if total else None
    with closing(record), bar, says_how_to_go_on(partial(_what_is_kept, out, state, total)):
        while schedule is not None and state["step"] < total:
            epoch, position = divmod(state["step"], per_epoch)
            steps = epoch_steps(sections, config, epoch)[position:]
            started, windows = time.perf_counter(), 0
            for jobs, batches in fetch(steps, reader, fabric.global_rank, fabric.world_size):
                schedule.step_update(state["step"])
                sums, counts = _step(fabric, objective, wrapped, batches, clip=config.optimiser.clip)
                losses = _means(sums, counts)
                # The sums are those of all processes, so that all of them stop.
                check_losses(losses, lr=config.optimiser.lr, when=f"at step {state['step']}")
                windows += sum(len(job.rows) for job in jobs)
                record.step(state["step"], epoch, _rate(optimiser), losses)
                for at in range(2):
                    state["sums"][at] += sums[at]
                    state["counts"][at] += counts[at]
                state["step"] += 1
                bar.update()
                if state["step"] == (epoch + 1) * per_epoch:
                    rate = windows / (time.perf_counter() - started)
                    facts = {"lr": _rate(optimiser), "windows_per_s": rate}
                    if tiles is not None and config.objective.standardise == "section":
                        _refresh(config, tiles, sections, fabric)
                    last_epoch = epoch + 1 == config.optimiser.epochs
                    if held and (last_epoch or (epoch + 1) % config.run.validate_epochs == 0):
                        facts |= validate(fabric, plain, reader, held)
                        if tiles is not None and batches:
                            facts["forward_windows_per_s"] = _forward_rate(fabric, plain, batches)
                        facts["share_of_forward"] = rate / facts["forward_windows_per_s"]
                    record.epoch(epoch, _means(state["sums"], state["counts"]), facts)
                    state["sums"], state["counts"] = [0.0] * 2, [0.0] * 2
                if state["step"] % config.run.checkpoint_steps == 0 or state["step"] == total:
                    # From a checkpoint that holds a NaN no run could go on. All processes hold the same weights.
                    check_weights(trained, lr=config.optimiser.lr, when=f"after step {state['step']}")
                    if fabric.is_global_zero:
                        save_checkpoint(
                            out / "checkpoints", trained, optimiser, state=state, keep=config.run.keep_checkpoints
                        )
                    fabric.barrier()
    if fabric.is_global_zero:
        _finish(config, model, sections, out, steps=total, tiles=tiles)
    fabric.barrier()


def _masking(config: PretrainConfig) -> Masking:
    return Masking(
        n_visible=config.objective.n_visible,
        # A window of one spot has nothing to rebuild its expression from but its own H&E.
        he_only=1.0 if config.data.window == 1 else config.objective.he_only,
        genes_per_step=config.objective.genes_per_step or None,
    )


def _steps_per_epoch(config: PretrainConfig, sections: Sequence[StreamedSection]) -> int:
    """Number of steps, from the sizes alone: the windows of an epoch are drawn when it starts."""
    draws = sum(-(-len(section.train) // config.data.section_batch) for section in sections)
    return -(-draws // (config.optimiser.batch_size // config.data.section_batch))


def _tiles(config: PretrainConfig, model: StormModel, sections: Sequence[StreamedSection], fabric: Any) -> TileTokens:
    """The tile encoder, ready to be trained."""
    info = tile_encoder_of(config)
    assert info is not None  # train_tiles needs a tile encoder, which the configuration checks
    if info.sha256 != model.tile_encoder.sha256:
        msg = (
            f"the weights of tile encoder {info.name!r} are not those that the run was prepared with; put them back, "
            "or give another out"
        )
        raise ValueError(msg)
    mean, std = (torch.from_numpy(model.statistic(f"he_{what}")) for what in ("mean", "std"))
    names = [section.name for section in sections]
    tiles = TileTokens(info, info.build(), names, mean=mean, std=std, chunk=config.he.tile_chunk)
    if config.objective.standardise == "section":
        tiles.start(sections)
    return tiles.train().to(fabric.device)


def _refresh(config: PretrainConfig, tiles: TileTokens, sections: Sequence[StreamedSection], fabric: Any) -> None:
    with fabric.autocast():
        tiles.refresh(
            sections,
            number=config.he.refresh_tiles,
            seed=config.run.seed,
            rank=fabric.global_rank,
            world=fabric.world_size,
            total=partial(_total, fabric),
        )


def _augmentation(config: PretrainConfig) -> Augmentation:
    return Augmentation(area=config.he.crop_area, ratio=config.he.crop_ratio, flips=config.he.flips)


def _step(fabric: Any, objective: Any, optimiser: Any, batches: list, *, clip: float) -> tuple[list, list]:
    """Make one update; return sums and counts over all processes, two numbers each."""
    sums, own = objective(batches)
    counts = _total(fabric, own)
    # DDP averages the processes' gradients; each has its part of one mean.
    loss = (sums / counts.clamp(min=1)).sum() * fabric.world_size
    optimiser.zero_grad(set_to_none=True)
    fabric.backward(loss)
    everywhere = _total(fabric, sums.detach()).tolist()
    if counts.sum() > 0:
        fabric.clip_gradients(objective, optimiser, max_norm=clip)
        optimiser.step()
    return everywhere, counts.tolist()


def validate(fabric: Any, objective: Objective, reader: Reader, held: list[Job]) -> dict:
    """Measure the loss of each modality on the held-out windows, and windows per second without a backward pass."""
    objective.eval()
    masking = objective.masking
    objective.masking = replace(masking, he_only=1.0 if masking.he_only == 1 else 0.0, genes_per_step=None)
    reader = replace(reader, masking=objective.masking, augmentation=None)
    started = time.perf_counter()
    totals = torch.zeros(2, 2, dtype=torch.float64)  # on the CPU: not every device has this precision
    with torch.no_grad(), fabric.autocast():
        for job in held[fabric.global_rank :: fabric.world_size]:
            part, number = objective([reader(job)])
            totals += torch.stack([part, number]).cpu().double()
    means = _means(*_total(fabric, totals).tolist())
    objective.masking = masking
    objective.train()
    seconds = time.perf_counter() - started
    rate = sum(len(job.rows) for job in held) / seconds
    return {f"validation_{name}": value for name, value in means.items()} | {"forward_windows_per_s": rate}


def _forward_rate(fabric: Any, objective: Objective, batches: list[tuple[StreamedBatch, int]]) -> float:
    """Windows per second without a backward pass, on the batches of a step.

    Windows that are held out lie side by side and share their tiles: their rate would not be that of training.
    """
    started = time.perf_counter()
    with torch.no_grad(), fabric.autocast():
        objective(batches)[1].tolist()
    return fabric.world_size * sum(len(batch) for batch, _ in batches) / (time.perf_counter() - started)


def _baselines(sections: Sequence[StreamedSection], held: list[Job], config: PretrainConfig) -> dict[str, float]:
    if config.network.st_likelihood == "nb":
        return {}
    batches = ((sections[job.section].take(job.rows), job.seed) for job in held)
    return baseline_losses(batches, Masking(config.objective.n_visible))


def _total(fabric: Any, values: Tensor) -> Tensor:
    return values if fabric.world_size == 1 else fabric.all_reduce(values.to(fabric.device), reduce_op="sum")


def _rate(optimiser: torch.optim.Optimizer) -> float:
    """Learning rate of the top layer."""
    return max(group["lr"] for group in optimiser.param_groups)


def _means(sums: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
    return {name: sums[at] / counts[at] for at, name in enumerate(MODALITIES) if counts[at]}


def _finish(
    config: PretrainConfig,
    model: StormModel,
    sections: Sequence[StreamedSection],
    out: Path,
    *,
    steps: int,
    tiles: TileTokens | None,
) -> None:
    """Write the model that :func:`storm.load_model` reads."""
    parts: dict[str, Any] = {"network": model.network.requires_grad_(False).eval().cpu()}
    summary = f"pretrained on {len(sections)} sections for {config.optimiser.epochs} epochs ({steps} steps)"
    if not config.network.spatial_encoder:
        summary = f"tile encoder {model.tile_encoder.name!r} without STORM (ablation)"
    elif steps:
        model.settings["trained"] = True
    if tiles is not None and steps:
        summary += f", tile encoder {model.tile_encoder.name!r} included"
        tiles = tiles.requires_grad_(False).cpu()
        parts["tile_encoder"] = with_weights(tiles.info, tiles.module.eval())
        parts["statistics"] = model.statistics
        parts["statistics"]["he_mean"].copy_(tiles.mean)
        parts["statistics"]["he_std"].copy_(tiles.std)
    card = {
        "summary": summary,
        "sections": [section.name for section in sections],
        "library": prepared_library(config),
        "field_um": config.he.field_um or model.tile_encoder.field_um,
        # Without the paths of one machine.
        "recipe": {
            group: {name: value for name, value in values.items() if name not in _PATHS}
            for group, values in config.to_dict().items()
        },
    }
    replace(model, **parts, card=card).save(out / "model")


def _what_is_kept(out: Path, state: Mapping[str, Any], total: int) -> str:
    """What to say of an interruption."""
    checkpoint = find_checkpoint(out / "checkpoints")
    done = f"step {state['step']} of {total} was reached"
    if checkpoint is None:
        return f"{done} and no checkpoint written; the same call trains again from the first step"
    return f"{done}; the same call goes on from the checkpoint {checkpoint}"
