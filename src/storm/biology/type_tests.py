"""Whether cell types are more frequent in a domain than elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu

from storm.biology.distances import DistanceBins
from storm.biology.ranks import rank_columns, rank_sum_test, spatial_rank_test

#: Spots of the smaller side, and of both, up to which p-values are exact: beyond, that takes seconds for each type.
_EXACT, _EXACT_IN_ALL = 8, 2000


@dataclass(frozen=True)
class TypeTest:
    """Result for each of t types, shape (t,); NaN where one side has no value.

    Attributes
    ----------
    rank_biserial
        Share of the pairs of spots in which the domain's value is higher, minus the share in which it is lower.
    u
        Mann-Whitney U of the domain.
    p
        Two-sided p-value: exact for up to eight spots of a side, 2,000 in all, without ties; otherwise by the normal
        approximation.
    p_spatial
        p-value of the test that counts what neighbouring spots share; NaN without places.
    """

    rank_biserial: np.ndarray
    u: np.ndarray
    p: np.ndarray
    p_spatial: np.ndarray


def compare_types(values: np.ndarray, domain: np.ndarray, bins: DistanceBins | None = None) -> TypeTest:
    """Compare the values of a domain with those of the other spots, type by type.

    Parameters
    ----------
    values
        Fractions or scores, shape (n, t), finite.
    domain
        Which spots are the domain's, bool, shape (n,).
    bins
        Pairs of these spots by distance; ``None`` leaves out the spatial test.
    """
    n, t = values.shape
    if not 0 < domain.sum() < n:
        return TypeTest(*(np.full(t, np.nan) for _ in range(4)))
    ranks = rank_columns(values)
    test = rank_sum_test(ranks, domain)
    p = test.p.copy()
    if min(domain.sum(), n - domain.sum()) <= _EXACT and n <= _EXACT_IN_ALL:
        p = np.array([mannwhitneyu(column[domain], column[~domain], method="auto").pvalue for column in values.T])
        p[test.z == 0] = np.where(np.ptp(values, axis=0) == 0, 1.0, p)[test.z == 0]
    p_spatial = np.full(t, np.nan) if bins is None else spatial_rank_test(ranks, domain, bins)[1]
    return TypeTest(2 * test.auc - 1, test.u, p, p_spatial)
