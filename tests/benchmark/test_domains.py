"""Comparison of methods: a planted truth, one table, and what is refused before anything is computed."""

from __future__ import annotations

import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

import storm
from storm._bridge.keys import Keys
from storm._bridge.study import open_study
from storm._inference.device import Compute
from storm.benchmark import _components, _graph_attention, _graph_convolution
from storm.benchmark._components import aggregated, neighbour_augmented
from storm.benchmark._representations import Workshop
from storm.benchmark._section import CountedSection
from storm.benchmark._summary import SCORES

STRIPES = 3
FAST = [name for name in storm.benchmark.methods("comparators") if name != "graph_attention"]


def stripes(seed: int = 0, *, spacing: float = 100.0) -> ad.AnnData:
    """Stripes of a square lattice, each with ten genes that are a little stronger in it."""
    rng = np.random.default_rng(seed)
    centres = np.array([(x, y) for y in range(15) for x in range(18)], dtype=float) * spacing
    stripe = (centres[:, 0] // (6 * spacing)).astype(int)
    means = np.full((len(centres), 60), 2.0)
    for k in range(STRIPES):
        means[np.ix_(stripe == k, range(10 * k, 10 * k + 10))] = 3.5
    adata = ad.AnnData(rng.poisson(means).astype(np.float32), obsm={"spatial": centres})
    adata.obs["truth"] = pd.Categorical(np.array(list("abc"))[stripe])
    adata.obsm["X_right"] = np.eye(STRIPES)[stripe]
    adata.obsm["X_random"] = rng.normal(size=(len(centres), 4))
    return adata


@pytest.fixture(scope="module")
def section() -> ad.AnnData:
    return stripes()


@pytest.fixture(scope="module")
def table(section) -> pd.DataFrame:
    return storm.benchmark.domains(
        {"one": section}, FAST, truth="truth", embeddings={"right": "X_right", "random": "X_random"}, seeds=[0, 1]
    )


def test_one_row_per_method_and_seed(table):
    assert list(dict.fromkeys(table["method"])) == [*FAST, "right", "random"]
    assert len(table) == 2 * table["method"].nunique()
    assert (table["section"] == "one").all()
    assert (table["n_domains"] == STRIPES).all()
    assert (table["n_scored"] == 270).all()
    assert np.isfinite(table[list(SCORES)]).all().all()
    own = table["method"].isin(["right", "random"])
    assert table.loc[own, "seconds"].isna().all()
    assert (table.loc[~own, "seconds"] > 0).all()


def test_methods_that_use_space_find_what_is_planted(table):
    ari = table.groupby("method")["ari"].mean()
    assert ari["right"] == 1
    assert abs(ari["random"]) < 0.1
    for name in ("smoothing", "smoothing_unit", "neighbour_augmented_0.8", "aggregated", "aggregated_mixture"):
        assert ari[name] > 0.7, name
    assert ari["smoothing"] > ari["hvg_pca"] + 0.1


def test_scores_are_those_of_storm_s_own_functions(section, table):
    copy = section.copy()
    storm.tl.domains(copy, STRIPES, use_rep="X_random", seed=1)
    want = storm.metrics.score_domains(copy.obs["truth"], copy.obs["storm_domain"], copy.obsm["spatial"])
    row = table[(table["method"] == "random") & (table["seed"] == 1)].iloc[0]
    for score in SCORES:
        assert row[score] == pytest.approx(want[score], abs=1e-9), score


def test_read_outs_are_those_of_embed(section):
    model = storm.build_model("storm-tiny", genes=section.var_names)
    model = replace(model, settings={**model.settings, "modality_weights": {"he": 1.0, "st": 1.0}})
    kept = section.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*genes that the model reads")
        found = storm.benchmark.domains(kept, ["storm_st_center"], truth="truth", seeds=[0], model=model)
        storm.tl.embed(section_copy := section.copy(), model=model, modality="st", readout="center")
    storm.tl.domains(section_copy, STRIPES)
    want = storm.metrics.ari(section_copy.obs["truth"], section_copy.obs["storm_domain"])
    assert found["ari"].item() == pytest.approx(want, abs=1e-6)
    assert set(kept.obsm) == set(section.obsm)
    assert "storm" not in kept.uns


def test_modalities_are_those_of_the_name(toy, tiny_model):
    found = storm.benchmark.domains(
        toy, ["storm_he", "storm_st", "storm_both", "storm"], truth="domain", seeds=[0], model=tiny_model
    ).set_index("method")
    assert found.loc["storm", "ari"] == found.loc["storm_both", "ari"]
    for modality in ("he", "st"):
        storm.tl.embed(toy, model=tiny_model, modality=modality)
        storm.tl.domains(toy, int(found["n_domains"].iloc[0]))
        table = toy.tables["table"]
        want = storm.metrics.score_domains(table.obs["domain"], table.obs["storm_domain"])
        assert found.loc[f"storm_{modality}", "nmi"] == pytest.approx(want["nmi"])
    assert found.loc["storm_he", "nmi"] != found.loc["storm_st", "nmi"]


def test_ablations_lack_what_their_name_says(toy, tiny_model):
    # of other random weights than those that an untrained network gets
    network = storm.build_model("storm-tiny", genes=toy.tables["table"].var_names, seed=5).network
    tiny_model = replace(tiny_model, network=network)
    names = ["storm_he_window", "storm_he_window_1", "storm_he_untrained", "storm_tile", "storm_random_tile"]
    found = storm.benchmark.domains(toy, names, truth="domain", seeds=[0], model=tiny_model).set_index("method")["nmi"]
    assert found.nunique() == len(names)
    # the tiles alone, as storm.tl.encode_tiles makes them, but for the scale of each feature
    storm.tl.encode_tiles(toy, tiny_model.tile_encoder)
    table = toy.tables["table"]
    tiles, own = table.obsm["X_stain-texture"], _workshop(toy, tiny_model).run("storm_tile").values
    r = storm.metrics.pearson_per_gene(tiles, own)
    assert np.nanmedian(r) > 0.999
    assert np.nanmin(r) > 0.9
    # without context the order of places does not matter
    moved = spatialdata.deepcopy(toy)
    views = {name: _workshop(moved, tiny_model).run(name).values for name in ("storm_st_window", "storm_st_window_1")}
    turned = np.random.default_rng(0).permutation(table.n_obs)
    moved.tables["table"].X = table.X[turned]
    again = {name: _workshop(moved, tiny_model).run(name).values for name in views}
    assert again["storm_st_window_1"] == pytest.approx(views["storm_st_window_1"][turned], abs=1e-4)
    assert abs(again["storm_st_window"] - views["storm_st_window"][turned]).max() > 0.01


def _workshop(sdata, model) -> Workshop:
    study = open_study(sdata, Keys(), image="auto", writable=False)
    return Workshop(next(iter(study)).open(), model, Compute.of("cpu"))


def test_several_sections_numbers_and_unlabelled(section):
    other = stripes(1)
    labels = other.obs["truth"].astype(str).to_numpy()
    labels[:20] = "undetermined"
    other.obs["truth"] = labels
    section = section.copy()
    section.obs["truth"] = section.obs["truth"].cat.set_categories(["a", "b", "c", "unused"])
    found = storm.benchmark.domains(
        [section, other], ["hvg_pca"], truth="truth", n_domains=[4, 2], seeds=[3], unlabelled="undetermined",
        embeddings={"mine": [section.obsm["X_right"], other.obsm["X_right"]]},
    )  # fmt: skip
    assert len(found) == 2 * 2 * 2
    assert found.groupby("section")["n_scored"].unique().map(list).to_dict() == {"data[0]": [270], "data[1]": [250]}
    assert (found["n_classes"] == 3).all()
    assert set(found["n_domains"]) == {2, 4}
    # of random starts and noise, two and four domains score differently from each other: the rows are not copies
    assert found.loc[found["method"] == "hvg_pca", "nmi"].nunique() == 4


def test_sections_of_one_table_are_apart(section):
    both = ad.concat({"x": section, "y": stripes(1)}, label="library", index_unique="-")
    # of another section, the same places: neighbours across sections would mix the two
    found = storm.benchmark.domains(both, ["smoothing"], truth="truth", seeds=[0], library_key="library")
    assert found["section"].tolist() == ["x", "y"]
    alone = storm.benchmark.domains(section, ["smoothing"], truth="truth", seeds=[0])
    assert found["ari"].iloc[0] == pytest.approx(alone["ari"].item())


def test_rows_that_a_method_does_not_know_are_not_scored(section):
    values = section.obsm["X_right"].copy()
    values[:30] = np.nan
    found = storm.benchmark.domains(section, [], truth="truth", seeds=[0], embeddings={"mine": values})
    assert found["n_scored"].item() == 240
    assert found["ari"].item() == 1


def test_spots_without_a_place_take_no_part(toy):
    key = next(iter(toy.shapes))
    part = spatialdata.SpatialData(shapes={key: toy.shapes[key].iloc[5:]}, tables=dict(toy.tables))
    found = storm.benchmark.domains(part, ["smoothing", "hvg_pca"], truth="domain", seeds=[0])
    assert found["n_scored"].tolist() == [145, 145]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"methods": ["nope"]}, ValueError, "methods='nope'"),
        ({"methods": ["hvg_pca"], "seeds": 1}, TypeError, "seeds=1 is a int; give several"),
        ({"methods": ["hvg_pca"], "truth": "nope"}, KeyError, "truth='nope' is not in obs, which"),
        ({"methods": []}, ValueError, "nothing to compare"),
        ({"methods": ["hvg_pca"], "seeds": []}, ValueError, "seeds is empty"),
        ({"methods": ["hvg_pca"], "n_domains": "auto"}, ValueError, "neither a number"),
        ({"methods": ["hvg_pca"], "n_domains": 1}, ValueError, "n_domains=1"),
        ({"methods": ["hvg_pca"], "unlabelled": ["a", "b"]}, ValueError, "fewer than two classes"),
        ({"methods": [], "embeddings": {"storm": "X_right"}}, ValueError, "that of a method"),
        ({"methods": [], "embeddings": {"mine": "X_nope"}}, KeyError, "X_nope"),
        ({"methods": [], "embeddings": {"mine": np.zeros((3, 2))}}, ValueError, "has 270 rows"),
        ({"methods": [], "embeddings": {"mine": [np.zeros((270, 2))] * 2}}, ValueError, "2 array"),
        ({"methods": ["storm_he"]}, ValueError, "no H&E image"),
    ],
)
def test_what_is_refused(section, options, error, match):
    with pytest.raises(error, match=match):
        storm.benchmark.domains(section, **{"truth": "truth", **options})


def test_an_error_names_method_and_section(section):
    with pytest.raises(ValueError, match=r"method 'mine', section 'data\[0\]': .*n_domains=300"):
        storm.benchmark.domains(section, [], truth="truth", n_domains=300, seeds=[0], embeddings={"mine": "X_right"})


def test_methods_are_listed():
    every = storm.benchmark.methods()
    assert len(every) == len(set(every))
    assert set(storm.benchmark.methods("storm")) | set(storm.benchmark.methods("comparators")) == set(every)
    assert "graph_attention" not in storm.benchmark.methods("default")
    assert "storm_he_adaptive" in every
    with pytest.raises(ValueError, match="kind='nope'"):
        storm.benchmark.methods("nope")


def counted(n: int = 40, genes: int = 30) -> CountedSection:
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(5) for x in range(n // 5)], dtype=float)
    values = rng.random((n, genes)).astype(np.float32)
    return CountedSection(values, values, centres, 1.0, True)


def test_neighbours_of_a_lattice_are_eight():
    near = counted().neighbours()
    assert (near != near.T).nnz == 0
    assert near.diagonal().sum() == 0
    assert np.unique(np.asarray(near.sum(axis=1))).tolist() == [3, 5, 8]


def test_neighbour_augmented_against_a_loop():
    """The mean and the gradient of the neighbours, written a second time, spot by spot, from the paper's formulas."""
    section, weight = counted(), 0.8
    x, places = section.values.astype(np.float64), section.centres
    mean, gradient = np.zeros_like(x), np.zeros_like(x)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    nearest = {}
    for k in (15, 30):  # ties are broken as the tree breaks them
        nearest[k] = cKDTree(places).query(places, k + 1)[1][:, 1:]
    width = {k: np.median([distance[i, nearest[k][i][-1]] for i in range(len(x))]) for k in (15, 30)}
    for i in range(len(x)):
        size = np.exp(-((distance[i, nearest[15][i]] / width[15]) ** 2))
        mean[i] = (size / size.sum()) @ x[nearest[15][i]]
        size = np.exp(-((distance[i, nearest[30][i]] / width[30]) ** 2))
        offset = places[nearest[30][i]] - places[i]
        turned = (size / size.sum()) * np.exp(1j * np.arctan2(offset[:, 1], offset[:, 0]))
        gradient[i] = abs(turned @ (x[nearest[30][i]] - mean[i]))
    parts = [np.sqrt(w) * (part - part.mean(0)) / (part.std(0) + 1e-6)
             for w, part in ((1 - weight, x), (weight * 2 / 3, mean), (weight / 3, gradient))]  # fmt: skip
    want = PCA(20, random_state=0).fit_transform(np.hstack(parts))
    got = neighbour_augmented(section, weight=weight)
    np.testing.assert_allclose(abs(got[:, :8]), abs(want[:, :8]), atol=2e-3)


def test_spatially_variable_genes_are_those_of_largest_moran(monkeypatch):
    """Against Moran's I by its definition, of every gene; the components are those of the chosen genes alone."""
    monkeypatch.setattr(_components, "_N_SPATIAL", 4)
    section = counted()
    section.values[:, [3, 11]] += section.centres[:, :1].astype(np.float32)
    near = np.abs(section.centres[:, None] - section.centres[None]).max(axis=-1) == 1
    centred = section.values - section.values.mean(axis=0)
    pairs = [sum(z[i] * z[j] for i, j in np.argwhere(near)) for z in centred.T.astype(np.float64)]
    moran = len(near) / near.sum() * np.array(pairs) / (centred**2).sum(axis=0)
    chosen = np.sort(np.argsort(-moran)[:4])
    assert {3, 11} <= set(chosen.tolist())
    scaled = centred[:, chosen] / section.values[:, chosen].std(axis=0)
    want = PCA(4, random_state=0).fit_transform(scaled)
    np.testing.assert_allclose(abs(_components.svg_pca(section)), abs(want), atol=1e-3)


def test_aggregated_rings_are_means_of_what_is_so_many_steps_away():
    section = counted()
    found = aggregated(section)
    scores = found[:, :10]
    steps = abs(section.centres[:, None] - section.centres[None]).max(axis=-1)  # of a king
    for ring in range(1, 5):
        away = (steps == ring).astype(float)
        want = away @ scores / np.maximum(away.sum(axis=1, keepdims=True), 1)
        np.testing.assert_allclose(found[:, 10 * ring : 10 * ring + 10], want, atol=1e-4)


def test_graph_attention_learns_and_is_reproducible(section, monkeypatch):
    monkeypatch.setattr(_graph_attention, "_EPOCHS", 60)
    found = [
        storm.benchmark.domains(section, ["graph_attention"], truth="truth", seeds=[0])["ari"].item() for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0] > 0.7


@pytest.mark.parametrize("lattice", [True, False])
def test_weights_of_the_graph_convolution_add_up_to_a_half(lattice):
    """Gaussian weights of one width, of which the others of a spot get half of its own on average."""
    rng = np.random.default_rng(0)
    centres = counted().centres if lattice else np.vstack([rng.normal(size=(150, 2)), rng.normal(size=(50, 2)) + 40])
    weights = _graph_convolution.graph_weights(centres, 1.0).toarray()
    assert (np.diagonal(weights) == 1).all()
    assert (weights.sum() - len(weights)) / len(weights) == pytest.approx(0.5, abs=1e-5)
    squared = np.square(centres[:, None] - centres[None]).sum(axis=-1)
    near = (weights > 1e-6) & (weights < 1)
    width = np.sqrt(-squared[near] / (2 * np.log(weights[near])))
    np.testing.assert_allclose(width, width[0], rtol=1e-4)
    assert (np.exp(-squared[weights == 0] / (2 * width[0] ** 2)) < 1e-8).all()


def test_graph_convolution_sums_components_and_needs_places():
    section = counted()
    components = PCA(30, random_state=0).fit_transform(section.values)
    want = _graph_convolution.graph_weights(section.centres, 1.0).toarray() @ components
    np.testing.assert_allclose(_graph_convolution.convolved(section), want, atol=1e-5)
    with pytest.raises(ValueError, match="all spots lie in one place"):
        _graph_convolution.convolved(replace(section, centres=np.zeros_like(section.centres)))


def test_graph_convolution_finds_stripes_if_the_others_weigh_enough(section, monkeypatch):
    """Half a spot's own weight, the method's, leaves the noise of so weak a signal; six times it does not."""
    scores = []
    for others in (0.5, 6.0):
        monkeypatch.setattr(_graph_convolution, "_OTHERS", others)
        found = storm.benchmark.domains(section, ["graph_convolution"], truth="truth", seeds=[0, 1])
        scores.append(found["ari"].mean())
    assert scores[1] > 0.7 > scores[0]


def test_shares_and_their_target_by_their_definition():
    embedded, centres = torch.tensor([[0.0, 0], [3, 4], [1, 0]]), torch.tensor([[0.0, 0], [3, 0]])
    near = np.array([[1, 1 / 10], [1 / 26, 1 / 17], [1 / 2, 1 / 5]])
    shares = near / near.sum(axis=1, keepdims=True)
    found = _graph_convolution.student_shares(embedded, centres)
    np.testing.assert_allclose(found, shares, rtol=1e-5)
    squared = shares**2 / shares.sum(axis=0)
    np.testing.assert_allclose(
        _graph_convolution.sharpened(found), squared / squared.sum(axis=1, keepdims=True), rtol=1e-5
    )


def test_embedded_clustering_finds_groups_and_is_reproducible():
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=120)
    values = 8 * np.eye(5)[truth] + rng.normal(size=(120, 5))
    values[7] = np.nan
    known = np.isfinite(values).all(axis=1)
    state = torch.get_rng_state()
    codes = _graph_convolution.embedded_clustering(values, known, 3, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert codes[7] == -1
    assert storm.metrics.ari(truth[known], codes[known]) == 1
    assert (codes == _graph_convolution.embedded_clustering(values, known, 3, 0)).all()
    with pytest.raises(ValueError, match="n_domains=200 is more than the 119 rows"):
        _graph_convolution.embedded_clustering(values, known, 200, 0)


def test_summary_counts_a_section_once(table):
    frame = storm.benchmark.summary(table)
    assert frame["method"].tolist() == list(dict.fromkeys(table["method"]))
    assert frame["ari_sd"].isna().all()
    small = pd.DataFrame({"method": "m", "section": ["a", "a", "a", "b"], "n_domains": 3, "seconds": [1.0, 1, 1, 3]})
    for score in SCORES:
        small[score] = [0.1, 0.2, 0.3, 0.6]
    row = storm.benchmark.summary(small).iloc[0]
    assert (row["sections"], row["seconds"]) == (2, 2)
    assert row["ari"] == pytest.approx(0.4)
    assert row["ari_sd"] == pytest.approx(np.std([0.2, 0.6], ddof=1))
    swept = storm.benchmark.summary(pd.concat([small, small.assign(n_domains=5)]))
    assert swept["n_domains"].tolist() == [3, 5]
    with pytest.raises(ValueError, match="no column"):
        storm.benchmark.summary(small.drop(columns="ari"))
