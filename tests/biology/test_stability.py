"""Stability of clusterings, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from storm.biology.stability import agreement, mean_agreement, repeated_runs, stability


def labels(*texts: str) -> np.ndarray:
    return np.array([[int(c) for c in text] for text in texts])


def test_golden_values():
    two = labels("00001111", "00001111", "00011111")
    three = labels("00001122", "00111122", "00001122")
    assert mean_agreement(two) == pytest.approx(0.6632302405, abs=1e-10)
    assert mean_agreement(three) == pytest.approx(0.5333333333, abs=1e-10)
    found = stability({2: two, 3: three})
    assert found[2].ari.mean() == pytest.approx(0.6632302405, abs=1e-10)
    assert found[3].ari.mean() == pytest.approx(0.5333333333, abs=1e-10)
    expected = [np.mean([agreement(run, other) for other in three]) for run in two]
    np.testing.assert_allclose(found[2].ari_next, expected)
    assert np.isnan(found[3].ari_next).all()


def test_only_common_rows_count():
    one, other = np.array([0, 0, 1, 1, -1, 1]), np.array([5, 5, 3, 3, 3, -1])
    assert agreement(one, other) == 1
    assert np.isnan(agreement(one, np.full(6, -1)))


def test_unrelated_labels_agree_at_no_number():
    rng = np.random.default_rng(0)
    found = stability({k: rng.integers(0, k, (5, 400)) for k in (2, 3, 9, 10)})
    assert all(abs(one.ari.mean()) < 0.02 for one in found.values())


def test_runs_take_parts_of_the_rows():
    seen = []

    def cluster(rows, k, seed):
        seen.append((len(rows), k, seed))
        return rows % k

    found = repeated_runs(cluster, 50, [2, 3], runs=4, fraction=0.8, seed=7)
    assert {(n, k) for n, k, _ in seen} == {(40, 2), (40, 3)}
    assert ((found[2] >= 0).sum(axis=1) == 40).all()
    np.testing.assert_array_equal(found[2] >= 0, found[3] >= 0)
    assert len({tuple(run >= 0) for run in found[2]}) == 4
    assert (stability(found)[2].ari == 1).all()
