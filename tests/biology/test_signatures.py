"""Scores of signatures, against values computed by hand and scanpy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from storm.biology.signatures import random_sets, score_genes, zscore

ROWS = np.array([[3, 0, 2, 1, 0, 4], [1, 2, 0, 0, 3, 1], [0, 0, 5, 1, 1, 2]], dtype=float)


def test_golden_values():
    np.testing.assert_allclose(score_genes(csr_matrix(ROWS), np.array([0, 5]), n_bins=3), [2.5, -0.5, -2])


def test_agrees_with_scanpy():
    import anndata as ad
    import scanpy as sc

    rng = np.random.default_rng(0)
    values = np.log1p(rng.poisson(rng.gamma(1, 2, 200), (40, 200))).astype(np.float32)
    adata = ad.AnnData(csr_matrix(values))
    genes = np.array([3, 50, 120, 121, 199])
    sc.tl.score_genes(adata, adata.var_names[genes], ctrl_size=200, n_bins=20)
    ours = score_genes(csr_matrix(values), genes, ctrl_size=200, n_bins=20)
    np.testing.assert_allclose(ours, adata.obs["score"], atol=1e-6)


def test_the_seed_decides_and_numpy_s_own_is_left_alone():
    rng = np.random.default_rng(0)
    values = rng.poisson(2, (30, 300)).astype(float)
    before = np.random.get_state()[1].copy()  # noqa: NPY002  it is this state that must not change
    one, two, three = (score_genes(values, np.arange(5), ctrl_size=10, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_means_are_in_double_precision():
    values = np.random.default_rng(0).gamma(1, 2, (2000, 60)).astype(np.float32)
    genes = np.arange(7)
    one, two = (score_genes(csr_matrix(v), genes, ctrl_size=20, n_bins=5) for v in (values, values.astype(np.float64)))
    np.testing.assert_array_equal(one, two)


def test_no_controls():
    with pytest.raises(ValueError, match="no gene is left as a control"):
        score_genes(ROWS, np.arange(6), n_bins=3)


def test_zscore():
    values = np.array([[1.0, 10, 5], [3, 30, 5], [5, 50, 5]])
    one = np.sqrt(1.5)
    np.testing.assert_allclose(zscore(values, np.array([0, 1])), [-one, 0, one])
    np.testing.assert_allclose(zscore(csr_matrix(values), np.array([0, 2])), [-one / 2, 0, one / 2])
    values[0, 0] = np.nan
    assert np.isfinite(zscore(values, np.array([0, 1]))).all()


def test_random_sets_are_expressed_alike():
    mean = np.arange(100.0)
    genes = np.array([1, 2, 55, 98])
    sets = random_sets(mean, genes, 500)
    assert sets.shape == (500, 4)
    assert all(len(set(row)) == 4 for row in sets)
    np.testing.assert_array_equal(np.sort(sets // 10, axis=1), np.tile([0, 0, 5, 9], (500, 1)))
    assert len(np.unique(sets)) == 30
    np.testing.assert_array_equal(random_sets(mean, genes, 5, seed=3), random_sets(mean, genes, 5, seed=3))
    assert np.sort(random_sets(mean, np.arange(10), 3), axis=1).tolist() == [list(range(10))] * 3
