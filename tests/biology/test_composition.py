"""Cell types, against values computed by hand, scipy's solver and planted mixtures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls as scipy_nnls
from scipy.sparse import csr_matrix

from storm.biology.composition import marker_scores, nnls, nusvr

SIGNATURE = np.array([[10, 0, 1], [0, 8, 1], [2, 2, 6], [1, 0, 4], [0, 3, 0]], dtype=float)


def test_golden_values():
    result = nnls(SIGNATURE, np.array([[6, 2.5, 4, 1.5, 1], [6, 0.2, 2.5, 1.5, 0]]))
    np.testing.assert_allclose(result.weights[0], [0.5685039643, 0.2865420982, 0.3331121289], atol=1e-9)
    np.testing.assert_allclose(result.fractions[0], [0.4784749778, 0.2411649394, 0.2803600828], atol=1e-9)
    assert result.residual[0] == pytest.approx(0.5304266864, abs=1e-9)
    np.testing.assert_allclose(result.fractions[1], [0.7190086766, 0, 0.2809913234], atol=1e-9)


@pytest.mark.parametrize("types", [3, 12, 30])
def test_agrees_with_scipy(types):
    rng = np.random.default_rng(types)
    signature = rng.gamma(0.5, 20, (80, types))
    mixtures = np.concatenate(
        [rng.poisson(rng.dirichlet(np.full(types, 0.2), 60) @ signature.T), rng.poisson(5, (20, 80))]
    )
    result = nnls(signature, csr_matrix(mixtures))
    expected = np.array([scipy_nnls(signature, mixture) for mixture in mixtures], dtype=object)
    np.testing.assert_allclose(result.weights, np.stack(expected[:, 0]), atol=1e-9)
    np.testing.assert_allclose(result.residual, expected[:, 1].astype(float), rtol=1e-9)


def test_types_alike_and_mixtures_of_nothing():
    twice = np.column_stack([SIGNATURE, SIGNATURE[:, 0]])
    result = nnls(twice, np.array([[10, 0, 2, 1, 0], [0.0, 0, 0, 0, 0]]))
    assert result.weights[0, [0, 3]].sum() == pytest.approx(1)
    assert result.explained[0] == pytest.approx(1)
    assert np.isnan(result.fractions[1]).all()
    assert np.isnan(result.explained[1])


def test_support_vectors_find_planted_fractions():
    rng = np.random.default_rng(0)
    signature = rng.gamma(0.3, 100, (150, 4))
    truth = rng.dirichlet(np.ones(4), 8)
    result = nusvr(signature, truth @ signature.T * 3)
    np.testing.assert_allclose(result.fractions, truth, atol=0.05)
    assert (result.explained > 0.98).all()
    assert np.isnan(nusvr(signature, np.zeros((1, 150))).fractions).all()


def test_marker_scores():
    values = csr_matrix(np.array([[1.0, 3, 0], [0, 0, 2]]))
    scores = marker_scores(values, {"a": np.array([0, 1]), "b": np.array([2]), "c": np.array([], dtype=int)})
    np.testing.assert_allclose(scores, [[2, 0, np.nan], [0, 2, np.nan]])
