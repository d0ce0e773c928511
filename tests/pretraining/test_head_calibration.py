"""Intervals and novelty of a head, by planted sections whose noise and composition are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from storm.data.normalise import log_normalise
from storm.metrics.intervals import interval_coverage
from storm.pretraining.head_calibration import fit_intervals, fit_novelty, thin
from storm.pretraining.head_sections import HeadSection

GENES = [f"G{i}" for i in range(12)]
SHARES = np.linspace(1, 12, 12) / np.linspace(1, 12, 12).sum()


def section(n: int, depth, seed: int, *, shift: float = 0.0) -> tuple[HeadSection, np.ndarray]:
    """Spots whose genes vary by a known factor, and the expression that one who knew it would predict."""
    rng = np.random.default_rng(seed)
    share = SHARES * np.exp(rng.normal(0, 0.5, (n, 12)))
    share /= share.sum(axis=1, keepdims=True)
    depths = np.broadcast_to(np.asarray(depth, dtype=float), n)
    measured = share * np.exp(shift * np.resize([1, -1], 12))
    counts = rng.poisson(measured / measured.sum(axis=1, keepdims=True) * depths[:, None])
    made = HeadSection(
        features=np.zeros((n, 1)),
        counts=csr_matrix(counts.astype(np.float32)),
        names=GENES,
        symbols=GENES,
        train=np.ones(n, bool),
        centres=np.zeros((n, 2)),
        reach=1.0,
    )
    return made, np.log1p(share * 1e4)


def coverage(intervals, spots: HeadSection, predicted: np.ndarray, depth: float) -> np.ndarray:
    lower, upper = intervals.at(depth)
    return interval_coverage(log_normalise(spots.counts).toarray(), predicted + lower, predicted + upper)


def test_intervals_cover_what_they_say_at_every_depth() -> None:
    parts = [section(600, 20_000, seed) for seed in range(3)]
    intervals = fit_intervals([s for s, _ in parts], GENES, [p for _, p in parts], alpha=0.1)
    assert intervals.holds_for == "section"
    assert intervals.default_depth == pytest.approx(20_000, rel=0.01)
    assert intervals.n_spots.tolist() == [1800] * 7
    for depth in (300, 900, 5000, 20_000):
        spots, predicted = section(2000, depth, seed=9)
        found = coverage(intervals, spots, predicted, depth)
        # 2,000 spots a gene: three standard errors of the coverage, and the calibration's own
        assert found.min() > 0.86, (depth, found)
        assert found.mean() == pytest.approx(0.9, abs=0.02)
    # a shallow measurement is noisier
    widths = [np.subtract(*intervals.at(depth)[::-1]).mean() for depth in (300, 1000, 5000, 20_000)]
    assert widths[0] > 2 * widths[2] > 0
    assert sorted(widths, reverse=True) == widths
    # what one quantile for all depths would have given
    spots, predicted = section(2000, 300, seed=9)
    assert coverage(intervals, spots, predicted, 20_000).mean() < 0.5


def test_depths_without_enough_spots_are_left_out() -> None:
    parts = [section(40, 1000, seed) for seed in range(2)]
    intervals = fit_intervals([s for s, _ in parts], GENES, [p for _, p in parts], alpha=0.1)
    assert intervals.depths.tolist() == [300, 600, 1200]  # 1,000 counts are 0.8 of 1,200
    np.testing.assert_array_equal(intervals.at(9999)[0], intervals.lower[-1])
    np.testing.assert_array_equal(intervals.at(5)[1], intervals.upper[0])
    few = [section(10, 1000, 0)]
    assert fit_intervals([few[0][0]], GENES, [few[0][1]], alpha=0.1) is None
    for bad in (0, -3, np.nan):
        with pytest.raises(ValueError, match="depth="):
            intervals.at(bad)


def test_with_enough_patients_intervals_hold_for_a_new_one() -> None:
    rng = np.random.default_rng(0)
    shifts = rng.normal(0, 0.35, 30)
    parts = [section(80, 4000, seed, shift=shift) for seed, shift in enumerate(shifts[:12])]
    patients = [f"p{i}" for i in range(12)]
    sections, predictions = [s for s, _ in parts], [p for _, p in parts]
    new = fit_intervals(sections, GENES, predictions, patients=patients, depths=[4000])
    same = fit_intervals(sections[:8], GENES, predictions[:8], patients=patients[:8], depths=[4000])
    assert (new.holds_for, same.holds_for) == ("patient", "section")
    found = [
        coverage(new, *section(100, 4000, 100 + i, shift=shift), 4000).mean() for i, shift in enumerate(shifts[12:])
    ]
    assert np.mean(found) > 0.88


def test_thinned_counts_are_those_of_a_shallower_measurement() -> None:
    deep, _ = section(4000, 10_000, seed=0)
    thinned = thin(deep.counts, 1000, np.random.default_rng(1))
    totals = np.asarray(thinned.sum(axis=1)).ravel()
    assert totals.mean() == pytest.approx(1000, rel=0.01)
    shares = [np.asarray(counts.sum(axis=0)).ravel() / counts.sum() for counts in (thinned, deep.counts)]
    np.testing.assert_allclose(*shares, rtol=0.01)
    assert (thinned.toarray() <= deep.counts.toarray()).all()
    shallow, _ = section(50, 100, seed=0)
    np.testing.assert_array_equal(
        thin(shallow.counts, 1000, np.random.default_rng(1)).toarray(), shallow.counts.toarray()
    )


def test_tiles_of_another_kind_are_unusual() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(4, 8)) * 3

    def tiles(n: int) -> np.ndarray:
        return kinds[rng.integers(0, 4, n)] + rng.normal(size=(n, 8))

    parts = [tiles(400) for _ in range(4)]
    novelty = fit_novelty(parts, [np.arange(400)] * 4, [np.zeros((400, 2))] * 4)
    # Below 5 %: a new section has the tiles of four others to be like, those of the calibration had three.
    assert 0.015 < (novelty.p(tiles(2000)) <= 0.05).mean() < 0.06
    assert (novelty.p(tiles(200) + 6) <= 0.05).mean() > 0.9
    some = tiles(3)
    some[1] = np.nan
    assert np.isnan(novelty.p(some)).tolist() == [False, True, False]
    alone = fit_novelty(parts[:1], [np.arange(400)], [rng.random((400, 2))])
    assert 0.01 < (alone.p(tiles(2000)) <= 0.05).mean() < 0.1
    assert fit_novelty([parts[0]], [np.arange(1)], [np.zeros((400, 2))]) is None
