"""Figures of outcome models show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import storm
from storm.prognosis import Explanation


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
