"""What a call was told of an object is found by the next one; the scale is said once."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import spatialdata as sd
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale, get_transformation, set_transformation
from tests.bridge.planted_section import circles, grid_px, image_element, section, table_for

import storm
from storm._bridge import Keys, read_spots, read_view, spots_of
from storm._bridge.study import open_study
from storm._keys import UM_PER_UNIT

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding", "ignore:.*obs_names:UserWarning")


def without_scale(region: str = "spots", image: str = "he", **parts) -> SpatialData:
    """A section whose image and spots meet in pixels, with no word of their length."""
    frame = {"global": Scale([1.0, 1.0], axes=("x", "y"))}
    whole = {
        "images": {image: image_element(frame)},
        "shapes": {region: circles(transformations=frame)},
        "tables": {"table": table_for(np.arange(len(grid_px())), region)},
    }
    return SpatialData(**{**whole, **parts})


def embedded(data, **keys) -> None:
    """Embed and divide without a network's time: what is remembered is the same."""
    study = open_study(
        data, Keys(**{k: v for k, v in keys.items() if k not in ("library_key", "image_key")}),
        library_key=keys.get("library_key"), image_key=keys.get("image_key"),
    )  # fmt: skip
    for one in study:
        selection = one.open()
        spots_of(selection)
        study.keep(one, obsm={"X_storm": np.zeros((selection.table.n_obs, 2), np.float32)}, uns={"X_storm": {}})
    study.write()


def um_of(data, **keys) -> float | None:
    scale = read_spots(data, table=False, **keys).scale
    return None if scale is None else scale.um_per_px or scale.um_per_unit


def stored(data, path: Path):
    if isinstance(data, ad.AnnData):
        data.write_h5ad(path / "a.h5ad")
        return ad.read_h5ad(path / "a.h5ad")
    data.write(path / "s.zarr")
    return sd.read_zarr(path / "s.zarr")


def test_a_plot_after_embed_finds_the_scale_that_embed_was_told(tmp_path):
    sdata = without_scale()
    with pytest.raises(ValueError, match=r"pass um_per_px= .* or say it once with storm\.pp\.set_scale"):
        read_spots(sdata)
    embedded(sdata, um_per_px=2.1)
    for one in (sdata, stored(sdata, tmp_path)):
        assert um_of(one) == pytest.approx(2.1)
        assert "an earlier call" in read_spots(one).scale.source
        assert read_view(one).um_known
        assert um_of(one, image=False) == pytest.approx(2.1)


def test_verbs_remember_it(toy, tiny_model):
    frame = get_transformation(toy["he"], "global")
    sdata = SpatialData(images={"he": toy["he"]}, shapes={"spots": toy["spots"]}, tables={"table": toy["table"]})
    for name in ("he", "spots"):
        set_transformation(sdata[name], {"global": frame}, set_all=True)
    storm.tl.embed(sdata, model=tiny_model, um_per_px=1.0)
    storm.tl.domains(sdata, 2)
    ax = storm.pl.domains(sdata)
    assert ax.images, "the H&E is drawn"


def test_the_scale_is_of_the_coordinates_whatever_the_image(tmp_path):
    """An image of half the resolution: its pixel is 2 units, so that 3 µm per pixel are 1.5 µm per unit."""
    half = {"global": Scale([2.0, 2.0], axes=("x", "y"))}
    sdata = without_scale()
    set_transformation(sdata["he"], half, set_all=True)
    storm.pp.set_scale(sdata, 3.0)
    assert sdata["table"].obs[UM_PER_UNIT].unique() == pytest.approx(1.5)
    assert um_of(sdata) == pytest.approx(3.0)
    assert um_of(sdata, image=False) == pytest.approx(1.5)


def test_an_argument_wins_over_what_was_told_and_says_so():
    sdata = without_scale()
    storm.pp.set_scale(sdata, 2.0)
    with pytest.warns(UserWarning, match="um_per_px=3 is used for image 'he', in place of the 2 that an earlier call"):
        assert um_of(sdata, um_per_px=3.0) == 3.0
    assert um_of(sdata) == 2.0, "reading remembers nothing"
    with pytest.warns(UserWarning, match="in place of the 2"):
        embedded(sdata, um_per_px=3.0)
    assert um_of(sdata) == 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        um_of(sdata, um_per_px=3.01)  # within 5 %


def test_what_was_told_and_the_object_itself_must_agree():
    sdata = without_scale()
    storm.pp.set_scale(sdata, 2.0)
    for name in ("he", "spots"):
        set_transformation(sdata[name], Scale([3.0, 3.0], axes=("x", "y")), "um")
    with pytest.raises(ValueError, match=r"2 from an earlier call.*3 from the coordinate system.*set_scale replaces"):
        read_spots(sdata)
    with pytest.raises(ValueError, match="two sources disagree"):
        storm.pp.set_scale(sdata, 2.0)
    storm.pp.set_scale(sdata, 3.0)
    assert um_of(sdata) == pytest.approx(3.0)


def test_set_scale_without_a_number_writes_down_what_the_object_says():
    sdata = section()
    storm.pp.set_scale(sdata)
    assert sdata["table"].obs[UM_PER_UNIT].notna().all()
    with pytest.raises(ValueError, match="no µm scale is known"):
        storm.pp.set_scale(without_scale())


@pytest.mark.parametrize("joined", [True, False])
def test_concatenation_keeps_the_scale(joined):
    a, b = without_scale(), without_scale()
    storm.pp.set_scale(a, 2.0)
    storm.pp.set_scale(b, 4.0)
    both = sd.concatenate({"A": a, "B": b}, concatenate_tables=joined)
    keys = {} if joined else {"table_key": "table-B"}
    spots = read_spots(both, shapes_key="spots-B", image_key="he-B", **keys)
    assert spots.scale.um_per_px == pytest.approx(4.0)


def test_concatenated_tables_keep_the_scale_by_library(tmp_path):
    tables = [ad.AnnData(np.ones((20, 3), np.float32), obsm={"spatial": grid_px()[:20]}) for _ in range(2)]
    storm.pp.set_scale(tables, {"data[0]": 2.0, "data[1]": 5.0})
    both = ad.concat(tables, label="sample", keys=["A", "B"], index_unique="-")
    for one in (both, stored(both, tmp_path)):
        study = open_study(one, Keys(), library_key="sample", image=False)
        assert [read_spots(part.open().data).scale.um_per_unit for part in study] == [2.0, 5.0]
    both.obsm["spatial"][20:] += 1e5
    with pytest.raises(ValueError, match=r"several scales \(2, 5 µm per unit.*library_key"):
        read_spots(both)


def test_sections_are_scaled_by_name():
    adata = ad.AnnData(np.ones((40, 3), np.float32), obsm={"spatial": np.tile(grid_px()[:20], (2, 1))})
    adata.obs["sample"] = np.repeat(["A", "B"], 20)
    storm.pp.set_scale(adata, {"B": 3.0}, library_key="sample")
    assert adata.obs[UM_PER_UNIT].isna().sum() == 20
    with pytest.raises(KeyError, match=r"\['C'\], which are not there; there are \['A', 'B'\]"):
        storm.pp.set_scale(adata, {"C": 3.0}, library_key="sample")
    assert adata.obs[UM_PER_UNIT].isna().sum() == 20


def test_an_image_without_a_table(tmp_path):
    sdata = SpatialData(images={"he": image_element()})
    copied = storm.pp.set_scale(sdata, 0.5, copy=True)
    assert not sdata.attrs
    for one in (copied, stored(copied, tmp_path)):
        work = open_study(one, Keys(), image=True, field_um=8.0).works[0]
        assert read_spots(work.selection.data).scale.um_per_px == 0.5


def test_results_of_another_scale_are_named(toy, tiny_model):
    for name in ("he", "spots"):
        set_transformation(toy[name], {"global": get_transformation(toy[name], "global")}, set_all=True)
    storm.tl.embed(toy, model=tiny_model, um_per_px=1.0)
    with pytest.warns(UserWarning, match="another scale, in µm per pixel: 'X_storm' at 1; compute them again"):
        storm.pp.set_scale(toy, 1.2)


def test_image_table_system_and_library_are_found(tmp_path):
    frame = {name: Scale([1.0, 1.0], axes=("x", "y")) for name in ("global", "aligned")}
    sdata = without_scale(
        images={"he": image_element(frame), "dapi": image_element(frame)},
        shapes={"spots": circles(transformations=frame)},
    )
    sdata.tables["other"] = table_for(np.arange(len(grid_px())))
    with pytest.raises(ValueError, match="several tables"):
        read_spots(sdata)
    embedded(sdata, table_key="table", image_key="he", coordinate_system="aligned", um_per_px=2.0)
    for one in (sdata, stored(sdata, tmp_path)):
        spots = read_spots(one)
        assert spots.patches is not None
        assert open_study(one, Keys()).works[0].selection.coordinate_system == "aligned"
    with pytest.raises(ValueError, match="several images"):
        read_spots(sdata, table_key="other")  # each table has its own memory
    embedded(sdata, table_key="other", image_key="dapi", um_per_px=2.0)
    assert storm._bridge.select_table(sdata)[0] == "other", "the last that was told"
    del sdata.images["dapi"]
    assert open_study(sdata, Keys()).works[0].selection.image_key == "he", "what is gone counts as never told"


def test_images_of_sections_are_found():
    frame = {"global": Scale([1.0, 1.0], axes=("x", "y"))}
    n = len(grid_px())
    both = ad.concat([table_for(np.arange(n), "A"), table_for(np.arange(n), "B")], index_unique="-", keys=["A", "B"])
    both.uns["spatialdata_attrs"] = {"region": ["A", "B"], "region_key": "region", "instance_key": "id"}
    shapes = {name: circles(transformations=frame) for name in "AB"}
    images = {f"he_{name}": image_element(frame) for name in "AB"}
    sdata = SpatialData(images=images, shapes=shapes, tables={"table": both})
    with pytest.raises(ValueError, match="say which is whose"):
        open_study(sdata, Keys())
    embedded(sdata, image_key={"A": "he_B", "B": "he_A"}, um_per_px=2.0)
    assert [one.images for one in open_study(sdata, Keys())] == [["he_B"], ["he_A"]]
    storm.pl.he(sdata)


def test_a_library_is_found_and_a_failed_call_remembers_nothing():
    adata = ad.AnnData(np.ones((40, 3), np.float32), obsm={"spatial": np.tile(grid_px()[:20], (2, 1))})
    adata.obs["sample"] = np.repeat(["A", "B"], 20)
    study = open_study(adata, Keys(um_per_px=2.0), library_key="sample")
    for one in study:
        study.keep(one, obsm={"X_storm": np.full((20, 2), np.nan, np.float32)}, uns={"X_storm": {"bad": object()}})
    with pytest.raises(TypeError):
        study.write()
    assert "storm" not in adata.uns
    assert UM_PER_UNIT not in adata.obs
    embedded(adata, library_key="sample", um_per_px=2.0)
    assert [one.name for one in open_study(adata, Keys())] == ["A", "B"]
    adata.obs["storm_domain"] = np.array(["0", "1"] * 20)
    assert len(storm.pl.domains(adata)) == 2
    del adata.obs["sample"]
    assert len(open_study(adata, Keys())) == 1


def test_a_plot_leaves_out_an_image_that_expression_did_not_need():
    sdata = without_scale()
    sdata["table"].obs["storm_domain"] = np.arange(len(grid_px())) % 2
    with pytest.warns(UserWarning, match="the H&E is not drawn: no µm scale is known for image 'he'"):
        ax = storm.pl.domains(sdata)
    assert not ax.images
    with pytest.raises(ValueError, match="no µm scale"):
        storm.pl.domains(sdata, image_key="he")


@pytest.mark.parametrize("value", ["a", -1.0, np.inf])
def test_a_damaged_column_is_an_error(value):
    adata = ad.AnnData(np.ones((20, 3), np.float32), obsm={"spatial": grid_px()[:20]})
    adata.obs[UM_PER_UNIT] = [value] * 20
    with pytest.raises(ValueError, match=r"not positive numbers; write it anew with storm\.pp\.set_scale"):
        read_spots(adata)
    storm.pp.set_scale(adata, 1.0)
    assert read_spots(adata).scale.um_per_unit == 1.0


def test_what_an_anndata_was_told_its_spatialdata_knows():
    adata = ad.AnnData(np.ones((40, 3), np.float32), obsm={"spatial": np.tile(grid_px()[:20], (2, 1))})
    adata.obs["sample"] = np.repeat(["A", "B"], 20)
    embedded(adata, library_key="sample", um_per_px=2.0)
    sdata = storm.io.from_anndata(adata, image=False, spot_um=20.0)
    assert set(sdata.shapes) == {"A", "B"}
    for section_of in open_study(sdata, Keys(), image=False):
        np.testing.assert_allclose(read_spots(section_of.open().data).centres, 2 * grid_px()[:20])


def test_an_image_that_is_no_he_is_not_told_to_take_channels():
    frame = {"global": Scale([1.0, 1.0], axes=("x", "y"))}
    one = Image2DModel.parse(np.zeros((1, 64, 64), np.uint8), dims=("c", "y", "x"), transformations=frame)
    with pytest.raises(ValueError, match=r"has 1 channel \['0'\], and H&E has three: it is another picture") as caught:
        read_spots(without_scale(images={"he": one}), um_per_px=1.0)
    assert "isel" not in str(caught.value)
