"""Domain scores against reference numbers and against naive implementations of their definitions."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from storm import metrics

N = 48


@pytest.fixture
def toy():
    """48 spots without ties; annotation, prediction and positions."""
    i = np.arange(N)
    coords = np.column_stack([i % 8 + 0.1 * np.sin(1.7 * i), i // 8 + 0.1 * np.cos(2.3 * i)])
    truth = np.where(i % 8 < 3, 0, np.where(i // 8 < 3, 1, 2))
    pred = truth.copy()
    pred[[9, 20, 21, 35, 47]] = [2, 0, 0, 1, 3]
    return coords, truth, pred


def hexagonal(side: int) -> np.ndarray:
    row, column = np.divmod(np.arange(side * side), side)
    return np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])


# ---------------------------------------------------------------------------------------------- agreement


def test_agreement(toy):
    _, truth, pred = toy
    expected = {
        "ari": 0.7340442897,
        "nmi": 0.7177999321,
        "homogeneity": 0.7412277177,
        "completeness": 0.6958077240,
        "fmi": 0.8185155890,
    }
    for name, value in expected.items():
        score = getattr(metrics, name)
        assert score(truth, pred) == pytest.approx(value, abs=1e-9)
        assert score(truth, truth) == pytest.approx(1)


def test_agreement_ignores_names_and_types(toy):
    _, truth, pred = toy
    words = pd.Categorical(np.array(["tumour", "stroma", "fat"])[truth])
    assert metrics.ari(words, pred.astype(str)) == metrics.ari(truth, pred)


def test_missing_labels_are_an_error_that_says_what_to_do(toy):
    _, truth, pred = toy
    labels = pd.Series(truth).astype(object)
    labels[[3, 4]] = [None, np.nan]
    with pytest.raises(ValueError, match=r"labels_true holds 2 missing labels of 48.*score_domains"):
        metrics.ari(labels, pred)


def test_lengths_must_agree(toy):
    coords, truth, pred = toy
    with pytest.raises(ValueError, match="48 labels and labels_pred 47"):
        metrics.nmi(truth, pred[1:])
    with pytest.raises(ValueError, match=r"expected \(47, 2\)"):
        metrics.chaos(coords, pred[1:])
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        metrics.ari([], [])


# ---------------------------------------------------------------------------------------------- CHAOS


def test_chaos(toy):
    coords, truth, pred = toy
    pair = truth.copy()
    pair[[46, 47]] = 3  # a domain of two spots: where the conventions part
    expected = [
        (pred, 0.4702627044, 0.4653383519),
        (truth, 0.4248833856, 0.4204342223),
        (pair, 0.4109354852, 0.4222698534),
    ]
    for labels, sdmbench, spatialpca in expected:
        assert metrics.chaos(coords, labels) == pytest.approx(sdmbench, abs=1e-9)
        assert metrics.chaos(coords, labels, convention="spatialpca") == pytest.approx(spatialpca, abs=1e-9)


def test_chaos_has_no_unit_and_bears_a_line(toy):
    coords, truth, _ = toy
    assert metrics.chaos(55 * coords + 1e4, truth) == pytest.approx(metrics.chaos(coords, truth), rel=1e-9)
    line = np.column_stack([np.arange(6.0), np.zeros(6)])
    assert np.isfinite(metrics.chaos(line, [0, 0, 0, 1, 1, 1]))
    assert metrics.chaos([[1.0, 2.0]], ["a"]) == 0


def test_chaos_names_its_conventions(toy):
    coords, truth, _ = toy
    with pytest.raises(ValueError, match=r"'sdm'.*'sdmbench', 'spatialpca'"):
        metrics.chaos(coords, truth, convention="sdm")


# ---------------------------------------------------------------------------------------------- PAS


def naive_pas(coords, labels, k):
    distance = cdist(coords, coords)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :k]
    return ((labels[nearest] != labels[:, None]).sum(axis=1) > k / 2).mean()


def test_pas(toy):
    coords, truth, pred = toy
    assert metrics.pas(coords, pred) == pytest.approx(10 / 48)
    assert metrics.pas(coords, truth) == pytest.approx(1 / 48)


@pytest.mark.parametrize("k", [1, 6, 10])
def test_pas_without_ties_is_the_usual_one(k):
    rng = np.random.default_rng(k)
    coords, labels = rng.random((300, 2)), rng.integers(0, 2, 300)
    assert metrics.pas(coords, labels, k=k) == pytest.approx(naive_pas(coords, labels, k))


@pytest.mark.parametrize("lattice", ["hexagonal", "square"])
def test_pas_of_a_lattice_depends_on_positions_only(lattice):
    side = 12
    coords = hexagonal(side) if lattice == "hexagonal" else np.argwhere(np.ones((side, side))).astype(float)
    rng = np.random.default_rng(0)
    labels = (coords[:, 0] + rng.normal(0, 2, len(coords)) > side / 2).astype(int)
    score = metrics.pas(coords, labels)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(coords))
        angle = seed + 0.3
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        assert metrics.pas((coords @ turn.T * 55)[order], labels[order]) == score
    # The shared places are a compromise between the orders that a plain search could have taken.
    naive = [
        naive_pas(coords[order], labels[order], 10)
        for order in (np.random.default_rng(seed).permutation(len(coords)) for seed in range(40))
    ]
    assert min(naive) - 0.05 <= score <= max(naive) + 0.05


def test_pas_shares_the_last_places():
    # The middle spot's two neighbours tie for its one place: half a neighbour differs, not more than half of them.
    line = [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
    assert metrics.pas(line, [0, 0, 1], k=1) == pytest.approx(1 / 3)
    assert metrics.pas(line, [1, 0, 1], k=1) == 1


def test_pas_bears_spots_on_one_point():
    coords = np.vstack([np.zeros((60, 2)), np.random.default_rng(0).random((20, 2)) + 5])
    labels = np.array([0] * 60 + [1] * 20)
    assert metrics.pas(coords, labels) == 0
    labels[0] = 1  # one of the 60 on the point: only it is abnormal, whatever the search returns first
    assert metrics.pas(coords, labels) == pytest.approx(1 / 80)
    assert metrics.pas(np.zeros((30, 2)), np.arange(30)) == 1


def test_pas_needs_neighbours(toy):
    coords, truth, _ = toy
    with pytest.raises(ValueError, match="k=10 neighbours need at least 11 spots, there are 10"):
        metrics.pas(coords[:10], truth[:10])


# ---------------------------------------------------------------------------------------------- silhouette


def test_asw(toy):
    coords, truth, pred = toy
    assert metrics.asw(coords, pred) == pytest.approx(0.1455173254, abs=1e-9)
    assert metrics.asw(coords, truth) == pytest.approx(0.3556743422, abs=1e-9)


def test_silhouette_in_chunks_is_exact(monkeypatch):
    from sklearn.metrics import silhouette_score

    monkeypatch.setattr(sys.modules[metrics.silhouette.__module__], "_BLOCK", 1000)
    rng = np.random.default_rng(0)
    coords, labels = rng.random((700, 2)), rng.integers(0, 5, 700)
    labels[0] = 9  # a domain of one spot
    found = metrics.silhouette(coords, labels)
    assert found.exact
    assert (found.n_queries, found.stderr) == (700, 0)
    assert found.value == pytest.approx(silhouette_score(coords, labels), abs=1e-12)


def test_silhouette_estimate_is_unbiased_and_says_what_it_is():
    rng = np.random.default_rng(1)
    coords = rng.random((3000, 2))
    labels = (coords[:, 0] > 0.6).astype(int) + (coords[:, 1] > 0.7)
    exact = metrics.silhouette(coords, labels).value
    runs = [metrics.silhouette(coords, labels, max_n=1000, n_queries=200, seed=seed) for seed in range(30)]
    assert not any(run.exact for run in runs)
    assert {run.n_queries for run in runs} == {200}
    values = np.array([run.value for run in runs])
    stderr = np.mean([run.stderr for run in runs])
    assert abs(values.mean() - exact) < 4 * stderr / np.sqrt(len(runs))
    assert values.std() == pytest.approx(stderr, rel=0.5)
    again = metrics.silhouette(coords, labels, max_n=1000, n_queries=200, seed=3)
    assert again == runs[3]


def test_silhouette_needs_two_domains(toy):
    with pytest.raises(ValueError, match="at least two domains; the 48 labels hold 1"):
        metrics.asw(toy[0], np.zeros(N))


def test_coordinates_must_be_finite(toy):
    coords, truth, _ = toy
    coords[5] = np.nan
    for score in (metrics.chaos, metrics.pas, metrics.asw):
        with pytest.raises(ValueError, match=r"coords hold 1 rows that are not finite of 48"):
            score(coords, truth)


# ---------------------------------------------------------------------------------------------- FIDE, JSD


def test_fide_and_jsd(toy):
    coords, truth, pred = toy
    edges = cKDTree(coords).query_pairs(1.3, output_type="ndarray")
    edges = np.vstack([edges, edges[:, ::-1]])
    assert len(edges) == 188
    assert metrics.fide(edges, truth) == pytest.approx(0.8376763668, abs=1e-9)
    assert metrics.fide(edges, pred) == pytest.approx(0.5163668587, abs=1e-9)
    assert metrics.fide(edges, pred, n_domains=8) == pytest.approx(0.5163668587 / 2, abs=1e-9)
    assert metrics.jsd(pred, np.arange(N) < 24) == pytest.approx(0.3884057857, abs=2e-8)  # Novae adds 1e-8
    assert metrics.jsd(np.tile([0, 1, 2], 4), np.repeat(["a", "b"], 6)) == pytest.approx(0, abs=1e-12)
    assert metrics.jsd([0, 0, 1, 1], ["a", "a", "b", "b"]) == pytest.approx(1)


def test_fide_checks_edges(toy):
    _, truth, _ = toy
    with pytest.raises(ValueError, match=r"expected \(e, 2\)"):
        metrics.fide(np.zeros((0, 2), dtype=int), truth)
    with pytest.raises(ValueError, match="spots 0…48, but there are 48"):
        metrics.fide([[0, 48]], truth)
    with pytest.raises(ValueError, match="n_domains=1, but the edges touch 2"):
        metrics.fide([[0, 3]], truth, n_domains=1)
    with pytest.raises(ValueError, match="48 entries and slides 2"):
        metrics.jsd(truth, [0, 1])


# ---------------------------------------------------------------------------------------------- all in one


def test_score_domains(toy):
    coords, truth, pred = toy
    scores = metrics.score_domains(truth, pred, coords)
    assert scores["ari"] == metrics.ari(truth, pred)
    assert scores["chaos"] == metrics.chaos(coords, pred)
    assert scores["pas"] == metrics.pas(coords, pred)
    assert scores["asw"] == metrics.asw(coords, pred)
    assert scores["asw_exact"] is True
    assert (scores["n_domains"], scores["n_scored"], scores["n_spatial"]) == (4, 48, 48)
    assert "chaos" not in metrics.score_domains(truth, pred)
    assert "ari" not in metrics.score_domains(None, pred, coords)


def test_unlabelled_spots_are_left_out_of_the_scoring_only(toy):
    coords, truth, pred = toy
    annotation = np.array(["tumour", "stroma", "fat"], dtype=object)[truth]
    annotation[:6] = None
    annotation[6:8] = "undetermined"
    domains = pd.Series(pred.astype(str), dtype="category")
    domains[40] = np.nan
    coords[41] = np.nan
    scores = metrics.score_domains(annotation, domains, coords, unlabelled=("undetermined",))
    scored = np.r_[8:40, 41:48]
    assert scores["n_scored"] == len(scored)
    assert scores["ari"] == metrics.ari(truth[scored], pred[scored])
    spatial = np.r_[0:40, 42:48]
    assert scores["n_spatial"] == len(spatial)
    assert scores["chaos"] == metrics.chaos(coords[spatial], pred[spatial])


def test_score_domains_where_a_score_is_not_defined(toy):
    coords, truth, _ = toy
    scores = metrics.score_domains(truth, np.zeros(N), coords)
    assert np.isnan(scores["asw"])
    assert scores["pas"] == 0
    few = metrics.score_domains(truth[:8], truth[:8], coords[:8])
    assert np.isnan(few["pas"])


def test_nothing_to_score_is_an_error(toy):
    coords, truth, pred = toy
    with pytest.raises(ValueError, match="none of the 48 spots has a predicted label"):
        metrics.score_domains(truth, [None] * N, coords)
    with pytest.raises(ValueError, match="both an annotation and a predicted label"):
        metrics.score_domains([None] * N, pred)
    with pytest.raises(ValueError, match="both a position and a predicted label"):
        metrics.score_domains(None, pred, np.full((N, 2), np.nan))


# ------------------------------------------------------------------------------------- spellings of "missing"

TEXT = np.array(["a", "b", "c"] * 20, dtype=object)
TEXT[:6] = None
WORDS: dict[str, object] = {
    "object with None": TEXT,
    "list": TEXT.tolist(),
    "object with NaN": np.array([np.nan if x is None else x for x in TEXT], dtype=object),
    "object with pd.NA": np.array([pd.NA if x is None else x for x in TEXT], dtype=object),
    "object with NaT": np.array([pd.NaT if x is None else x for x in TEXT], dtype=object),
    "Series": pd.Series(TEXT),
    "Categorical": pd.Categorical(TEXT),
    "categorical Series": pd.Series(TEXT, dtype="category"),
    "string": pd.array(TEXT, dtype="string"),
    "arrow": pd.array(TEXT, dtype="string[pyarrow]"),
}
NUMBERS: dict[str, object] = {
    "float": [np.nan if x is None else float(ord(x)) for x in TEXT],
    "Int64": pd.array([None if x is None else ord(x) for x in TEXT], dtype="Int64"),
    "Float64": pd.array([None if x is None else ord(x) for x in TEXT], dtype="Float64"),
    "categorical Int64": pd.Categorical(pd.array([None if x is None else ord(x) for x in TEXT], dtype="Int64")),
}


def arrow_kinds() -> dict[str, object]:
    pa = pytest.importorskip("pyarrow")
    dictionary = pa.array(TEXT.tolist()).dictionary_encode()
    return {
        "ArrowDtype": pd.Series(TEXT.tolist(), dtype=pd.ArrowDtype(pa.string())),
        "arrow dictionary": pd.Series(dictionary.to_pandas(types_mapper=None)),
        "ArrowDtype dictionary": pd.arrays.ArrowExtensionArray(dictionary),
        "pyarrow": pa.array(TEXT.tolist()),
    }


def test_missing_labels_of_every_spelling_mean_the_same():
    pred = np.random.default_rng(0).integers(0, 3, 60).astype(str)
    coords = np.random.default_rng(1).random((60, 2))
    reference = metrics.score_domains(TEXT, pred, coords, unlabelled=("c",))
    assert reference["n_scored"] == 36
    for name, labels in {**WORDS, **arrow_kinds()}.items():
        assert metrics.score_domains(labels, pred, coords, unlabelled=("c",)) == reference, name
        assert metrics.score_domains(labels, pred, coords, unlabelled="c") == reference, name
        assert metrics.score_domains(pred, labels, coords)["n_spatial"] == 54, name
        with pytest.raises(ValueError, match="labels_true holds 6 missing labels of 60"):
            metrics.ari(labels, pred)
        with pytest.raises(
            ValueError, match=r"slides holds 6 missing labels of 60$|slides holds 6 missing labels of 60; leave"
        ):
            metrics.jsd(pred, labels)
        with pytest.raises(ValueError, match=r"groups holds 6 missing labels of 60; leave those spots out$"):
            metrics.pearson_per_gene(coords, coords, groups=labels)
    for name, labels in NUMBERS.items():
        assert metrics.score_domains(labels, pred, coords, unlabelled=(ord("c"),)) == reference, name
    switches = pd.array([None if x is None else x == "a" for x in TEXT], dtype="boolean")
    assert metrics.score_domains(switches, pred)["n_scored"] == 54
    assert metrics.score_domains(switches, pred, unlabelled=(True,))["n_scored"] == 36


def test_labels_of_another_shape_or_kind_are_refused():
    for wrong in (np.zeros((4, 2)), "abc", 3, pd.DataFrame({"a": [1], "b": [2]})):
        with pytest.raises(ValueError, match="labels_pred is one label per spot"):
            metrics.score_domains(None, wrong)
    unhashable = np.empty(3, dtype=object)
    unhashable[:] = [[1], [2], [3]]
    with pytest.raises(ValueError, match="labels_true holds labels that cannot be compared"):
        metrics.ari(unhashable, [1, 2, 3])


def test_coordinates_must_be_numbers(toy):
    _, truth, _ = toy
    for wrong in (np.full((N, 2), "a"), np.full((N, 2), 1j), np.full((N, 2), "2020-01-01", dtype="datetime64[D]")):
        with pytest.raises(ValueError, match=r"coords hold .*, not numbers"):
            metrics.chaos(wrong, truth)
        with pytest.raises(ValueError, match=r"coords hold .*, not numbers"):
            metrics.score_domains(None, truth, wrong)
    with pytest.raises(ValueError, match=r"k=2.5 must be a whole number"):
        metrics.pas(toy[0], truth, k=2.5)
    with pytest.raises(ValueError, match="edges hold float64, expected integers"):
        metrics.fide([[0.5, 1.0]], truth)
