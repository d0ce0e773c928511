"""A domain against its reference, gene by gene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from storm.biology.distances import DistanceBins
from storm.biology.ranks import benjamini_hochberg, rank_columns, rank_sum_test, spatial_rank_test

#: Added to mean expression before the fold change, as scanpy does: genes that one side lacks get ±30.
_SMALL = 1e-9


@dataclass(frozen=True)
class Contrast:
    """Genes of a domain against those of its reference; every array has the shape (g,).

    Attributes
    ----------
    z, p, p_adjusted
        Score, two-sided p-value and Benjamini-Hochberg rate over the genes tested; NaN for genes that were not, among
        them those that neither side has.
    log2_fold_change
        log2 of the ratio of mean expression, each the inverse of the mean log expression.
    auc
        Probability that a spot of the domain has more than one of the reference.
    pts, pts_reference
        Share of the spots of either side in which the gene was seen.
    p_spatial, p_spatial_adjusted
        The same of the test that counts what neighbouring spots share; NaN without places.
    """

    z: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray
    log2_fold_change: np.ndarray
    auc: np.ndarray
    pts: np.ndarray
    pts_reference: np.ndarray
    p_spatial: np.ndarray
    p_spatial_adjusted: np.ndarray


def contrast(
    values: csr_matrix, domain: np.ndarray, *, bins: DistanceBins | None = None, min_pct: float = 0.0
) -> Contrast:
    """Compare a domain with its reference by Wilcoxon's rank-sum test.

    Parameters
    ----------
    values
        log1p of normalised expression of the spots of both sides, shape (n, g).
    domain
        Which spots are the domain's, bool, shape (n,).
    bins
        Pairs of these spots by distance; ``None`` leaves out the spatial test.
    min_pct
        Share of the spots, of the domain or of the reference, in which a gene that is tested was seen at least; genes
        that were seen in none are never tested.
    """
    pts, pts_reference = (_seen(values[rows]) for rows in (domain, ~domain))
    one, other = (_mean(values[rows]) for rows in (domain, ~domain))
    fold = np.log2((np.expm1(one) + _SMALL) / (np.expm1(other) + _SMALL))
    seen = np.maximum(pts, pts_reference)
    tested = (seen > 0) & (seen >= min_pct)
    ranks = rank_columns(values[:, np.flatnonzero(tested)])
    test = rank_sum_test(ranks, domain)
    p_spatial = np.full(int(tested.sum()), np.nan) if bins is None else spatial_rank_test(ranks, domain, bins)[1]

    def everywhere(part: np.ndarray) -> np.ndarray:
        whole = np.full(len(tested), np.nan)
        whole[tested] = part
        return whole

    return Contrast(
        z=everywhere(test.z),
        p=everywhere(test.p),
        p_adjusted=everywhere(benjamini_hochberg(test.p)),
        log2_fold_change=fold,
        auc=everywhere(test.auc),
        pts=pts,
        pts_reference=pts_reference,
        p_spatial=everywhere(p_spatial),
        p_spatial_adjusted=everywhere(benjamini_hochberg(p_spatial)),
    )


def _mean(values: csr_matrix) -> np.ndarray:
    # In double precision, so that the order of the spots does not matter.
    return np.ones(values.shape[0]) @ values / max(values.shape[0], 1)


def _seen(values: csr_matrix) -> np.ndarray:
    stored = values.copy()
    stored.eliminate_zeros()
    return np.bincount(stored.indices, minlength=values.shape[1]) / max(values.shape[0], 1)
