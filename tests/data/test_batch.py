"""Shifts between sections, from pairs of spots that are alike."""

from __future__ import annotations

import numpy as np
import pytest

from storm.data.batch import Anchors, find_anchors

RNG = np.random.default_rng(0)
#: Three kinds of spots in ten dimensions.
KINDS = RNG.normal(size=(3, 10)) * 6


def section(counts, shift=0.0, seed=0) -> np.ndarray:
    """So many spots of each kind, all shifted alike."""
    rng = np.random.default_rng(seed)
    return np.concatenate([kind + rng.normal(size=(n, 10)) for kind, n in zip(KINDS, counts, strict=True)]) + shift


def test_the_shift_of_a_section_is_found_whatever_it_is_made_of():
    shift = RNG.normal(size=10)
    shift *= 3 / np.linalg.norm(shift)
    sections = [section((80, 150, 90)), section((120, 0, 0), shift, seed=1), section((10, 40, 200), -shift, seed=2)]
    shifts = find_anchors(sections).shifts(sections)
    # a mean over some hundred pairs of spots whose noise is 1 in each dimension
    np.testing.assert_allclose(shifts[1] - shifts[0], shift, atol=0.45)
    np.testing.assert_allclose(shifts[2] - shifts[0], -shift, atol=0.45)
    means = np.array([values.mean(axis=0) for values in sections])
    assert np.linalg.norm(means[1] - means[0] - shift) > 3  # which the sections' means would have got wrong


def test_pairs_are_of_one_kind():
    sections = [section((60, 60, 60)), section((90, 0, 0), 0.8, seed=1)]
    pairs = find_anchors(sections)
    ((i, j),) = pairs.pairs
    assert (i, j) == (1, 0)
    first, second = pairs.pairs[1, 0]
    assert len(first) > 100
    assert (second < 60).all()
    assert pairs.counts.tolist() == [[0, len(first)], [len(first), 0]]


def test_sections_without_a_shift_are_hardly_shifted():
    whole = section((200, 200, 200))
    halves = [whole[::2], whole[1::2]]
    assert np.linalg.norm(np.diff(find_anchors(halves).shifts(halves), axis=0)) < 0.5


def test_the_order_of_rows_and_sections_changes_nothing():
    sections = [section((3000, 10, 90)), section((50, 20, 10), 1.0, seed=1), section((0, 70, 30), -1.0, seed=2)]
    shifts = find_anchors(sections).shifts(sections)
    shuffled = [values[np.random.default_rng(5).permutation(len(values))] for values in sections]
    np.testing.assert_allclose(find_anchors(shuffled).shifts(shuffled), shifts, atol=1e-9)
    turned = sections[::-1]
    np.testing.assert_allclose(find_anchors(turned).shifts(turned), shifts[::-1], atol=1e-9)


def test_pairs_shift_any_values_of_the_same_spots():
    sections = [section((50, 50, 50)), section((50, 50, 50), 1.0, seed=1)]
    anchors = find_anchors(sections)
    other = [np.full((150, 2), 4.0), np.full((150, 2), 7.0)]
    other[1][3] = np.nan
    np.testing.assert_allclose(anchors.shifts(other), [[-1.5, -1.5], [1.5, 1.5]])


def test_few_rows_and_rows_of_nan():
    sections = [section((30, 30, 30)), section((1, 0, 0), seed=1), np.empty((0, 10)), np.full((4, 10), np.nan)]
    sections[0][5] = np.nan
    anchors = find_anchors(sections)
    assert anchors.counts[2:].sum() == 0
    assert anchors.counts[0, 1] == 20
    assert 5 not in anchors.pairs[1, 0][1]
    shifts = anchors.shifts(sections)
    assert np.isfinite(shifts).all()
    assert (shifts[2:] == 0).all()
    alone = find_anchors(sections[:1])
    assert alone.pairs == {}
    assert (alone.shifts(sections[:1]) == 0).all()


def test_a_bad_number_of_neighbours():
    with pytest.raises(ValueError, match="n_neighbours"):
        find_anchors([section((5, 5, 5))], n_neighbours=0)


def test_shifts_meet_in_the_middle_of_linked_sections():
    pairs = Anchors(3, {(1, 0): np.array([[0], [0]])})
    np.testing.assert_allclose(pairs.shifts([np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1))]), [[-0.5], [0.5], [0]])
