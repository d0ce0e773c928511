"""Calibration of an expression head by the spots that were held out while its recipe was chosen.

The error of a prediction is mostly the noise of the measurement that it is compared with, which depends on its depth:
quantiles over all spots cover too little of shallow spots and too much of deep ones. The training counts are therefore
thinned to several depths, and quantiles taken at each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from storm._loading.head_calibration import Intervals, Novelty
from storm.data.normalise import row_blocks
from storm.data.novelty import left_out_distances, reference_rows
from storm.metrics.intervals import conformal_quantile, hierarchical_quantile
from storm.pretraining.head_sections import HeadSection, Recipe, targets

#: Counts per spot to which measurements are thinned.
DEPTHS = (300, 600, 1200, 2500, 5000, 10_000, 20_000)
#: Share of a depth that a spot's counts must reach to stand for it.
_ENOUGH = 0.8
#: Parts along x of the only section, which stand for sections in the calibration of novelty.
_PARTS = 5


def calibrate(
    sections: Sequence[HeadSection],
    symbols: Sequence[str],
    recipe: Recipe,
    *,
    patients: Sequence[str] | None = None,
    alpha: float = 0.1,
    seed: int = 0,
) -> tuple[Intervals | None, Novelty | None]:
    """Calibrate a head by the spots that were held out while its recipe was chosen.

    Parameters
    ----------
    sections
        Sections with their library and their tile embeddings.
    symbols, patients, alpha, seed
        See :func:`fit_intervals`.
    recipe
        What was held out, and the predictions there.
    """
    tiles = [section.tiles for section in sections if section.tiles is not None]
    novelty = None
    if len(tiles) == len(sections):
        novelty = fit_novelty(tiles, [section.rows for section in sections], [section.centres for section in sections])
    owners = patients if recipe.n_patients > 1 else None
    intervals = fit_intervals(sections, symbols, recipe.predictions, patients=owners, alpha=alpha, seed=seed)
    return intervals, novelty


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
    patients: Sequence[str] | None = None,
    alpha: float = 0.1,
    depths: Sequence[float] = DEPTHS,
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
        Of each section the prediction of its ``rows`` by a head that was not trained on them, shape (rows, g); NaN rows
        for spots without one.
    patients
        Patient of each section, if they were held out in turn. With as many as the level needs, nine for 90 %, the
        intervals are widened (or narrowed) until they hold for a new patient.
    alpha
        Probability that a measurement lies outside its interval.
    depths
        Counts per spot, ascending.
    seed
        Random seed of the thinning.

    Returns
    -------
    Intervals or None
        With the depths for which there are enough spots for this ``alpha``; ``None`` where there is none.
    """
    rng = np.random.default_rng(seed)
    owners = ["all"] * len(sections) if patients is None else list(patients)
    new_patient = len(set(owners)) >= 1 / alpha - 1
    held = [np.flatnonzero(np.isfinite(values[:, 0])) for values in predictions]
    totals = [np.asarray(s.counts[s.rows[r]].sum(axis=1)).ravel() for s, r in zip(sections, held, strict=True)]
    kept, lower, upper, counted = [], [], [], []
    for depth in depths:
        measured: dict[str, list[tuple[csr_matrix, np.ndarray, np.ndarray]]] = {}
        for section, owner, own, total, predicted in zip(sections, owners, held, totals, predictions, strict=True):
            deep = own[total >= _ENOUGH * depth]
            rows = section.rows[deep]
            counts = thin(section.counts[rows], depth, rng)
            shallow = replace(section, counts=counts, features=section.features[rows], train=section.train[rows])
            # A spot that lost the last count of its library has no expression.
            usable = np.flatnonzero(shallow.usable)
            if len(usable):
                part = targets(shallow, symbols)[usable].tocsc(), predicted, deep[usable]
                measured.setdefault(owner, []).append(part)
        n_spots = sum(len(at) for parts in measured.values() for *_, at in parts)
        if not n_spots:
            continue
        limits = [
            _quantiles(measured.values(), genes, alpha=alpha, new_patient=new_patient)
            for genes in row_blocks((len(symbols), n_spots))
        ]
        low, high = (np.concatenate(side) for side in zip(*limits, strict=True))
        if np.isfinite(low).all() and np.isfinite(high).all():
            kept.append(float(depth))
            lower.append(low)
            upper.append(high)
            counted.append(n_spots)
    if not kept:
        return None
    return Intervals(
        alpha=float(alpha),
        holds_for="patient" if new_patient else "section",
        depths=np.array(kept, dtype=np.float32),
        lower=np.array(lower, dtype=np.float32),
        upper=np.array(upper, dtype=np.float32),
        n_spots=np.array(counted),
        default_depth=float(np.median(np.concatenate(totals))),
    )


def _quantiles(
    measured: Iterable[list[tuple[csr_matrix, np.ndarray, np.ndarray]]],
    genes: slice,
    *,
    alpha: float,
    new_patient: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of some genes, from what was measured and predicted (and in which of its rows) in the sections of each."""
    groups = [
        np.concatenate([truth[:, genes].toarray() - predicted[rows, genes] for truth, predicted, rows in parts])
        for parts in measured
    ]
    error = np.concatenate(groups)
    low, high = -conformal_quantile(-error, alpha=alpha / 2), conformal_quantile(error, alpha=alpha / 2)
    if new_patient:
        beyond = hierarchical_quantile([np.maximum(low - e, e - high) for e in groups], alpha=alpha)
        low, high = np.minimum(low - beyond, high + beyond), np.maximum(low - beyond, high + beyond)
    return low, high


def own_intervals(section: HeadSection, symbols: Sequence[str], predicted: np.ndarray, *, alpha: float) -> Intervals:
    """Quantiles of the errors on some spots of a section that the head was not trained on, at their own depth.

    Parameters
    ----------
    section
        The section; its ``rows`` are the spots.
    symbols
        Genes of the head, by symbol where their Ensembl id is known, shape (g,).
    predicted
        Prediction of these rows, shape (rows, g).
    alpha
        Probability that a measurement lies outside its interval.

    Raises
    ------
    ValueError
        If there are too few spots for this ``alpha``.
    """
    rows = section.rows
    least = int(np.ceil(np.round(2 / alpha - 1, 9)))
    if len(rows) < least:
        msg = (
            f"{len(rows)} spots have counts and lie on the image, and intervals with alpha={alpha:g} need {least} or "
            f"more; give more spots, or a larger alpha"
        )
        raise ValueError(msg)
    error = targets(section, symbols)[rows].toarray() - predicted
    depth = float(np.median(np.asarray(section.counts.sum(axis=1)).ravel()[rows]))
    return Intervals(
        alpha=float(alpha),
        holds_for="section",
        depths=np.array([depth], dtype=np.float32),
        lower=-conformal_quantile(-error, alpha=alpha / 2)[None].astype(np.float32),
        upper=conformal_quantile(error, alpha=alpha / 2)[None].astype(np.float32),
        n_spots=np.array([len(rows)]),
        default_depth=depth,
    )


def fit_novelty(
    tiles: Sequence[np.ndarray], rows: Sequence[np.ndarray], centres: Sequence[np.ndarray]
) -> Novelty | None:
    """Reference tiles, and how far tiles of one section lie from those of the others.

    Parameters
    ----------
    tiles
        Of each section the tile embeddings as the encoder gives them, shape (n, he_dim).
    rows
        Rows of the training spots of each section.
    centres
        x and y of the spots of each section, shape (n, 2): parts along x of the only section stand for several.

    Returns
    -------
    Novelty or None
        ``None`` where no tile has others to be compared with.
    """
    values = np.concatenate([part[own] for part, own in zip(tiles, rows, strict=True)]).astype(np.float32)
    groups = np.repeat(np.arange(len(tiles)), [len(own) for own in rows])
    if len(tiles) == 1:
        x = centres[0][rows[0], 0]
        groups = np.searchsorted(np.quantile(x, np.linspace(0, 1, _PARTS + 1)[1:-1]), x, side="right")
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.maximum(std, 1e-3 * std.max() + 1e-8)
    values = (values - mean) / std
    kept = reference_rows(groups)
    apart = left_out_distances(values, groups, kept)
    if not np.isfinite(apart).any():
        return None
    return Novelty(mean=mean, std=std, reference=values[kept], distances=np.sort(apart[np.isfinite(apart)]))
