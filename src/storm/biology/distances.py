"""Pairs of spots by their distance, for tests that count what neighbouring spots share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

#: Spots up to which all pairs count; of more spots those within ``REACH`` pitches.
ALL_PAIRS = 2000
#: Distance in pitches up to which pairs of many spots count.
REACH = 10
#: Pairs of a distance from which a correlation is estimated, at most; their standard error is 0.007.
SAMPLED = 20_000


@dataclass(frozen=True)
class DistanceBins:
    """Pairs of spots by distance in whole pitches: bin b holds those nearest to b + 1 pitches.

    Attributes
    ----------
    pairs
        Rows of the spots of each bin's pairs, shape (m, 2); a sample where there are many.
    contrast
        Sum of a_i a_j over all ordered pairs of each bin, shape (bins,), with a = 1/n1 in the domain and -1/n0 in its
        reference.
    """

    pairs: list[np.ndarray]
    contrast: np.ndarray


def typical_pitch(centres: np.ndarray, sections: np.ndarray | None = None) -> float:
    """Median distance of a spot to the nearest other place of its section; NaN if there is none.

    Parameters
    ----------
    centres
        x and y, shape (n, 2); rows of NaN do not count.
    sections
        Section of each spot, shape (n,); ``None`` where all spots are of one.
    """
    groups = np.zeros(len(centres), dtype=int) if sections is None else np.asarray(sections)
    placed = np.isfinite(centres).all(axis=1)
    nearest = []
    for section in np.unique(groups[placed]):
        points = np.unique(centres[placed & (groups == section)], axis=0)
        if len(points) > 1:
            nearest.append(cKDTree(points).query(points, k=2)[0][:, 1])
    return float(np.median(np.concatenate(nearest))) if nearest else float("nan")


def distance_bins(
    centres: np.ndarray,
    domain: np.ndarray,
    *,
    pitch: float,
    sections: np.ndarray | None = None,
    seed: int = 0,
) -> DistanceBins:
    """Sort pairs of spots of the same section by distance.

    Parameters
    ----------
    centres
        x and y of the spots of the domain and its reference, shape (n, 2); rows of NaN are in no pair.
    domain
        Which spots are the domain's, bool, shape (n,).
    pitch
        Width of a bin, in the units of the centres.
    sections
        Section of each spot, shape (n,).
    seed
        Random seed of the sample of pairs.

    Returns
    -------
    DistanceBins
    """
    n = len(centres)
    weight = np.where(domain, 1 / max(domain.sum(), 1), -1 / max((~domain).sum(), 1))
    groups = np.zeros(n, dtype=int) if sections is None else np.asarray(sections)
    placed = np.isfinite(centres).all(axis=1)
    found = [np.empty((0, 2), dtype=np.int64)]
    for section in np.unique(groups[placed]):
        rows = np.flatnonzero(placed & (groups == section))
        rows = rows[np.lexsort(centres[rows].T)]  # a sample of pairs must not depend on the order of the rows
        tree = cKDTree(centres[rows])
        reach = np.inf if n <= ALL_PAIRS else (REACH + 0.5) * pitch
        found.append(rows[tree.query_pairs(reach, output_type="ndarray")])
    pairs = np.concatenate(found)
    if not len(pairs) or not pitch > 0:
        return DistanceBins([], np.empty(0))
    away = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)
    bins = np.maximum(np.rint(away / pitch).astype(np.int64), 1) - 1
    if n > ALL_PAIRS:
        pairs, bins = pairs[bins < REACH], bins[bins < REACH]
    contrast = 2 * np.bincount(bins, weights=weight[pairs[:, 0]] * weight[pairs[:, 1]])
    order = np.argsort(bins, kind="stable")
    by_bin = np.split(pairs[order], np.cumsum(np.bincount(bins))[:-1])
    rng = np.random.default_rng(seed)
    return DistanceBins([_sample(own, rng) for own in by_bin], contrast)


def _sample(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(pairs) <= SAMPLED:
        return pairs
    return pairs[np.sort(rng.choice(len(pairs), SAMPLED, replace=False))]
