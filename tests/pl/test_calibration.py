"""Coverage by depth, drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import storm


@pytest.fixture
def by_depth() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    depth = rng.integers(0, 20_000, 200)
    truth = rng.normal(size=(200, 20)) * np.where(depth > 10_000, 2, 1)[:, None]
    return storm.metrics.coverage_by_depth(truth, -1.64, 1.64, depth=depth, edges=[0, 5_000, 10_000, 15_000, 20_000])


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_calibration_draws_the_table(by_depth):
    ax = storm.pl.calibration(by_depth, title="t")
    covered, nominal = ax.lines
    np.testing.assert_allclose(covered.get_ydata(), by_depth["coverage"])
    start, end = np.maximum(by_depth["depth_from"], 1), by_depth["depth_to"]
    assert ((start < covered.get_xdata()) & (covered.get_xdata() < end)).all()
    assert list(nominal.get_ydata()) == [0.9, 0.9]
    assert ax.get_ylim()[0] < by_depth["coverage"].min()
    assert ax.get_legend() is None
    own = plt.subplots()[1]
    empty = by_depth.assign(coverage=by_depth["coverage"].where(by_depth["coverage"] > 0.8))
    assert storm.pl.calibration({"a": by_depth, "b": empty}, nominal=0.8, ax=own) is own
    assert [text.get_text() for text in own.get_legend().get_texts()] == ["a (200 spots)", "b (200 spots)"]
    assert len(own.lines[1].get_ydata()) == int(empty["coverage"].notna().sum()) < len(by_depth)


def test_calibration_refuses(by_depth):
    with pytest.raises(KeyError, match=r"'b' has no column \['coverage'\].*coverage_by_depth"):
        storm.pl.calibration({"a": by_depth, "b": by_depth.drop(columns="coverage")})
    with pytest.raises(ValueError, match="0 tables of coverage"):
        storm.pl.calibration({})
    with pytest.raises(ValueError, match=r"nominal=90"):
        storm.pl.calibration(by_depth, nominal=90)
    with pytest.raises(TypeError, match="one matplotlib axes"):
        storm.pl.calibration(by_depth, ax=plt.subplots(1, 2)[1])
    assert len(plt.get_fignums()) == 1
