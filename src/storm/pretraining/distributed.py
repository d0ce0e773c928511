"""The objective of one step over many sections and processes; its draws depend on the step, not on the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from storm.model.storm import Storm
from storm.pretraining.config import PretrainConfig
from storm.pretraining.objective import Masking, draw_masks, masked_loss
from storm.pretraining.stream import StreamedBatch, StreamedSection
from storm.pretraining.tiles import TileTokens

MODALITIES = ("he", "st")
#: Takes the place of the epoch in the seeds of validation.
_VALIDATION = 2**31


@dataclass(frozen=True)
class Job:
    """Some windows of one section, and the random seed of everything that is drawn for them."""

    section: int
    rows: np.ndarray
    seed: int


def epoch_steps(sections: Sequence[StreamedSection], config: PretrainConfig, epoch: int) -> list[list[Job]]:
    """Draw the jobs of every step of an epoch: each training window once.

    Parameters
    ----------
    sections
        All sections.
    config
        The run.
    epoch
        Number of the epoch, from 0.

    Returns
    -------
    list of list of Job
        By step.
    """
    parts = []
    for number, section in enumerate(sections):
        rng = np.random.default_rng([config.run.seed, epoch, number])
        rows = section.train[rng.permutation(len(section.train))]
        parts += [
            (number, rows[at : at + config.data.section_batch]) for at in range(0, len(rows), config.data.section_batch)
        ]
    order = np.random.default_rng([config.run.seed, epoch, len(sections)]).permutation(len(parts))
    jobs = [
        Job(section=parts[at][0], rows=parts[at][1], seed=_seed(config.run.seed, epoch, place))
        for place, at in enumerate(order)
    ]
    size = config.optimiser.batch_size // config.data.section_batch
    return [jobs[at : at + size] for at in range(0, len(jobs), size)]


def validation_jobs(sections: Sequence[StreamedSection], config: PretrainConfig) -> list[Job]:
    """Make the jobs over the held-out windows; they are the same in every validation."""
    jobs: list[Job] = []
    for number, section in enumerate(sections):
        rows = section.validate
        for at in range(0, len(rows), config.data.section_batch):
            jobs.append(
                Job(number, rows[at : at + config.data.section_batch], _seed(config.run.seed, _VALIDATION, len(jobs)))
            )
    return jobs


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Objective(nn.Module):
    """Sums of the masked losses over the jobs of a process, to be divided by the counts over all processes.

    The mean over masked positions (eq. 3) is then that of the whole batch, however it is shared out.

    Parameters
    ----------
    network
        With decoders.
    masking
        How windows are masked.
    tiles
        The tile encoder, where it is trained too; batches then come with pixels.
    """

    def __init__(self, network: Storm, masking: Masking, tiles: TileTokens | None = None) -> None:
        super().__init__()
        self.network, self.masking, self.tiles = network, masking, tiles

    def forward(self, batches: Sequence[tuple[StreamedBatch, int]]) -> tuple[Tensor, Tensor]:
        """Sum losses and numbers of masked positions over batches.

        Parameters
        ----------
        batches
            Windows, and their seeds.

        Returns
        -------
        losses, counts : Tensor
            Shape (2,): H&E, ST.
        """
        # Connected to the weights, for a process without any job: it takes part in the exchange of gradients.
        nothing = self.network.norm.weight.sum() * 0.0
        sums = [nothing.float()] * len(MODALITIES)
        counts = torch.zeros(len(MODALITIES), device=nothing.device)
        for batch, seed in batches:
            torch.manual_seed(seed)  # dropout
            inputs = {}
            if batch.tiles is not None:
                assert self.tiles is not None
                inputs["he"] = self.tiles(batch.tiles, len(batch.spots), batch.section.name)
            rows = torch.arange(len(batch))
            # The same draw as the loss makes: how many positions each loss is the mean of.
            draw = draw_masks(batch, rows, masking=self.masking, generator=torch.Generator().manual_seed(seed))
            losses = masked_loss(
                self.network,
                batch,
                rows,
                masking=self.masking,
                generator=torch.Generator().manual_seed(seed),
                inputs=inputs,
            )
            for name, loss in losses.items():
                at, number = MODALITIES.index(name), int(draw.hidden[name].sum())
                sums[at] = sums[at] + loss.float() * number
                counts[at] += number
        return torch.stack(sums), counts
