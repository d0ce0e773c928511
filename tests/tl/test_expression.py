"""Genes from H&E: heads that are trained, kept and applied."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import spatialdata
from anndata import AnnData
from spatialdata import SpatialData, read_zarr

import storm
from storm._bridge import select_table
from storm.data.normalise import log_normalise
from storm.metrics.expression import pearson_per_gene

QUICK = storm.HeadConfig(penalty=1.0, epochs=30, lr=2e-3, batch_size=32, hidden=32)


#: A ridge regression, which takes no time.
LINEAR = storm.HeadConfig(penalty=1.0, epochs=0)


@pytest.fixture(scope="module")
def encoded(toy_once) -> AnnData:
    """The section's table with the embeddings of its tiles, which take most of the time of a fit."""
    table = toy_once.tables["table"].copy()
    section = SpatialData(images=dict(toy_once.images), shapes=dict(toy_once.shapes), tables={"table": table})
    storm.tl.encode_tiles(section, "stain-texture")
    return table


@pytest.fixture
def toy(toy, encoded) -> SpatialData:
    """The section of all tests, whose tiles need not be embedded again."""
    toy.tables["table"] = encoded.copy()
    return toy


@pytest.fixture
def left(toy) -> np.ndarray:
    x = np.asarray(toy.tables["table"].obsm["spatial"])[:, 0]
    return x < np.quantile(x, 0.6)


@pytest.fixture
def head(toy, tiny_model, left):
    return storm.tl.fit_expression(toy, model=tiny_model, train=left, config=QUICK)


def test_predicts_the_other_half(toy, tiny_model, head, left):
    table = toy.tables["table"]
    before = table.X.copy()
    storm.tl.predict_expression(toy, model=tiny_model, head=head, keep="all")
    layer = table.layers["storm"]
    assert layer.dtype == np.float32
    assert layer.shape == table.shape
    truth = log_normalise(before).toarray()
    r = pearson_per_gene(truth[~left], layer[~left])
    shuffled = pearson_per_gene(truth[~left][np.random.default_rng(0).permutation((~left).sum())], layer[~left])
    top = np.argsort(-truth[left].var(axis=0))[:30]
    assert np.nanmedian(r[top]) > 0.3
    assert abs(np.nanmedian(shuffled[top])) < 0.15
    np.testing.assert_allclose(table.var["storm_r"], r, atol=2e-3)
    assert (table.X != before).nnz == 0
    facts = table.uns["storm"]["storm"]
    assert facts["n_genes"] == table.n_vars
    assert "log1p" in facts["units"]


def test_measured_counts_are_not_looked_at(toy, tiny_model, head):
    one = storm.tl.predict_expression(toy, model=tiny_model, head=head, keep="all", copy=True)
    toy.tables["table"].X = toy.tables["table"].X * 0
    two = storm.tl.predict_expression(toy, model=tiny_model, head=head, keep="all", copy=True)
    np.testing.assert_array_equal(one.tables["table"].layers["storm"], two.tables["table"].layers["storm"])


def test_some_genes_and_a_table_of_their_own(toy, tiny_model, head):
    names = list(toy.tables["table"].var_names[[4, 2]])
    storm.tl.predict_expression(toy, names, model=tiny_model, head=head, to="layer")
    layer = toy.tables["table"].layers["storm"]
    assert np.isfinite(layer[:, [2, 4]]).all()
    assert np.isnan(np.delete(layer, [2, 4], axis=1)).all()
    # by default no layer has columns without a prediction
    storm.tl.predict_expression(toy, names, model=tiny_model, head=head)
    new = toy.tables["table_storm"]
    assert list(new.var_names) == names
    np.testing.assert_array_equal(new.X, layer[:, [4, 2]])
    assert (new.obs_names == toy.tables["table"].obs_names).all()
    assert new.uns["spatialdata_attrs"]["region"] == toy.tables["table"].uns["spatialdata_attrs"]["region"]


def test_genes_that_the_table_lacks_go_into_a_new_table(toy, tiny_model, head):
    toy.tables["table"] = toy.tables["table"][:, 5:].copy()
    storm.tl.predict_expression(toy, model=tiny_model, head=head, keep="all")
    assert "storm" not in toy.tables["table"].layers
    assert toy.tables["table_storm"].n_vars == len(head.genes)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_predictions_under_names_of_their_own_do_not_compete(toy, tiny_model, head, tmp_path):
    """Whatever they are called, tables that STORM made need no ``table_key`` in later calls; other tables do."""
    for key_added in ("storm", "mine", "other_head"):
        storm.tl.predict_expression(toy, ["EPCAM"], model=tiny_model, head=head, key_added=key_added, to="table")
    toy.write(tmp_path / "a.zarr")
    for sdata in (toy, read_zarr(tmp_path / "a.zarr")):
        assert set(sdata.tables) == {"table", "table_storm", "table_mine", "table_other_head"}
        assert select_table(sdata)[0] == "table"
    storm.tl.embed(toy, model=tiny_model)
    assert "X_storm" in toy.tables["table"].obsm
    del toy.tables["table_mine"].uns["storm"]
    with pytest.raises(ValueError, match="several tables"):
        select_table(toy)


def test_a_table_of_other_places_competes(toy, tiny_model, head):
    storm.tl.predict_expression(toy, ["EPCAM"], model=tiny_model, head=head, key_added="mine", to="table")
    toy.shapes["copies"] = toy.shapes["spots"]
    toy.tables["table_mine"].obs["region"] = pd.Categorical(["copies"] * toy.tables["table"].n_obs)
    toy.tables["table_mine"].uns["spatialdata_attrs"]["region"] = "copies"
    with pytest.raises(ValueError, match=r"several tables; .* out of \['table', 'table_mine'\]"):
        select_table(toy)
    assert select_table(toy, "table_mine")[0] == "table_mine"


def test_a_prediction_that_is_the_only_table_is_a_table(toy, tiny_model, head):
    storm.tl.predict_expression(toy, ["EPCAM"], model=tiny_model, head=head, key_added="mine", to="table")
    del toy.tables["table"]
    assert select_table(toy)[0] == "table_mine"


def test_all_genes_are_those_with_counts(toy, tiny_model):
    table = toy.tables["table"]
    silent = table.var_names[3]
    table.X = table.X.multiply(np.arange(table.n_vars) != 3).tocsr()
    head = storm.tl.fit_expression(toy, "all", model=tiny_model, config=LINEAR, conformal=False)
    assert list(head.genes) == [name for name in table.var_names if name != silent]
    named = storm.tl.fit_expression(toy, list(head.genes), model=tiny_model, config=LINEAR, conformal=False)
    np.testing.assert_array_equal(named.module.linear.weight, head.module.linear.weight)


def test_image_only(toy, tiny_model, head):
    alone = SpatialData(images=dict(toy.images))
    storm.tl.predict_expression(alone, head.genes[:7], model=tiny_model, head=head)
    assert alone.tables["tiles_storm"].n_vars == 7
    assert alone.tables["tiles_storm"].n_obs == len(alone.shapes["storm_tiles"])
    assert np.isfinite(alone.tables["tiles_storm"].X).all()


def test_head_round_trip(toy, tiny_model, head, tmp_path):
    head.save(tmp_path / "h")
    again = storm.ExpressionHead.load(tmp_path / "h")
    assert again.genes == head.genes
    np.testing.assert_allclose(again.reliability, head.reliability, atol=1e-4)
    one = storm.tl.predict_expression(toy, model=tiny_model, head=head, intervals=True, copy=True)
    two = storm.tl.predict_expression(toy, model=tiny_model, head=again, intervals=True, copy=True)
    for old, new in zip(
        one.tables["table_storm"].layers.values(), two.tables["table_storm"].layers.values(), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    pd.testing.assert_frame_equal(one.tables["table_storm"].var, two.tables["table_storm"].var, atol=1e-4)
    pd.testing.assert_frame_equal(one.tables["table_storm"].obs, two.tables["table_storm"].obs)
    with open(tmp_path / "h" / "head.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00\x01")
    with pytest.raises(ValueError, match="corrupted"):
        storm.ExpressionHead.load(tmp_path / "h")


def copies(section: SpatialData, n: int) -> list[SpatialData]:
    return [spatialdata.deepcopy(section) for _ in range(n)]


def test_reliability_without_a_mask(toy, tiny_model):
    single = storm.tl.fit_expression(toy, model=tiny_model, n_genes=20, config=QUICK)
    assert single.notes["reliability"] == "each fifth along x left out in turn, mean"
    assert len(single.genes) == 20
    several = storm.tl.fit_expression(copies(toy, 3), model=tiny_model, n_genes=5, config=QUICK, groups=["a", "a", "b"])
    assert "group in turn" in several.notes["reliability"]
    assert several.notes["chosen_by"] == "nothing: penalty and epochs were given"
    assert np.isfinite(several.reliability).all()


def test_obs_column_as_mask(toy, tiny_model, head, left):
    toy.tables["table"].obs["fit"] = left
    again = storm.tl.fit_expression(toy, model=tiny_model, train="fit", config=QUICK)
    np.testing.assert_array_equal(again.reliability, head.reliability)


def test_a_table_of_ensembl_ids_is_fitted_and_predicted_as_one_of_symbols(toy):
    """storm-mini knows the ids of its genes; a layer meets what was measured, whatever the table calls its genes."""
    known = storm.load_model("storm-mini").vocabulary
    ids = {symbol: identifier for symbol, identifier in zip(known.symbols, known.ensembl, strict=True) if identifier}
    table = toy.tables["table"]
    genes = [gene for gene in table.var_names if gene in ids][:3]
    head = storm.tl.fit_expression(toy, genes, config=LINEAR)
    storm.tl.predict_expression(toy, head=head, to="layer")
    by_symbol = pd.DataFrame(table.layers["storm"], columns=table.var_names)[genes].to_numpy()
    assert np.isfinite(by_symbol).all()
    del table.layers["storm"]
    names = [f"{ids[gene]}.7" if gene in ids else gene for gene in table.var_names]
    columns = [list(table.var_names).index(gene) for gene in genes]
    table.var_names = names
    again = storm.tl.fit_expression(toy, genes, config=LINEAR)
    assert again.genes == tuple(genes)
    storm.tl.predict_expression(toy, [names[columns[0]], genes[1]], head=head, to="layer")
    np.testing.assert_array_equal(table.layers["storm"][:, columns[:2]], by_symbol[:, :2])
    # A head that was trained on ids, and a table of symbols.
    of_ids = storm.tl.fit_expression(toy, [names[column] for column in columns], config=LINEAR)
    table.var_names = [f"X{i}" if i not in columns else genes[columns.index(i)] for i in range(table.n_vars)]
    storm.tl.predict_expression(toy, head=of_ids, key_added="ids", to="layer")
    np.testing.assert_array_equal(table.layers["ids"][:, columns], by_symbol)


def _panel(toy: SpatialData, columns: np.ndarray) -> SpatialData:
    table = toy.tables["table"][:, columns].copy()
    return SpatialData(images=dict(toy.images), shapes=dict(toy.shapes), tables={"table": table})


def test_a_panel_beside_a_whole_transcriptome_is_normalised_over_the_common_genes(toy, tiny_model):
    """The same spots twice, once with a seventh of the genes: both are normalised by what they have in common."""
    table = toy.tables["table"]
    columns = np.arange(0, table.n_vars, 7)
    panel = _panel(toy, columns)
    genes = list(table.var_names[columns[:4]])
    linear = storm.HeadConfig(penalty=1e-2, epochs=0)
    alone = storm.tl.fit_expression(panel, genes, model=tiny_model, config=linear)
    with pytest.warns(UserWarning, match=rf"different genes: {len(columns)} common genes hold .* to 100% of their"):
        both = storm.tl.fit_expression([toy, panel], genes, model=tiny_model, config=linear)
    assert alone.notes["library"] == "all genes"
    assert both.notes["library"] == f"{len(columns)} common genes"
    assert both.notes["library_genes"] == sorted(name.upper() for name in table.var_names[columns])
    # Both sections then hold the same spots with the same targets, so that the head is that of either.
    storm.tl.predict_expression(toy, model=tiny_model, head=alone, key_added="alone", to="layer")
    storm.tl.predict_expression(toy, model=tiny_model, head=both, key_added="both", to="layer")
    np.testing.assert_allclose(table.layers["both"][:, columns[:4]], table.layers["alone"][:, columns[:4]], atol=2e-3)
    facts = table.uns["storm"]["both"]
    assert facts["head"]["library"] == f"{len(columns)} common genes"
    assert f"of the {len(columns)} genes that all training sections measure" in facts["units"]
    assert table.uns["storm"]["alone"]["units"] == "log1p of counts per 10,000"
    with pytest.raises(ValueError, match=r"have 12 genes in common, too few .*at least 20"):
        storm.tl.fit_expression([toy, _panel(toy, columns[:12])], genes, model=tiny_model, config=linear)


def test_sections_that_lack_some_rare_genes_keep_their_own_totals(toy, tiny_model):
    table = toy.tables["table"]
    rare = np.argsort(np.asarray(table.X.sum(axis=0)).ravel())[:40]
    other = _panel(toy, np.setdiff1d(np.arange(table.n_vars), rare))
    head = storm.tl.fit_expression([toy, other], n_genes=4, model=tiny_model, config=LINEAR)
    assert head.notes["library"] == "all genes"
    assert head.units == "log1p of counts per 10,000"


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", "  ", "nan"], ids=repr)
def test_a_missing_patient_is_an_error(toy, tiny_model, missing):
    with pytest.raises(ValueError, match=r"no patient for the sections at \[1\]"):
        storm.tl.fit_expression(copies(toy, 2), model=tiny_model, groups=["a", missing])


def test_patients_in_any_container_are_the_same(toy, tiny_model):
    labels = ["a", "b", "a"]
    kinds = [labels, tuple(labels), np.array(labels), pd.Categorical(labels), pd.Series(labels, dtype="string")]
    heads = [
        storm.tl.fit_expression(copies(toy, 3), n_genes=2, model=tiny_model, config=LINEAR, groups=kind)
        for kind in kinds
    ]
    for head in heads[1:]:
        np.testing.assert_array_equal(head.reliability, heads[0].reliability)
    with pytest.raises(ValueError, match="is a text for 3 sections"):
        storm.tl.fit_expression(copies(toy, 3), model=tiny_model, groups="aba")


def test_a_second_prediction_leaves_the_first_ones_reliability(toy, tiny_model, head):
    table = toy.tables["table"]
    one, two = list(table.var_names[:2])
    storm.tl.predict_expression(toy, one, model=tiny_model, head=head, to="layer")
    first = table.var["storm_r"].copy()
    assert np.isfinite(first[one])
    storm.tl.predict_expression(toy, [two], model=tiny_model, head=head, key_added="other", to="layer")
    pd.testing.assert_series_equal(table.var["storm_r"], first)
    assert np.isfinite(table.var["other_r"][two])
    assert np.isnan(table.var["other_r"][one])
    storm.tl.predict_expression(toy, [two], model=tiny_model, head=head, key_added="third", to="table")
    assert all(column.startswith("third_") for column in toy.tables["table_third"].var)


def test_training_statistics_make_a_spot_independent_of_distant_ones(toy, tiny_model):
    """Half of the object predicts as the whole does, away from the cut; by the section's statistics it does not."""
    x = np.asarray(toy.tables["table"].obsm["spatial"])[:, 0]
    left = x < np.median(x)
    inside = x[left] < np.quantile(x[left], 0.5)
    half = SpatialData(
        images=dict(toy.images), shapes=dict(toy.shapes), tables={"table": toy.tables["table"][left].copy()}
    )
    change = {}
    for kind in ("section", "training"):
        head = storm.tl.fit_expression(toy, n_genes=10, model=tiny_model, config=LINEAR, standardise=kind)
        assert head.standardise == kind
        for data in (toy, half):
            storm.tl.predict_expression(data, model=tiny_model, head=head, key_added=kind, to="table")
        whole = np.asarray(toy.tables[f"table_{kind}"].X)[left][inside]
        change[kind] = np.abs(whole - np.asarray(half.tables[f"table_{kind}"].X)[inside]).max()
        assert toy.tables[f"table_{kind}"].uns["storm"][kind]["standardise"] == kind
    assert change["training"] < 1e-4 < 1e-2 < change["section"]
    with pytest.warns(UserWarning, match="standardised by 'training' statistics, and standardise='section'"):
        storm.tl.predict_expression(
            toy, model=tiny_model, head=head, standardise="section", key_added="mixed", to="layer"
        )
    facts = toy.tables["table"].uns["storm"]["mixed"]
    assert (facts["standardise"], facts["head"]["standardise"]) == ("section", "training")


def test_a_head_of_one_species_on_another_warns(toy, tiny_model, head):
    table = toy.tables["table"]
    table.var_names = [name.title() for name in table.var_names]
    with pytest.warns(UserWarning, match=r"the head and the table are of different species \(human, mouse\)"):
        storm.tl.predict_expression(toy, model=tiny_model, head=head)


def test_errors(toy, tiny_model, head, left):
    with pytest.raises(ValueError, match="no expression head"):
        storm.tl.predict_expression(toy, model=tiny_model)
    with pytest.raises(ValueError, match="another model"):
        storm.tl.predict_expression(toy, head=head)
    with pytest.raises(ValueError, match=r"1 of 2 genes.*'NOGENE'"):
        storm.tl.predict_expression(toy, [head.genes[0], "NOGENE"], model=tiny_model, head=head)
    with pytest.raises(TypeError, match="AnnData"):
        storm.tl.predict_expression(toy.tables["table"], model=tiny_model, head=head)
    with pytest.raises(ValueError, match="boolean"):
        storm.tl.fit_expression(toy, model=tiny_model, train=np.zeros(3))
    with pytest.raises(ValueError, match="fewer than two spots"):
        storm.tl.fit_expression(toy, model=tiny_model, train=np.zeros_like(left))
    with pytest.raises(ValueError, match=r"1 of 1 genes are not measured.*'NOGENE'"):
        storm.tl.fit_expression(toy, ["NOGENE"], model=tiny_model)
    with pytest.raises(ValueError, match=r"1 of 1 genes are not measured.*'NOGENE'"):
        storm.tl.fit_expression(toy, "NOGENE", model=tiny_model)
    with pytest.raises(ValueError, match=r"genes names \['EPCAM'\] more than once"):
        storm.tl.fit_expression(toy, ["EPCAM", "KRT8", "EPCAM"], model=tiny_model)
    with pytest.raises(ValueError, match=r"genes names \['EPCAM'\] more than once"):
        storm.tl.predict_expression(toy, ["EPCAM", "EPCAM"], model=tiny_model, head=head)
    with pytest.raises(ValueError, match=r"\['epcam'\] are other names of genes that are given as well"):
        storm.tl.predict_expression(toy, ["EPCAM", "epcam"], model=tiny_model, head=head)
    with pytest.raises(ValueError, match="genes is empty"):
        storm.tl.fit_expression(toy, [], model=tiny_model)
    with pytest.raises(TypeError, match="genes holds 3"):
        storm.tl.predict_expression(toy, [3], model=tiny_model, head=head)
    with pytest.raises(ValueError, match="n_genes=0 must be a whole number of at least 1"):
        storm.tl.fit_expression(toy, model=tiny_model, n_genes=0)
    with pytest.raises(ValueError, match="standardise='spot'"):
        storm.tl.fit_expression(toy, model=tiny_model, standardise="spot")
    with pytest.raises(ValueError, match="missing values; it must be boolean"):
        storm.tl.fit_expression(toy, model=tiny_model, train=pd.Series(left, dtype="boolean").where(left))
    with pytest.raises(KeyError, match="'domain'"):
        storm.tl.fit_expression(toy, model=tiny_model, train="fold")
    assert set(toy.tables) == {"table"}
    assert not toy.tables["table"].layers


def test_packaged_head_predicts_without_any_counts(toy):
    alone = SpatialData(images=dict(toy.images))
    # A drawn tissue is none that it was trained on.
    with (
        pytest.warns(UserWarning, match="of the tiles are unlike those that the head was trained on"),
        pytest.warns(UserWarning, match=r"1 of 2 genes were predicted no better than chance .*\['COL1A1'\]"),
    ):
        storm.tl.predict_expression(alone, ["ERBB2", "COL1A1"])
    assert list(alone.tables["tiles_storm"].var_names) == ["ERBB2", "COL1A1"]
    assert np.isfinite(alone.tables["tiles_storm"].var["storm_r"]).all()


def test_of_genes_that_vary_equally_the_first_are_chosen():
    from types import SimpleNamespace

    from scipy.sparse import csr_matrix

    from storm.pretraining.head_sections import variable_genes

    rng = np.random.default_rng(0)
    expression = np.zeros((30, 600), dtype=np.float32)
    equal = 1 + np.arange(299) * 2
    expression[:, equal] = rng.integers(0, 5, (30, 1))
    used = np.ones(30, dtype=bool)
    genes = np.array([f"gene{k}" for k in range(600)])
    section = SimpleNamespace(symbols=genes, names=genes, expression=lambda: csr_matrix(expression), rows=used)
    assert variable_genes([section], 70) == genes[equal[:70]].tolist()


def test_patients_and_sections_of_a_column() -> None:
    objects = {name: storm.datasets.toy("visium", n=60, seed=seed) for seed, name in enumerate("ABC")}
    for patient, section in zip(("p1", "p1", "p2"), objects.values(), strict=True):
        table = section.tables["table"]
        table.obs["patient"] = patient
        table.obs["train"] = np.arange(table.n_obs) % 4 > 0
    genes = list(objects["A"].tables["table"].var_names[:3])
    joined = spatialdata.concatenate(objects, concatenate_tables=True)
    by_column = storm.tl.fit_expression(joined, genes, group_key="patient", conformal=False)
    by_list = storm.tl.fit_expression([*objects.values()], genes, groups=["p1", "p1", "p2"], conformal=False)
    assert by_list.notes["chosen_by"] == "the best on 2 patients, each held out in turn (penalty and epochs)"
    assert by_list.notes["config"]["keep"] == 1
    np.testing.assert_allclose(by_column.reliability, by_list.reliability, atol=1e-5)
    assert (by_column.n_sections, by_column.n_patients) == (3, 2)
    mask = joined.tables["table"].obs["train"].to_numpy()
    by_mask = storm.tl.fit_expression(joined, genes, train=mask, conformal=False)
    by_name = storm.tl.fit_expression(joined, genes, train="train", conformal=False)
    np.testing.assert_allclose(by_mask.reliability, by_name.reliability, atol=1e-6)
    with pytest.raises(ValueError, match=r"holds several sections.*group_key="):
        storm.tl.fit_expression(joined, genes, groups=["p1", "p1", "p2"])
    with pytest.raises(ValueError, match="both name patients"):
        storm.tl.fit_expression(joined, genes, groups=["p1", "p1", "p2"], group_key="patient")
    table = joined.tables["table"]
    table.obs["patient"] = table.obs["patient"].astype(object)
    table.obs.iloc[0, table.obs.columns.get_loc("patient")] = "p9"
    with pytest.raises(ValueError, match=r"group_key='patient': section 'spots-A' has 2 patients"):
        storm.tl.fit_expression(joined, genes, group_key="patient")
    table.obs.iloc[0, table.obs.columns.get_loc("patient")] = None
    with pytest.raises(ValueError, match=r"1 patients \('p1'\) and 1 rows without one"):
        storm.tl.fit_expression(joined, genes, group_key="patient")
