"""Predictions that are larger than memory: in a store of their own, or in a scratch file."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
import spatialdata
from spatialdata import SpatialData

import storm
from storm._inference import predicted_genes
from storm.data import rows

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

LINEAR = storm.HeadConfig(penalty=1.0, epochs=0)


@pytest.fixture(scope="module")
def head(toy_once, tiny_model):
    return storm.tl.fit_expression(spatialdata.deepcopy(toy_once), n_genes=12, model=tiny_model, config=LINEAR)


@pytest.fixture
def small_blocks(monkeypatch, tiny_model):
    """Blocks of 40 rows: the section's 150 spots are three and a part."""
    width = tiny_model.network.config.he_dim + tiny_model.network.config.decoder_width
    monkeypatch.setattr(predicted_genes, "_BLOCK", 40 * width)


@pytest.mark.usefixtures("small_blocks")
def test_a_store_of_its_own_holds_what_the_table_would(toy, tiny_model, head, tmp_path):
    how = {"model": tiny_model, "head": head, "keep": "all", "intervals": True}
    before = list(toy.tables)
    assert storm.tl.predict_expression(toy, out=tmp_path / "genes.zarr", **how) is None
    assert list(toy.tables) == before
    assert "storm" not in toy.tables["table"].layers
    assert [path.name for path in tmp_path.iterdir()] == ["genes.zarr"]
    storm.tl.predict_expression(toy, to="table", **how)
    table, stored = toy.tables["table_storm"], ad.read_zarr(tmp_path / "genes.zarr")
    np.testing.assert_array_equal(stored.X, table.X)
    assert stored.X.dtype == np.float32
    assert set(stored.layers) - {None} == {"storm_lower", "storm_upper"}
    for name in ("storm_lower", "storm_upper"):
        np.testing.assert_array_equal(stored.layers[name], table.layers[name])
    assert stored.var_names.equals(table.var_names)
    np.testing.assert_array_equal(stored.var["storm_r"], table.var["storm_r"])
    np.testing.assert_array_equal(stored.obs["storm_ood_p"], table.obs["storm_ood_p"])
    assert stored.uns["storm"]["storm"]["sha256"] == tiny_model.sha256
    # it annotates the same shapes
    toy.tables["stored"] = stored
    assert stored.uns["spatialdata_attrs"]["region"] == table.uns["spatialdata_attrs"]["region"]


@pytest.mark.usefixtures("small_blocks")
def test_a_store_is_read_lazily(toy, tiny_model, head, tmp_path):
    storm.tl.predict_expression(toy, model=tiny_model, head=head, keep="all", out=str(tmp_path / "genes.zarr"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental
        lazy = ad.experimental.read_lazy(tmp_path / "genes.zarr")
    assert not isinstance(lazy.X, np.ndarray)
    one = np.asarray(lazy[:, 3].X).ravel()
    np.testing.assert_array_equal(one, ad.read_zarr(tmp_path / "genes.zarr").X[:, 3])


@pytest.mark.usefixtures("small_blocks")
def test_an_error_on_the_way_leaves_nothing(toy, tiny_model, head, tmp_path, monkeypatch):
    calls = []

    def fail(*args):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return apply(*args)

    apply = predicted_genes.apply_head
    monkeypatch.setattr(predicted_genes, "apply_head", fail)
    with pytest.raises(OSError, match=r"no room left on the disk .*genes.zarr, which takes 7,200 bytes"):
        storm.tl.predict_expression(toy, model=tiny_model, head=head, keep="all", out=tmp_path / "genes.zarr")
    assert list(tmp_path.iterdir()) == []
    assert list(toy.tables) == ["table"]


def test_places_that_cannot_be_written_are_refused_first(toy, tiny_model, head, tmp_path, monkeypatch):
    how = {"model": tiny_model, "head": head, "keep": "all"}
    toy.write(tmp_path / "section.zarr")
    stored = spatialdata.read_zarr(tmp_path / "section.zarr")
    monkeypatch.setattr(predicted_genes, "apply_head", None)  # nothing is computed
    with pytest.raises(FileExistsError, match=r"section\.zarr' exists; give another name"):
        storm.tl.predict_expression(stored, out=tmp_path / "section.zarr", **how)
    with pytest.raises(ValueError, match="lies inside the object's own store"):
        storm.tl.predict_expression(stored, out=tmp_path / "section.zarr" / "genes.zarr", **how)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        storm.tl.predict_expression(stored, out=tmp_path / "none" / "genes.zarr", **how)
    with pytest.raises(TypeError, match="out=3 is not a path"):
        storm.tl.predict_expression(stored, out=3, **how)
    for more, what in (({"to": "layer"}, "to='layer'"), ({"copy": True}, "copy=True")):
        with pytest.raises(ValueError, match=f"which {what} does not go with"):
            storm.tl.predict_expression(toy, out=tmp_path / "genes.zarr", **how, **more)
    with pytest.raises(ValueError, match="a list of objects does not go with"):
        storm.tl.predict_expression([toy, stored], out=tmp_path / "genes.zarr", **how)


def test_the_grid_of_a_slide_without_spots_is_kept(toy, tiny_model, head, tmp_path):
    alone = SpatialData(images=dict(toy.images))
    storm.tl.predict_expression(alone, head.genes[:7], model=tiny_model, head=head, out=tmp_path / "genes.zarr")
    stored = ad.read_zarr(tmp_path / "genes.zarr")
    assert stored.shape == (len(alone.shapes["storm_tiles"]), 7)
    assert list(alone.tables) == ["tiles"]
    assert np.isfinite(stored.X).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("to", ["layer", "table"])
def test_what_is_too_large_for_memory_lies_in_a_file(toy, tiny_model, head, tmp_path, monkeypatch, to):
    if to == "layer":
        toy.tables["table"] = toy.tables["table"][:, list(head.genes)].copy()
    how = {"model": tiny_model, "head": head, "keep": "all", "to": to}
    wanted = storm.tl.predict_expression(toy, copy=True, **how)
    monkeypatch.setattr(rows, "_IN_MEMORY", 150 * 10 * 4)
    storm.tl.predict_expression(toy, **how)
    values, expected = (
        d.tables["table"].layers["storm"] if to == "layer" else d.tables["table_storm"].X for d in (toy, wanted)
    )
    assert isinstance(values.base, np.memmap)
    np.testing.assert_array_equal(values, expected)
    toy.write(tmp_path / "section.zarr")
    again = spatialdata.read_zarr(tmp_path / "section.zarr").tables["table" if to == "layer" else "table_storm"]
    np.testing.assert_array_equal(again.layers["storm"] if to == "layer" else again.X, expected)
