"""Losses that masked reconstruction has to beat: of the mean, and of the nearest visible spot."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from storm.model.masking import draw_visible, hidden_positions
from storm.pretraining.losses import gaussian_nll
from storm.pretraining.objective import Masking
from storm.pretraining.stream import StreamedBatch


def baseline_losses(batches: Iterable[tuple[StreamedBatch, int]], masking: Masking) -> dict[str, float]:
    """Gaussian loss of two predictors that learn nothing, on the masks that the network is scored on.

    Parameters
    ----------
    batches
        Windows with the seeds of their masks.
    masking
        How they are masked, with ``he_only=0`` and all genes.

    Returns
    -------
    dict of str to float
        ``"he_mean"``, ``"st_mean"``: every masked spot is its section's mean; ``"he_nearest"``, ``"st_nearest"``: it is
        the nearest visible spot of its window.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for batch, seed in batches:
        generator = torch.Generator().manual_seed(seed)
        index, offsets, masks = batch.batch(torch.arange(len(batch)))
        # The objective draws here whether expression is shown at all.
        if {"he", "st"} <= masks.keys():
            torch.rand((), generator=generator)
        for name, present in masks.items():
            slots, shown = draw_visible(present, masking.n_visible, generator=generator)
            hidden = hidden_positions(present, slots, shown)
            if not hidden.any():
                continue
            values, average = _values(batch, name)
            nearest, known = _nearest(offsets, slots, shown)
            source = index.gather(1, nearest)[hidden]
            guess = torch.where(known.expand_as(hidden)[hidden].unsqueeze(1), values[source], average)
            truth = values[index[hidden]]
            everything = torch.ones((), dtype=torch.bool)
            for kind, prediction in (("nearest", guess), ("mean", average.expand_as(truth))):
                loss = gaussian_nll(prediction, truth, everything, everything.expand(len(truth))).item()
                sums[f"{name}_{kind}"] = sums.get(f"{name}_{kind}", 0.0) + loss * len(truth)
                counts[f"{name}_{kind}"] = counts.get(f"{name}_{kind}", 0) + len(truth)
    return {name: total / counts[name] for name, total in sums.items()}


def _values(batch: StreamedBatch, name: str) -> tuple[Tensor, Tensor]:
    """Targets of all spots of a batch, and their section's mean."""
    if name == "he":
        return batch.values["he"], torch.zeros(batch.values["he"].shape[1])
    genes = batch.measured.nonzero().squeeze(1)
    values = batch.expression[torch.arange(len(batch.spots)).unsqueeze(1), genes]
    mean = torch.from_numpy(batch.section.mean)[genes]
    return values, torch.zeros_like(mean) if batch.section.relative else mean


def _nearest(offsets: Tensor, slots: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Find the slot of the nearest visible spot of every position (B, L), and whether its window shows any (B, 1)."""
    at = offsets.gather(1, slots.unsqueeze(-1).expand(-1, -1, 2))
    distance = torch.cdist(offsets, at).masked_fill(~shown.unsqueeze(1), torch.inf)
    return slots.gather(1, distance.argmin(dim=2)), shown.any(dim=1, keepdim=True)
