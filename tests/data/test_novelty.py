"""Distances from what something was learned from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from storm.data.novelty import distances, left_out_distances, reference_rows

RNG = np.random.default_rng(0)


def test_distances_are_those_of_the_nearest() -> None:
    values, reference = RNG.normal(size=(40, 5)), RNG.normal(size=(30, 5))
    values[7, 2] = np.nan
    expected = np.sort(cdist(values, reference), axis=1)[:, :4].mean(axis=1)
    np.testing.assert_allclose(distances(values, reference, k=4), expected, rtol=1e-6)
    assert np.isnan(distances(values, reference)[7])
    few = distances(values, reference[:3], k=10)
    np.testing.assert_allclose(np.delete(few, 7), np.delete(cdist(values, reference[:3]).mean(axis=1), 7), rtol=1e-6)
    assert np.isnan(distances(values, reference[:0])).all()
    with pytest.raises(ValueError, match="k=0"):
        distances(values, reference, k=0)


def test_values_are_compared_with_other_groups_only() -> None:
    values, groups = RNG.normal(size=(60, 3)), np.repeat([0, 1, 2], 20)
    values[groups == 1] += 50
    rows = reference_rows(groups, limit=30)
    assert np.bincount(groups[rows]).tolist() == [10, 10, 10]
    apart = left_out_distances(values, groups, rows, k=3)
    assert apart[groups == 1].min() > 60
    assert apart[groups != 1].max() < 10
    others = rows[groups[rows] != 2]
    expected = np.sort(cdist(values[groups == 2], values[others]), axis=1)[:, :3].mean(axis=1)
    np.testing.assert_allclose(apart[groups == 2], expected, rtol=1e-6)
    assert np.isnan(left_out_distances(values[:20], groups[:20], np.arange(20))).all()


def test_reference_rows() -> None:
    assert reference_rows(np.zeros(7, int), limit=100).tolist() == list(range(7))
    assert len(reference_rows(np.repeat([0, 1], [4000, 10]), limit=1000)) == 510
