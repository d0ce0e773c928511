"""Rank tests against scipy, scanpy, values computed by hand, and simulated genes without a difference."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu, norm, rankdata

from storm.biology.contrasts import contrast
from storm.biology.distances import distance_bins, typical_pitch
from storm.biology.ranks import benjamini_hochberg, rank_columns, rank_sum_test, spatial_rank_test
from storm.biology.type_tests import compare_types

VALUES = np.array([[3, 0, 1], [2, 0, 1], [4, 1, 0], [1, 0, 2], [0, 2, 2], [0, 3, 1], [1, 2, 0]], dtype=float)
DOMAIN = np.array([True] * 3 + [False] * 4)


def test_golden_values():
    test = rank_sum_test(rank_columns(VALUES), DOMAIN)
    np.testing.assert_allclose(test.z, [2.160247, -1.481917, -0.935414], atol=1e-6)
    np.testing.assert_allclose(test.p, [0.0307535613, 0.1383623419, 0.3495748061], atol=1e-8)
    np.testing.assert_allclose(benjamini_hochberg(test.p), [0.092261, 0.207544, 0.349575], atol=1e-6)
    np.testing.assert_allclose(test.u, [12, 2, 3.5])
    np.testing.assert_allclose(test.auc, [1, 1 / 6, 3.5 / 12])


@pytest.mark.parametrize(("shift", "block"), [(0.0, 2**22), (-2.0, 2**22), (-2.0, 100)])
def test_agrees_with_scipy(shift, block, monkeypatch):
    """Negative values too, which rank below the zeros; and genes in blocks."""
    monkeypatch.setattr("storm.biology.ranks._STORED", block)
    rng = np.random.default_rng(1)
    values = rng.poisson(1.5, (60, 40)) + (shift if shift else 0.0)
    values[:, 0] = 0
    domain = rng.random(60) < 0.3
    test = rank_sum_test(rank_columns(csr_matrix(values)), domain)
    for gene in range(1, 40):
        expected = mannwhitneyu(values[domain, gene], values[~domain, gene], method="asymptotic", use_continuity=False)
        assert test.u[gene] == pytest.approx(expected.statistic)
        assert test.p[gene] == pytest.approx(expected.pvalue, abs=1e-12)
    assert test.z[0] == 0
    assert test.p[0] == 1
    assert test.auc[0] == 0.5


def test_agrees_with_scanpy():
    anndata, sc = pytest.importorskip("anndata"), pytest.importorskip("scanpy")
    rng = np.random.default_rng(2)
    values = np.log1p(rng.poisson(1.0, (50, 30))).astype(np.float32)
    domain = np.arange(50) < 20
    adata = anndata.AnnData(csr_matrix(values), obs={"side": np.where(domain, "in", "out")})
    adata.obs["side"] = adata.obs["side"].astype("category")
    sc.tl.rank_genes_groups(adata, "side", groups=["in"], reference="out", method="wilcoxon", tie_correct=True)
    frame = sc.get.rank_genes_groups_df(adata, "in").set_index("names").loc[adata.var_names]
    test = rank_sum_test(rank_columns(values), domain)
    np.testing.assert_allclose(test.z, frame["scores"], rtol=1e-5)
    np.testing.assert_allclose(test.p, frame["pvals"], rtol=1e-9)
    np.testing.assert_allclose(benjamini_hochberg(test.p), frame["pvals_adj"], rtol=1e-9)


def definition(values, domain, centres, pitch):
    """The spatial test of one gene, as the docstring of the kernel writes it."""
    n = len(values)
    r = rankdata(values)
    a = np.where(domain, 1 / domain.sum(), -1 / (~domain).sum())
    e = r - np.where(domain, r[domain].mean(), r[~domain].mean())
    v = (e**2).sum() / (n - 2)
    bins = np.maximum(np.rint(np.linalg.norm(centres[:, None] - centres[None], axis=2) / pitch), 1)
    np.fill_diagonal(bins, 0)
    rho, positive = np.eye(n), True
    for b in range(1, int(bins.max()) + 1):
        pairs = bins == b
        mean = (np.outer(e, e)[pairs].mean() / v) if pairs.any() else 0.0
        positive &= mean > 0
        rho[pairs] = mean if positive else 0.0
    return (r[domain].mean() - r[~domain].mean()) / np.sqrt(v * max(a @ rho @ a, (a**2).sum()))


def test_spatial_test_is_its_definition():
    rng = np.random.default_rng(3)
    centres = np.array([(x, y) for y in range(8) for x in range(9)], dtype=float) * 150
    domain = centres[:, 0] < 500
    smooth = gaussian_filter(rng.normal(size=(12, 8, 9)), (0, 1.5, 1.5)).reshape(12, -1).T
    values = np.maximum(np.round(4 * smooth / smooth.std() + domain[:, None] * np.linspace(0, 3, 12)), 0)
    bins = distance_bins(centres, domain, pitch=typical_pitch(centres))
    z, p = spatial_rank_test(rank_columns(csr_matrix(values)), domain, bins)
    expected = [definition(values[:, gene], domain, centres, 150) for gene in range(12)]
    np.testing.assert_allclose(z, expected, rtol=1e-9)
    np.testing.assert_allclose(p, 2 * norm.sf(np.abs(expected)), rtol=1e-7)
    assert (abs(z) <= abs(rank_sum_test(rank_columns(values), domain).z) * 1.2).all()


def test_smooth_genes_without_a_difference_are_called_less_often():
    rng = np.random.default_rng(4)
    centres = np.array([(x, y) for y in range(20) for x in range(20)], dtype=float)
    domain = centres[:, 0] < 10
    field = gaussian_filter(rng.normal(size=(300, 20, 20)), (0, 2, 2), mode="wrap").reshape(300, -1)
    values = rng.poisson(np.exp(field / field.std())).T
    values[:, :20] += rng.poisson(3.0, (400, 20)) * domain[:, None]
    ranks = rank_columns(values)
    plain = benjamini_hochberg(rank_sum_test(ranks, domain).p) < 0.05
    spatial = benjamini_hochberg(spatial_rank_test(ranks, domain, distance_bins(centres, domain, pitch=1.0))[1]) < 0.05
    assert plain[20:].mean() > 0.3
    assert spatial[20:].mean() < 0.1
    assert spatial[:20].sum() >= 18


def test_sections_are_independent_and_pairs_are_sampled(monkeypatch):
    rng = np.random.default_rng(5)
    centres = rng.uniform(0, 30, (500, 2))
    sections = np.repeat([0, 1], 250)
    domain = rng.random(500) < 0.5
    bins = distance_bins(centres, domain, pitch=1.0, sections=sections)
    assert all((sections[pairs[:, 0]] == sections[pairs[:, 1]]).all() for pairs in bins.pairs)
    assert sum(len(pairs) for pairs in bins.pairs) == 2 * (250 * 249 // 2)
    weight = np.where(domain, 1 / domain.sum(), -1 / (~domain).sum())
    pairs = bins.pairs[2]
    assert bins.contrast[2] == pytest.approx(2 * (weight[pairs[:, 0]] * weight[pairs[:, 1]]).sum())
    monkeypatch.setattr("storm.biology.distances.ALL_PAIRS", 100)
    monkeypatch.setattr("storm.biology.distances.SAMPLED", 50)
    few = distance_bins(centres, domain, pitch=1.0, sections=sections)
    assert len(few.pairs) == 10
    np.testing.assert_allclose(few.contrast, bins.contrast[:10])
    assert all(len(pairs) <= 50 for pairs in few.pairs)


def test_the_sample_of_pairs_does_not_depend_on_the_order_of_the_rows(monkeypatch):
    monkeypatch.setattr("storm.biology.distances.SAMPLED", 50)
    rng = np.random.default_rng(6)
    centres, domain, sections = rng.uniform(0, 30, (300, 2)), rng.random(300) < 0.5, np.repeat([0, 1], 150)
    order = rng.permutation(300)
    one = distance_bins(centres, domain, pitch=1.0, sections=sections)
    two = distance_bins(centres[order], domain[order], pitch=1.0, sections=sections[order])
    for pairs, mixed in zip(one.pairs, two.pairs, strict=True):
        np.testing.assert_array_equal(pairs, order[mixed])
    np.testing.assert_array_equal(one.contrast, two.contrast)


def test_exact_p_values_end_where_they_take_long():
    rng = np.random.default_rng(7)
    for n, exact in ((2000, True), (2001, False)):
        values, domain = rng.random((n, 1)), np.arange(n) < 5
        p = compare_types(values, domain).p[0]
        assert (p == rank_sum_test(rank_columns(values), domain).p[0]) != exact
        if exact:
            assert p == mannwhitneyu(values[domain, 0], values[~domain, 0], method="exact").pvalue


def test_genes_that_nobody_has_are_not_tested():
    values = csr_matrix(np.zeros((6, 4)))
    domain = np.arange(6) < 3
    assert np.isnan(contrast(values, domain, bins=distance_bins(np.eye(6, 2), domain, pitch=1.0)).p).all()
    values = np.random.default_rng(8).poisson(2, (6, 4)).astype(float)
    padded = np.column_stack([values, np.zeros((6, 10))])
    one, two = contrast(csr_matrix(values), domain), contrast(csr_matrix(padded), domain)
    np.testing.assert_array_equal(two.p_adjusted, [*one.p_adjusted, *[np.nan] * 10])


def test_pitch_is_that_of_places():
    centres = np.array([[0, 0], [0, 0], [3, 0], [6, 0], [np.nan, 0], [100, 0]], dtype=float)
    assert typical_pitch(centres) == 3
    assert typical_pitch(centres, np.array([0, 0, 0, 0, 0, 1])) == 3
    assert np.isnan(typical_pitch(np.zeros((3, 2))))


def test_adjusted_p_values():
    p = np.array([0.01, np.nan, 0.04, 0.03, 1.0])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, np.nan, 0.16 / 3, 0.16 / 3, 1.0])
    assert benjamini_hochberg(np.array([])).shape == (0,)


def test_genes_of_a_few_spots_are_tested_by_their_presence():
    """Of independent spots and rare genes, the false discovery rate of a small domain, and the bound itself."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(20) for x in range(20)], dtype=float)
    domain = (abs(centres - 9.5) < 2).all(axis=1)
    bins = distance_bins(centres, domain, pitch=1.0)
    counts = csr_matrix(rng.poisson(rng.uniform(0.002, 0.1, 4000), (400, 4000)))
    ranks = rank_columns(counts)
    plain, p = rank_sum_test(ranks, domain).p, spatial_rank_test(ranks, domain, bins)[1]
    assert (benjamini_hochberg(plain) < 0.05).sum() > 20
    assert (benjamini_hochberg(p) < 0.05).sum() == 0
    seen = np.asarray((counts > 0).sum(axis=0)).ravel()
    own = np.asarray((counts[domain] > 0).sum(axis=0)).ravel()
    for gene in np.flatnonzero(seen)[:50]:
        presence = fisher_tail(own[gene], seen[gene], int(domain.sum()), 400)
        assert p[gene] >= presence * (1 - 1e-9)
    # genes that are in all of the domain's spots and nowhere else are found all the same
    markers = np.where(domain[:, None], [3, 0] + rng.integers(1, 4, (400, 1)) * [0, 1], 0)
    assert (spatial_rank_test(rank_columns(markers), domain, bins)[1] < 1e-8).all()


def fisher_tail(own: int, seen: int, size: int, n: int) -> float:
    """Twice the smaller tail of drawing so many of the domain's spots, by counting."""
    ways = [comb(size, k) * comb(n - size, seen - k) for k in range(min(size, seen) + 1)]
    return min(1.0, 2 * min(sum(ways[: own + 1]), sum(ways[own:])) / comb(n, seen))
