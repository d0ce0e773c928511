"""Columns of sections whose results have different parts."""

from __future__ import annotations

import numpy as np
import pytest

from storm._bridge.columns import merged, spread


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ({"he": 4, "own": 2}, {"he": 4, "st": 3, "own": 2}, {"he": 4, "st": 3, "own": 2}),
        ({"st": 3, "own": 2}, {"he": 4, "own": 1}, {"st": 3, "he": 4, "own": 2}),
        ({"own": 1}, {"own": 2, "st": 3}, {"own": 2, "st": 3}),
        ({"he": 4}, {"he": 4}, {"he": 4}),
    ],
)
def test_merged(one, other, both):
    assert list(merged(one, other).items()) == list(both.items())


def test_spread():
    values = np.array([[1, 2, 3], [4, 5, 6], [7, np.nan, 9]], dtype=np.float32)
    found = spread(values, {"he": 2, "own": 1}, {"he": 2, "st": 2, "own": 2})
    np.testing.assert_array_equal(found, [[1, 2, 0, 0, 3, 0], [4, 5, 0, 0, 6, 0], [7, *[np.nan] * 3, 9, np.nan]])
    assert spread(values, {"he": 3}, {"he": 3}) is values
