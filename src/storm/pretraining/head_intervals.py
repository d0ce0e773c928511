"""Prediction intervals of an expression head from the errors that it makes on spots that were held out.

The error of a prediction is mostly the noise of the measurement that it is compared with, which depends on its depth:
quantiles over all spots cover too little of shallow spots and too much of deep ones. The training counts are therefore
thinned to several depths, and quantiles taken at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from storm._loading.head_intervals import Intervals
from storm.metrics.intervals import conformal_quantile
from storm.pretraining.head_sections import HeadSection, targets

#: Counts per spot to which measurements are thinned.
DEPTHS = (300, 600, 1200, 2500, 5000, 10_000, 20_000)
#: Share of a depth that a spot's counts must reach to stand for it.
_ENOUGH = 0.8


def thin(counts: csr_matrix, depth: float, rng: np.random.Generator) -> csr_matrix:
    """Counts as if a spot had been sequenced to some depth: each count is kept with the same probability.

    Parameters
    ----------
    counts
        Raw counts, shape (n, g).
    depth
        Expected counts of a spot; one with fewer stays as it is.
    rng
        For the draw.

    Returns
    -------
    csr_matrix
        Shape (n, g).
    """
    total = np.asarray(counts.sum(axis=1)).ravel()
    keep = np.minimum(1.0, depth / np.maximum(total, 1))
    thinned = csr_matrix(counts, dtype=np.float32, copy=True)
    whole = np.round(thinned.data).astype(np.int64)
    thinned.data = rng.binomial(whole, np.repeat(keep, np.diff(thinned.indptr))).astype(np.float32)
    return thinned


def fit_intervals(
    sections: Sequence[HeadSection],
    symbols: Sequence[str],
    predictions: Sequence[np.ndarray],
    *,
    alpha: float = 0.1,
    depths: Sequence[float] = DEPTHS,
    n_patients: int = 1,
    seed: int = 0,
) -> Intervals | None:
    """Quantiles of held-out errors at each depth.

    Parameters
    ----------
    sections
        Sections with their library.
    symbols
        Genes of the head, by symbol where their Ensembl id is known, shape (g,).
    predictions
        Of each section the prediction of its spots by a head that was not trained on them, shape (n, g); NaN rows for
        spots without one.
    alpha
        Probability that a measurement lies outside its interval.
    depths
        Counts per spot, ascending.
    n_patients
        Patients that were held out in turn; for the record.
    seed
        Random seed of the thinning.

    Returns
    -------
    Intervals or None
        With the depths for which there are enough spots for this ``alpha``; ``None`` where there is none.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(np.isfinite(values).all(axis=1)) for values in predictions]
    totals = [np.asarray(s.counts.sum(axis=1)).ravel()[r] for s, r in zip(sections, rows, strict=True)]
    kept, lower, upper, counted = [], [], [], []
    for depth in depths:
        errors = []
        for section, own, total, predicted in zip(sections, rows, totals, predictions, strict=True):
            deep = own[total >= _ENOUGH * depth]
            if not len(deep):
                continue
            shallow = replace(section, counts=thin(section.counts[deep], depth, rng), **_rows_of(section, deep))
            # A spot that lost the last count of its library has no expression.
            errors.append((targets(shallow, symbols) - predicted[deep])[shallow.usable])
        if not errors:
            continue
        error = np.concatenate(errors)
        low, high = -conformal_quantile(-error, alpha=alpha / 2), conformal_quantile(error, alpha=alpha / 2)
        if np.isfinite(low).all() and np.isfinite(high).all():
            kept.append(float(depth))
            lower.append(low)
            upper.append(high)
            counted.append(len(error))
    if not kept:
        return None
    return Intervals(
        alpha=float(alpha),
        depths=np.array(kept),
        lower=np.array(lower, dtype=np.float32),
        upper=np.array(upper, dtype=np.float32),
        n_spots=np.array(counted),
        default_depth=float(np.median(np.concatenate(totals))),
        n_sections=sum(len(own) > 0 for own in rows),
        n_patients=int(n_patients),
    )


def _rows_of(section: HeadSection, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: getattr(section, name)[rows] for name in ("features", "train", "centres")}
