"""Expression scores against numpy's and scipy's correlation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from storm import metrics


@pytest.fixture
def pair():
    """Counts of 60 spots and 7 genes, and a noisy prediction."""
    rng = np.random.default_rng(0)
    truth = rng.poisson(2.0, (60, 7)).astype(np.float32)
    return truth, truth + rng.normal(0, 1 + np.arange(7), (60, 7)).astype(np.float32)


def test_pearson_per_gene(pair):
    truth, pred = pair
    expected = [stats.pearsonr(truth[:, j].astype(float), pred[:, j].astype(float)).statistic for j in range(7)]
    np.testing.assert_allclose(metrics.pearson_per_gene(truth, pred), expected, atol=1e-12)


def test_sparse_and_blocks_make_no_difference(pair, monkeypatch):
    truth, pred = pair
    expected = metrics.pearson_per_gene(truth, pred)
    monkeypatch.setattr("storm.metrics.expression._BLOCK", 120)
    np.testing.assert_allclose(metrics.pearson_per_gene(truth, pred), expected, atol=1e-14)
    np.testing.assert_allclose(metrics.pearson_per_gene(sparse.csr_matrix(truth), pred), expected, atol=1e-14)


def test_inputs_stay_as_they_were(pair):
    truth, pred = (m.astype(np.float64) for m in pair)
    before = truth.copy(), pred.copy()
    metrics.pearson_per_gene(truth, pred)
    np.testing.assert_array_equal(truth, before[0])
    np.testing.assert_array_equal(pred, before[1])


def test_large_offset_costs_no_precision(pair):
    truth, pred = (m.astype(np.float64) for m in pair)
    np.testing.assert_allclose(
        metrics.pearson_per_gene(truth + 1e6, pred), metrics.pearson_per_gene(truth, pred), atol=1e-9
    )


def test_constant_gene_is_nan_and_counted(pair):
    truth, pred = pair
    truth[:, 2] = 0.1  # not exact in binary: its variance is not quite zero
    pred[:, 4] = 3.3
    r = metrics.pearson_per_gene(truth, pred)
    assert np.flatnonzero(np.isnan(r)).tolist() == [2, 4]
    scores = metrics.score_expression(truth, pred)
    assert scores["n_undefined"] == 2
    assert scores["n_genes"] == 7
    assert scores["median_r_pooled"] == pytest.approx(np.nanmedian(r))


def test_missing_spots_are_left_out_gene_by_gene(pair):
    truth, pred = pair
    pred[:5] = np.nan  # spots outside the image
    pred[:, 6] = np.nan  # a gene that was not predicted
    truth[10, 0] = np.nan
    r = metrics.pearson_per_gene(truth, pred)
    keep = np.r_[5:10, 11:60]
    assert r[0] == pytest.approx(np.corrcoef(truth[keep, 0], pred[keep, 0])[0, 1])
    assert r[1] == pytest.approx(np.corrcoef(truth[5:, 1], pred[5:, 1])[0, 1])
    assert np.isnan(r[6])


def test_within_slides(pair):
    truth, pred = pair
    slides = np.repeat(["b", "a", "c"], [20, 39, 1])
    r = metrics.pearson_per_gene(truth, pred, groups=slides)
    assert r.shape == (3, 7)
    np.testing.assert_allclose(r[0], metrics.pearson_per_gene(truth[20:59], pred[20:59]))
    np.testing.assert_allclose(r[1], metrics.pearson_per_gene(truth[:20], pred[:20]))
    assert np.isnan(r[2]).all()  # one spot
    scores = metrics.score_expression(truth, pred, slides=slides)
    assert scores["median_r_per_slide"].keys() == {"a", "b", "c"}
    assert scores["median_r_slides"] == pytest.approx((np.median(r[0]) + np.median(r[1])) / 2)


def test_an_offset_between_slides_lifts_the_pooled_r_only():
    rng = np.random.default_rng(0)
    slides = np.repeat([0, 1], 200)
    truth = rng.normal(0, 1, (400, 20)) + 10 * slides[:, None]
    pred = rng.normal(0, 1, (400, 20)) + 10 * slides[:, None]
    scores = metrics.score_expression(truth, pred, slides=slides)
    assert scores["median_r_pooled"] > 0.9
    assert abs(scores["median_r_slides"]) < 0.1


def test_one_slide_is_pooled(pair):
    scores = metrics.score_expression(*pair)
    assert scores["median_r_pooled"] == scores["median_r_slides"]
    assert (scores["n_spots"], scores["n_slides"]) == (60, 1)


def test_top_n_curve():
    r = np.array([0.1, np.nan, 0.5, 0.3, 0.9, -0.2])
    assert metrics.top_n_curve(r, ns=(1, 3, 5, 6)) == {1: 0.9, 3: 0.5, 5: 0.3}
    variance = np.array([5, 9, 4, 3, 1, 2])
    assert metrics.top_n_curve(r, ns=(2,), rank_by=variance) == {2: pytest.approx(0.3)}
    with pytest.raises(ValueError, match="positive panel sizes"):
        metrics.top_n_curve(r, ns=(0,))
    with pytest.raises(ValueError, match=r"\(6,\) and rank_by \(2,\)"):
        metrics.top_n_curve(r, rank_by=[1, 2])


def test_bad_input(pair):
    truth, pred = pair
    with pytest.raises(ValueError, match=r"\(60, 7\) and pred \(60, 6\)"):
        metrics.pearson_per_gene(truth, pred[:, :6])
    with pytest.raises(ValueError, match=r"truth has shape \(60,\), expected"):
        metrics.pearson_per_gene(truth[:, 0], pred)
    with pytest.raises(ValueError, match=r"groups have shape \(3,\), expected \(60,\)"):
        metrics.pearson_per_gene(truth, pred, groups=[0, 1, 2])
    truth[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        metrics.pearson_per_gene(truth, pred)


def test_slides_are_named_in_sorted_order_whatever_their_kind(pair):
    truth, pred = pair
    numbers = np.repeat([10, 9, 2], 20)
    expected = [metrics.pearson_per_gene(truth[numbers == k], pred[numbers == k]) for k in (2, 9, 10)]
    for slides in (numbers, pd.array(numbers, dtype="Int64"), pd.Categorical(numbers), numbers.tolist()):
        np.testing.assert_array_equal(metrics.pearson_per_gene(truth, pred, groups=slides), expected)
        assert list(metrics.score_expression(truth, pred, slides=slides)["median_r_per_slide"]) == [2, 9, 10]
    mixed = np.repeat(np.array([10, "b", 2], dtype=object), 20)
    assert set(metrics.score_expression(truth, pred, slides=mixed)["median_r_per_slide"]) == {10, "b", 2}
    with pytest.raises(ValueError, match=r"groups have shape \(59,\), expected \(60,\)"):
        metrics.pearson_per_gene(truth, pred, groups=numbers[:-1])


def test_expression_must_be_real_numbers(pair):
    truth, pred = pair
    for wrong in (truth.astype(complex), truth.astype(str), truth.astype(object)):
        with pytest.raises(ValueError, match=r"truth holds .*, not real numbers"):
            metrics.pearson_per_gene(wrong, pred)


def test_genes_that_rank_equally_keep_their_order():
    r = np.linspace(0, 1, 600)
    rank = np.tile([2.0, 1.0, 2.0], 200)
    first = [k for k in range(600) if k % 3 != 1]
    for n in (5, 110, 300):
        curve = metrics.top_n_curve(r, ns=[n], rank_by=rank)
        assert curve[n] == pytest.approx(np.median(r[first[:n]]))
