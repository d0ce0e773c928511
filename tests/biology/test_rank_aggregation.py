"""Robust rank aggregation."""

from __future__ import annotations

import numpy as np
import pytest

from storm.biology.rank_aggregation import aggregate_ranks, rho


def test_golden_values() -> None:
    assert rho(np.array([0.1, 0.2, 0.3])) == pytest.approx(0.081)
    assert rho(np.array([0.01, 0.8, 0.9, 0.02])) == pytest.approx(0.009346, abs=1e-6)
    found = aggregate_ranks(["ABCD", "BAE", "ACBED"])
    assert list(found)[:2] == ["A", "B"]
    assert (found["A"], found["B"]) == pytest.approx((0.192, 0.648))
    assert {found[name] for name in "CDE"} == {1.0}


def test_random_ranks_are_rarely_called() -> None:
    values = rho(np.random.default_rng(0).random((20_000, 5)))
    assert (values < 0.05).mean() <= 0.05  # a bound, so below the level
    assert (values < 0.05).mean() > 0.02


def test_a_gene_that_some_slides_do_not_measure_is_judged_on_the_others() -> None:
    assert rho(np.array([[0.1, 0.2, 0.3, np.nan], [np.nan] * 4]))[0] == pytest.approx(0.081)
    assert np.isnan(rho(np.full((1, 3), np.nan)))


@pytest.mark.parametrize(
    ("lists", "universe", "words"),
    [
        ([], None, "give one or more"),
        (["AB", ""], None, "none of them empty"),
        (["ABA"], None, r"list 0 names \['A'\] more than once"),
        (["AB", "CD"], 3, "the lists name 4 genes"),
    ],
)
def test_bad_lists(lists, universe, words) -> None:
    with pytest.raises(ValueError, match=words):
        aggregate_ranks(lists, universe=universe)
