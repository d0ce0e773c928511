"""Rank-sum tests of many genes at once, without and with what neighbouring spots share.

Everything works on sparse columns: what is stored is ranked, and all zeros share one rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix, issparse
from scipy.stats import hypergeom, norm

from storm.biology.distances import DistanceBins

#: Values that are sorted at a time, about.
_STORED = 2**22
#: Spots with a gene that either side is expected to have, below which the normal approximation is not trusted.
_FEW = 5
#: Pairs of rows that are multiplied at a time.
_BLOCK = 4096


@dataclass(frozen=True)
class Ranks:
    """Ranks of n values of each of g genes.

    Attributes
    ----------
    above_zero
        Rank of each value minus that of the gene's zeros, shape (n, g); zero where the value is zero.
    of_zero
        Rank of the zeros of each gene, shape (g,).
    ties
        Sum of t³ - t over the groups of t equal values of each gene, shape (g,).
    """

    above_zero: csc_matrix
    of_zero: np.ndarray
    ties: np.ndarray


@dataclass(frozen=True)
class RankTest:
    """Test of each gene between the spots of a domain and those of its reference.

    Attributes
    ----------
    z
        Standard score, positive where the domain's values are higher, shape (g,); 0 for a gene of a single value.
    p
        Two-sided p-value of ``z``, shape (g,).
    u
        Mann-Whitney U of the domain, shape (g,).
    auc
        Probability that a spot of the domain has a higher value than one of the reference, ties counting half: U over
        the number of pairs, shape (g,).
    """

    z: np.ndarray
    p: np.ndarray
    u: np.ndarray
    auc: np.ndarray


def rank_columns(values: csr_matrix | csc_matrix | np.ndarray) -> Ranks:
    """Rank the values of each gene; equal ones share their mean rank.

    Parameters
    ----------
    values
        Shape (n, g).
    """
    matrix = csc_matrix(values, copy=issparse(values))
    matrix.eliminate_zeros()
    n, g = matrix.shape
    stored = np.diff(matrix.indptr)
    zeros = (n - stored).astype(np.float64)
    ranks = np.empty(matrix.nnz)
    negative, ties = np.zeros(g), zeros**3 - zeros
    # Blocks of genes, each sorted in one go.
    first = np.searchsorted(matrix.indptr, np.arange(0, matrix.nnz + 1, _STORED), side="right") - 1
    for low, high in zip(first, [*first[1:], g], strict=True):
        part = slice(matrix.indptr[low], matrix.indptr[high])
        values_of, gene = matrix.data[part], np.repeat(np.arange(low, high), stored[low:high])
        if not len(gene):
            continue
        order = np.lexsort((values_of, gene))
        ordered, of = values_of[order], gene[order]
        starts = np.flatnonzero(np.r_[True, (of[1:] != of[:-1]) | (ordered[1:] != ordered[:-1])])
        sizes = np.diff(np.r_[starts, len(of)]).astype(np.float64)
        owner = of[starts]
        mean = starts - (matrix.indptr[owner] - matrix.indptr[low]) + (sizes + 1) / 2
        ranks[matrix.indptr[low] + order] = np.repeat(mean, sizes.astype(int))
        ties += np.bincount(owner, weights=sizes**3 - sizes, minlength=g)
        negative += np.bincount(gene, weights=values_of < 0, minlength=g)
    of_zero = negative + (zeros + 1) / 2
    ranks += np.repeat(zeros, stored) * (matrix.data > 0) - np.repeat(of_zero, stored)
    return Ranks(csc_matrix((ranks, matrix.indices, matrix.indptr), shape=(n, g)), of_zero, ties)


def rank_sum_test(ranks: Ranks, domain: np.ndarray) -> RankTest:
    """Wilcoxon's rank-sum test, normal approximation with tie correction and without continuity correction.

    Parameters
    ----------
    ranks
        Ranks over the spots of the domain and its reference, n in all.
    domain
        Which spots are the domain's, bool, shape (n,); both sides have at least one.

    Returns
    -------
    RankTest
        ``z`` and ``p`` are those of :func:`scanpy.tl.rank_genes_groups` with ``tie_correct=True``.
    """
    n, n1 = len(domain), int(domain.sum())
    n0 = n - n1
    total = domain.astype(np.float64) @ ranks.above_zero + n1 * ranks.of_zero
    u = total - n1 * (n1 + 1) / 2
    variance = n1 * n0 / 12 * ((n + 1) - ranks.ties / (n * (n - 1.0)))
    z = _over_root(u - n1 * n0 / 2, variance)
    return RankTest(z, 2 * norm.sf(abs(z)), u, u / (n1 * n0))


def spatial_rank_test(ranks: Ranks, domain: np.ndarray, bins: DistanceBins) -> tuple[np.ndarray, np.ndarray]:
    """Rank-sum test whose variance counts that neighbouring spots resemble each other.

    With the ranks r, a_i = 1/n1 in the domain and -1/n0 in its reference, and the deviations e of the ranks from the
    mean of their side, z = (mean r1 - mean r0) / sqrt(v · max(Σ_ij a_i a_j ρ(d_ij), Σ_i a_i²)), v = Σ e² / (n - 2).
    ρ(d) is the mean of e_i e_j / v over the pairs at that distance, ρ(0) = 1, and zero from the first distance on at
    which it is not positive.

    The normal approximation is far too bold for genes that are not zero in a handful of spots. Where either side is
    expected to have fewer than five of these, p is at least that of the hypergeometric test of how many the domain has.

    Parameters
    ----------
    ranks
        Ranks over the spots of the domain and its reference, n in all.
    domain
        Which spots are the domain's, bool, shape (n,).
    bins
        Pairs of these spots by distance.

    Returns
    -------
    z, p
        Standard score and two-sided p-value of each gene, shape (g,); 0 and 1 for a gene of a single value, those of
        the rank-sum test for a gene of one value in the domain and another one in its reference.

    References
    ----------
    Cochran, Some methods for strengthening the common χ² tests, Biometrics 10, 417 (1954), for the five.
    """
    n, n1 = len(domain), int(domain.sum())
    n0 = n - n1
    side = np.column_stack([~domain, domain]).astype(np.float64)
    size = side.sum(axis=0)
    means = (side.T @ ranks.above_zero) / size[:, None]
    difference = means[1] - means[0]
    squares = np.asarray(ranks.above_zero.multiply(ranks.above_zero).sum(axis=0)).ravel()
    spread = squares - (size[:, None] * means**2).sum(axis=0)
    v = np.maximum(spread, 0) / max(n - 2, 1)
    least = 1 / n1 + 1 / n0
    factor = np.full(len(v), least)
    # A gene leaves as soon as its correlation is no longer positive: most are gone after a bin or two.
    alive = np.flatnonzero(v > 1e-12 * np.maximum(squares, 1))
    rows = ranks.above_zero[:, alive].tocsr()
    for pairs, contrast in zip(bins.pairs, bins.contrast, strict=True):
        if not len(alive) or not len(pairs):
            break
        rho = _products(rows, side, means[:, alive], pairs) / (len(pairs) * v[alive])
        stay = rho > 0
        factor[alive[stay]] += rho[stay] * contrast
        alive, rows = alive[stay], rows[:, stay]
    z = _over_root(difference, v * np.maximum(factor, least))
    apart = (v <= 1e-12 * np.maximum(squares, 1)) & (difference != 0)
    if apart.any():  # one value on either side: nothing is left of which the spread could be told
        z[apart] = rank_sum_test(ranks, domain).z[apart]
    return z, np.maximum(2 * norm.sf(abs(z)), _of_presence(ranks.above_zero, domain))


def _of_presence(above_zero: csc_matrix, domain: np.ndarray) -> np.ndarray:
    """Two-sided p of how many of a gene's spots are the domain's, where they are few; 0 elsewhere. Shape (g,)."""
    n, n1 = len(domain), int(domain.sum())
    spots = np.diff(above_zero.indptr)
    rare = np.flatnonzero(spots * min(n1, n - n1) < _FEW * n)
    stored = above_zero[:, rare]
    own = np.bincount(np.repeat(np.arange(len(rare)), np.diff(stored.indptr)), domain[stored.indices], len(rare))
    tails = hypergeom.cdf(own, n, n1, spots[rare]), hypergeom.sf(own - 1, n, n1, spots[rare])
    p = np.zeros(len(spots))
    p[rare] = np.minimum(2 * np.minimum(*tails), 1)
    return p


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjust p-values to false discovery rates, over the last axis (Benjamini and Hochberg 1995).

    Parameters
    ----------
    p
        p-values; NaN is no test and stays NaN.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    values = p[tested]
    order = np.argsort(values)
    scaled = values[order] * len(values) / np.arange(1, len(values) + 1)
    monotone = np.minimum.accumulate(scaled[::-1])[::-1]
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(monotone, 1)
    adjusted[tested] = corrected
    return adjusted


def _products(rows: csr_matrix, side: np.ndarray, means: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Sum of e_i e_j over some pairs, shape (g,), where e are the values minus the mean of their side."""
    total = np.zeros(rows.shape[1])
    for start in range(0, len(pairs), _BLOCK):
        one, other = pairs[start : start + _BLOCK].T
        total += np.asarray(rows[one].multiply(rows[other]).sum(axis=0)).ravel()
    one, other = pairs.T
    partners = np.zeros_like(side)
    np.add.at(partners, one, side[other])
    np.add.at(partners, other, side[one])
    total -= (means * (rows.T @ partners).T).sum(axis=0)
    sides = side[one].T @ side[other]
    return total + np.einsum("ag,ab,bg->g", means, sides, means)


def _over_root(value: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Divide by the square root of the variance; 0 where nothing varies."""
    varies = variance > 0
    return np.divide(value, np.sqrt(variance, where=varies, out=np.ones_like(variance)), where=varies, out=0.0 * value)
