"""How far a section is alike around a spot: planted lengths are found, and means on a raster are those of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from storm.data import reach
from storm.data.reach import find_reach, gaussian_mean

SIDE = 40


def grid(side: int = SIDE) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(float)


def planted(length: float, noise: float, *, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Three fields of unit variance that are alike over ``length`` pitches, with noise."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(side, side)), length, mode="wrap").ravel() for _ in range(3)]
    values = np.stack(fields, axis=1)
    return values / values.std(axis=0) + noise * rng.normal(size=values.shape)


def direct(values: np.ndarray, centres: np.ndarray, sigma: float, *, itself: bool = True) -> np.ndarray:
    """The definition, by all pairs."""
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    weights = np.exp(-np.square(distance / sigma) / 2) * (distance <= 3.2 * sigma)
    weights[:, np.isnan(values).any(axis=1)] = 0
    if not itself:
        np.fill_diagonal(weights, 0)
    return weights @ np.nan_to_num(values) / weights.sum(axis=1, keepdims=True)


def test_the_reach_grows_with_the_length_over_which_a_section_is_alike():
    sigmas = [find_reach(planted(length, 1.0), grid(), pitch=1.0).sigma for length in (1, 2, 4)]
    assert np.all(np.diff(np.log(sigmas)) > np.log(1.3))
    noisier = [find_reach(planted(2, noise), grid(), pitch=1.0).sigma for noise in (0.3, 1.0, 3.0)]
    assert np.all(np.diff(noisier) > 0)


def test_the_curve_is_leave_one_out():
    values, centres = planted(2, 1.0, side=14), grid(14)
    found = find_reach(values, centres, pitch=1.0)
    spread = np.square(values - values.mean(axis=0)).sum()
    for sigma, r2 in zip(found.sigmas, found.r2, strict=True):
        error = np.square(values - direct(values, centres, sigma, itself=False)).sum()
        assert r2 == pytest.approx(1 - error / spread, abs=1e-5)
    assert found.r2[-1] < found.best - 0.01
    k = found.r2.argmax()
    peak = np.polynomial.Polynomial.fit(np.log(found.sigmas[k - 1 : k + 2]), found.r2[k - 1 : k + 2], 2).deriv().roots()
    assert np.log(found.sigma) == pytest.approx(peak[0], abs=1e-6)


@pytest.mark.parametrize("change", ["order", "rotation", "unit", "unknown"])
def test_the_reach_depends_on_nothing_else(change):
    values, centres, pitch = planted(2, 1.0), grid(), 1.0
    wanted = find_reach(values, centres, pitch=1.0)
    rng = np.random.default_rng(1)
    if change == "order":
        rows = rng.permutation(len(values))
        values, centres = values[rows], centres[rows]
    elif change == "rotation":
        turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
        centres = centres @ turn - 1000.0
    elif change == "unit":
        centres, pitch = centres * 73.0, 73.0
    else:
        values = np.vstack([values, np.full((5, 3), np.nan), np.zeros((2, 3))])
        centres = np.vstack([centres, centres[:5] + 0.5, np.full((2, 2), np.nan)])
    found = find_reach(values, centres, pitch=pitch)
    np.testing.assert_allclose(found.r2, wanted.r2, atol=1e-5)
    assert found.sigma == pytest.approx(wanted.sigma, rel=1e-3)


def test_more_spots_than_are_predicted(monkeypatch):
    values, centres = planted(2, 1.0), grid()
    wanted = find_reach(values, centres, pitch=1.0)
    monkeypatch.setattr(reach, "N_PREDICTED", 400)
    assert find_reach(values, centres, pitch=1.0).sigma == pytest.approx(wanted.sigma, rel=0.15)


@pytest.mark.parametrize(
    "values",
    [np.empty((0, 2)), np.ones((1, 2)), np.ones((2, 2)), np.full((50, 2), 3.0), np.full((50, 2), np.nan)],
    ids=["none", "one", "two", "all the same", "nothing known"],
)
def test_where_there_is_nothing_to_predict_the_reach_is_the_smallest(values):
    centres = np.column_stack([np.arange(len(values)) * 1.0, np.zeros(len(values))])
    found = find_reach(values, centres, pitch=1.0)
    assert (found.sigma, found.best, len(found.r2)) == (0.5, 0, 0)


def test_where_neighbours_say_less_than_the_mean_the_reach_is_the_smallest():
    """A chessboard: every neighbour is the opposite, and no width predicts anything."""
    centres = grid(12)
    values = np.where(centres.sum(axis=1, keepdims=True) % 2, 1.0, -1.0)
    found = find_reach(values, centres, pitch=1.0)
    assert found.best <= 0
    assert found.sigma == 0.5


def test_spots_far_from_all_others_are_predicted_by_the_mean():
    values, centres = planted(2, 1.0, side=10), grid(10)
    lonely = find_reach(values, centres * 100, pitch=1.0)
    np.testing.assert_allclose(lonely.r2, 0, atol=1e-6)
    assert lonely.sigma == 0.5


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.3, 3.0])
@pytest.mark.parametrize("cells", [False, True])
def test_a_mean_on_the_raster_is_that_of_pairs(sigma, cells):
    values, centres = planted(2, 0.5), grid()
    if cells:
        centres = np.random.default_rng(2).uniform(0, SIDE, centres.shape)
    exact = gaussian_mean(values, centres, sigma=sigma, exact=True)
    raster = gaussian_mean(values, centres, sigma=sigma, exact=False)
    for column in range(values.shape[1]):
        assert np.corrcoef(exact[:, column], raster[:, column])[0, 1] > 0.998
    assert abs(raster - exact).mean() < 0.02 * exact.std()
    assert raster.std() == pytest.approx(exact.std(), rel=0.01)


def test_a_mean_of_pairs_is_the_definition(monkeypatch):
    monkeypatch.setattr(reach, "_BLOCK_PAIRS", 300)
    values, centres = planted(2, 0.5, side=9), grid(9)
    values[4] = np.nan
    found = gaussian_mean(values, centres, sigma=1.2)
    np.testing.assert_allclose(found, direct(values, centres, 1.2), atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_rows_that_are_not_known_give_nothing(exact):
    values, centres = planted(2, 0.5), grid()
    rows = np.array([3, 77, 800])
    unknown, moved = values.copy(), centres.copy()
    unknown[rows] = np.nan
    moved[50] = np.nan
    found = gaussian_mean(unknown, moved, sigma=1.0, exact=exact)
    assert np.isnan(found[50]).all()
    assert np.isfinite(np.delete(found, 50, axis=0)).all()
    keep = np.delete(np.arange(len(values)), [*rows, 50])
    alone = gaussian_mean(values[keep], centres[keep], sigma=1.0, exact=exact)
    np.testing.assert_allclose(found[keep], alone, atol=1e-5)
    far = np.vstack([moved, [[1000.0, 0.0]]])
    assert np.isnan(gaussian_mean(np.vstack([unknown, np.full((1, 3), np.nan)]), far, sigma=1.0, exact=exact)[-1]).all()


def test_large_sections_take_the_raster_and_scattered_ones_do_not(monkeypatch):
    values, centres = planted(2, 0.5), grid()
    monkeypatch.setattr(reach, "_MAX_PAIRS", 1000)
    raster = gaussian_mean(values, centres, sigma=1.0)
    np.testing.assert_array_equal(raster, gaussian_mean(values, centres, sigma=1.0, exact=False))
    scattered = centres.copy()
    scattered[0] -= 1e6
    found = gaussian_mean(values, scattered, sigma=1.0)
    np.testing.assert_array_equal(found, gaussian_mean(values, scattered, sigma=1.0, exact=True))


@pytest.mark.parametrize("exact", [True, False])
def test_cells_at_one_place_and_a_single_cell(exact):
    same = gaussian_mean(np.array([[1.0], [3.0]]), np.zeros((2, 2)), sigma=1.0, exact=exact)
    np.testing.assert_allclose(same, 2.0, atol=1e-6)
    np.testing.assert_allclose(gaussian_mean(np.ones((1, 4)), np.ones((1, 2)), sigma=1.0, exact=exact), 1, atol=1e-6)
    assert np.isnan(gaussian_mean(np.full((2, 4), np.nan), np.ones((2, 2)), sigma=1.0, exact=exact)).all()
