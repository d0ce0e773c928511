"""Counts thinned to equal depth: one distribution on both sides, nothing added, no order of rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from storm.biology.depth import depth_ratio, equal_depth


@pytest.fixture
def sides() -> tuple[csr_matrix, np.ndarray]:
    """A domain of 60 spots with about eight times the counts of its reference of 140."""
    rng = np.random.default_rng(0)
    domain = np.arange(200) < 60
    means = rng.gamma(2, 1.0, 200) * np.where(domain, 4, 0.5)
    return csr_matrix(rng.poisson(means[:, None], (200, 300)).astype(np.float32)), domain


def test_both_sides_get_the_same_depths(sides):
    counts, domain = sides
    thinned = equal_depth(counts, domain)
    assert (thinned > counts).nnz == 0
    depth = np.asarray(thinned.sum(axis=1)).ravel()
    place = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(np.quantile(depth[domain], place), np.quantile(depth[~domain], place), rtol=0.15)
    # the shallow side keeps what it has, but for its deepest spots if the other one has none so deep
    assert (thinned[~domain] != counts[~domain]).nnz < 0.05 * counts[~domain].nnz
    assert (thinned[domain].sum()) < 0.3 * counts[domain].sum()


def test_the_draw_is_of_the_seed_and_not_of_the_order(sides):
    counts, domain = sides
    thinned = equal_depth(counts, domain, seed=3)
    order = np.random.default_rng(1).permutation(len(domain))
    assert (equal_depth(counts[order], domain[order], seed=3) != thinned[order]).nnz == 0
    assert (equal_depth(counts, domain, seed=4) != thinned).nnz > 0


def test_empty_spots_and_equal_sides_stay(sides):
    counts, domain = sides
    counts = counts.toarray()
    counts[:5] = 0
    thinned = equal_depth(csr_matrix(counts), domain)
    assert thinned[:5].nnz == 0
    half = np.arange(200) % 2 == 0
    twice = np.repeat(counts[:100], 2, axis=0)
    assert (equal_depth(csr_matrix(twice), half).toarray() == twice).all()


def test_ratio_counts_genes_that_were_seen():
    values = np.zeros((4, 8))
    values[0, :6] = values[1, :6] = 1
    values[2, :2] = values[3, :4] = 0.5
    stored = csr_matrix(values)
    assert depth_ratio(stored, np.array([True, True, False, False])) == 2
    stored.data[0] = 0  # stored, and not seen
    assert depth_ratio(stored, np.array([True, True, False, False])) == pytest.approx(5.5 / 3)
    assert depth_ratio(csr_matrix(np.eye(2)[[0, 0]] * [[1], [0]]), np.array([True, False])) == np.inf
