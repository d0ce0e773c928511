"""``storm.tl.domain_stability`` and ``storm.tl.subcluster``."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import storm


@pytest.fixture
def planted() -> ad.AnnData:
    """Four groups, two of them close to each other; two rows without an embedding."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2, 3], [60, 50, 40, 30])
    centres = np.array([[0, 0], [12, 0], [0, 12], [4, 12]]) @ rng.normal(size=(2, 8))
    adata = ad.AnnData(np.zeros((180, 1), np.float32))
    adata.obsm["X_storm"] = (centres[truth] + rng.normal(size=(180, 8))).astype(np.float32)
    adata.obsm["X_storm"][[3, 150]] = np.nan
    adata.obs["truth"] = pd.Categorical(truth.astype(str))
    adata.obs["coarse"] = pd.Categorical(np.minimum(truth, 2).astype(str))
    return adata


def test_the_planted_number_is_the_largest_stable_one(planted):
    storm.tl.domain_stability(planted, range(3, 7), runs=4, truth="truth")
    frame = storm.get.domain_stability(planted)
    assert frame.shape == (16, 5)
    mean = frame.groupby("n_domains")[["ari", "ari_next", "ari_truth"]].mean()
    assert mean.loc[[3, 4], "ari"].min() > 0.95
    assert mean.loc[[5, 6], "ari"].max() < 0.95
    assert mean.loc[4, "ari_truth"] > 0.95
    assert mean["ari_next"].isna().tolist() == [False, False, False, True]
    again = storm.tl.domain_stability(planted, range(3, 7), runs=4, truth="truth", copy=True)
    pd.testing.assert_frame_equal(storm.get.domain_stability(again), frame)
    order = np.random.default_rng(0).permutation(180)
    mixed = planted[order].copy()
    storm.tl.domain_stability(mixed, range(3, 7), runs=4, truth="truth")
    pd.testing.assert_frame_equal(storm.get.domain_stability(mixed), frame)


def test_mixtures_and_storage(planted, tmp_path):
    storm.tl.domain_stability(planted, [3, 4], runs=2, method="gmm", key_added="mine")
    planted.write_h5ad(tmp_path / "section.h5ad")
    back = ad.read_h5ad(tmp_path / "section.h5ad")
    one, two = (storm.get.domain_stability(adata, key_added="mine") for adata in (planted, back))
    pd.testing.assert_frame_equal(one, two, check_dtype=False)
    assert planted.uns["storm"]["mine"]["rows"] == 178


def test_large_sections_are_sampled(planted, monkeypatch):
    monkeypatch.setattr("storm._inference.clustering._AUTO_ROWS", 100)
    storm.tl.domain_stability(planted, [3], runs=2)
    assert planted.uns["storm"]["domain_stability"]["rows"] == 100


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"n_domains": []}, ValueError, "n_domains is empty"),
        ({"n_domains": 5}, TypeError, r"n_domains=5 is a int; give several numbers"),
        ({"n_domains": "auto"}, TypeError, "n_domains='auto'"),
        ({"n_domains": [1]}, ValueError, "n_domains=1"),
        ({"n_domains": [170]}, ValueError, "too few for 170 domains"),
        ({"runs": 1}, ValueError, "runs=1"),
        ({"fraction": 0}, ValueError, "fraction=0"),
        ({"use_rep": "X_pca"}, KeyError, "X_storm"),
        ({"truth": "nothing"}, KeyError, "nothing"),
    ],
)
def test_bad_input(planted, arguments, error, text):
    with pytest.raises(error, match=text):
        storm.tl.domain_stability(planted, **arguments)
    assert "storm" not in planted.uns


def test_plot_draws_the_runs(planted):
    with pytest.raises(KeyError, match=r"run storm\.tl\.domain_stability first"):
        storm.pl.stability(planted)
    storm.tl.domain_stability(planted, [3, 4, 5], runs=3, truth="truth")
    frame = storm.get.domain_stability(planted)
    ax = storm.pl.stability(planted)
    assert len(ax.lines) == 3
    np.testing.assert_allclose(ax.lines[0].get_ydata(), frame.groupby("n_domains")["ari"].mean())
    assert len(ax.lines[1].get_xdata()) == 2
    assert [len(c.get_offsets()) for c in ax.collections] == [9, 6, 9]
    plt.close("all")


def test_a_domain_is_divided(planted):
    with pytest.warns(UserWarning, match="1 of 70 rows of the domain"):
        storm.tl.subcluster(planted, "2", 2, key="coarse")
    found = planted.obs["coarse_sub"]
    assert list(found.cat.categories) == ["0", "1", "2.0", "2.1"]
    assert found.isna().to_numpy().nonzero()[0].tolist() == [150]
    known = found.notna()
    assert adjusted_rand_score(planted.obs["truth"][known], found[known]) > 0.95
    assert (found[known].astype(str).str[0] == planted.obs["coarse"][known].astype(str)).all()
    assert (planted.obs["coarse"] == np.minimum(planted.obs["truth"].astype(int), 2).astype(str)).all()
    assert list(planted.uns["storm"]["coarse_sub"]["domain"]) == ["2"]


def test_several_domains_are_divided_together(planted):
    with pytest.warns(UserWarning, match="1 of 110"):
        storm.tl.subcluster(planted, ["0", "1"], 2, key="coarse", key_added="mine")
    assert list(planted.obs["mine"].cat.categories) == ["0+1.0", "0+1.1", "2"]


def test_subclusters_need_a_domain(planted):
    with pytest.raises(ValueError, match="domain names '7'"):
        storm.tl.subcluster(planted, "7", 2, key="coarse")
    with pytest.raises(ValueError, match="between 2 and 69"):
        storm.tl.subcluster(planted, "2", 200, key="coarse")
    planted.obs["coarse_sub"] = "mine"
    with pytest.raises(ValueError, match="was not written by STORM"):
        storm.tl.subcluster(planted, "2", 2, key="coarse")
