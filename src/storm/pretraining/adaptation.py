"""The training behind :func:`storm.tl.adapt`, on arrays: targets, a held-out block, and the facts for the card."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from storm._loading import StormModel
from storm.data.genes import match_genes
from storm.data.libraries import Library
from storm.data.normalise import log_normalise
from storm.data.spots import Spots
from storm.model.storm import Storm
from storm.pretraining.config_groups import OptimiserConfig
from storm.pretraining.fit import fit
from storm.pretraining.held_out import evaluate, hold_out, mean_predictor
from storm.pretraining.objective import Masking
from storm.pretraining.sections import SectionTensors, TrainingSection

#: Gap in pitches around the block that is held out; a little more than one, so that a neighbour at one is outside.
_GAP = 1.01
#: Genes drawn for the loss of each step: most of a step would otherwise go into genes.
_GENES_PER_STEP = 384
#: Share of the steps in which a section with both modalities shows H&E alone, as in predicting genes from H&E.
_HE_ONLY = 0.3


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """How an adaptation is trained.

    Attributes
    ----------
    optimiser
        Optimiser and schedule.
    patience
        Stops after so many epochs without a lower loss on the held-out block; ``None`` never stops early.
    held_out
        Share of each section's spots in the block that is not trained on; 0 trains on all spots.
    seed
        Random seed of the block, the masks, the order and dropout.
    """

    optimiser: OptimiserConfig
    patience: int | None
    held_out: float
    seed: int


def expression_targets(spots: Spots, model: StormModel, library: Library) -> tuple[np.ndarray, np.ndarray]:
    """Expression that the ST decoder is to rebuild.

    Parameters
    ----------
    spots
        A section with counts.
    model
        Model whose vocabulary the decoder predicts.
    library
        Genes whose counts add up to the library size.

    Returns
    -------
    values : ndarray
        log1p-normalised, or raw counts for the negative binomial, float32, shape (n, n_genes); 0 for genes that the
        section does not measure.
    measured : ndarray
        Which genes it measures, bool, shape (n_genes,).
    """
    counts, genes = spots.expression
    index = match_genes(genes, model.vocabulary).index
    columns = np.flatnonzero(index >= 0)
    if model.config.st_likelihood != "nb":
        counts = log_normalise(counts, library=library.columns(genes))
    values = np.zeros((len(spots), len(model.vocabulary)), dtype=np.float32)
    values[:, index[columns]] = counts[:, columns].toarray()
    measured = np.zeros(len(model.vocabulary), dtype=bool)
    measured[index[columns]] = True
    return values, measured


def relative_to_mean(sections: Sequence[TrainingSection], *, by_section: bool) -> list[TrainingSection]:
    """Subtract a mean from the expression targets, as it is from the tokens.

    Parameters
    ----------
    sections
        Sections with log1p-normalised targets.
    by_section
        Subtract each section's own mean, and otherwise that of all sections that measure a gene.
    """
    groups = [[section] for section in sections] if by_section else [list(sections)]
    return [section for group in groups for section in _relative(group)]


def _relative(group: list[TrainingSection]) -> list[TrainingSection]:
    measured = [section for section in group if section.expression is not None]
    if not measured:
        return group
    known = [section.target[section.present("st")] for section in measured]
    total = np.sum([values.sum(axis=0, dtype=np.float64) for values in known], axis=0)
    count = np.sum([len(values) * s.panel for values, s in zip(known, measured, strict=True)], axis=0)
    mean = np.asarray(total / np.maximum(count, 1), dtype=np.float32)
    return [
        s if s.expression is None else replace(s, expression=np.where(s.panel, s.expression - mean, 0)) for s in group
    ]


def present(section: TrainingSection) -> np.ndarray:
    """Spots that have a place and a token, bool, shape (n,)."""
    return (section.windows.index[:, 0] >= 0) & (section.present("he") | section.present("st"))


def fit_adaptation(
    network: Storm,
    sections: Sequence[TrainingSection],
    centres: Sequence[np.ndarray],
    config: AdaptationConfig,
    *,
    device: torch.device,
) -> tuple[Storm, dict[str, Any]]:
    """Train a copy of a network.

    Parameters
    ----------
    network
        Network to start from, with decoders; it is not changed.
    sections
        Training sections.
    centres
        x and y of each section's spots, shape (n, 2).
    config
        How to train.
    device
        Device to train on.

    Returns
    -------
    network : Storm
        The trained copy, frozen, on the CPU.
    facts : dict
        Epochs and losses for the card, and the loss of the held-out block beside that of the training spots' mean.

    Raises
    ------
    ValueError
        If the training diverges.
    """
    masking = Masking(he_only=_HE_ONLY, genes_per_step=_GENES_PER_STEP)
    train, block = list(sections), list(sections[:0])
    if config.held_out:
        parts = [
            hold_out(
                np.where(present(section)[:, None], at, np.nan),
                share=config.held_out,
                gap=_GAP * section.windows.pitch,
                seed=config.seed,
            )
            for section, at in zip(sections, centres, strict=True)
        ]
        train, block = ([s.only(part[i]) for s, part in zip(sections, parts, strict=True)] for i in (0, 1))
    network = copy.deepcopy(network).to(device).requires_grad_(True)
    # Dropout draws from torch's own generator.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        history = fit(
            network,
            train,
            config.optimiser,
            masking=masking,
            patience=config.patience,
            seed=config.seed,
            validation=block,
        )
    facts: dict[str, Any] = {
        "epochs": len(history),
        "losses": [
            {name: round(float(value), 6) for name, value in record.items() if name != "seconds"} for record in history
        ],
    }
    of_epoch = [{n[4:]: loss for n, loss in record.items() if n.startswith("val_")} for record in history]
    if of_epoch[0]:
        best = int(np.argmin([sum(losses.values()) for losses in of_epoch]))
        plain = mean_predictor(network, [SectionTensors(section) for section in train])
        mean = evaluate(plain, [SectionTensors(section) for section in block], masking=masking)
        facts |= {
            "held_out_spots": int(sum((section.windows.index[:, 0] >= 0).sum() for section in block)),
            "best_epoch": best,
            "held_out_loss": {name: round(loss, 5) for name, loss in of_epoch[best].items()},
            "held_out_loss_of_the_mean": {name: round(loss, 5) for name, loss in mean.items()},
        }
    return network.cpu().requires_grad_(False).eval(), facts
