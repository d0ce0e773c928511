"""Names of clusters that are kept, and shares of domains in sections."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from storm.data.naming import keep_names
from storm.data.proportions import proportions


def renamed(codes: np.ndarray, earlier: np.ndarray, names: list[str]) -> np.ndarray:
    own, position = keep_names(codes, earlier, names)
    return np.array([*own, "none"], dtype=object)[position]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_same_clusters_in_any_order_keep_their_names(order) -> None:
    earlier = np.repeat([0, 1, 2], [5, 4, 3])
    names = ["tumour", "stroma", "fat"]
    codes = np.array(order)[earlier]
    assert (renamed(codes, earlier, names) == np.array(names)[earlier]).all()
    assert keep_names(codes, earlier, names)[0] == names


def test_most_rows_keep_their_name() -> None:
    """Against all assignments: the best one is not the greedy one here."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        codes, earlier = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
        names = list("abcd")
        kept = (renamed(codes, earlier, names) == np.array(names)[earlier]).sum()
        best = max((np.array(order)[codes] == earlier).sum() for order in permutations(range(4)))
        assert kept == best


def test_a_cluster_that_was_split_and_one_that_vanished() -> None:
    earlier = np.repeat([0, 1, 2], [10, 6, 2])
    split = np.repeat([0, 3, 1, 2], [7, 3, 6, 2])
    names, codes = keep_names(split, earlier, ["0", "1", "7"])
    assert names == ["0", "1", "7", "2"]
    assert codes.tolist() == split.tolist() == np.repeat([0, 3, 1, 2], [7, 3, 6, 2]).tolist()
    merged = np.repeat([1, 0], [10, 8])
    assert keep_names(merged, earlier, ["0", "1", "7"])[0] == ["0", "1"]


def test_a_name_is_not_given_to_what_shares_no_row() -> None:
    codes = np.array([0, 0, 1, 1, -1])
    earlier = np.array([1, 1, -1, -1, 0])
    names, new = keep_names(codes, earlier, ["0", "1"])
    assert names == ["1", "2"]
    assert new.tolist() == [0, 0, 1, 1, -1]


def test_shares_of_sections() -> None:
    codes = np.array([0, 0, 1, 2, -1, 1, 1, -1])
    table = proportions(codes, [np.array([0, 1, 2, 4]), np.array([3, 5, 6]), np.array([7])], 3)
    np.testing.assert_allclose(table["shares"][:2], [[2 / 3, 1 / 3, 0], [0, 2 / 3, 1 / 3]])
    assert np.isnan(table["shares"][2]).all()
    assert table["n"].tolist() == [3, 3, 0]
