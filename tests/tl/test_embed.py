"""``storm.tl.embed`` on whole objects."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from spatialdata import SpatialData
from spatialdata.transformations import Affine, get_transformation, set_transformation

import storm


def embedded(data, model, **kwargs):
    return storm.tl.embed(data, model=model, copy=True, **kwargs)


def vector(sdata, key="X_storm"):
    return sdata.tables["table"].obsm[key]


def test_writes_what_the_outputs_page_says(toy, tiny_model):
    table = toy.tables["table"]
    before, names = table.X.copy(), table.obs_names.copy()
    assert storm.tl.embed(toy, model=tiny_model) is None
    x = table.obsm["X_storm"]
    assert x.dtype == np.float32
    assert x.shape[0] == table.n_obs
    assert np.isfinite(x).all()
    facts = table.uns["storm"]["X_storm"]
    assert facts["modality"] == "both"
    assert facts["sha256"] == tiny_model.sha256
    assert facts["um_per_px"] == pytest.approx(1.0)
    assert "um" in facts["um_source"]
    assert facts["genes"]["matched"] == table.n_vars
    assert facts["windows"] == "hex"
    assert facts["precision"] == "fp32"
    assert (table.X != before).nnz == 0
    assert (table.obs_names == names).all()
    assert set(toy.tables) == {"table"}


def test_copy_leaves_the_object_alone(toy, tiny_model):
    copy = embedded(toy, tiny_model)
    assert "X_storm" not in toy.tables["table"].obsm
    assert "storm" not in toy.tables["table"].uns
    assert "X_storm" in copy.tables["table"].obsm
    assert copy.images["he"] is toy.images["he"]


@pytest.mark.parametrize("readout", ["center", "window", "reconstruction"])
@pytest.mark.parametrize("modality", ["he", "st", "both"])
def test_modalities_and_readouts(toy, tiny_model, modality, readout):
    x = vector(embedded(toy, tiny_model, modality=modality, readout=readout))
    assert np.isfinite(x).all()
    assert x.std(axis=0).min() > 0
    again = vector(embedded(toy, tiny_model, modality=modality, readout=readout))
    np.testing.assert_array_equal(x, again)


def test_batch_size_changes_nothing(toy, tiny_model):
    np.testing.assert_allclose(
        vector(embedded(toy, tiny_model, batch_size=17)), vector(embedded(toy, tiny_model, batch_size=512)), atol=2e-5
    )


def test_each_modality_reads_its_own_data_only(toy, tiny_model):
    he = vector(embedded(toy, tiny_model, modality="he"))
    st = vector(embedded(toy, tiny_model, modality="st"))
    rng = np.random.default_rng(0)
    toy.tables["table"].X = toy.tables["table"].X[rng.permutation(toy.tables["table"].n_obs)]
    np.testing.assert_array_equal(vector(embedded(toy, tiny_model, modality="he")), he)
    assert not np.allclose(vector(embedded(toy, tiny_model, modality="st")), st, atol=1e-2)


def test_order_of_the_table_is_followed(toy, tiny_model):
    x = vector(embedded(toy, tiny_model))
    order = np.random.default_rng(1).permutation(toy.tables["table"].n_obs)
    toy.tables["table"] = toy.tables["table"][order].copy()
    np.testing.assert_allclose(vector(embedded(toy, tiny_model)), x[order], atol=2e-5)


def test_per_modality_parts_make_the_whole(toy, tiny_model):
    copy = embedded(toy, tiny_model, per_modality=True, key_added="Z").tables["table"]
    np.testing.assert_array_equal(np.hstack([copy.obsm["Z_he"], copy.obsm["Z_st"]]), copy.obsm["Z"])


def test_anndata_is_expression_only(toy, tiny_model):
    table = toy.tables["table"]
    adata = ad.AnnData(table.X.copy(), obs=table.obs[[]].copy(), var=table.var.copy())
    adata.obsm["spatial"] = np.asarray(table.obsm["spatial"])
    storm.tl.embed(adata, model=tiny_model)
    np.testing.assert_allclose(adata.obsm["X_storm"], vector(embedded(toy, tiny_model, modality="st")), atol=1e-4)
    assert adata.uns["storm"]["X_storm"]["modality"] == "st"
    with pytest.raises(ValueError, match="image"):
        storm.tl.embed(adata, model=tiny_model, modality="he")


def test_table_only(toy, tiny_model):
    alone = SpatialData(shapes=dict(toy.shapes), tables={"table": toy.tables["table"].copy()})
    storm.tl.embed(alone, model=tiny_model)
    np.testing.assert_allclose(vector(alone), vector(embedded(toy, tiny_model, modality="st")), atol=1e-4)


def test_image_only_gets_a_grid_of_tiles(toy, tiny_model):
    alone = SpatialData(images=dict(toy.images), attrs={})
    storm.tl.embed(alone, model=tiny_model)
    table = alone.tables["tiles"]
    assert "storm_tiles" in alone.shapes
    assert len(alone.shapes["storm_tiles"]) == table.n_obs
    assert np.isfinite(table.obsm["X_storm"]).all()
    assert table.uns["storm"]["X_storm"]["field_um"] == 112.0
    storm.tl.domains(alone, 3)
    assert alone.tables["tiles"].obs["storm_domain"].nunique() == 3


def test_rows_that_cannot_be_computed_are_nan_and_counted(toy, tiny_model):
    table = toy.tables["table"]
    x = table.X.tolil()
    x[3] = 0
    table.X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 150 rows of 'X_storm' are NaN: 1 without counts"):
        storm.tl.embed(toy, model=tiny_model, modality="st")
    missing = np.isnan(vector(toy)).all(axis=1)
    assert missing.nonzero()[0].tolist() == [3]
    storm.tl.embed(toy, model=tiny_model)
    assert np.isfinite(vector(toy)).all(), "its H&E is there"


def test_spots_off_the_image_are_nan(toy, tiny_model):
    shapes = toy.shapes["spots"].copy()
    for name, transformation in get_transformation(toy.shapes["spots"], get_all=True).items():
        set_transformation(shapes, transformation, name)
    moved = shapes.geometry.copy()
    moved.iloc[:2] = shapes.geometry.iloc[:2].translate(xoff=1e6)
    shapes["geometry"] = moved
    toy.shapes["spots"] = shapes
    with pytest.warns(UserWarning, match="2 of 150 rows.*2 centred outside the image"):
        storm.tl.embed(toy, model=tiny_model, modality="he")
    assert np.isnan(vector(toy)).all(axis=1).nonzero()[0].tolist() == [0, 1]


def test_scale_is_true_to_the_micrometre(toy, tiny_model):
    """The same tissue under a transformation that halves the µm per pixel shows another field, and not the same."""
    x = vector(embedded(toy, tiny_model, modality="he"))
    half = Affine(np.diag([0.5, 0.5, 1.0]), input_axes=("x", "y"), output_axes=("x", "y"))
    for element in (toy.images["he"], toy.shapes["spots"]):
        set_transformation(element, half, "um")
    small = vector(embedded(toy, tiny_model, modality="he"))
    assert not np.allclose(x, small, atol=1e-2)
    double = vector(embedded(toy, tiny_model, modality="he", field_um=56.0))
    np.testing.assert_allclose(double, x, atol=0.15)
    assert np.corrcoef(double.ravel(), x.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"modality": "rna"}, ValueError, "modality='rna'"),
        ({"readout": "nose"}, ValueError, "readout='nose'"),
        ({"device": "cuda:7"}, ValueError, "not on this machine"),
        ({"device": "toaster"}, ValueError, "toaster"),
        ({"precision": "int4"}, ValueError, "precision='int4'"),
        ({"batch_size": -1}, ValueError, "batch_size"),
        ({"field_um": 0}, ValueError, "field_um"),
        ({"image_key": "nope"}, KeyError, "'he'"),
        ({"table_key": "nope"}, KeyError, "'table'"),
        ({"layer": "nope"}, KeyError, "nope"),
        ({"window": "star"}, ValueError, "window='star'"),
        ({"model": "storm-huge"}, ValueError, "storm-mini"),
    ],
)
def test_bad_arguments_leave_the_object_alone(toy, tiny_model, changes, error, text):
    before = toy.tables["table"].copy()
    with pytest.raises(error, match=text):
        storm.tl.embed(toy, **{"model": tiny_model, **changes})
    after = toy.tables["table"]
    assert set(after.obsm) == set(before.obsm)
    assert "storm" not in after.uns
    assert list(after.obs.columns) == list(before.obs.columns)


def test_too_few_shared_genes(toy, tiny_model):
    table = toy.tables["table"]
    table.var_names = [f"UNKNOWN{i}" for i in range(table.n_vars)]
    with pytest.raises(ValueError, match=f"only 0 of the table's {table.n_vars} genes"):
        storm.tl.embed(toy, model=tiny_model)
    storm.tl.embed(toy, model=tiny_model, modality="he")


def test_case_and_unknown_genes_are_reported(toy, tiny_model):
    table = toy.tables["table"]
    names = table.var_names.to_list()
    table.var_names = [names[0].lower(), "NOGENE", *names[2:]]
    storm.tl.embed(toy, model=tiny_model, modality="st")
    facts = table.uns["storm"]["X_storm"]
    assert list(facts["genes_missing"]) == ["NOGENE"]
    assert list(facts["genes_aliased"]) == [f"{names[0].lower()}={names[0]}"]


@pytest.mark.parametrize("platform", ["visium_hd", "xenium", "cosmx", "st"])
def test_platforms(tiny_model, platform):
    sdata = storm.datasets.toy(platform, n=120, seed=0)
    with np.errstate(all="raise"):
        storm.tl.embed(sdata, model=tiny_model)
    table = sdata.tables["table"]
    assert np.isfinite(table.obsm["X_storm"]).all()
    kinds = {"visium_hd": "square", "st": "square", "xenium": "knn", "cosmx": "knn"}
    assert table.uns["storm"]["X_storm"]["windows"] == kinds[platform]


def test_bf16_is_close(toy, tiny_model):
    plain, rough = (vector(embedded(toy, tiny_model, precision=p)) for p in ("fp32", "bf16"))
    cosine = (plain * rough).sum(1) / np.linalg.norm(plain, axis=1) / np.linalg.norm(rough, axis=1)
    assert np.median(cosine) > 0.99


def test_survives_writing(toy, tiny_model, tmp_path):
    storm.tl.embed(toy, model=tiny_model)
    storm.tl.domains(toy, 3)
    toy.tables["table"].write_h5ad(tmp_path / "t.h5ad")
    again = ad.read_h5ad(tmp_path / "t.h5ad")
    np.testing.assert_array_equal(again.obsm["X_storm"], vector(toy))
    assert again.uns["storm"]["X_storm"]["sha256"] == tiny_model.sha256
    assert list(again.obs["storm_domain"]) == list(toy.tables["table"].obs["storm_domain"])


def test_dense_field(tiny_model, caplog, monkeypatch) -> None:
    """Bins of 8 µm, seen through one pass over the tissue and through a tile around each: the same, and told apart."""
    bins = storm.datasets.toy("visium_hd", n=300, seed=0)
    table = bins.tables["table"]
    how = {"model": tiny_model, "modality": "he"}
    with monkeypatch.context() as patch:
        patch.setattr("storm._inference.tile_cache._MANY", 200)
        storm.tl.embed(bins, key_added="X_exact", **how)
    assert "fields of 112 µm overlap" in caplog.text
    storm.tl.embed(bins, key_added="X_dense", field="dense", **how)
    cosine = (table.obsm["X_exact"] * table.obsm["X_dense"]).sum(1) / (
        np.linalg.norm(table.obsm["X_exact"], axis=1) * np.linalg.norm(table.obsm["X_dense"], axis=1)
    )
    assert np.nanmin(cosine) > 0.98
    assert table.uns["storm"]["X_dense"]["field"] == "dense"
    assert table.uns["storm"]["X_exact"]["field"] == "exact"
    # what one way left is not taken for the other's
    storm.tl.encode_tiles(bins, "stain-texture", field="dense")
    storm.tl.embed(bins, key_added="X_again", **how)
    assert not table.uns["storm"]["X_again"]["tiles_reused"]
    assert "made with another field" in caplog.text
    storm.tl.embed(bins, key_added="X_again", field="dense", **how)
    assert table.uns["storm"]["X_again"]["tiles_reused"]
    np.testing.assert_array_equal(table.obsm["X_again"], table.obsm["X_dense"])
    with pytest.raises(ValueError, match="field='dens' is not an option"):
        storm.tl.embed(bins, field="dens", **how)
