"""Bags of tiles as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from storm._bridge.cohort import Cohort


def draw_batch(
    cohort: Cohort, patients: Sequence[str], modalities: Sequence[str], *, n_tiles: int, seeds: Sequence[Sequence[int]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Random tiles of some patients, padded to the longest bag.

    Parameters
    ----------
    cohort
        The cohort.
    patients
        Who.
    modalities
        Which vectors.
    n_tiles
        Tiles per patient; one who has fewer gives all.
    seeds
        Random seed of each patient's draw.

    Returns
    -------
    bags
        Float32, shape (patients, n, d) per modality.
    mask
        Which tiles there are, bool, shape (patients, n).
    """
    bags = [
        cohort.bag(patient, n_tiles=n_tiles, rng=np.random.default_rng(list(seed)))
        for patient, seed in zip(patients, seeds, strict=True)
    ]
    values = [{name: torch.from_numpy(getattr(bag, name)) for name in modalities} for bag in bags]
    lengths = torch.tensor([len(one[modalities[0]]) for one in values])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([one[name] for one in values], batch_first=True) for name in modalities
    }
    return padded, mask


def moments_of(
    cohort: Cohort, patients: Sequence[str], modalities: Sequence[str], *, n_tiles: int, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of the vectors of tiles, every patient with the same weight, shape (d,) each."""
    found = {}
    sums = {name: [0.0, 0.0, 0.0] for name in modalities}
    for k, patient in enumerate(patients):
        bag = cohort.bag(patient, n_tiles=n_tiles, rng=np.random.default_rng([seed, k]))
        for name in modalities:
            values = np.asarray(getattr(bag, name), dtype=np.float64)
            known = np.isfinite(values)
            number = known.sum(axis=0)
            mean = np.where(known, values, 0).sum(axis=0) / np.maximum(number, 1)
            square = np.where(known, np.square(values), 0).sum(axis=0) / np.maximum(number, 1)
            for at, value in enumerate((mean, square, number > 0)):
                sums[name][at] = sums[name][at] + value
    for name, (mean, square, number) in sums.items():
        mean, square = mean / np.maximum(number, 1), square / np.maximum(number, 1)
        std = np.sqrt(np.maximum(square - np.square(mean), 0))
        # What is the same everywhere tells nothing, and must not become large elsewhere.
        std = np.where(std > 1e-6, std, np.inf)
        found[name] = (torch.from_numpy(mean).float(), torch.from_numpy(np.minimum(std, 1e6)).float())
    return found
