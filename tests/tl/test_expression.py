"""Genes from H&E: heads that are trained, kept and applied."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData, read_zarr

import storm
from storm._bridge import select_table
from storm.data.normalise import log_normalise
from storm.metrics.expression import pearson_per_gene

QUICK = storm.HeadConfig(penalty=1.0, epochs=30, lr=2e-3, batch_size=32, hidden=32)


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
    storm.tl.predict_expression(toy, model=tiny_model, head=head)
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
    one = storm.tl.predict_expression(toy, model=tiny_model, head=head, copy=True)
    toy.tables["table"].X = toy.tables["table"].X * 0
    two = storm.tl.predict_expression(toy, model=tiny_model, head=head, copy=True)
    np.testing.assert_array_equal(one.tables["table"].layers["storm"], two.tables["table"].layers["storm"])


def test_some_genes_and_a_table_of_their_own(toy, tiny_model, head):
    names = list(toy.tables["table"].var_names[[4, 2]])
    storm.tl.predict_expression(toy, names, model=tiny_model, head=head)
    layer = toy.tables["table"].layers["storm"]
    assert np.isfinite(layer[:, [2, 4]]).all()
    assert np.isnan(np.delete(layer, [2, 4], axis=1)).all()
    storm.tl.predict_expression(toy, names, model=tiny_model, head=head, to="table")
    new = toy.tables["table_storm"]
    assert list(new.var_names) == names
    np.testing.assert_array_equal(new.X, layer[:, [4, 2]])
    assert (new.obs_names == toy.tables["table"].obs_names).all()
    assert new.uns["spatialdata_attrs"]["region"] == toy.tables["table"].uns["spatialdata_attrs"]["region"]


def test_genes_that_the_table_lacks_go_into_a_new_table(toy, tiny_model, head):
    toy.tables["table"] = toy.tables["table"][:, 5:].copy()
    storm.tl.predict_expression(toy, model=tiny_model, head=head)
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
    one = storm.tl.predict_expression(toy, model=tiny_model, head=head, copy=True)
    two = storm.tl.predict_expression(toy, model=tiny_model, head=again, copy=True)
    np.testing.assert_array_equal(one.tables["table"].layers["storm"], two.tables["table"].layers["storm"])
    with open(tmp_path / "h" / "head.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00\x01")
    with pytest.raises(ValueError, match="corrupted"):
        storm.ExpressionHead.load(tmp_path / "h")


def test_reliability_without_a_mask(toy, tiny_model):
    single = storm.tl.fit_expression(toy, model=tiny_model, n_genes=20, config=QUICK)
    assert single.notes["reliability"] == "each fifth along x left out in turn, mean"
    assert len(single.genes) == 20
    several = storm.tl.fit_expression(
        [toy, toy, toy], model=tiny_model, n_genes=5, config=QUICK, groups=["a", "a", "b"]
    )
    assert "group in turn" in several.notes["reliability"]
    assert np.isfinite(several.reliability).all()


def test_obs_column_as_mask(toy, tiny_model, head, left):
    toy.tables["table"].obs["fit"] = left
    again = storm.tl.fit_expression(toy, model=tiny_model, train="fit", config=QUICK)
    np.testing.assert_array_equal(again.reliability, head.reliability)


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
    with pytest.raises(KeyError, match="'domain'"):
        storm.tl.fit_expression(toy, model=tiny_model, train="fold")
    assert set(toy.tables) == {"table"}
    assert not toy.tables["table"].layers


def test_packaged_head_predicts_without_any_counts(toy):
    alone = SpatialData(images=dict(toy.images))
    storm.tl.predict_expression(alone, ["ERBB2", "COL1A1"])
    assert list(alone.tables["tiles_storm"].var_names) == ["ERBB2", "COL1A1"]
    assert np.isfinite(alone.tables["tiles_storm"].var["storm_r"]).all()


def test_of_genes_that_vary_equally_the_first_are_chosen():
    from types import SimpleNamespace

    from scipy.sparse import csr_matrix

    from storm.tl._fit_expression import _choose

    rng = np.random.default_rng(0)
    expression = np.zeros((30, 600), dtype=np.float32)
    equal = 1 + np.arange(299) * 2
    expression[:, equal] = rng.integers(0, 5, (30, 1))
    used = np.ones(30, dtype=bool)
    genes = np.array([f"gene{k}" for k in range(600)])
    sample = SimpleNamespace(genes=genes, expression=csr_matrix(expression), usable=used, train=used)
    assert _choose([sample], None, 70) == genes[equal[:70]].tolist()
