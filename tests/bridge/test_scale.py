"""Where the µm per pixel come from."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, set_transformation

import storm
from planted_section import UM, circles, colours, counts, grid_px, image_element, planted_image, section, table_for
from storm._bridge import read_spots
from storm._keys import UM_SYSTEMS


def in_pixels(**uns) -> SpatialData:
    """A section without any frame in µm."""
    pixels = {"global": Identity()}
    return section(
        image=image_element(pixels), shapes=circles(transformations=pixels), table=table_for(np.arange(48), **uns)
    )


def scalefactors(**factors) -> dict:
    return {"spatial": {"lib": {"scalefactors": factors}}}


def test_scale_from_the_argument() -> None:
    spots = read_spots(in_pixels(), um_per_px=0.4)
    assert spots.scale.source == "the argument um_per_px"
    assert spots.scale.um_per_px == 0.4
    np.testing.assert_allclose(spots.centres, grid_px() * 0.4)
    np.testing.assert_allclose(colours(spots), grid_px(), atol=0.7)


def test_argument_counts_pixels_of_the_full_image() -> None:
    """An image that is half as fine as the coordinate system: its pixels are two units long."""
    halved = Image2DModel.parse(
        planted_image()[:, ::2, ::2], dims=("c", "y", "x"), transformations={"global": Scale([2, 2], axes=("x", "y"))}
    )
    spots = read_spots(section(image=halved, shapes=circles(transformations={"global": Identity()})), um_per_px=1.0)
    assert spots.scale.um_per_unit == 0.5
    np.testing.assert_allclose(spots.centres, grid_px() * 0.5)


@pytest.mark.parametrize("name", [*UM_SYSTEMS, "Micrometers", "um-A", "um-sample-2"])
def test_scale_from_a_transformation(name: str) -> None:
    places = {"global": Identity(), name: Scale([UM, UM], axes=("x", "y"))}
    spots = read_spots(section(image=image_element(places), shapes=circles(transformations=places)))
    np.testing.assert_allclose(spots.centres, grid_px() * UM)
    assert name in spots.scale.source
    in_px = read_spots(
        section(image=image_element(places), shapes=circles(transformations=places)), coordinate_system="global"
    )
    np.testing.assert_allclose(in_px.centres, grid_px() * UM)
    assert in_px.scale.um_per_px == pytest.approx(UM)


def read_by_storm(**said) -> SpatialData:
    places = {"global": Identity(), "um": Scale([UM, UM], axes=("x", "y"))}
    sdata = section(image=image_element(places), shapes=circles(transformations=places), table=table_for(np.arange(48)))
    sdata.attrs["storm_io"] = {"reader": "visium", **said}
    return sdata


def test_the_readers_source_is_told_with_the_transformation() -> None:
    sdata = read_by_storm(um_per_px=UM, um_per_px_source="spot_diameter_fullres")
    said = "the coordinate system 'um', which storm.io.visium has from: spot_diameter_fullres"
    assert read_spots(sdata).scale.source == said
    assert read_spots(sdata, image=False).scale.source == said
    assert read_spots(sdata, coordinate_system="global").scale.source == (
        "the transformation of the image into 'um', which storm.io.visium has from: spot_diameter_fullres"
    )
    assert storm.pp.check(sdata, estimate=False)["scale"].facts["source"] == said
    # The image has a source of its own where it was aligned to the platform's pixels.
    sdata.attrs["storm_io"] |= {"image_um_per_px": UM, "image_um_per_px_source": "the alignment"}
    assert read_spots(sdata).scale.source.endswith("has from: the alignment")
    assert read_spots(sdata, image=False).scale.source.endswith("has from: spot_diameter_fullres")


def test_the_readers_source_is_not_told_of_an_image_that_was_placed_anew() -> None:
    sdata = read_by_storm(um_per_px=UM, um_per_px_source="spot_diameter_fullres")
    set_transformation(sdata["he"], Scale([2 * UM, 2 * UM], axes=("x", "y")), to_coordinate_system="um")
    assert read_spots(sdata, coordinate_system="um").scale.source == "the coordinate system 'um'"
    sdata.attrs["storm_io"] = "something else"
    assert read_spots(sdata, coordinate_system="um").scale.source == "the coordinate system 'um'"


def test_scale_from_an_image_in_um_when_the_shapes_are_not() -> None:
    spots = read_spots(section(shapes=circles(transformations={"global": Identity()})))
    assert spots.scale.source == "the transformation of the image into 'um'"
    np.testing.assert_allclose(spots.centres, grid_px() * UM)


@pytest.mark.parametrize(
    ("factors", "um"),
    [
        ({"microns_per_pixel": 0.27, "spot_diameter_fullres": 29.2, "bin_size_um": 8.0}, 0.27),
        ({"spot_diameter_fullres": 130.0, "fiducial_diameter_fullres": 200.0}, 0.5),
        ({"spot_diameter_fullres": 16.0, "bin_size_um": 8.0}, 0.5),
    ],
    ids=["Visium HD", "Visium", "bins"],
)
def test_scale_from_metadata(factors: dict, um: float) -> None:
    spots = read_spots(in_pixels(**scalefactors(**factors)))
    assert spots.scale.um_per_px == pytest.approx(um)
    assert "scalefactors" in spots.scale.source
    np.testing.assert_allclose(spots.centres, grid_px() * um)
    alone = ad.AnnData(counts(48), obsm={"spatial": grid_px()}, uns=scalefactors(**factors))
    np.testing.assert_allclose(read_spots(alone).centres, grid_px() * um)


def test_metadata_counts_pixels_of_the_full_image() -> None:
    """spatialdata-io's hires image: shapes lie in pixels of an image that is not there; obsm says so as well."""
    for with_obsm in (False, True):
        sdata = in_pixels(**scalefactors(microns_per_pixel=0.25))
        for element in (sdata.images["he"], sdata.shapes["spots"]):
            set_transformation(element, {"hires": Identity()}, set_all=True)
        sdata.shapes["spots"] = circles(grid_px() * 2, {"hires": Scale([0.5, 0.5], axes=("x", "y"))})
        if with_obsm:
            sdata.tables["table"].obsm["spatial"] = grid_px() * 2
        spots = read_spots(sdata)
        assert spots.scale.um_per_px == pytest.approx(0.5)
        np.testing.assert_allclose(colours(spots), grid_px(), atol=0.7)


def test_spot_diameter_of_an_unknown_platform_is_not_believed() -> None:
    with pytest.raises(ValueError, match="no µm scale"):
        read_spots(in_pixels(**scalefactors(spot_diameter_fullres=130.0)))


def visium_part(n: int, *, witness: str | None) -> SpatialData:
    """A few spots of a hexagonal lattice of 100 µm, at 0.5 µm per pixel, far apart from each other."""
    columns, rows = np.meshgrid(np.arange(0, 64, 2), np.arange(40))
    columns = columns + rows % 2
    chosen = np.random.default_rng(0).choice(columns.size, n, replace=False)
    array = np.column_stack([columns.ravel(), rows.ravel()])[chosen]
    px = array * np.array([50, 50 * np.sqrt(3)]) / 0.5 + 200
    spots = ShapesModel.parse(
        px, geometry=0, radius=65 if witness == "radius" else 10, transformations={"global": Identity()}
    )
    table = ad.AnnData(np.ones((n, 3), dtype=np.float32))
    table.obs["region"], table.obs["id"] = pd.Categorical(["spots"] * n), np.arange(n)
    if witness == "array":
        table.obs["array_col"], table.obs["array_row"] = array.T
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="id")
    return SpatialData(shapes={"spots": spots}, tables={"table": table}, attrs={"spatialdata_io_reader": "visium"})


def test_few_spots_of_a_section_give_no_wrong_scale() -> None:
    """Of 40 of 1,280 spots hardly two are neighbours: the nearest distance is not the pitch."""
    assert read_spots(visium_part(40, witness=None)).scale is None
    assert read_spots(visium_part(40, witness="radius")).scale is None  # its distance does not fit the spots' size
    scale = read_spots(visium_part(40, witness="array")).scale
    assert scale.um_per_unit == pytest.approx(0.5)
    assert "array positions" in scale.source
    assert read_spots(visium_part(1280, witness=None)).scale.um_per_unit == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0, -3.0, "0,5", "abc", None, float("nan"), [1], True])
def test_a_scale_factor_that_is_no_length_is_no_scale(value) -> None:
    with pytest.raises(ValueError, match="no µm scale"):
        read_spots(in_pixels(**scalefactors(microns_per_pixel=value)))
    assert read_spots(in_pixels(**scalefactors(microns_per_pixel=value)), um_per_px=0.7).scale.um_per_px == 0.7


@pytest.mark.parametrize("um", [-1, 0, 1e12, 1e-9, "0.5", float("nan"), True])
def test_what_cannot_be_the_size_of_a_pixel_is_refused(um) -> None:
    with pytest.raises((ValueError, TypeError), match="um_per_px"):
        read_spots(in_pixels(), um_per_px=um)


def test_scale_from_the_pitch_of_a_declared_platform() -> None:
    sdata = in_pixels()
    sdata.attrs["spatialdata_io_reader"] = "visium"
    spots = read_spots(sdata)
    assert spots.scale.um_per_px == pytest.approx(100 / 36)
    assert "pitch" in spots.scale.source
    bins = SpatialData(images=dict(sdata.images), shapes={"a_square_016um": sdata.shapes["spots"]})
    bins.tables["table"] = table_for(np.arange(48), region="a_square_016um")
    bins.attrs["spatialdata_io_reader"] = "visium_hd"
    assert read_spots(bins).scale.um_per_px == pytest.approx(16 / 36)


def test_scale_of_xenium_shapes() -> None:
    """spatialdata-io keeps Xenium's shapes in µm and scales them to pixels."""
    sdata = section(
        image=image_element({"global": Identity()}),
        shapes=circles(grid_px() * 0.2125, {"global": Scale([1 / 0.2125] * 2, axes=("x", "y"))}),
    )
    sdata.attrs["spatialdata_io_reader"] = "xenium"
    assert read_spots(sdata).scale.um_per_px == pytest.approx(0.2125)


@pytest.mark.parametrize(("um", "agrees"), [(0.52, True), (0.481, True), (0.53, False), (0.47, False)])
def test_sources_may_differ_by_five_percent(um: float, agrees: bool) -> None:
    sdata = section(table=table_for(np.arange(48), **scalefactors(microns_per_pixel=um)))
    if agrees:
        assert read_spots(sdata).scale.um_per_px == UM
    else:
        with pytest.raises(ValueError, match=rf"0\.5 from the coordinate system 'um', {um} from uns"):
            read_spots(sdata)


def test_the_pitch_is_that_of_most_spots() -> None:
    """A few spots far from all others do not make a pixel shorter."""
    px = np.concatenate([grid_px()[:40], [[5000.0, 5000.0], [9000.0, 20.0]]])
    pixels = {"global": Identity()}
    sdata = section(
        image=image_element(pixels), shapes=circles(px, transformations=pixels), table=table_for(np.arange(42))
    )
    sdata.attrs["spatialdata_io_reader"] = "visium"
    assert read_spots(sdata).scale.um_per_px == pytest.approx(100 / 36)


def test_agreeing_sources_are_no_problem() -> None:
    sdata = section(table=table_for(np.arange(48), **scalefactors(microns_per_pixel=0.51)))
    assert read_spots(sdata, um_per_px=0.49).scale.source == "the argument um_per_px"
    assert read_spots(sdata).scale.um_per_px == UM
