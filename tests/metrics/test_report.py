"""The report on predicted expression against scipy, definitions and hand-worked values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from storm.metrics import coverage_by_depth, expression_report, ssim

RNG = np.random.default_rng(0)
TRUTH = np.log1p(RNG.poisson(2, (60, 4)).astype(float))
PRED = TRUTH * 0.5 + RNG.normal(size=TRUTH.shape)
GENES = ["A", "B", "C", "D"]
SLIDES = np.repeat(["s1", "s2"], 30)


def test_a_row_per_gene_and_slide() -> None:
    pred = PRED.copy()
    pred[3, 1] = np.nan
    report = expression_report(TRUTH, pred, genes=GENES, slides=SLIDES, patients=np.repeat([1, 2], 30))
    assert list(zip(report.gene, report.slide, strict=True)) == [(g, s) for s in ("s1", "s2") for g in GENES]
    assert report.patient.tolist() == [1] * 4 + [2] * 4
    assert report.n.tolist() == [30, 29, 30, 30] + [30] * 4
    for _, row in report.iterrows():
        rows, gene = np.flatnonzero(SLIDES == row.slide), GENES.index(row.gene)
        x, y = TRUTH[rows, gene], pred[rows, gene]
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        assert row.pearson == pytest.approx(pearsonr(x, y).statistic)
        assert row.spearman == pytest.approx(spearmanr(x, y).statistic)
        assert row.rmse == pytest.approx(np.sqrt(np.mean((x - y) ** 2)))
        assert row.truth_mean == pytest.approx(x.mean())
        assert row.truth_zeros == pytest.approx((x == 0).mean())


def test_what_is_not_defined_is_nan() -> None:
    truth, pred = TRUTH.copy(), PRED.copy()
    truth[:, 0], pred[:, 1] = 1.0, np.nan
    report = expression_report(truth, pred, genes=GENES).set_index("gene")
    assert report.loc["A", ["pearson", "spearman"]].isna().all()
    assert report.loc["B", ["pearson", "rmse", "truth_mean", "truth_zeros"]].isna().all()
    assert report.n["B"] == 0


def test_intervals() -> None:
    report = expression_report(TRUTH, PRED, genes=GENES, lower=PRED - 1, upper=PRED + 1)
    inside = (np.abs(TRUTH - PRED) <= 1).mean(axis=0)
    np.testing.assert_allclose(report.coverage, inside)
    np.testing.assert_allclose(report.width, 2)


def test_a_patient_on_both_sides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patients \['B'\] are among those"):
        expression_report(TRUTH, PRED, genes=GENES, patients=np.repeat(["B", "C"], 30), trained_on=["B", "D"])
    with pytest.raises(ValueError, match="slide 's1' is of several patients"):
        expression_report(TRUTH, PRED, genes=GENES, slides=SLIDES, patients=np.tile(["B", "C"], 30))
    with pytest.raises(ValueError, match="1 of them missing"):
        expression_report(TRUTH, PRED, genes=GENES, patients=["B"] * 59 + [None])
    with pytest.raises(ValueError, match="there are 3 genes"):
        expression_report(TRUTH, PRED, genes=GENES[:3])


def test_ssim_by_hand() -> None:
    places = np.argwhere(np.ones((3, 3)))
    x, y = np.array([[1, 2, 3], [2, 4, 2], [0, 1, 5]]), np.array([[1, 1, 3], [2, 3, 2], [1, 1, 4]])
    # one window, the nine spots, around each of them
    assert ssim(x.reshape(9, 1), y.reshape(9, 1), places)[0] == pytest.approx(0.8756545009, abs=1e-10)


def test_morans_i_of_the_measurement() -> None:
    rng = np.random.default_rng(0)
    places = np.indices((12, 12)).reshape(2, -1).T + rng.uniform(-0.2, 0.2, (144, 2))
    truth = np.column_stack([places.sum(axis=1), rng.normal(size=144), (places.round().sum(axis=1) % 2), np.ones(144)])
    report = expression_report(truth, truth, genes=GENES, coords=places)
    apart = np.square(places[:, None] - places[None]).sum(axis=2)
    near = np.argsort(apart, axis=1)[:, 1:9]
    weights = np.zeros((144, 144))
    weights[np.arange(144)[:, None], near] = 1
    z = truth[:, :3] - truth[:, :3].mean(axis=0)
    wanted = 144 / weights.sum() * np.einsum("ig,ij,jg->g", z, weights, z) / np.square(z).sum(axis=0)
    np.testing.assert_allclose(report["truth_moran"][:3], wanted)
    assert wanted[0] > 0.9 > 0.2 > abs(wanted[1])
    assert np.isnan(report["truth_moran"][3])


def test_ssim_of_maps() -> None:
    places = np.argwhere(np.ones((12, 12)))
    smooth = 1 + np.sin(places[:, :1] / 3)
    maps = np.column_stack([smooth, smooth, smooth, np.ones(len(smooth))])
    shuffled = maps[np.random.default_rng(0).permutation(len(maps))]
    same, other, turned, constant = ssim(
        maps, np.column_stack([maps[:, 0], shuffled[:, 1], 2 - maps[:, 2], maps[:, 3]]), places
    )
    assert same == pytest.approx(1)
    assert -0.3 < other < 0.3
    assert turned < other
    assert np.isnan(constant)
    assert np.isnan(ssim(maps[:5], maps[:5], places[:5])).all()


def test_coverage_by_depth() -> None:
    depth = np.repeat([100, 1000, 10_000], 20)
    lower, upper = TRUTH - 1, TRUTH + 1
    lower[depth == 100] = TRUTH[depth == 100] + 0.5
    lower[:20, 3] = -9
    table = coverage_by_depth(TRUTH, lower, upper, depth=depth, edges=[0, 500, 5000, 10_000])
    assert table.n_spots.tolist() == [20, 20, 20]
    np.testing.assert_allclose(table.coverage, [0.25, 1, 1])
    np.testing.assert_allclose(table.genes_above_80, [0.25, 1, 1])
    quarters = coverage_by_depth(TRUTH, lower, upper, depth=np.arange(60))
    assert quarters.n_spots.tolist() == [15, 15, 15, 15]
    assert coverage_by_depth(TRUTH, lower, upper, depth=np.full(60, 7)).n_spots.tolist() == [60]
    with pytest.raises(ValueError, match="ascending"):
        coverage_by_depth(TRUTH, lower, upper, depth=depth, edges=[5, 5])
    with pytest.raises(ValueError, match="counts of each of the 60 spots"):
        coverage_by_depth(TRUTH, lower, upper, depth=depth[:5])
