"""Figures of outcome models show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import storm
from storm.prognosis import Explanation, Report, compare_tiles


@pytest.fixture
def explanation() -> Explanation:
    rng = np.random.default_rng(0)
    xy = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 112.0
    return Explanation(
        tiles=rng.normal(size=30), genes=rng.normal(size=(30, 3)).astype(np.float32), he=None, xy_um=xy,
        slide=np.repeat([0, 1], [20, 10]), slides=("A", "B"), tile_um=112.0, gene_names=("g0", "g1", "g2"), risk=1.5,
        reference=0.0, error=0.0,
    )  # fmt: skip


def test_attribution_keeps_its_sign(explanation) -> None:
    ax = storm.pl.attribution(explanation, slide="A", quantile=1)
    tiles = ax.collections[0]
    np.testing.assert_array_equal(tiles.get_array(), explanation.tiles[:20])
    low, high = tiles.get_clim()
    assert low == -high == pytest.approx(-np.abs(explanation.tiles[:20]).max())
    first = tiles.get_paths()[7].vertices[:4]
    np.testing.assert_allclose(first.mean(axis=0), explanation.xy_um[7])
    assert np.ptp(first[:, 0]) == 112
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # y down
    of_gene = storm.pl.attribution(explanation, slide="B", gene="g1")
    np.testing.assert_allclose(of_gene.collections[0].get_array(), explanation.genes[20:, 1])


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        ("kaplan_meier", r"curves is a Explanation, not a dictionary; give report\.curves"),
        ("forest", r"table is a Explanation, not a data frame; give report\.multivariable\.table"),
        ("survival_calibration", r"table is a Explanation, not a data frame; give report\.calibration"),
        ("gene_attribution", r"totals is a Explanation, not a series; give explanation\.gene_totals"),
        ("gene_boxes", "table is a Explanation, not a data frame; give a row per gene"),
        ("metric_bars", r"table is a Explanation, not a data frame; give what storm\.benchmark\.domains"),
        ("calibration", r"coverage is a Explanation, not a data frame; give what storm\.metrics\.coverage_by_depth"),
        ("top_n", r"table is a Explanation, not a data frame; give what storm\.benchmark\.top_n"),
    ],
)
def test_what_is_drawn_is_named_where_something_else_is_given(explanation, plot: str, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        getattr(storm.pl, plot)(explanation)
    with pytest.raises(TypeError, match="explanation is a str; give what storm"):
        storm.pl.attribution("P0001")


def test_attribution_needs_a_slide(explanation) -> None:
    with pytest.raises(ValueError, match=r"the patient has the slides \['A', 'B'\]"):
        storm.pl.attribution(explanation)
    with pytest.raises(KeyError, match="no slide 'C'"):
        storm.pl.attribution(explanation, slide="C")
    with pytest.raises(KeyError, match="no contribution of gene 'TP53'"):
        storm.pl.attribution(explanation, slide="A", gene="TP53")


def test_genes_are_drawn_from_the_most_harmful_to_the_most_protective(explanation) -> None:
    ax = storm.pl.gene_attribution(explanation.gene_totals)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(explanation.gene_totals.index)
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, explanation.gene_totals)
    with pytest.raises(ValueError, match="0 genes"):
        storm.pl.gene_attribution(pd.Series(dtype=float))


def test_forest() -> None:
    table = pd.DataFrame(
        {"hr": [2.0, np.nan], "hr_lower": [1.2, np.nan], "hr_upper": [3.3, np.nan], "p": [0.004, np.nan]},
        index=["high risk", "stage IV"],
    ).assign(remark=["", "no events"])
    ax = storm.pl.forest(table)
    assert ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["2.00 (1.20–3.30)  p = 0.004", "no events"]
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [2.0])
    with pytest.raises(KeyError, match="hr_lower"):
        storm.pl.forest(table.drop(columns="hr_lower"))


def test_survival_calibration() -> None:
    table = pd.DataFrame(
        {"predicted": [0.9, 0.5, 0.2], "observed": [0.8, 0.6, np.nan], "lower": [0.7, 0.4, np.nan],
         "upper": [0.9, 0.7, np.nan]}
    )  # fmt: skip
    ax = storm.pl.survival_calibration(table)
    points = ax.containers[0].lines[0]
    np.testing.assert_array_equal(points.get_xydata(), [[0.9, 0.8], [0.5, 0.6]])


def a_report(c: float, **more: pd.DataFrame) -> Report:
    summary = pd.DataFrame({"value": [c, 0.7], "lower": [c - 0.1, np.nan], "upper": [c + 0.05, np.nan]})
    by_fold = pd.DataFrame({"n": [50, 50, 50], "c": [c - 0.02, c + 0.02, np.nan]})
    return Report(summary=summary.set_axis(["Harrell C", "AUC at 5"]), by_fold=by_fold, **more)


def test_scores_have_their_intervals_and_folds() -> None:
    reports = {"perceiver": a_report(0.6), "mean": a_report(0.7)}
    ax = storm.pl.score_bars(reports)
    assert [bar.get_height() for bar in ax.patches] == [0.6, 0.7]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["perceiver", "mean"]
    interval, folds = ax.lines[:2]
    np.testing.assert_allclose(interval.get_ydata(), [0.5, 0.65])
    np.testing.assert_allclose(folds.get_ydata(), [0.58, 0.62])  # a fold without comparable pairs has no dot
    other = storm.pl.score_bars(reports, "AUC at 5", names=["mean"])
    assert len(other.patches) == 1
    assert len(other.lines) == 1  # no interval and no folds: the line of chance
    with pytest.raises(KeyError, match=r"'perceiver' has no measure 'AUROC'; it has \['Harrell C', 'AUC at 5'\]"):
        storm.pl.score_bars(reports, "AUROC")
    with pytest.raises(KeyError, match="no report of"):
        storm.pl.score_bars(reports, names=["abmil"])
    with pytest.raises(ValueError, match="no report to draw"):
        storm.pl.score_bars({})
    with pytest.raises(TypeError, match="no dictionary of reports"):
        storm.pl.score_bars({"a": 0.7})


def test_boxes_of_cells_show_patients(explanation) -> None:
    rng = np.random.default_rng(1)
    explained = {f"p{k}": explanation for k in range(4)}
    cells = {name: pd.DataFrame({"T cells": rng.random(30), "fat": 0.5}) for name in explained}
    table = compare_tiles(explained, cells, share=0.1)
    ax = storm.pl.composition_boxes(table)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(dots) == 4
    order = np.argsort(explanation.tiles)
    expected = [cells[name]["T cells"].iloc[order[-3:]].mean() for name in explained]
    np.testing.assert_allclose(dots[0].get_ydata(), expected)
    assert dots[0].get_xdata().max() < 0 < dots[1].get_xdata().min()  # top and bottom of the first kind
    assert ax.texts[0].get_text() == f"p = {table.loc['T cells', 'pvals_adj']:.2g}"
    assert ax.texts[1].get_text() == "–"  # a constant has no test
    assert ax.get_xlabel().startswith("4 patients")
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["the 10% of tiles that raise the risk most", "the 10% that lower it most"]
    assert len(storm.pl.composition_boxes(table, kinds=["fat"]).texts) == 1
    with pytest.raises(KeyError, match="no kind"):
        storm.pl.composition_boxes(table, kinds=["B cells"])
    with pytest.raises(KeyError, match="lacks the patients' values"):
        storm.pl.composition_boxes(pd.DataFrame(table.to_dict()))
