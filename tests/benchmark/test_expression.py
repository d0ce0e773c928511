"""Comparison of methods for expression: one table, splits without leaks, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import spatialdata

import storm
from storm.benchmark._splits import make_splits

METHODS = ["storm", "mean", "ridge", "mlp"]
PATIENTS = {"a": "p", "b": "p", "c": "q"}


@pytest.fixture(scope="module")
def sections() -> dict[str, spatialdata.SpatialData]:
    """Three small sections whose tiles are encoded once."""
    made = {name: storm.datasets.toy("visium", n=80, seed=k) for k, name in enumerate(PATIENTS)}
    for one in made.values():
        storm.tl.encode_tiles(one, "stain-texture")
    return made


def counts(one: spatialdata.SpatialData) -> pd.DataFrame:
    """log1p of counts per 10,000, by hand."""
    x = one.tables["table"].to_df()
    return np.log1p(x.div(x.sum(axis=1), axis=0) * 1e4)


@pytest.fixture(scope="module")
def table(sections) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    right = {name: counts(one).sample(frac=1, random_state=1) for name, one in sections.items()}
    noise = {name: values + rng.normal(0, 3, values.shape) for name, values in right.items()}
    return storm.benchmark.expression(
        sections, METHODS, groups=PATIENTS, genes={"train": "train", "test": "test"}, n_genes=20, seeds=[3, 4],
        predictions={"right": right, "noise": {"c": noise["c"]}}, epochs=3, device="cpu",
    )  # fmt: skip


def test_same_spots_genes_and_targets_for_all(table):
    assert list(dict.fromkeys(table["method"])) == [*METHODS, "right", "noise"]
    assert list(dict.fromkeys(table["split"])) == ["patient p", "patient q"]
    assert set(table["genes"]) == {"train 20", "test 20"}
    of = table.groupby(["split", "genes", "section"])
    for (split, _, section), rows in of:
        assert split == f"patient {PATIENTS[section]}"
        runs = [
            own[["gene", "n", "truth_mean", "truth_zeros", "train_r"]].reset_index(drop=True)
            for _, own in rows.groupby(["method", "seed"])
        ]
        assert len(runs) == (8 if section == "c" else 7)  # two of seeds each of two, the others once
        for own in runs[1:]:
            pd.testing.assert_frame_equal(own, runs[0])
    assert set(table.loc[table["method"] == "ridge", "seed"]) == {3}
    assert set(table.loc[table["method"] == "mlp", "seed"]) == {3, 4}
    mlp = table[table["method"] == "mlp"].groupby("seed")["pearson"].apply(list)
    assert mlp[3] != mlp[4]
    assert set(table.loc[table["method"] == "noise", "section"]) == {"c"}


def test_flags(table):
    assert not table["same_patient"].any()
    assert table.groupby("genes")["genes_saw_test"].unique().map(list).to_dict() == {
        "train 20": [False],
        "test 20": [True],
    }
    lists = table.groupby(["split", "genes"])["gene"].agg(frozenset)
    # with two patients, the genes of one are those that train in one split and are judged in the other
    assert lists["patient p", "train 20"] == lists["patient q", "test 20"] != lists["patient q", "train 20"]


def test_predictions_of_the_user_are_scored_as_they_are(table, sections):
    own = table[table["method"] == "right"]
    assert own["pearson"].to_numpy() == pytest.approx(1)
    assert own["pearson_pooled"].to_numpy() == pytest.approx(1)
    assert own["rmse"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert own["seconds"].isna().all()
    row = own[(own["section"] == "b")].iloc[0]
    want = counts(sections["b"])[row["gene"]]
    assert row["truth_mean"] == pytest.approx(want.mean(), rel=1e-5)
    assert row["truth_zeros"] == pytest.approx((want == 0).mean())
    assert table.loc[table["method"] == "mean", "pearson"].isna().all()


def test_storm_is_what_fit_and_predict_make(table, sections):
    rows = table[(table["method"] == "storm") & (table["genes"] == "train 20") & (table["seed"] == 3)]
    rows = rows[rows["section"] == "c"].set_index("gene")
    head = storm.tl.fit_expression(
        [sections["a"], sections["b"]], rows.index.tolist(), groups=["p", "p"], device="cpu", conformal=False,
        config=storm.HeadConfig(seed=3),
    )  # fmt: skip
    judged = spatialdata.deepcopy(sections["c"])
    storm.tl.predict_expression(judged, head=head, keep="all", to="table", device="cpu")
    predicted = judged.tables["table_storm"].to_df()[rows.index]
    truth = counts(sections["c"])[rows.index]
    want = storm.metrics.pearson_per_gene(truth.to_numpy(), predicted.to_numpy())
    assert rows["pearson"].to_numpy() == pytest.approx(want, abs=1e-4)


def test_within_patients_is_said(sections):
    found = storm.benchmark.expression(
        sections, ["ridge"], groups=["p", "p", "q"], splits="sections", n_genes=5, seeds=[0], device="cpu",
        encoders=["model", "random:timm:test_resnet"],
    )  # fmt: skip
    assert found["same_patient"].all()
    assert set(found["split"]) == {"sections of p"}  # q has one section only
    assert set(found["section"]) == {"a", "b"}
    assert set(found["encoder"]) == {"stain-texture", "random:timm:test_resnet"}
    r = found.groupby("encoder")["pearson"].apply(list)
    assert r["stain-texture"] != r["random:timm:test_resnet"]


def test_nothing_is_written(sections):
    before = {name: (set(one.tables), set(one.tables["table"].obsm)) for name, one in sections.items()}
    storm.benchmark.expression(sections, ["mean"], groups=PATIENTS, n_genes=3, device="cpu")
    assert {name: (set(one.tables), set(one.tables["table"].obsm)) for name, one in sections.items()} == before


def test_summary_and_curves_by_hand():
    base = {"method": "m", "encoder": "", "split": "s", "same_patient": False, "genes": "l", "seconds": 2.0}
    rows = [
        {**base, "section": section, "seed": seed, "gene": gene, "pearson": r + 0.1 * seed, "pearson_pooled": 0.5,
         "spearman": r, "rmse": 1.0, "ssim": 0.0, "train_r": rank}
        for section, scores in {"a": (0.1, 0.5, 0.3), "b": (0.3, 0.7, 0.2)}.items()
        for seed in (0, 1)
        for gene, r, rank in zip("xyz", scores, (0.9, 0.5, 0.1), strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    row = storm.benchmark.summary(table).iloc[0]
    assert row[["sections", "n_genes"]].tolist() == [2, 3]
    assert row["r"] == pytest.approx((0.3 + 0.3) / 2 + 0.05)
    assert row["r_sd"] == pytest.approx(0)
    assert row["r_seeds_sd"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert row["r_pooled"] == pytest.approx(0.5)
    assert row["seconds"] == 2
    assert np.isnan(row["top_50"])
    assert storm.benchmark.by_section(table)["r"].tolist() == pytest.approx([0.3, 0.4, 0.3, 0.4])
    # of each gene the mean over sections: .2, .6, .25
    curve = storm.benchmark.top_n(table, [1, 2, 3, 4])
    assert curve["n"].tolist() == [1, 2, 3]
    assert curve["r"].tolist() == pytest.approx([0.25, 0.45, 0.3])
    flattered = storm.benchmark.top_n(table, [1, 2], ranked_on="evaluated")
    assert flattered["r"].tolist() == pytest.approx([0.65, 0.475])
    with pytest.raises(ValueError, match="ranked_on='best'"):
        storm.benchmark.top_n(table, ranked_on="best")
    with pytest.raises(ValueError, match=r"no column \['train_r'\]"):
        storm.benchmark.top_n(table.drop(columns="train_r"))


def test_a_table_that_was_written_gives_the_same(table, tmp_path):
    table.to_csv(tmp_path / "t.csv", index=False)
    read = storm.benchmark.summary(pd.read_csv(tmp_path / "t.csv"))
    want = storm.benchmark.summary(table)
    assert read["r"].tolist() == pytest.approx(want["r"].tolist(), nan_ok=True)
    assert len(read) == len(want) == 2 * 2 * 5 + 2


def test_splits():
    names, patients = ["a", "b", "c", "d"], ["p", "p", "q", "r"]
    found = make_splits("patients", names, patients)
    assert [(one.name, one.folds) for one in found] == [
        ("patient p", (((2, 3), (0, 1)),)),
        ("patient q", (((0, 1, 3), (2,)),)),
        ("patient r", (((0, 1, 2), (3,)),)),
    ]
    (within,) = make_splits("sections", names, patients)
    assert within.folds == (((1,), (0,)), ((0,), (1,)))
    assert within.same_patient
    (named,) = make_splits({"x": (["a", "c"], "d")}, names, patients)
    assert named.folds == (((0, 2), (3,)),)
    assert make_splits("sections", names, None)[0].name == "sections"


@pytest.mark.parametrize(
    ("splits", "patients", "text"),
    [
        ("patients", None, "patients of the sections are not known"),
        ({"x": (["a"], ["c"])}, None, "patients of the sections are not known"),
        ("patients", ["p"] * 3, "all sections are of patient 'p'"),
        ("sections", ["p", "q", "r"], "no patient has two sections"),
        ({"x": (["a"], ["b", "c"])}, ["p", "p", "q"], r"has patients \['p'\] on both sides"),
        ({"x": (["a"], [])}, ["p", "p", "q"], "0 to judge"),
        ({"x": "a"}, ["p", "p", "q"], "must be a pair"),
        ({}, ["p", "p", "q"], "splits is empty"),
        ("slides", ["p", "p", "q"], "splits='slides'"),
    ],
)
def test_splits_that_are_refused(splits, patients, text):
    with pytest.raises(ValueError, match=text):
        make_splits(splits, ["a", "b", "c"], patients)
    with pytest.raises(KeyError, match="'z' is not in the sections"):
        make_splits({"x": ("a", "z")}, ["a", "b"], ["p", "q"])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"methods": ["nope"]}, ValueError, "methods='nope'"),
        ({"methods": []}, ValueError, "nothing to compare"),
        ({"seeds": []}, ValueError, "seeds is empty"),
        ({"genes": {}}, ValueError, "genes is empty"),
        ({"genes": "all"}, ValueError, "genes='all'"),
        ({"genes": ["ERBB2", "NOPE1"]}, ValueError, r"1 of 2 genes are not measured in every section: \['NOPE1'\]"),
        ({"groups": ["p", None, "q"]}, ValueError, r"no patient for the sections at \[1\]"),
        ({"groups": {"a": "p", "c": "q"}}, ValueError, r"no patient for the sections at \[1\]"),
        ({"groups": {"z": "p"}}, KeyError, "'z' is not in the sections"),
        ({"groups": None, "group_key": "nope"}, KeyError, "nope"),
        ({"groups": None}, ValueError, "give group_key="),
        ({"encoders": ["nope"], "methods": ["ridge"]}, ValueError, "'nope' is unknown"),
        ({"encoders": ["random:stain-texture"], "methods": ["ridge"]}, ValueError, "no weights that could be random"),
        ({"methods": ["st_net_image"]}, FileNotFoundError, "densenet121"),
        ({"predictions": {"mean": "table"}}, ValueError, "name 'mean', which is that of a method"),
        ({"predictions": {"own": "nope"}}, KeyError, "'nope' is not in the tables of section 'a'"),
        ({"predictions": {"own": {"z": None}}}, KeyError, "'z' is not in the sections"),
        ({"predictions": {"own": {"a": np.zeros(3)}}}, TypeError, "is a ndarray"),
        ({"predictions": {"own": {"a": pd.DataFrame()}}}, ValueError, "lacks 80 of 80 spots"),
        ({"predictions": {"own": []}}, ValueError, "0 tables for 3 sections"),
    ],
)
def test_what_is_refused(sections, change, error, text):
    arguments = {"methods": ["mean"], "groups": PATIENTS, "n_genes": 3, "device": "cpu"} | change
    with pytest.raises(error, match=text):
        storm.benchmark.expression(sections, **arguments)


def test_sections_that_cannot_be_judged(sections):
    one = spatialdata.deepcopy(sections["c"])
    empty = np.arange(80) >= 2
    one.tables["table"].X = one.tables["table"].X.multiply(~empty[:, None]).tocsr()
    with pytest.raises(ValueError, match="section 'c' has 2 spots with counts"):
        storm.benchmark.expression({**sections, "c": one}, ["mean"], groups=PATIENTS, device="cpu")
    other = spatialdata.deepcopy(sections["c"])
    other.tables["table"].var_names = [f"other{k}" for k in range(other.tables["table"].n_vars)]
    with pytest.raises(ValueError, match="in common"):
        storm.benchmark.expression({**sections, "c": other}, ["mean"], groups=PATIENTS, device="cpu")
    lacking = {"c": counts(sections["c"]).iloc[:, :2]}
    with pytest.raises(ValueError, match=r"the predictions lack .* of the 10 genes of the list 'train 10'"):
        storm.benchmark.expression(
            sections, [], groups=PATIENTS, n_genes=10, predictions={"own": lacking}, device="cpu"
        )


def test_names_of_methods():
    every = storm.benchmark.methods(task="expression")
    assert set(storm.benchmark.methods("default", task="expression")) < set(every)
    kinds = [storm.benchmark.methods(kind, task="expression") for kind in ("storm", "comparators")]
    assert sorted([*kinds[0], *kinds[1]]) == sorted(every)
    assert all(name.endswith("_image") for name in storm.benchmark.methods("images", task="expression"))
    with pytest.raises(ValueError, match="task='genes'"):
        storm.benchmark.methods(task="genes")
