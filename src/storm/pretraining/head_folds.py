"""Which spots are held out while the strength of an expression head is chosen, and what the head is worth on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from storm.metrics.expression import pearson_per_gene
from storm.pretraining.head import HeadConfig, apply_head
from storm.pretraining.head_choice import choose_head
from storm.pretraining.ridge import PENALTIES

#: Parts along x of a single section, the gap on either side of one, in windows, and spots that a fold must leave.
_PARTS, _GAP, _LEAST = 5, 1.0, 3


@dataclass(frozen=True)
class Sample:
    """One training section: features and normalised expression of all its spots.

    Attributes
    ----------
    features
        Shape (n, f); NaN rows have none.
    expression
        log1p-normalised, shape (n, genes of the section).
    genes
        Their names.
    train
        Spots to train on, shape (n,).
    centres
        Shape (n, 2).
    reach
        How far a window reaches, in the units of the centres.
    """

    features: np.ndarray
    expression: Any
    genes: np.ndarray
    train: np.ndarray
    centres: np.ndarray
    reach: float

    @property
    def usable(self) -> np.ndarray:
        """Spots with features and counts, bool, shape (n,)."""
        return np.isfinite(self.features).all(axis=1) & (np.asarray(self.expression.sum(axis=1)).ravel() > 0)


def choose(
    samples: Sequence[Sample], targets: Sequence[np.ndarray], config: HeadConfig, *, groups: Sequence[str] | None
) -> tuple[HeadConfig, np.ndarray, str]:
    """A recipe without open questions, each gene's reliability, and in words how both were found.

    Parameters
    ----------
    samples
        Sections.
    targets
        Expression of the chosen genes, each of shape (n, g).
    config
        Recipe.
    groups
        Patient of each section.

    Returns
    -------
    config : HeadConfig
        With numbers for its penalty and epochs.
    reliability : ndarray
        Pearson correlation on held-out spots, averaged over sections or parts of one, shape (g,).
    how : str
        Which spots were held out.
    """
    rows = [np.flatnonzero(sample.usable & sample.train) for sample in samples]
    owner = np.repeat(np.arange(len(samples)), [len(r) for r in rows])
    x = np.concatenate([sample.features[r] for sample, r in zip(samples, rows, strict=True)])
    y = np.concatenate([target[r] for target, r in zip(targets, rows, strict=True)])
    if len(samples) > 1:
        several = groups is not None and len(set(groups)) > 1
        names = np.array([str(group) for group in groups] if several else range(len(samples)))[owner]
        folds = [(np.flatnonzero(names != name), np.flatnonzero(names == name)) for name in dict.fromkeys(names)]
        how = f"each {'group' if several else 'section'} in turn left out of training, mean over sections"
    else:
        folds, how = (
            _along_x(samples[0].centres[rows[0], 0], samples[0].reach),
            "each fifth along x left out in turn, mean",
        )
    folds = [(train, test) for train, test in folds if min(len(train), len(test)) >= _LEAST]
    if not folds:
        strongest = max(PENALTIES) if config.penalty is None else config.penalty
        config = replace(config, penalty=strongest, epochs=config.epochs or 0)
        return config, np.full(y.shape[1], np.nan), "not measured: there are too few spots to set some aside"
    config, found = choose_head(x, y, folds, config)
    scores = [
        _correlation(y[test][owner[test] == i], values[owner[test] == i])
        for (_, test), values in zip(folds, found, strict=True)
        for i in np.unique(owner[test])
    ]
    return config, mean_known(scores), how


def _along_x(x: np.ndarray, reach: float) -> list[tuple[np.ndarray, np.ndarray]]:
    edges = np.quantile(x, np.linspace(0, 1, _PARTS + 1))
    part = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, _PARTS - 1)
    folds = []
    for k in range(_PARTS):
        near = (x > edges[k] - _GAP * reach) & (x < edges[k + 1] + _GAP * reach)
        folds.append((np.flatnonzero(~near), np.flatnonzero(part == k)))
    return folds


def score(head, sample: Sample, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Correlation of each gene over some spots of a section, shape (g,)."""
    return _correlation(target[rows], apply_head(head, sample.features[rows]))


def _correlation(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    return pearson_per_gene(truth, found) if len(truth) >= _LEAST else np.full(truth.shape[1], np.nan)


def mean_known(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over sections of what is known, shape (g,)."""
    stacked = np.stack(scores)
    known = np.isfinite(stacked)
    return np.where(
        known.any(axis=0), np.where(known, stacked, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan
    )
