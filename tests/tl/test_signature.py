"""``storm.tl.signature``, ``score_bulk`` and ``random_signatures``; survival of a signature's halves."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import storm


@pytest.fixture
def ranked() -> ad.AnnData:
    """Two halves; the first twenty genes are higher in the right one."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(10) for x in range(20)], dtype=float) * 100
    right = centres[:, 0] >= 1000
    means = np.full((200, 120), 2.0)
    means[np.ix_(right, range(20))] = 6
    adata = ad.AnnData(rng.poisson(means).astype(np.float32), obsm={"spatial": centres})
    adata.var_names = [f"GENE{i}" for i in range(120)]
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "right", "left"))
    storm.tl.rank_domain_genes(adata)
    return adata


@pytest.mark.parametrize("method", ["score_genes", "zscore"])
def test_signature_of_a_domain(ranked, method):
    storm.tl.signature(ranked, domain="right", top=0.25, method=method, n_bins=3)
    genes = storm.get.signature(ranked)
    assert len(genes) == 5
    assert genes == storm.get.rank_domain_genes(ranked, "right")["names"].tolist()[:5]
    score = ranked.obs["storm_signature"]
    right = ranked.obs["storm_domain"] == "right"
    assert score[right].quantile(0.1) > score[~right].quantile(0.9)
    storm.tl.signature(ranked, genes, method=method, n_bins=3, key_added="again")
    np.testing.assert_array_equal(ranked.obs["again"], score)


def test_missing_genes_are_named(ranked):
    with pytest.warns(UserWarning, match=r"1 of the signature's 3 genes .*less than half.*'NOPE'"):
        storm.tl.signature(ranked, ["GENE1", "NOPE", "NADA"])
    assert storm.get.signature(ranked) == ["GENE1"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "give either genes"),
        ({"genes": ["GENE1"], "domain": "right"}, ValueError, "give either genes"),
        ({"genes": ["NOPE"]}, ValueError, "none of the 1 genes is in the table"),
        ({"genes": []}, ValueError, "genes is empty"),
        ({"domain": "top"}, KeyError, "'top'"),
        ({"domain": "right", "top": 0}, ValueError, "top=0"),
        ({"domain": "right", "min_lfc": 9}, ValueError, "no gene of domain 'right'"),
        ({"genes": ["GENE1"], "method": "m"}, ValueError, "method='m'"),
    ],
)
def test_bad_input(ranked, arguments, error, text):
    with pytest.raises(error, match=text):
        storm.tl.signature(ranked, **arguments)
    assert "storm_signature" not in ranked.obs


@pytest.fixture
def cohort() -> pd.DataFrame:
    """Eighty patients; ten genes rise together, the others by themselves."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 60)) + np.arange(60) / 10
    values[:, :10] += 2 * rng.normal(size=(80, 1))
    return pd.DataFrame(values, index=[f"P{i}" for i in range(80)], columns=[f"G{i}" for i in range(60)])


def test_bulk_scores(cohort):
    genes = [f"G{i}" for i in range(10)]
    score = storm.tl.score_bulk(cohort, genes)
    expected = ((cohort[genes] - cohort[genes].mean()) / cohort[genes].std(ddof=0)).mean(axis=1)
    np.testing.assert_allclose(score, expected)
    assert list(score.index) == list(cohort.index)
    with pytest.warns(UserWarning, match="10 of the signature's 11 genes"):
        np.testing.assert_allclose(storm.tl.score_bulk(cohort, [*genes, "NOPE"]), expected)
    cohort.iloc[3] = np.nan
    assert np.isnan(storm.tl.score_bulk(cohort, genes).iloc[3])
    with pytest.raises(ValueError, match=r"give table\.T"):
        storm.tl.score_bulk(cohort.T, genes)
    with pytest.raises(TypeError, match="ndarray"):
        storm.tl.score_bulk(cohort.to_numpy(), genes)


def test_one_gene_is_not_read_as_letters(cohort):
    named = cohort.rename(columns={"G0": "TP53"})
    pd.testing.assert_series_equal(storm.tl.score_bulk(named, "TP53"), storm.tl.score_bulk(named, ["TP53"]))
    assert storm.tl.random_signatures(named, "TP53", 5) == storm.tl.random_signatures(named, ["TP53"], 5)
    for function in (storm.tl.score_bulk, storm.tl.random_signatures):
        with pytest.raises(TypeError, match="genes=5 is a int"):
            function(named, 5)


def test_random_signatures(cohort):
    genes = ["G0", "G1", "G59"]
    sets = storm.tl.random_signatures(cohort, genes, 50)
    assert len(sets) == 50
    rank = cohort.mean().rank()
    means = np.array([[rank[gene] for gene in drawn] for drawn in sets])
    assert (np.sort(means, axis=1)[:, :2] <= 6).all()
    assert (np.sort(means, axis=1)[:, 2] > 54).all()
    assert storm.tl.random_signatures(cohort, genes, 50) == sets
    assert storm.tl.random_signatures(cohort, genes, 50, seed=1) != sets


def test_survival_of_the_halves(cohort):
    pytest.importorskip("lifelines")
    rng = np.random.default_rng(1)
    genes = [f"G{i}" for i in range(10)]
    score = storm.tl.score_bulk(cohort, genes)
    time = rng.exponential(np.exp(-score))
    event = rng.random(80) < 0.8
    high = (score > score.median()).to_numpy()
    test = storm.metrics.log_rank(time, event, high)
    null = []
    for drawn in storm.tl.random_signatures(cohort, genes, 60):
        other = storm.tl.score_bulk(cohort, drawn)
        null.append(storm.metrics.log_rank(time, event, (other > other.median()).to_numpy()).statistic)
    assert test.p < 0.05
    assert 0 < storm.metrics.empirical_p(test.statistic, null).p < 1
    curves = {
        name: storm.metrics.kaplan_meier(time[rows], event[rows]) for name, rows in (("high", high), ("low", ~high))
    }
    ax = storm.pl.kaplan_meier(curves, p=test.p, xlabel="days")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curves["high"].survival)
    texts = [text.get_text() for text in ax.texts]
    assert "40" in texts
    assert any(text.startswith("p") for text in texts)
    with pytest.raises(ValueError, match="curves is empty"):
        storm.pl.kaplan_meier({})
    with pytest.raises(TypeError, match="'a'"):
        storm.pl.kaplan_meier({"a": 3})
    with pytest.raises(ValueError, match="1 colours for 2"):
        storm.pl.kaplan_meier(curves, colours=["red"])
    plt.close("all")


def test_genes_that_were_seen_in_no_spot():
    counts = np.random.default_rng(0).poisson(2, (30, 12)).astype(np.float32)
    counts[:, :3] = 0
    adata = ad.AnnData(counts)
    for method in ("score_genes", "zscore"):
        with pytest.raises(ValueError, match="none of the 3 genes that are in the table was seen"):
            storm.tl.signature(adata, ["0", "1", "2"], method=method)
    assert "storm_signature" not in adata.obs
    with pytest.raises(ValueError, match=r"like \['0', '1', '2'\]"):
        storm.tl.signature(adata, ["FOO"])
