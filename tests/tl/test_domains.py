"""``storm.tl.domains`` on embeddings with a known answer."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import storm
from storm._inference import clustering
from storm.data.components import finite_rows, principal_components


@pytest.fixture
def planted():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2, 3], [80, 60, 40, 20])
    centres = rng.normal(size=(4, 12)) * 3
    adata = ad.AnnData(np.zeros((200, 1), np.float32))
    adata.obsm["X_storm"] = (centres[truth] + rng.normal(size=(200, 12))).astype(np.float32)
    adata.uns["truth"] = truth
    return adata


@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_finds_planted_groups(planted, method):
    assert storm.tl.domains(planted, 4, method=method) is None
    found = planted.obs["storm_domain"]
    assert isinstance(found.dtype, pd.CategoricalDtype)
    assert list(found.cat.categories) == ["0", "1", "2", "3"]
    assert adjusted_rand_score(planted.uns["truth"], found) > 0.95
    assert found.value_counts().loc[["0", "1", "2", "3"]].is_monotonic_decreasing
    facts = planted.uns["storm"]["storm_domain"]
    assert facts["method"] == method
    assert facts["n_domains"] == 4


def test_auto_finds_the_number(planted):
    storm.tl.domains(planted)
    assert planted.obs["storm_domain"].nunique() == 4
    assert set(planted.uns["storm"]["storm_domain"]["stability"]) == {str(k) for k in range(3, 11)}
    storm.tl.domains(planted, method="leiden", resolution=0.3, key_added="leiden")
    assert adjusted_rand_score(planted.uns["truth"], planted.obs["leiden"]) > 0.8


def test_seed_and_copy(planted):
    one = storm.tl.domains(planted, 7, seed=3, copy=True)
    two = storm.tl.domains(planted, 7, seed=3, copy=True)
    assert (one.obs["storm_domain"] == two.obs["storm_domain"]).all()
    assert "storm_domain" not in planted.obs


def test_nan_rows_get_no_domain(planted):
    planted.obsm["X_storm"][[5, 9]] = np.nan
    with pytest.warns(UserWarning, match="2 of 200 rows"):
        storm.tl.domains(planted, 4)
    assert planted.obs["storm_domain"].isna().to_numpy().nonzero()[0].tolist() == [5, 9]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"n_domains": 201}, ValueError, "between 2 and 200"),
        ({"n_domains": 1}, ValueError, "between 2 and 200"),
        ({"n_domains": 2.5}, ValueError, "neither a whole number"),
        ({"n_domains": "many"}, ValueError, "neither a whole number"),
        ({"n_domains": 3, "method": "dbscan"}, ValueError, "method='dbscan'"),
        ({"n_domains": 3, "use_rep": "X_pca"}, KeyError, "X_storm"),
    ],
)
def test_errors(planted, arguments, error, text):
    with pytest.raises(error, match=text):
        storm.tl.domains(planted, **arguments)
    assert "storm_domain" not in planted.obs
    assert "storm" not in planted.uns


def test_embedding_is_asked_for(planted):
    del planted.obsm["X_storm"]
    with pytest.raises(KeyError, match=r"run storm\.tl\.embed first"):
        storm.tl.domains(planted, 3)
    planted.obsm["X_storm"] = np.zeros((200, 3), np.float32)
    planted.obsm["X_storm"][:195] = np.nan
    with pytest.raises(ValueError, match="only 5 of 200"):
        storm.tl.domains(planted)


@pytest.fixture
def large(monkeypatch):
    """Sizes at which a section is large, brought down; and such a section with planted groups and rows of NaN."""
    sizes = {"_SIZE": 20_000, "_LEAST_DIM": 10, "_AUTO_ROWS": 400, "_START_ROWS": 500, "_GMM_ROWS": 600}
    for name, value in sizes.items():
        monkeypatch.setattr(clustering, name, value)
    rng = np.random.default_rng(1)
    truth = rng.choice(4, 1500, p=[0.4, 0.3, 0.2, 0.1])
    centres = rng.normal(size=(4, 40)) * 3
    adata = ad.AnnData(np.zeros((1500, 1), np.float32))
    adata.obsm["X_storm"] = (centres[truth] + rng.normal(size=(1500, 40))).astype(np.float32)
    adata.obsm["X_storm"][::100] = np.nan
    adata.uns["truth"] = truth
    return adata


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_large_sections_are_clustered_in_components(large, method):
    with pytest.warns(UserWarning, match="15 of 1500 rows"):
        storm.tl.domains(large, 4, method=method)
    found = large.obs["storm_domain"]
    known = found.notna().to_numpy()
    assert (~known).nonzero()[0].tolist() == list(range(0, 1500, 100))
    assert adjusted_rand_score(large.uns["truth"][known], found[known]) > 0.95
    facts = large.uns["storm"]["storm_domain"]
    assert facts["n_components"] == (15 if method == "gmm" else 10)
    assert 0.5 < facts["variance_kept"] < 1
    assert facts.get("fit_rows") == (600 if method == "gmm" else None)
    assert facts.get("start_rows") == (500 if method == "kmeans" else None)


def test_components_begin_gradually(monkeypatch):
    """Nearly all at first, so that time does not jump; what is small enough stays as it is, bit for bit."""
    monkeypatch.setattr(clustering, "_SIZE", 20 * 100)
    monkeypatch.setattr(clustering, "_LEAST_DIM", 5)
    monkeypatch.setattr(clustering, "_START_ROWS", 300)
    embedding = np.random.default_rng(0).normal(size=(400, 20)).astype(np.float32)
    dims = {}
    for n in (100, 101, 120, 150, 300, 400):
        known = np.arange(400) < n
        values, facts = clustering._rows(embedding, known, method="kmeans")
        assert values.dtype == (np.float32 if n > 300 else np.float64)
        assert values.shape == (n, facts.get("n_components", 20))
        dims[n] = facts.get("n_components")
        if dims[n] is None:
            np.testing.assert_array_equal(values, embedding[:n])
    assert dims == {100: None, 101: 19, 120: 13, 150: 8, 300: 5, 400: 5}
    narrow, facts = clustering._rows(embedding[:, :5], np.ones(400, bool), method="kmeans")
    np.testing.assert_array_equal(narrow, embedding[:, :5])
    assert not facts


def test_k_means_from_a_sample_is_as_good_as_on_all_rows(monkeypatch):
    """Groups that overlap, so that starts differ: random starts on a tenth of the rows, and the best of them on all."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, 12)) * 1.5
    values = centres[rng.integers(0, 8, 6000)] + rng.normal(size=(6000, 12))
    monkeypatch.setattr(clustering, "_START_ROWS", 600)
    adata = ad.AnnData(obsm={"X_storm": values}, shape=(6000, 0))
    storm.tl.domains(adata, 8)
    assert adata.uns["storm"]["storm_domain"]["start_rows"] == 600
    labels = adata.obs["storm_domain"].cat.codes.to_numpy()
    own = sum(labels.tolist().count(k) * values[labels == k].var(axis=0).sum() for k in range(8))
    assert own <= 1.002 * KMeans(8, n_init=10, random_state=0).fit(values).inertia_


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_leiden_where_neighbours_are_searched(planted, monkeypatch):
    """scanpy's own call fails with pynndescent 0.7; it compiles for a minute or two."""
    monkeypatch.setattr(clustering, "_EXACT_ROWS", 100)
    storm.tl.domains(planted, 4, method="leiden")
    assert adjusted_rand_score(planted.uns["truth"], planted.obs["storm_domain"]) > 0.95


def test_leiden_of_more_rows_than_scanpy_searches_exactly():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 9000)
    adata = ad.AnnData(obsm={"X_storm": (9 * np.eye(3)[truth] + rng.normal(size=(9000, 3))).astype(np.float32)})
    storm.tl.domains(adata, method="leiden", resolution=0.02)
    assert adjusted_rand_score(truth, adata.obs["storm_domain"]) > 0.95


def test_auto_on_a_large_section_tries_on_a_sample(large):
    large = large[np.isfinite(large.obsm["X_storm"]).all(axis=1)].copy()
    storm.tl.domains(large)
    facts = large.uns["storm"]["storm_domain"]
    assert facts["n_domains"] == 4
    assert facts["auto_rows"] == facts["start_rows"] == 400
    assert facts["stability"].keys() == {str(k) for k in range(3, 11)}
    one = large.obs["storm_domain"].copy()
    storm.tl.domains(large, 4)
    assert (one == large.obs["storm_domain"]).all()


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_auto_tries_k_means_in_single_precision(large, method, monkeypatch):
    """Half the time: beyond 100,000 rows "auto" took a third more when it tried its numbers in double precision."""
    tried, runs = [], clustering._runs
    monkeypatch.setattr(clustering, "_runs", lambda rows, *args, **how: tried.append(rows) or runs(rows, *args, **how))
    large = large[np.isfinite(large.obsm["X_storm"]).all(axis=1)].copy()
    storm.tl.domains(large, method=method)
    storm.tl.domains(large[:300].copy(), method=method)
    assert [rows.dtype for rows in tried] == [np.float32 if method == "kmeans" else np.float64, np.float64]
    assert [len(rows) for rows in tried] == [400, 300]


def test_small_sections_are_clustered_as_they_are(planted):
    storm.tl.domains(planted, 4)
    facts = planted.uns["storm"]["storm_domain"]
    assert not {"n_components", "auto_rows", "start_rows", "fit_rows"} & facts.keys()


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_components_are_those_of_the_whole(container, monkeypatch):
    from sklearn.decomposition import PCA

    monkeypatch.setattr("storm.data.components._BLOCK", 64)
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 20)) + 50 + rng.normal(size=(500, 20))).astype(np.float32)
    values[:70] = np.nan
    values[3, 1] = np.inf
    keep = finite_rows(container(values))
    np.testing.assert_array_equal(keep, np.isfinite(values).all(axis=1))
    scores, share = principal_components(container(values), keep, 5)
    pca = PCA(5, svd_solver="full").fit(values[keep].astype(np.float64))
    expected = pca.transform(values[keep].astype(np.float64))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(abs((scores * expected).sum(0)), (expected**2).sum(0), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), np.linalg.norm(expected, axis=0), rtol=1e-4)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-4)


def test_huge_values_are_finite():
    values = np.full((3, 4), 3e38, np.float32)
    values[1, 2], values[2, :2] = np.nan, [np.inf, -np.inf]
    assert finite_rows(values).tolist() == [True, False, False]
