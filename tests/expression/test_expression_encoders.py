"""Expression encoders: Novae against Novae itself, what leaks and what does not, and the encoders without a network."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix, eye

from storm.data.genes import Vocabulary
from storm.data.normalise import log_normalise
from storm.expression import (
    ExpressionEncoder,
    FactorExpression,
    NovaeEncoder,
    PCAEncoder,
    VariableGenes,
    load_novae,
)
from storm.expression.variable import normalised_dispersion, novae_genes, variable_genes
from storm.model.expression import FactorEncoder

N, G = 90, 140
GENES = tuple(f"Gene{i}" for i in range(G))


def section(seed: int = 0, n: int = N) -> tuple[csr_matrix, np.ndarray]:
    """Counts with a gradient in space, and cells at random places, 15 µm apart on average."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 15 * np.sqrt(n), (n, 2))
    trend = np.exp(rng.normal(0, 0.8, (1, G)) * np.sin(centres[:, :1] / 40))
    counts = rng.poisson(rng.gamma(0.7, 2, (1, G)) * trend * rng.gamma(3, 0.4, (n, 1)))
    return csr_matrix(counts, dtype=np.float32), centres


def table(counts: csr_matrix, centres: np.ndarray) -> AnnData:
    adata = AnnData(counts.copy())
    adata.var_names = list(GENES)
    adata.obs_names = [f"c{i}" for i in range(counts.shape[0])]
    adata.obsm["spatial"] = centres.copy()
    return adata


@pytest.fixture(scope="module")
def novae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Novae of the usual depth with random weights, saved as a trained one is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import novae

        torch.manual_seed(0)
        names = [gene.lower() for gene in GENES[10:]]
        model = novae.Novae(var_names=names, embedding_size=16, hidden_size=32, heads=4, output_size=8, num_layers=4)
        with torch.no_grad():  # what starts at 0 would hide a term that is left out
            for name, weight in model.named_parameters():
                if name.endswith("bias"):
                    weight.normal_(0, 0.1)
            model.cell_embedder.linear.weight.add_(0.1 * torch.randn(16, 16))
    model.mode.trained = True
    folder = tmp_path_factory.mktemp("novae") / "model"
    model.save_pretrained(folder)
    return folder


def by_novae(folder: Path, adata: AnnData, *, alone: bool = False) -> np.ndarray:
    """Novae's own ``compute_representations``, its preprocessing included; ``alone`` cuts every edge beforehand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import novae

        model = novae.Novae.from_pretrained(str(folder))
        model.mode.trained = True
        if alone:
            one = csr_matrix(eye(adata.n_obs))
            adata.obsp["spatial_distances_local"] = adata.obsp["spatial_distances_view"] = one
            adata.uns["novae_attrs"] = {"n_hops_local": 2, "n_hops_view": 2}
        model.compute_representations(adata)
    return adata.obsm["novae_latent"]


@pytest.fixture(scope="module")
def drawn() -> tuple[csr_matrix, np.ndarray]:
    return section()


@pytest.fixture
def graphed(drawn):
    import novae

    adata = table(*drawn)
    novae.spatial_neighbors(adata, radius=60)
    return adata


@pytest.mark.parametrize("context", ["spot", "full"])
def test_equals_novae(novae_folder, graphed, drawn, context):
    """Raw counts in, Novae's preprocessing, gene choice, z-score and loop on one side, ours on the other."""
    theirs = by_novae(novae_folder, graphed, alone=context == "spot")
    encoder = load_novae(novae_folder, context=context, radius_um=60)
    ours = encoder.encode(*drawn_genes(drawn), centres=drawn[1])
    assert ours.dtype == np.float32
    assert ours.shape == (N, encoder.dim) == (N, 8)
    valid = graphed.obs["neighborhood_valid"].to_numpy()
    assert valid.mean() > 0.9
    assert np.abs(theirs[valid]).max() > 0.05
    np.testing.assert_allclose(ours[valid], theirs[valid], atol=1e-5)


def drawn_genes(drawn) -> tuple[csr_matrix, tuple[str, ...]]:
    return drawn[0], GENES


@pytest.mark.parametrize("shape", ["hex", "square"])
def test_equals_novae_on_lattices(novae_folder, shape):
    import novae

    i, j = np.divmod(np.arange(N), 10)
    places = np.stack([j + (i % 2) / 2, i * np.sqrt(3) / 2] if shape == "hex" else [j, i], axis=1) * 100.0
    counts, _ = section(3)
    adata = table(counts, places)
    novae.spatial_neighbors(adata, technology="visium" if shape == "hex" else "visium_hd")
    theirs = by_novae(novae_folder, adata)
    valid = adata.obs["neighborhood_valid"].to_numpy()
    ours = load_novae(novae_folder, context="full").encode(counts, GENES, centres=places)
    np.testing.assert_allclose(ours[valid], theirs[valid], atol=1e-5)


def test_compiled_attention_equals_that_of_torch(novae_folder, drawn, monkeypatch):
    encoder = load_novae(novae_folder, context="full", radius_um=60)
    compiled = encoder.encode(*drawn_genes(drawn), centres=drawn[1])
    monkeypatch.setattr("storm.expression._gat._compiled", lambda: None)  # as on a GPU
    by_torch = encoder.encode(*drawn_genes(drawn), centres=drawn[1])
    assert np.abs(by_torch).max() > 0.05
    np.testing.assert_allclose(compiled, by_torch, atol=1e-6)


def test_user_objects_are_left_alone(novae_folder, drawn):
    import novae

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = novae.Novae.from_pretrained(str(novae_folder))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = [weight.requires_grad for weight in model.parameters()]
    setting = novae.settings.auto_preprocessing
    counts = drawn[0].copy()
    encoder = NovaeEncoder(model, context="full")
    encoder.encode(counts, GENES, centres=drawn[1])
    assert (counts != drawn[0]).nnz == 0
    assert novae.settings.auto_preprocessing is setting
    assert model.training
    assert [weight.requires_grad for weight in model.parameters()] == trainable
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    frozen = [*encoder._encoder.parameters(), *encoder._cells.parameters()]
    assert not any(weight.requires_grad for weight in frozen)
    assert not encoder._encoder.training


def test_nothing_leaks_into_a_spot(novae_folder, drawn):
    """Every other spot changes: ``spot`` with fixed statistics keeps the embedding to the bit, ``full`` does not."""
    counts, centres = drawn
    me = int(np.argmin(np.linalg.norm(centres - centres.mean(0), axis=1)))
    rng = np.random.default_rng(1)
    others = np.delete(np.arange(N), me)
    shuffled = np.empty(N, dtype=int)
    shuffled[me], shuffled[others] = me, rng.permutation(others)
    changed = counts[shuffled]
    new = section(7)[0].tolil()
    new[me] = counts[me]
    new = csr_matrix(new)

    spot, full = load_novae(novae_folder), load_novae(novae_folder, context="full", radius_um=60)
    assert spot.context == "spot"
    fixed = spot.statistics(counts, GENES)
    here = spot.encode(counts, GENES, statistics=fixed)[me]
    for other in (changed, new):
        np.testing.assert_array_equal(spot.encode(other, GENES, statistics=fixed)[me], here)
        there = full.encode(other, GENES, centres=centres, statistics=fixed)[me]
        assert np.abs(there - full.encode(counts, GENES, centres=centres, statistics=fixed)[me]).max() > 1e-3
    # A shuffle keeps the section's own statistics (but for rounding), new counts do not.
    np.testing.assert_array_equal(spot.encode(counts, GENES)[me], here)
    np.testing.assert_allclose(spot.encode(changed, GENES)[me], here, atol=1e-5)
    assert np.abs(spot.encode(new, GENES)[me] - here).max() > 1e-5


def test_visible_sees_the_visible_only(novae_folder, drawn):
    counts, centres = drawn
    encoder = load_novae(novae_folder, context="visible", radius_um=60)
    rng = np.random.default_rng(2)
    visible = rng.random(N) < 0.5
    fixed = encoder.statistics(counts, GENES)
    seen = encoder.encode(counts, GENES, centres=centres, visible=visible, statistics=fixed)
    assert np.isnan(seen[~visible]).all()
    assert np.isfinite(seen[visible]).all()
    hidden = counts.tolil()
    hidden[np.flatnonzero(~visible)] = section(7)[0][np.flatnonzero(~visible)]
    again = encoder.encode(csr_matrix(hidden), GENES, centres=centres, visible=visible, statistics=fixed)
    np.testing.assert_array_equal(again[visible], seen[visible])
    everything = encoder.encode(counts, GENES, centres=centres, visible=np.ones(N, bool), statistics=fixed)
    full = load_novae(novae_folder, context="full", radius_um=60)
    np.testing.assert_array_equal(everything, full.encode(counts, GENES, centres=centres, statistics=fixed))


def test_spots_without_neighbours_or_counts(novae_folder, drawn):
    counts, centres = drawn
    away = np.vstack([centres, [[5000.0, 5000.0], [np.nan, np.nan]]])
    more = csr_matrix(np.vstack([counts.toarray(), counts[:2].toarray()]))
    more = more.tolil()
    more[3] = 0
    more = csr_matrix(more)
    full, spot = load_novae(novae_folder, context="full", radius_um=60), load_novae(novae_folder)
    ours, alone = full.encode(more, GENES, centres=away), spot.encode(more, GENES)
    np.testing.assert_allclose(ours[-2:], alone[-2:], atol=1e-6)
    assert np.isnan(ours[3]).all()
    assert np.isnan(alone[3]).all()
    assert np.isfinite(np.delete(ours, 3, axis=0)).all()


def test_errors_say_what_to_do(novae_folder, drawn, tmp_path, monkeypatch):
    counts, centres = drawn
    full, visible = (load_novae(novae_folder, context=context) for context in ("full", "visible"))
    with pytest.raises(ValueError, match=r"needs centres of shape \(90, 2\).*'spot'"):
        full.encode(counts, GENES)
    with pytest.raises(ValueError, match="needs visible="):
        visible.encode(counts, GENES, centres=centres)
    with pytest.raises(ValueError, match="only 5 of the table's 5 genes are among the model's 130"):
        full.encode(counts[:, -5:], GENES[-5:], centres=centres)
    with pytest.raises(ValueError, match="context='near'"):
        load_novae(novae_folder, context="near")
    with pytest.raises(ValueError, match="139 gene names"):
        full.encode(counts, GENES[1:], centres=centres)
    with pytest.raises(ValueError, match="save_pretrained"):
        load_novae("nowhere/novae")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_novae(tmp_path)


def test_hub_name_without_internet(tmp_path, monkeypatch):
    """Nothing is downloaded here: the hub is told to be offline, and its cache is empty."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE=1|HF_HOME") as error:
        load_novae("prism-oncology/novae-human-0")
    assert "--local-dir" in str(error.value)


@pytest.mark.parametrize("n_top", [None, 40])
def test_variable_genes_are_scanpys(n_top):
    expression = log_normalise(section(5)[0])
    adata = AnnData(expression.copy())
    sc.pp.highly_variable_genes(adata, n_top_genes=n_top)
    mean, dispersion = normalised_dispersion(expression)
    np.testing.assert_allclose(mean, adata.var["means"], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(dispersion, adata.var["dispersions_norm"], atol=1e-3)
    assert variable_genes(expression, n_top=n_top).tolist() == adata.var["highly_variable"].tolist()
    assert novae_genes(expression[:, :100]).all()


def test_encoders_without_a_network(drawn):
    counts, _ = drawn
    before = counts.copy()
    torch.manual_seed(0)
    factors = FactorEncoder(G, 5)
    factors.loadings.copy_(torch.linalg.qr(torch.randn(G, 5))[0])
    encoders = [
        VariableGenes.fit(counts, GENES, n_top=30),
        PCAEncoder.fit(counts, GENES, n_components=4, n_top=None),
        FactorExpression(factors, Vocabulary(GENES)),
    ]
    with_empty = csr_matrix(np.vstack([counts.toarray(), np.zeros((1, G))]))
    order = np.random.default_rng(0).permutation(G)
    for encoder in encoders:
        assert isinstance(encoder, ExpressionEncoder)
        out = encoder.encode(with_empty, GENES)
        assert out.shape == (N + 1, encoder.dim)
        assert out.dtype == np.float32
        assert np.isnan(out[-1]).all()
        renamed = [GENES[i].upper() for i in order]
        np.testing.assert_allclose(encoder.encode(counts[:, order], renamed), out[:-1], atol=1e-4)
        assert encoder.match(["Nope", encoder.vocabulary.symbols[0].upper()]).missing == ("Nope",)
    assert (counts != before).nnz == 0
    assert encoders[0].dim == 30
    expression = log_normalise(counts).toarray()
    np.testing.assert_allclose(
        encoders[0].encode(counts, GENES), expression[:, [GENES.index(g) for g in encoders[0].vocabulary.symbols]]
    )
    # An independent PCA: the same components but for their sign.
    from sklearn.decomposition import PCA

    reference = PCA(4, svd_solver="full").fit_transform(expression.astype(np.float64))
    np.testing.assert_allclose(np.abs(encoders[1].encode(counts, GENES)), np.abs(reference), atol=1e-3)
    want = factors(torch.from_numpy(expression), torch.arange(G)).numpy()
    np.testing.assert_allclose(encoders[2].encode(counts, GENES), want, atol=1e-4)


def test_novae_is_an_encoder(novae_folder):
    encoder = load_novae(novae_folder)
    assert isinstance(encoder, ExpressionEncoder)
    assert not encoder.needs_centres
    assert encoder.match(["gene12", "GENE13", "GENE2"]).summary() == {
        "matched": 1, "aliased": 1, "ambiguous": 0, "missing": 1,
    }  # fmt: skip
