"""``storm.tl.domains`` on embeddings with a known answer."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import storm


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
    assert set(planted.uns["storm"]["storm_domain"]["silhouette"]) == {str(k) for k in range(3, 11)}
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
