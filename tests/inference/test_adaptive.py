"""The adaptive read-out: the section's own reach, its own part, and when the network stands beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

import storm
from storm._bridge import read_spots
from storm._inference import adaptive, section_embedding
from storm._inference.adaptive import own_expression
from storm.data.normalise import log_normalise
from storm.data.windows import make_windows

SIDE = 24


@pytest.fixture(scope="module")
def mini():
    return storm.load_model("storm-mini")


@pytest.fixture
def stripes(mini) -> AnnData:
    """Cells of three stripes in 60 genes that a model may know, of which each stripe has twenty more of."""
    rng = np.random.default_rng(0)
    places = 10.0 * np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2)
    stripe = (places[:, 0] // (10 * SIDE / 3)).astype(int)
    rates = np.ones((len(places), 60))
    for k in range(3):
        rates[np.ix_(stripe == k, np.arange(20 * k, 20 * k + 20))] *= 1.6
    adata = AnnData(csr_matrix(rng.poisson(rates).astype(np.float32)), obsm={"spatial": places})
    adata.var_names = list(mini.vocabulary.symbols[:60])
    adata.obs["stripe"] = stripe
    return adata


def embedded(adata: AnnData, model, **options) -> np.ndarray:
    storm.tl.embed(adata, model=model, readout="adaptive", **options)
    return adata.obsm["X_storm"]


def test_the_own_part_is_what_it_says(stripes):
    spots = read_spots(stripes)
    windows = make_windows(spots.centres)
    own = own_expression(spots, windows)
    counts = stripes.X.toarray()
    x = log_normalise(stripes.X, target_sum=np.median(counts.sum(axis=1))).toarray()
    left, size, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    scores = left[:, :30] * size[:30]
    distance = np.linalg.norm(spots.centres[:, None] - spots.centres[None], axis=-1) / windows.pitch
    weights = np.exp(-np.square(distance / own.reach.sigma) / 2) * (distance <= 3.2 * own.reach.sigma)
    smooth = weights @ scores / weights.sum(axis=1, keepdims=True)
    left, size, _ = np.linalg.svd(smooth - smooth.mean(axis=0), full_matrices=False)
    wanted = left[:, :10] * size[:10]
    wanted /= np.sqrt(np.square(wanted).sum(axis=1).mean())
    # Distances, because the later components are as good as equal in size, and may be turned.
    close = np.linalg.norm(own.part[:, None] - own.part[None, :40], axis=-1)
    np.testing.assert_allclose(close, np.linalg.norm(wanted[:, None] - wanted[None, :40], axis=-1), atol=2e-3)
    assert np.square(own.part).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_noisy_cells_are_smoothed_further_and_stripes_come_out(stripes, tiny_model):
    x = embedded(stripes, replace(tiny_model, expression=_knows(tiny_model, stripes)))
    facts = stripes.uns["storm"]["X_storm"]
    assert facts["reach"] > 1.5
    storm.tl.domains(stripes, n_domains=3)
    assert storm.metrics.score_domains(stripes.obs["stripe"].astype(str), stripes.obs["storm_domain"])["ari"] > 0.8
    assert np.isfinite(x).all()


def _knows(model, adata: AnnData):
    """Random factors of the model's size over a table's genes."""
    return storm.build_model("storm-tiny", genes=adata.var_names).expression


@pytest.mark.parametrize("better", [True, False])
def test_the_tokens_are_used_where_they_are_more_alike(stripes, tiny_model, monkeypatch, better):
    """An encoder that reads the stripes themselves, and one that reads noise."""
    model = replace(tiny_model, expression=_knows(tiny_model, stripes))
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(stripes.n_obs, model.config.st_dim)).astype(np.float32)
    stripe = np.eye(3, model.config.st_dim, dtype=np.float32)[stripes.obs["stripe"]]
    tokens = stripe + 0.1 * noise if better else noise
    match = model.expression.match(list(stripes.var_names))
    monkeypatch.setattr(adaptive, "st_tokens", lambda *_: (tokens, match))
    runs = []
    run = section_embedding.run_windows
    monkeypatch.setattr(section_embedding, "run_windows", lambda *a, **k: runs.append(k) or run(*a, **k))
    x = embedded(stripes, model)
    facts = stripes.uns["storm"]["X_storm"]
    assert facts["st_tokens"] is better
    assert (facts["gate"] > 1) is better
    assert facts["gate"] == pytest.approx(max(facts["gate_r2"]) / max(facts["reach_r2"]), rel=1e-3)
    assert len(runs) == better  # the network does not run for nothing
    assert x.shape == (stripes.n_obs, 10 + better * model.config.width)
    assert (facts["modality"], facts["readout"]) == ("st", "adaptive")


def test_with_he_the_rest_stays_when_the_tokens_are_left_out(toy, tiny_model, monkeypatch):
    """H&E alone through the network, and the section's own part beside it."""
    storm.tl.embed(toy, model=tiny_model, modality="he", readout="section")
    he = toy.tables["table"].obsm["X_storm"].copy()
    real = adaptive.gate
    monkeypatch.setattr(section_embedding, "gate", lambda *a: replace(real(*a), tokens=None))
    storm.tl.embed(toy, model=tiny_model, readout="adaptive", per_modality=True)
    obsm = toy.tables["table"].obsm
    np.testing.assert_array_equal(obsm["X_storm_he"], he)
    assert obsm["X_storm_st"].shape == (toy.tables["table"].n_obs, 10)
    assert toy.tables["table"].uns["storm"]["X_storm"]["modality"] == "both"


def test_too_few_genes_are_a_warning_and_with_other_read_outs_an_error(stripes, mini):
    stripes.var_names = [*stripes.var_names[:30], *(f"NEW{i}" for i in range(30))]
    with pytest.warns(UserWarning, match=r"knows 30 of the table's 60 genes, which are 1% of the 5,214"):
        x = embedded(stripes, mini)
    assert x.shape == (stripes.n_obs, 10)
    facts = stripes.uns["storm"]["X_storm"]
    assert not facts["st_tokens"]
    assert facts["st_tokens_reason"].startswith("too few genes: only 30 of the table's 60")
    assert "gate" not in facts
    with pytest.raises(ValueError, match="only 30 of the table's 60"):
        storm.tl.embed(stripes, model=mini, readout="section")


def test_a_model_that_knows_few_of_the_genes_is_a_warning(stripes, mini):
    """One gene in eight of a table: enough to encode, and not worth it."""
    unknown = csr_matrix(np.random.default_rng(0).poisson(1.0, size=(stripes.n_obs, 600)).astype(np.float32))
    wide = AnnData(csr_matrix(np.hstack([stripes.X.toarray(), unknown.toarray()])), obsm=dict(stripes.obsm))
    wide.var_names = [*stripes.var_names, *(f"NEW{i}" for i in range(600))]
    for readout in ("adaptive", "section"):
        with pytest.warns(UserWarning, match="knows 60 of the table's 660 genes"):
            storm.tl.embed(wide, model=mini, readout=readout)
    report = storm.pp.check(wide, model=mini, estimate=False)
    assert report["genes"].verdict == "warn"
    assert not report["reach"].facts["st_tokens"]


def test_rows_and_rotation_change_nothing(stripes, tiny_model):
    model = replace(tiny_model, expression=_knows(tiny_model, stripes))
    wanted = embedded(stripes, model).copy()
    sigma = stripes.uns["storm"]["X_storm"]["reach"]
    rows = np.random.default_rng(0).permutation(stripes.n_obs)
    shuffled = stripes[rows].copy()
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    turned = stripes.copy()
    turned.obsm["spatial"] = turned.obsm["spatial"] @ turn

    def distances(x: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, None] - x[None, :30], axis=-1)

    np.testing.assert_allclose(distances(embedded(shuffled, model)[np.argsort(rows)]), distances(wanted), atol=2e-3)
    np.testing.assert_allclose(distances(embedded(turned, model)), distances(wanted), atol=2e-2)
    assert shuffled.uns["storm"]["X_storm"]["reach"] == pytest.approx(sigma, rel=1e-3)
    assert turned.uns["storm"]["X_storm"]["reach"] == pytest.approx(sigma, rel=1e-3)


def test_rows_without_counts_or_place_are_nan_and_give_nothing(stripes, tiny_model):
    model = replace(tiny_model, expression=_knows(tiny_model, stripes))
    counts = stripes.X.tolil()
    counts[5] = 0
    stripes.X = counts.tocsr()
    stripes.obs["in_tissue"] = (np.arange(stripes.n_obs) != 9).astype(int)
    with pytest.warns(UserWarning, match="2 of 576 rows of 'X_storm' are NaN"):
        x = embedded(stripes, model)
    assert np.isnan(x[[5, 9]]).all()
    keep = np.delete(np.arange(stripes.n_obs), [5, 9])
    alone = embedded(stripes[keep].copy(), model)
    first = np.linalg.norm(x[keep][:, None] - x[keep][None, :20], axis=-1)
    np.testing.assert_allclose(first, np.linalg.norm(alone[:, None] - alone[None, :20], axis=-1), atol=2e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_handful_of_spots(stripes, tiny_model, n):
    model = replace(tiny_model, expression=_knows(tiny_model, stripes))
    x = embedded(stripes[:n].copy(), model)
    assert x.shape[0] == n
    assert np.isfinite(x).all()


def test_a_single_gene_and_spots_that_are_all_alike(stripes, mini):
    with pytest.warns(UserWarning, match="knows 1 of the table's 1 genes"):
        one = embedded(stripes[:, :1][np.asarray(stripes[:, :1].X.sum(axis=1)).ravel() > 0].copy(), mini)
    assert np.isfinite(one).all()
    alike = stripes.copy()
    alike.X = csr_matrix(np.ones(alike.shape, dtype=np.float32))
    x = embedded(alike, mini)
    assert alike.uns["storm"]["X_storm"]["reach"] == 0.5
    np.testing.assert_allclose(x, 0, atol=1e-3)


def test_it_is_the_default_of_the_packaged_model_and_models_keep_their_own(tmp_path, mini, tiny_model):
    assert mini.settings["readout"] == "adaptive"
    assert storm.build_model("storm-tiny", genes=tiny_model.vocabulary.symbols).settings["readout"] == "adaptive"
    old = replace(tiny_model, settings={**tiny_model.settings, "readout": "section"})
    old.save(tmp_path / "old")
    assert storm.load_model(tmp_path / "old").settings["readout"] == "section"


def test_the_choice_is_in_the_provenance_and_the_check(stripes, mini, tmp_path):
    report = storm.pp.check(stripes, model=mini, estimate=False)
    embedded(stripes, mini)
    facts = stripes.uns["storm"]["X_storm"]
    for key in ("reach", "gate", "st_tokens"):
        assert report["reach"].facts[key] == facts[key]
    assert "R²" in report["reach"].value
    assert "reach_um" not in facts  # no scale is known
    stripes.write_h5ad(tmp_path / "a.h5ad")
    rng = np.random.default_rng(0)
    stripes.obsm["spatial"] = rng.permutation(stripes.obsm["spatial"])
    assert storm.pp.check(stripes, model=mini, estimate=False)["reach"].verdict == "warn"
    many = replace(mini, settings={**mini.settings, "readout": "window"})
    assert "reach" not in [row.name for row in storm.pp.check(stripes, model=many, estimate=False).rows]


def test_of_a_large_section_the_check_looks_at_the_middle(stripes, mini, monkeypatch):
    monkeypatch.setattr("storm.pp._reach._SPOTS", 200)
    row = storm.pp.check(stripes, model=mini, estimate=False)["reach"]
    assert "of 200 spots in the middle" in row.value
    whole = storm.pp.check(stripes, model=mini)
    assert whole["time"].facts["seconds"] > 0
