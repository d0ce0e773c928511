"""Loss of a network on spots that it was not trained on, and the weights of its best epoch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from scipy.spatial import cKDTree

from storm.model.storm import Storm
from storm.pretraining.objective import Masking, masked_loss
from storm.pretraining.sections import SectionTensors

if TYPE_CHECKING:
    from storm.model.decoder import SpotDecoder

#: Masks drawn for each window of the validation: the loss depends on them.
_DRAWS = 4
#: Windows per batch.
_BATCH = 256


class Best:
    """Weights of the epoch with the lowest loss."""

    def __init__(self) -> None:
        self.epoch, self.loss = -1, float("inf")
        self._state: dict[str, Any] | None = None

    @property
    def known(self) -> bool:
        """Whether an epoch was remembered."""
        return self._state is not None

    def take(self, network: Storm, epoch: int, loss: float) -> None:
        """Remember the weights if the loss is the lowest so far."""
        if loss < self.loss:
            self.epoch, self.loss, self._state = epoch, loss, copy.deepcopy(network.state_dict())

    def give(self, network: Storm) -> None:
        """Put the remembered weights back, if there are any."""
        if self._state is not None:
            network.load_state_dict(self._state)


def hold_out(centres: np.ndarray, *, share: float, gap: float, seed: int) -> np.ndarray:
    """Split a section into spots to train on and one contiguous block to validate on, with a gap between them.

    Neighbouring spots resemble each other: spots held out at random would be predicted from those beside them.

    Parameters
    ----------
    centres
        x and y, shape (n, 2); rows of NaN are in neither part.
    share
        Share of the spots in the block, which holds those nearest to a spot drawn at random.
    gap
        Distance from the block within which a spot is in neither part, in the units of the centres.
    seed
        Random seed of that spot.

    Returns
    -------
    ndarray
        Bool, shape (2, n): spots to train on, and the block.
    """
    placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
    points = centres[placed]
    if not len(points):
        return np.zeros((2, len(centres)), dtype=bool)
    middle = points[np.random.default_rng(seed).integers(len(points))]
    near = np.argsort(((points - middle) ** 2).sum(axis=1), kind="stable")[: max(1, round(share * len(points)))]
    distance, _ = cKDTree(points[near]).query(points)
    train, block = parts = np.zeros((2, len(centres)), dtype=bool)
    train[placed[distance > gap]] = True
    block[placed[near]] = True
    return parts


def evaluate(
    network: Storm, sections: Sequence[SectionTensors], *, masking: Masking, seed: int = 0
) -> dict[str, float]:
    """Mean loss of each modality over windows, four draws of masks each; the same draws at every call.

    Parameters
    ----------
    network
        With decoders; it is in training mode afterwards if it was before.
    sections
        Where the windows come from.
    masking
        How windows are masked; ``he_only`` is ignored.
    seed
        Random seed of the masks.

    Returns
    -------
    dict of str to float
        By modality.
    """
    masking = replace(masking, he_only=0.0)
    generator = torch.Generator().manual_seed(seed)
    training = network.training
    network.eval()
    sums: dict[str, list[float]] = {}
    with torch.no_grad():
        for section in sections:
            for rows in section.rows().repeat(_DRAWS).split(_BATCH):
                for name, loss in masked_loss(
                    network, section, rows, masking=masking, generator=generator, modalities=section.values.keys()
                ).items():
                    total = sums.setdefault(name, [0.0, 0.0])
                    total[0] += loss.item() * len(rows)
                    total[1] += len(rows)
    network.train(training)
    return {name: total / count for name, (total, count) in sums.items()}


def mean_predictor(network: Storm, sections: Sequence[SectionTensors]) -> Storm:
    """Make a network of the same shape that predicts the mean of the training spots for every spot.

    Parameters
    ----------
    network
        With decoders.
    sections
        Training sections.
    """
    plain = copy.deepcopy(network).requires_grad_(False)
    for name, decoder in plain.decoders.items():
        parts = [section for section in sections if name in section.values]
        if not parts:
            continue
        out = cast("SpotDecoder", decoder).out
        total, count = torch.zeros(out.out_features), torch.zeros(out.out_features)
        for part in parts:
            rows = part.rows_with(name)
            if name == "st":
                assert part.expression is not None
                assert part.measured is not None
                total += part.expression[rows].sum(dim=0)
                count += len(rows) * part.measured.float()
            else:
                total += part.values["he"][rows].sum(dim=0)
                count += len(rows)
        mean = total / count.clamp(min=1)
        if name == "st" and network.config.st_likelihood == "nb":
            mean = (mean / mean.sum()).clamp(min=1e-8).log()
        out.weight.zero_()
        out.bias.copy_(mean)
    return plain
