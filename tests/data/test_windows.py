"""Windows on lattices and between cells."""

from __future__ import annotations

import numpy as np
import pytest

from storm.data import lattice as lattice_module
from storm.data import windows as windows_module
from storm.data.lattice import find_lattice
from storm.data.order import spatial_order
from storm.data.windows import make_windows


def square(n=9, pitch=200.0):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) * pitch


def hexagonal(n=10, pitch=100.0):
    i, j = np.meshgrid(np.arange(n), np.arange(n))
    return np.stack([i + 0.5 * (j % 2), j * np.sqrt(3) / 2], -1).reshape(-1, 2) * pitch


def turned(points, degrees, shift=(1234.5, -77.0)):
    a = np.deg2rad(degrees)
    return points @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + shift


@pytest.mark.parametrize("degrees", [0, 17, 45, 63])
@pytest.mark.parametrize(("grid", "kind", "pitch"), [(square, "square", 200.0), (hexagonal, "hex", 100.0)])
def test_members_lie_where_the_offsets_say(grid, kind, pitch, degrees):
    points = turned(grid(), degrees)
    windows = make_windows(points)
    assert windows.kind == kind
    assert windows.index.shape == (len(points), 25)
    assert windows.pitch == pytest.approx(pitch, rel=1e-6)
    assert (windows.index[:, 0] == np.arange(len(points))).all()
    distances = np.linalg.norm(windows.offsets, axis=1) * pitch
    row, slot = np.nonzero(windows.index >= 0)
    found = np.linalg.norm(points[windows.index[row, slot]] - points[row], axis=1)
    np.testing.assert_allclose(found, distances[slot], rtol=1e-6, atol=1e-6)
    # the offsets are a rotation of the true relative positions, not a mirror image: all angles agree
    relative = points[windows.index[row, slot]] - points[row]
    far = slot > 0
    angle = np.arctan2(*relative[far].T[::-1]) - np.arctan2(*windows.offsets[slot[far]].T[::-1])
    assert np.abs(np.exp(1j * angle) - np.exp(1j * angle[0])).max() < 1e-5


def test_square_block_is_five_by_five():
    windows = make_windows(square())
    middle = 4 * 9 + 4
    members = {(i % 9, i // 9) for i in windows.index[middle]}
    assert members == {(x, y) for x in range(2, 7) for y in range(2, 7)}


def test_hexagonal_window_has_six_fold_symmetry():
    offsets = make_windows(hexagonal()).offsets
    a = np.pi / 3
    for x, y in offsets:
        turned_offset = np.array([x * np.cos(a) - y * np.sin(a), x * np.sin(a) + y * np.cos(a)])
        assert np.abs(offsets - turned_offset).sum(1).min() < 1e-5
    assert np.linalg.norm(offsets, axis=1).max() == pytest.approx(np.sqrt(7), rel=1e-6)


def test_holes_are_missing_not_borrowed():
    rng = np.random.default_rng(0)
    points = square(20)
    keep = rng.random(len(points)) > 0.2
    whole, holes = make_windows(points), make_windows(points[keep])
    new = np.cumsum(keep) - 1
    expected = whole.index[keep]
    expected = np.where((expected >= 0) & keep[expected], new[expected], -1)
    np.testing.assert_array_equal(holes.index, expected)


def test_jitter_drift_and_detached_pieces():
    rng = np.random.default_rng(1)
    grid = square(30)
    drift = np.column_stack([0.04 * grid[:, 1], 0.02 * grid[:, 0]]) + 2e-6 * grid**2
    points = grid + drift + rng.normal(0, 10, grid.shape)
    column = np.arange(900) % 30
    keep = (column < 12) | (column > 16)
    lattice = find_lattice(points[keep])
    assert lattice.kind == "square"
    true = np.column_stack([np.arange(900) % 30, np.arange(900) // 30])[keep]
    steps = np.column_stack([lattice.ij, np.ones(keep.sum())])
    fit = np.linalg.lstsq(steps, true, rcond=None)[0]
    np.testing.assert_allclose(steps @ fit, true, atol=1e-6)


def test_cells_have_their_nearest_within_reach():
    rng = np.random.default_rng(0)
    points = rng.random((500, 2)) * 1000
    points[-1] = (5000, 5000)
    windows = make_windows(points)
    assert windows.kind == "knn"
    assert windows.index.shape == (500, 9)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    for i in (0, 17, 250):
        np.testing.assert_array_equal(np.sort(windows.index[i]), np.sort(np.argsort(distance[i])[:9]))
    assert (windows.index[-1] == [499, *[-1] * 8]).all()
    near = make_windows(points, kind="knn", radius=40.0)
    row, slot = np.nonzero(near.index >= 0)
    assert distance[row, near.index[row, slot]].max() <= 40
    np.testing.assert_allclose(
        near.offsets[row, slot] * near.pitch, points[near.index[row, slot]] - points[row], atol=1e-3
    )


def test_unplaced_rows_have_no_window_and_are_nobodys_neighbour():
    points = square()
    points[40] = np.nan
    windows = make_windows(points)
    assert (windows.index[40] == -1).all()
    assert not (windows.index == 40).any()


def test_no_context_and_tiny_sections():
    assert make_windows(square(), size=1).index.shape == (81, 1)
    assert make_windows(np.zeros((1, 2))).index.tolist() == [[0]]
    assert make_windows(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])).kind == "knn"


def test_errors():
    with pytest.raises(ValueError, match="knn"):
        make_windows(np.random.default_rng(0).random((100, 2)), kind="lattice")
    with pytest.raises(ValueError, match="9, 25"):
        make_windows(square(), size=10)
    with pytest.raises(ValueError, match="size=0"):
        make_windows(square(), size=0)
    with pytest.raises(ValueError, match="kind='grid'"):
        make_windows(square(), kind="grid")
    with pytest.raises(ValueError, match="coincide"):
        make_windows(np.zeros((50, 2)), kind="knn")


@pytest.mark.parametrize("scale", [1.0, 0.2125])
def test_windows_of_rounded_cells_do_not_depend_on_the_order_of_the_rows(scale):
    """Whole coordinates: a fifth of the cells share their place with another, and most distances are tied."""
    rng = np.random.default_rng(0)
    points = rng.integers(0, 50, (600, 2)) * scale
    assert 0.1 < 1 - len(np.unique(points, axis=0)) / len(points) < 0.3
    windows = make_windows(points, radius=100.0)
    assert windows.kind == "knn"
    assert (windows.index[:, 0] == np.arange(600)).all()
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    for row in range(600):
        members = windows.index[row]
        assert len(set(members)) == 9, "each cell once, those at the same place too"
        np.testing.assert_allclose(np.sort(distance[row])[:9], distance[row, members], atol=1e-12)
        # Within one distance by x, then y.
        key = [
            (round(d / scale, 6), *np.round(o, 5))
            for d, o in zip(distance[row, members], windows.offsets[row], strict=True)
        ]
        assert key[1:] == sorted(key[1:])
    shuffled = rng.permutation(600)
    again = make_windows(points[shuffled], radius=100.0)
    assert again.pitch == windows.pitch
    np.testing.assert_array_equal(again.offsets, windows.offsets[shuffled])
    # Members at one place of their own are the same cells.
    _, place, cells = np.unique(points, axis=0, return_inverse=True, return_counts=True)
    alone = cells[place.ravel()] == 1
    old = windows.index[shuffled]
    np.testing.assert_array_equal(np.where(alone[old], old, -1), np.where(alone[old], shuffled[again.index], -1))


def test_many_cells_at_one_place():
    """The window of a cell that shares its place with more cells than a window holds: itself, then the first."""
    rng = np.random.default_rng(0)
    points = np.concatenate([np.full((40, 2), 5.0), rng.random((200, 2)) * 100])
    windows = make_windows(points, kind="knn")
    np.testing.assert_array_equal(windows.index[0], np.arange(9))
    np.testing.assert_array_equal(windows.index[20], [20, *range(8)])
    assert (windows.offsets[:40] == 0).all()
    nearest = np.linalg.norm(points[40:, None] - points[None], axis=-1)
    nearest[nearest == 0] = np.inf
    assert windows.pitch == pytest.approx(np.median(nearest.min(axis=1)), rel=0.1)


def test_one_spot_apart_does_not_change_the_pitch():
    rng = np.random.default_rng(0)
    for points, kind in ((square(9), "square"), (rng.random((300, 2)) * 1000, "knn")):
        far = np.concatenate([points, points[:1] + 1e5, points[:1] - 3e5])
        with_far = make_windows(far)
        assert with_far.kind == kind
        assert with_far.pitch == pytest.approx(make_windows(points).pitch, rel=0.02)


def planted(grid, seed, *, holes, degrees, jitter=0.0):
    """Shuffled, turned, thinned lattice; and each point's place in the whole one."""
    rng = np.random.default_rng(seed)
    whole = grid(33)
    place = rng.permutation(np.flatnonzero(rng.random(len(whole)) >= holes))
    points = turned(whole, degrees) + rng.normal(0, jitter, whole.shape)
    return points[place], place, whole


@pytest.mark.parametrize("chains", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("grid", "holes", "degrees", "jitter"), [
    (square, 0.0, 0, 0.0), (square, 0.2, 17, 0.0), (square, 0.3, 80, 4.0),
    (hexagonal, 0.0, 0, 0.0), (hexagonal, 0.2, 17, 0.0), (hexagonal, 0.3, 101, 2.0),
])  # fmt: skip
def test_rounding_and_chains_find_the_planted_windows(grid, holes, degrees, jitter, sampled, chains, monkeypatch):
    if sampled:
        monkeypatch.setattr(lattice_module, "_SAMPLE", 320)
        monkeypatch.setattr(lattice_module, "_PATCHES", 5)
        monkeypatch.setattr(windows_module, "_BLOCK", 100)
    if chains:
        monkeypatch.setattr(lattice_module, "_by_rounding", lambda *_: None)
    points, place, whole = planted(grid, 3, holes=holes, degrees=degrees, jitter=jitter)
    found = make_windows(points)
    # the same windows by distances in the whole, unturned lattice
    row_of = np.full(len(whole), -1)
    row_of[place] = np.arange(len(place))
    pitch = 200.0 if grid is square else 100.0
    relative = (whole[None, place] - whole[place, None]) / pitch
    inside = abs(relative).max(-1) < 2.5 if grid is square else (relative**2).sum(-1) < 6.9
    if grid is square:
        for row in range(0, len(points), 37):
            assert set(found.index[row][found.index[row] >= 0]) == set(np.flatnonzero(inside[row]))
    else:  # 19 positions are in every order of the shell at √7, of which six of twelve belong to the window
        near = (found.offsets**2).sum(-1) < 6.9
        for row in range(0, len(points), 37):
            members = found.index[row, near]
            assert set(members[members >= 0]) == set(np.flatnonzero(inside[row]))
    assert found.pitch == pytest.approx(pitch, rel=2e-3)
    assert sorted(found.order) == list(range(len(points)))


def test_a_lattice_with_more_holes_than_bins_is_one():
    """Too few bins left for chains of neighbours to hold together: arithmetic needs none."""
    points, place, _ = planted(square, 0, holes=0.6, degrees=30)
    found = make_windows(points)
    assert found.kind == "square"
    x, y = place % 33, place // 33
    for row in range(0, len(points), 29):
        inside = (abs(x - x[row]) <= 2) & (abs(y - y[row]) <= 2)
        assert set(found.index[row][found.index[row] >= 0]) == set(np.flatnonzero(inside))


def test_far_pieces_keep_a_sorted_index():
    points = np.concatenate([square(8), square(8) + 200.0 * 40_000])
    found = make_windows(points)
    assert found.kind == "square"
    np.testing.assert_array_equal(found.index[:64], make_windows(square(8)).index)
    np.testing.assert_array_equal(found.index[64:], np.where(found.index[:64] >= 0, found.index[:64] + 64, -1))


def test_order_puts_neighbours_beside_each_other():
    rng = np.random.default_rng(0)
    points = rng.random((4096, 2))
    order = spatial_order(points)
    assert sorted(order) == list(range(4096))
    assert np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean() < 0.03
    assert spatial_order(np.ones((3, 2))).tolist() == [0, 1, 2]
    points[7] = np.nan
    windows = make_windows(points)
    assert 7 not in windows.rows()
    assert len(windows.rows()) == 4095
