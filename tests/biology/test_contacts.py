"""Contacts between domains, against values that were computed by hand and by other packages."""

from __future__ import annotations

import numpy as np
import pytest

from storm.biology.contacts import count_contacts
from storm.data.contacts import contact_edges

LABELS = np.array([int(c) for c in "0011001122112222"])


def grid(height: int, width: int) -> np.ndarray:
    return np.array([(x, y) for y in range(height) for x in range(width)], dtype=float)


def queen(height: int, width: int) -> np.ndarray:
    centres = grid(height, width)
    away = abs(centres[:, None] - centres[None]).max(axis=2)
    return np.argwhere(np.triu(away == 1))


def test_golden_values_of_four_neighbours():
    edges = contact_edges(grid(4, 4) * 200 + 37)
    assert len(edges) == 24
    contacts = count_contacts(edges, LABELS, 3)
    np.testing.assert_array_equal(contacts.edges, [[4, 2, 2], [2, 7, 3], [2, 3, 6]])
    np.testing.assert_allclose(contacts.share, [[np.nan, 0.5, 0.5], [0.4, np.nan, 0.6], [0.4, 0.6, np.nan]])
    z = [
        [3.235295373, -1.7808448137, -1.7808448137],
        [-1.7808448137, 3.3726843908, -2.2691321555],
        [-1.7808448137, -2.2691321555, 2.5295132931],
    ]
    np.testing.assert_allclose(contacts.z, z, rtol=0, atol=1e-8)
    assert contacts.log2_enrichment[0, 1] == pytest.approx(np.log2(0.5 / (6 / 12)))
    assert contacts.log2_enrichment[1, 0] == pytest.approx(np.log2(0.4 / (4 / 10)))


def test_golden_values_of_eight_neighbours():
    contacts = count_contacts(queen(4, 4), LABELS, 3)
    assert contacts.edges.sum() == 42 + (5 + 4 + 7)
    np.testing.assert_array_equal(contacts.edges, [[6, 5, 4], [5, 11, 7], [4, 7, 9]])
    assert contacts.share[0, 1] == pytest.approx(0.5555555556, abs=1e-9)
    assert contacts.share[1, 2] == pytest.approx(0.5833333333, abs=1e-9)
    assert contacts.share[2, 1] == pytest.approx(0.6363636364, abs=1e-9)
    assert contacts.z[0, 1] == pytest.approx(-1.6076113673, abs=1e-8)
    assert contacts.z[0, 2] == pytest.approx(-2.08043824, abs=1e-8)
    assert contacts.z[1, 2] == pytest.approx(-2.3151193549, abs=1e-8)


def test_score_is_the_limit_of_permutations():
    rng = np.random.default_rng(0)
    edges = contact_edges(rng.uniform(size=(60, 2)))
    codes = rng.integers(0, 3, 60)
    sections = np.repeat([0, 1], [25, 35])
    edges = edges[sections[edges[:, 0]] == sections[edges[:, 1]]]
    drawn = []
    for _ in range(4000):
        mixed = codes.copy()
        for section in (0, 1):
            mixed[sections == section] = rng.permutation(codes[sections == section])
        drawn.append(count_contacts(edges, mixed, 3).edges)
    observed = count_contacts(edges, codes, 3, sections=sections)
    expected = (observed.edges - np.mean(drawn, axis=0)) / np.std(drawn, axis=0)
    np.testing.assert_allclose(observed.z, expected, atol=0.1)


def test_no_edge_leaves_a_section_and_the_order_does_not_matter():
    centres = np.concatenate([grid(5, 5), grid(5, 5) + np.array([0.2, 5.0])]) * 100
    sections = np.repeat([0, 1], 25)
    edges = contact_edges(centres, sections)
    assert len(edges) == 80
    assert (sections[edges[:, 0]] == sections[edges[:, 1]]).all()
    order = np.random.default_rng(0).permutation(50)
    mixed = order[contact_edges(centres[order], sections[order])]
    assert {tuple(sorted(e)) for e in mixed} == {tuple(e) for e in edges}


def test_hexagonal_lattice_has_six_neighbours():
    ij = grid(8, 8)
    centres = 100 * np.column_stack([ij[:, 0] + 0.5 * (ij[:, 1] % 2), ij[:, 1] * np.sqrt(3) / 2])
    degree = np.bincount(contact_edges(centres).ravel())
    inside = (ij > 0).all(axis=1) & (ij < 7).all(axis=1)
    assert (degree[inside] == 6).all()


def test_gaps_are_not_bridged_and_coinciding_cells_touch():
    rng = np.random.default_rng(0)
    left = rng.uniform(0, 100, (200, 2))
    centres = np.concatenate([left, left[:, ::-1] + [1000, 0], left[:1], [[np.nan, 0]]])
    edges = contact_edges(centres)
    assert not ((edges[:, 0] < 200) & (edges[:, 1] >= 200) & (edges[:, 1] < 400)).any()
    assert [0, 400] in edges.tolist()
    assert 401 not in edges


@pytest.mark.parametrize(
    ("centres", "expected"),
    [
        (np.empty((0, 2)), []),
        ([[0.0, 0.0]], []),
        ([[0.0, 0.0], [5.0, 1.0]], [[0, 1]]),
        ([[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]], [[0, 2], [1, 2]]),
        ([[0.0, 0.0], [0.0, 0.0]], [[0, 1]]),
    ],
)
def test_a_handful_of_spots(centres, expected):
    assert contact_edges(np.asarray(centres)).tolist() == expected


def test_one_domain_and_spots_without_one():
    edges = contact_edges(grid(3, 3))
    only = count_contacts(edges, np.zeros(9, dtype=int), 1)
    assert only.edges.tolist() == [[12]]
    assert np.isnan(only.z).all()
    assert np.isnan(only.share).all()
    codes = np.array([0, 0, 0, -1, -1, -1, 1, 1, 1])
    apart = count_contacts(edges, codes, 2)
    assert apart.edges.tolist() == [[2, 0], [0, 2]]
    assert not apart.adjacent(min_share=0.05, min_edges=3).any()


def test_adjacent_is_by_share():
    contacts = count_contacts(contact_edges(grid(4, 4)), LABELS, 3)
    assert contacts.adjacent(min_share=0.05, min_edges=3).tolist() == [
        [False, False, False],
        [False, False, True],
        [False, True, False],
    ]
    assert contacts.adjacent(min_share=0.45, min_edges=2)[0].tolist() == [False, True, True]
    assert contacts.adjacent(min_share=0.45, min_edges=2)[1].tolist() == [False, False, True]


def test_enrichment_does_not_see_what_is_in_other_sections():
    """Two like sections say together what one says, also beside a third one of other domains."""
    edges = queen(4, 4)
    one = count_contacts(edges, LABELS, 3)
    codes = np.concatenate([LABELS, LABELS, np.full(16, 3), LABELS % 2 + 3])
    sections = np.repeat([0, 1, 2, 3], 16)
    all_edges = np.concatenate([edges + 16 * section for section in range(4)])
    study = count_contacts(all_edges, codes, 5, sections=sections)
    np.testing.assert_allclose(study.log2_enrichment[:3, :3], one.log2_enrichment)
    last = count_contacts(edges, LABELS % 2, 2)
    np.testing.assert_allclose(study.log2_enrichment[3:, 3:], last.log2_enrichment)
    assert np.isnan(study.log2_enrichment[:3, 3:]).all()
    assert (study.share[:3, 3:] == 0).all()
