"""Plots that say how far to believe predicted genes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.collections import EllipseCollection
from spatialdata import SpatialData

import storm

GENES = ["EPCAM", "COL1A1", "CD3E", "ACTA2"]
R = [0.5, 0.3, -0.1, np.nan]


@pytest.fixture(scope="module")
def drawn():
    return storm.datasets.toy("visium", n=60, seed=3, um_per_px=2.0)


@pytest.fixture
def section(drawn):
    """A section with two predictions, written by hand: a layer and a table beside."""
    table = drawn["table"].copy()
    p = np.linspace(0.001, 1, 60)
    facts = {
        "units": "log1p of counts per 10,000",
        "depth": 5000.0,
        "unusual_tiles": 0.4,
        "head": {"measured_on": "skin, 3 sections", "interval_level": 0.9, "interval_holds_for": "section"},
    }
    beside = AnnData(
        np.tile(np.linspace(0, 1, 60, dtype=np.float32)[:, None], (1, 4)),
        obs=table.obs[["region", "spot_id"]].assign(storm_ood_p=p),
        var=pd.DataFrame(
            {"storm_r": R, "storm_r_min": [0.2, 0.1, -0.3, np.nan], "storm_lo": -1.25, "storm_hi": 2.0}, index=GENES
        ),
        uns={"storm": {"storm": facts}, "spatialdata_attrs": dict(table.uns["spatialdata_attrs"])},
    )
    table.layers["other"] = np.full(table.shape, 9.0, dtype=np.float32)
    table.layers["other"][0] = 0
    return SpatialData(
        images={"he": drawn["he"]}, shapes={"spots": drawn["spots"]}, tables={"table": table, "table_storm": beside}
    )


def spots_of(ax):
    return next(c for c in ax.collections if isinstance(c, EllipseCollection))


def test_a_prediction_says_how_far_to_believe_it(section):
    axes = storm.pl.expression(section, ["EPCAM", "CD3E", "ACTA2"])
    lines = [ax.get_xlabel().split("\n") for ax in axes[:, 2]]
    assert lines[0] == [
        "held-out r = 0.50 (0.20 in the worst section)",
        "measured on skin, 3 sections",
        "90% interval −1.2 to +2.0, in spots of 5,000 counts",
        "40% of the tiles here are unlike those",
    ]
    assert lines[1][:2] == ["held-out r = −0.10 (−0.30 in the worst section)", "no better than chance"]
    assert axes[1, 2].xaxis.label.get_color() != axes[0, 2].xaxis.label.get_color()
    assert lines[2][0].startswith("90% interval")
    assert axes[0, 1].get_xlabel() == ""


def test_predictions_side_by_side(section):
    axes = storm.pl.expression(section, "EPCAM", predictions=["storm", "other"])
    assert [ax.get_title() for ax in axes[0]] == ["H&E", "measured", "predicted: storm", "predicted: other"]
    norms = [spots_of(ax).norm for ax in axes[0, 1:]]
    assert len({(norm.vmin, norm.vmax) for norm in norms}) == 1
    assert norms[0].vmax == 9
    named = storm.pl.expression(section, "EPCAM", predictions={"ours": "other", "theirs": "storm"}, scale="own")
    assert [ax.get_title() for ax in named[0, 2:]] == ["ours", "theirs"]
    np.testing.assert_allclose(spots_of(named[0, 3]).get_array(), np.linspace(0, 1, 60), atol=1e-6)
    # a prediction that the object lacks has no panel, and none at all is an error where nothing was measured
    assert storm.pl.expression(section, "EPCAM", predictions=["storm", "none"]).shape == (1, 3)
    with pytest.raises(TypeError, match="3 is a int; give keys of predictions"):
        storm.pl.expression(section, "EPCAM", predictions=[3])
    with pytest.raises(ValueError, match="predictions is empty"):
        storm.pl.expression(section, "EPCAM", predictions=[])


def test_ood_draws_and_counts(section):
    ax = storm.pl.ood(section)
    p = section["table_storm"].obs["storm_ood_p"].to_numpy()
    np.testing.assert_allclose(spots_of(ax).get_array(), p)
    assert ax.get_title() == f"{(p <= 0.05).mean():.0%} of 60 tiles are unusual (5 % expected)"
    own = plt.subplots()[1]
    assert storm.pl.ood(section, ax=own) is own
    with pytest.raises(KeyError, match=r"no prediction under 'none'; run storm.tl.predict_expression"):
        storm.pl.ood(section, "none")
    section["table_storm"].obs["storm_ood_p"] = np.nan
    with pytest.raises(ValueError, match="holds no number: the head had no tiles to compare with"):
        storm.pl.ood(section)


def test_ood_of_several_sections_of_a_table(section):
    sample = np.repeat(["a", "b"], 30)
    section["table"].obs["sample"] = pd.Categorical(sample)
    axes = storm.pl.ood(section, library_key="sample")
    p = section["table_storm"].obs["storm_ood_p"].to_numpy()
    for ax, name in zip(axes, "ab", strict=True):
        np.testing.assert_allclose(spots_of(ax).get_array(), p[sample == name])
    assert axes[0].get_title().startswith("a: ")


def test_reliability(section):
    ax = storm.pl.reliability(section, label=2)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.3, -0.1])
    floors = [segment[0][1] for segment in ax.collections[0].get_segments()]
    np.testing.assert_allclose(floors, [0.2, 0.1, -0.3])
    assert ax.texts[0].get_text() == "from the best on:\nEPCAM\nCOL1A1"
    assert ax.get_title() == "3 genes, measured on skin, 3 sections"
    report = pd.DataFrame({"gene": ["COL1A1", "COL1A1", "EPCAM", "OTHER"], "pearson": [0.1, 0.3, -0.2, 0.9]})
    ax = storm.pl.reliability(section, report=report)
    points = ax.lines[-1]
    np.testing.assert_allclose(points.get_xydata(), [[0.5, -0.2], [0.3, 0.2]])
    assert [text.get_text() for text in ax.texts] == ["EPCAM", "COL1A1"]
    with pytest.raises(ValueError, match="none of the report's 1 genes is among the 3 predicted ones"):
        storm.pl.reliability(section, report=report.tail(1))
    with pytest.raises(KeyError, match=r"no column \['pearson'\]"):
        storm.pl.reliability(section, report=report[["gene"]])
    section["table_storm"].var["storm_r"] = np.nan
    with pytest.raises(ValueError, match=r"none of the 4 genes .* has a held-out correlation"):
        storm.pl.reliability(section)


def test_gene_boxes():
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(101)]
    values = np.linspace(-0.5, 0.5, 101)
    table = pd.concat(
        pd.DataFrame({"gene": genes, "method": name, "slide": slide, "pearson": rng.permutation(values) + shift})
        for name, shift in (("a", 0.0), ("b", 0.2))
        for slide in ("s",)
    )
    twice = pd.concat([table, table.assign(slide="t", pearson=table["pearson"] + 0.1)])
    ax = storm.pl.gene_boxes(twice)
    # a gene is the mean of its slides; whiskers end at the 10th and 90th percentile, the median is the line in the box
    ends = sorted({round(float(y), 6) for line in ax.lines[:4] for y in line.get_ydata()})
    assert ends == pytest.approx([-0.35, -0.2, 0.3, 0.45])
    medians = [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert {0.05, 0.25} <= {round(float(y), 6) for y in medians}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a\n101 genes", "b\n101 genes"]
    one = storm.pl.gene_boxes(table, by="slide", groups=["s"], colours={"s": "red"}, ax=plt.subplots()[1])
    assert one.patches[0].get_facecolor()[:3] == (1, 0, 0)
    with pytest.raises(KeyError, match=r"no column \['ssim'\]"):
        storm.pl.gene_boxes(table, "ssim")
    with pytest.raises(ValueError, match="score='r2'"):
        storm.pl.gene_boxes(table, "r2")
    with pytest.raises(ValueError, match="several lists of genes"):
        storm.pl.gene_boxes(table.assign(genes=["x", "y"] * 101))
