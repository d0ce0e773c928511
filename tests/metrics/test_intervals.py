"""Conformal quantiles against hand-worked values and their promise."""

from __future__ import annotations

import numpy as np
import pytest

from storm.metrics import conformal_p, conformal_quantile, hierarchical_quantile, interval_coverage


def test_quantile_by_hand() -> None:
    scores = np.arange(1, 11) / 10
    assert conformal_quantile(scores, alpha=0.1) == 1.0
    assert conformal_quantile(scores, alpha=0.2) == 0.9
    assert conformal_quantile(scores, alpha=0.05) == np.inf
    assert conformal_quantile(scores[:8], alpha=0.1) == np.inf
    assert conformal_quantile([], alpha=0.5) == np.inf
    columns = np.column_stack([scores, scores[::-1] * 2, np.where(scores > 0.85, np.nan, scores)])
    np.testing.assert_allclose(conformal_quantile(columns, alpha=0.1), [1.0, 2.0, np.inf])
    np.testing.assert_allclose(conformal_quantile(columns, alpha=0.2), [0.9, 1.8, 0.8])


def test_hierarchical_quantile_by_hand() -> None:
    groups = [(1, 2), (1, 3), (2, 4), (1, 5)]
    assert [hierarchical_quantile(groups, alpha=a) for a in (0.3, 0.2, 0.1)] == [4, 5, np.inf]
    assert hierarchical_quantile([[i] for i in range(9)], alpha=0.1) == 8
    assert hierarchical_quantile([[i] for i in range(8)], alpha=0.1) == np.inf
    for bad in ([[1.0], []], [], [[1.0], [np.nan]]):
        with pytest.raises(ValueError, match="every one needs"):
            hierarchical_quantile(bad)
    columns = hierarchical_quantile([np.column_stack([g, np.negative(g)]) for g in groups], alpha=0.3)
    np.testing.assert_allclose(columns, [4, hierarchical_quantile([np.negative(g) for g in groups], alpha=0.3)])


def test_a_new_score_exceeds_the_bound_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(0)
    # 4,000 calibrations of 39 scores, and a new score for each
    calibration, new = rng.gamma(2, size=(39, 4000)), rng.gamma(2, size=4000)
    for alpha in (0.05, 0.1, 0.3):
        exceeded = (new > conformal_quantile(calibration, alpha=alpha)).mean()
        # the exact probability is a multiple of 1/40: equal to alpha; 3.5 standard errors beside it
        assert abs(exceeded - alpha) < 3.5 * np.sqrt(alpha * (1 - alpha) / 4000)


def test_p_by_hand_and_uniform() -> None:
    assert conformal_p([1.0], [0.5, 0.8, 1.2, 2.0]) == pytest.approx(0.6)
    np.testing.assert_allclose(conformal_p([0.5, 3, np.nan], [0.5, 0.8, 1.2, 2.0]), [1.0, 0.2, np.nan])
    with pytest.raises(ValueError, match="finite scores"):
        conformal_p([1.0], [])
    rng = np.random.default_rng(1)
    p = np.array([conformal_p(rng.normal(size=1), rng.normal(size=19))[0] for _ in range(3000)])
    assert abs((p <= 0.1).mean() - 0.1) < 3.5 * np.sqrt(0.09 / 3000)


def test_coverage() -> None:
    truth = np.array([[0.0, 1.0], [1.0, np.nan], [2.0, np.nan], [3.0, 5.0]])
    np.testing.assert_allclose(interval_coverage(truth, 0.5, 3.0), [0.75, 0.5])
    np.testing.assert_allclose(interval_coverage(truth, [0, 6], [9, 9]), [1.0, 0.0])
    assert np.isnan(interval_coverage(truth[1:3], 0, 1)[1])
    with pytest.raises(ValueError, match="exchanged"):
        interval_coverage(truth, 3.0, 0.5)
    with pytest.raises(ValueError, match="must fit truth"):
        interval_coverage(truth, np.zeros(3), 1.0)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, "0.1", np.nan, True])
def test_alpha_lies_between_0_and_1(alpha) -> None:
    with pytest.raises(ValueError, match="alpha="):
        conformal_quantile([1.0], alpha=alpha)
    with pytest.raises(ValueError, match="alpha="):
        hierarchical_quantile([[1.0]], alpha=alpha)
