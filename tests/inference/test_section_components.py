"""A section's own components: what they find, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LinearRegression

import storm
from storm._inference import section_components
from storm._inference.section_components import own_components, window_mean
from storm.data import expression_axes
from storm.data.normalise import log_normalise
from storm.data.windows import make_windows


@pytest.fixture
def square() -> np.ndarray:
    return 100.0 * np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2)


@pytest.fixture
def counts() -> csr_matrix:
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 3.0, size=(64, 30))
    rates[:32, :10] *= 6
    return csr_matrix(rng.poisson(rates).astype(np.float32))


def test_they_are_the_principal_components(square, counts, monkeypatch):
    monkeypatch.setattr(expression_axes, "_BLOCK", 7)
    monkeypatch.setattr(section_components, "_BLOCK", 7)
    windows = make_windows(square)
    found = own_components(counts, windows, n_components=4, n_genes=12)
    x = log_normalise(counts).toarray()
    x = x[:, np.sort(np.argsort(-x.var(axis=0))[:12])]
    left, scale, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    wanted = window_mean(left[:, :4] * scale[:4], windows)
    wanted /= np.sqrt(np.square(wanted).sum(axis=1).mean())
    signs = np.sign((found * wanted).sum(axis=0))
    np.testing.assert_allclose(found, wanted * signs, atol=1e-4)
    assert np.square(found).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_a_mean_over_the_window_is_weighted_by_distance(square):
    values = np.random.default_rng(0).normal(size=(64, 3))
    values[9] = np.nan
    windows = make_windows(square)
    found = window_mean(values, windows)
    d2 = np.square((square[:, None] - square[None]) / 100).sum(axis=-1)
    near = abs(square[:, None] - square[None]).max(axis=-1) <= 200
    weights = np.exp(-d2 / (2 * 0.7**2)) * near
    weights[:, 9] = 0
    wanted = weights @ np.nan_to_num(values) / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_spots_without_counts_or_place(square, counts):
    square, counts = square.copy(), counts.tolil()
    square[3] = np.nan
    counts[5] = 0
    found = own_components(counts.tocsr(), make_windows(square))
    assert np.isnan(found[3]).all()
    assert np.isfinite(np.delete(found, 3, axis=0)).all()
    stored = counts.tocoo()
    stored = csr_matrix(
        (np.append(stored.data, 0), (np.append(stored.row, 5), np.append(stored.col, 0))), shape=counts.shape
    )
    np.testing.assert_array_equal(found, own_components(stored, make_windows(square)))
    nothing = own_components(csr_matrix(counts.shape, dtype=np.float32), make_windows(square))
    assert np.isnan(nothing).all()


def test_genes_that_no_model_knows_tell_tissues_apart(toy, tiny_model):
    """Two halves differ in genes that are not the model's: the section's own components see them."""
    table = toy.tables["table"]
    x = np.asarray(table.obsm["spatial"])[:, 0]
    left = x < np.median(x)
    counts = table.X.toarray()
    counts[np.ix_(left, np.arange(40))] *= 8
    names = np.array([f"NEW_{i}" if i < 40 else name for i, name in enumerate(table.var_names)])
    table.X, table.var_names = csr_matrix(counts), names
    storm.tl.embed(toy, model=tiny_model, modality="st", readout="section", per_modality=True)
    own = table.obsm["X_storm_st"][:, tiny_model.config.width :]
    assert own.shape == (table.n_obs, 10)
    assert LinearRegression().fit(own, left).score(own, left) > 0.6
    known = tiny_model.expression.match(names).n_shared
    assert known == table.n_vars - 40
    storm.tl.embed(toy, model=tiny_model, modality="he", readout="section")
    section = table.obsm["X_storm"].copy()
    storm.tl.embed(toy, model=tiny_model, modality="he", readout="window")
    np.testing.assert_array_equal(section, table.obsm["X_storm"])
