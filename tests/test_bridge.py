"""Reading spots from SpatialData and AnnData, with places and colours that are known."""

from __future__ import annotations

import pickle
from pathlib import Path

import anndata as ad
import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation, set_transformation

from storm._bridge import read_spots, select_table
from storm._keys import UM_SYSTEMS

# anndata announces a change of its own defaults, in the name of contextlib
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

UM = 0.5  # µm per pixel of the planted image
SIZE = (240, 320)  # pixels, y and x


def planted_image() -> np.ndarray:
    """Red is x and green is y of the pixel, both in pixels (y and x below 256 apart from a factor)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x * 0.75, y, np.full(SIZE, 30)]).round().astype(np.uint8)


def grid_px() -> np.ndarray:
    """Centres in pixels, 6 × 8 of them, x before y."""
    x, y = np.meshgrid(np.arange(8) * 36 + 30.25, np.arange(6) * 36 + 25.5)
    return np.column_stack([x.ravel(), y.ravel()])


def counts(n: int, g: int = 5) -> np.ndarray:
    return np.random.default_rng(0).poisson(2, (n, g)).astype(np.float32)


def table_for(instances, region: str = "spots", X=None, **uns) -> ad.AnnData:
    n = len(instances)
    table = ad.AnnData(
        X=sparse.csr_matrix(counts(n)) if X is None else X,
        obs=pd.DataFrame(
            {"region": pd.Categorical([region] * n), "id": instances}, index=[f"spot {k}" for k in range(n)]
        ),
        var=pd.DataFrame(index=["EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC"]),
        uns=uns,
    )
    return TableModel.parse(table, region=region, region_key="region", instance_key="id")


def frames(**more) -> dict:
    """Pixels are ``global``; ``um`` is in µm."""
    return {"global": Identity(), "um": Scale([UM, UM], axes=("x", "y")), **more}


def image_element(transformations: dict | None = None, *, scale_factors=(2, 2), **kwargs):
    kwargs = {"c_coords": ["r", "g", "b"], "dims": ("c", "y", "x")} | kwargs
    return Image2DModel.parse(
        planted_image(), transformations=frames() if transformations is None else transformations,
        scale_factors=None if scale_factors is None else list(scale_factors), **kwargs,
    )  # fmt: skip


def circles(px: np.ndarray | None = None, transformations: dict | None = None, index=None):
    px = grid_px() if px is None else px
    return ShapesModel.parse(
        px, geometry=0, radius=10.0, index=np.arange(len(px)) if index is None else index,
        transformations=frames() if transformations is None else transformations,
    )  # fmt: skip


def section(**parts) -> SpatialData:
    parts = {"image": image_element(), "shapes": circles(), "table": table_for(np.arange(48))} | parts
    return SpatialData(
        images={} if parts["image"] is None else {"he": parts["image"]},
        shapes={} if parts["shapes"] is None else {"spots": parts["shapes"]},
        tables={} if parts["table"] is None else {"table": parts["table"]},
    )


def colours(spots, field_um: float = 4.0) -> np.ndarray:
    """Where the patches' centres are in pixels, read off their colour."""
    patches = spots.patches.read(spots.centres, field_um=field_um, out_px=8).astype(float)
    return patches[:, 3:5, 3:5].mean(axis=(1, 2))[:, :2] / (0.75, 1.0) + 0.5


# --------------------------------------------------------------------------------------- image and table


def test_section() -> None:
    spots = read_spots(section())
    assert spots.um_known
    np.testing.assert_allclose(spots.centres, grid_px() * UM)
    np.testing.assert_allclose(colours(spots), grid_px(), atol=0.7)
    assert spots.ids.tolist() == [f"spot {k}" for k in range(48)]
    assert spots.genes.tolist() == ["EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC"]
    np.testing.assert_array_equal(spots.counts.toarray(), counts(48))
    assert spots.counts.dtype == np.float32
    assert (spots.scale.um_per_px, spots.scale.um_per_unit, spots.scale.source) == (
        0.5,
        1.0,
        "the coordinate system 'um'",
    )
    assert [level.um_per_px for level in spots.patches.levels] == pytest.approx([0.5, 1, 2])
    assert pickle.loads(pickle.dumps(spots)).patches.inside(spots.centres).all()


def test_stored_section_is_read_by_zarr(tmp_path: Path) -> None:
    from spatialdata import read_zarr

    from storm.data.sources import ZarrSource

    section().write(tmp_path / "a.zarr")
    sdata = read_zarr(tmp_path / "a.zarr")
    spots = read_spots(sdata)
    assert all(isinstance(level.source, ZarrSource) for level in spots.patches.levels)
    np.testing.assert_allclose(colours(spots), grid_px(), atol=0.7)
    memory = read_spots(section())
    a, b = (s.patches.read(s.centres, field_um=30, out_px=16) for s in (spots, memory))
    np.testing.assert_array_equal(a, b)


TURN = np.array([[0.4, -0.3, 11.0], [0.3, 0.4, -7.0], [0, 0, 1]])  # rotated and scaled by one half


@pytest.mark.parametrize(
    "to_um",
    [
        Scale([UM, UM], axes=("x", "y")),
        Sequence([Scale([-UM, UM], axes=("x", "y")), Translation([160, 5], axes=("x", "y"))]),
        Affine(TURN, input_axes=("x", "y"), output_axes=("x", "y")),
        Affine(np.array([[0, UM, 3], [UM, 0, -4], [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y")),
        Scale([0.6, 0.4], axes=("x", "y")),
    ],
    ids=["scaled", "mirrored", "rotated", "transposed", "anisotropic"],
)
@pytest.mark.parametrize("shapes_in", ["px", "um"])
def test_transformations_are_followed(to_um, shapes_in: str) -> None:
    """Image and shapes may come in frames of their own; where they meet, each patch shows its own colour."""
    matrix = to_um.to_affine_matrix(("x", "y"), ("x", "y"))
    centres = grid_px() @ matrix[:2, :2].T + matrix[:2, 2]
    if shapes_in == "px":
        shapes = circles(transformations={"um": to_um})
    else:
        shapes = circles(centres, transformations={"um": Identity()})
    spots = read_spots(section(image=image_element({"um": to_um}), shapes=shapes))
    np.testing.assert_allclose(spots.centres, centres)
    assert spots.scale.um_per_px == pytest.approx(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    np.testing.assert_allclose(colours(spots), grid_px(), atol=1.0)


def test_single_scale_and_coarse_level_in_one_place() -> None:
    for scale_factors in (None, (2,), (2, 2)):
        spots = read_spots(section(image=image_element(scale_factors=scale_factors)))
        patches = spots.patches.read(spots.centres, field_um=24, out_px=12).astype(float)
        middle = patches[:, 5:7, 5:7].mean(axis=(1, 2))[:, :2] / (0.75, 1.0) + 0.5
        np.testing.assert_allclose(middle, grid_px(), atol=1.2)


def test_channels_are_put_in_order() -> None:
    swapped = Image2DModel.parse(
        planted_image()[[2, 0, 1]], dims=("c", "y", "x"), c_coords=["B", "red", "G"], transformations=frames()
    )
    np.testing.assert_allclose(colours(read_spots(section(image=swapped))), grid_px(), atol=0.7)
    unnamed = Image2DModel.parse(planted_image(), dims=("c", "y", "x"), transformations=frames())
    np.testing.assert_allclose(colours(read_spots(section(image=unnamed))), grid_px(), atol=0.7)


# --------------------------------------------------------------------------------------------- geometries


def squares() -> gpd.GeoDataFrame:
    px = grid_px()
    boxes = shapely.box(px[:, 0] - 8, px[:, 1] - 8, px[:, 0] + 8, px[:, 1] + 8)
    return ShapesModel.parse(gpd.GeoDataFrame(geometry=boxes), transformations=frames())


def cells() -> gpd.GeoDataFrame:
    outline = [(0, 0), (4, 0), (4, 2), (2, 2), (2, 4), (0, 4)]
    middle = np.array(shapely.Polygon(outline).centroid.coords[0])
    polygons = [shapely.Polygon(np.array(outline) - middle + px) for px in grid_px()]
    return ShapesModel.parse(gpd.GeoDataFrame(geometry=polygons), transformations=frames())


@pytest.mark.parametrize("make", [circles, squares, cells])
def test_shapes(make) -> None:
    np.testing.assert_allclose(read_spots(section(shapes=make())).centres, grid_px() * UM)


def test_points() -> None:
    sdata = section(shapes=None, table=None)
    sdata.points["spots"] = PointsModel.parse(grid_px(), transformations=frames())
    sdata.tables["table"] = table_for(np.arange(48))
    np.testing.assert_allclose(read_spots(sdata).centres, grid_px() * UM)


def test_labels() -> None:
    mask = np.zeros(SIZE, dtype=np.int32)
    for k, (x, y) in enumerate(grid_px().astype(int)):
        mask[y - 4 : y + 5, x - 4 : x + 5] = k + 1
    sdata = section(shapes=None, table=None)
    sdata.labels["spots"] = Labels2DModel.parse(mask, dims=("y", "x"), transformations=frames())
    sdata.tables["table"] = table_for(np.arange(48) + 1)
    np.testing.assert_allclose(read_spots(sdata).centres, (grid_px().astype(int) + 0.5) * UM)


# --------------------------------------------------------------------------------------- tables and rows


def test_rows_follow_the_table() -> None:
    order = np.random.default_rng(3).permutation(48)[:30]
    spots = read_spots(section(table=table_for(order)))
    np.testing.assert_allclose(spots.centres, grid_px()[order] * UM)


def test_text_instances() -> None:
    names = np.array([f"AAAC-{k}" for k in range(48)])
    order = np.random.default_rng(3).permutation(48)
    spots = read_spots(section(shapes=circles(index=names), table=table_for(names[order])))
    np.testing.assert_allclose(spots.centres, grid_px()[order] * UM)


def test_rows_without_a_shape_have_no_place() -> None:
    spots = read_spots(section(shapes=circles(grid_px()[:40])))
    np.testing.assert_array_equal(spots.placed, np.arange(48) < 40)
    assert spots.counts.shape == (48, 5)


def several_regions() -> SpatialData:
    table = table_for(np.arange(48))
    table.obs["id"] = np.r_[np.arange(24), np.arange(24)]
    table.obs["region"] = pd.Categorical(["left"] * 24 + ["right"] * 24)
    table.uns["spatialdata_attrs"]["region"] = ["left", "right"]
    sdata = section(shapes=None, table=None)
    sdata.shapes["left"] = circles(grid_px()[:24])
    sdata.shapes["right"] = circles(grid_px()[24:])
    sdata.tables["table"] = table
    return sdata


def test_several_regions() -> None:
    sdata = several_regions()
    with pytest.raises(ValueError, match=r"several elements; choose one with shapes_key= out of \['left', 'right'\]"):
        read_spots(sdata)
    spots = read_spots(sdata, shapes_key="right")
    np.testing.assert_array_equal(spots.placed, np.arange(48) >= 24)
    np.testing.assert_allclose(spots.centres[24:], grid_px()[24:] * UM)


def test_several_tables() -> None:
    sdata = section()
    sdata.tables["other"] = table_for(np.arange(10))
    assert len(read_spots(sdata, table_key="other")) == 10
    assert select_table(sdata, "other")[0] == "other"
    assert select_table(sdata, "other")[1] is sdata.tables["other"]


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        sparse.csr_matrix,
        sparse.csc_matrix,
        sparse.csr_array,
        lambda x: sparse.csr_matrix(x.astype(np.int64)),
        lambda x: da.from_array(x, chunks=(10, 5)),
        lambda x: da.from_array(x, chunks=(10, 5)).map_blocks(sparse.csr_matrix),
    ],
    ids=["dense", "csr", "csc", "csr_array", "int64", "dask", "dask of csr"],
)
def test_counts_of_any_kind(convert) -> None:
    table = table_for(np.arange(48), X=convert(counts(48)))
    before = type(table.X)
    spots = read_spots(section(table=table))
    assert isinstance(spots.counts, sparse.csr_matrix)
    np.testing.assert_array_equal(spots.counts.toarray(), counts(48))
    assert type(table.X) is before
    spots.counts.data[:] = -1  # no memory is shared
    stored = table.X.compute() if hasattr(table.X, "compute") else table.X
    assert stored.min() >= 0


def test_layer() -> None:
    table = table_for(np.arange(48))
    table.layers["counts"] = table.X
    table.X = table.X * 0.37
    np.testing.assert_array_equal(read_spots(section(table=table), layer="counts").counts.toarray(), counts(48))


def test_counts_are_not_needed_for_places() -> None:
    table = table_for(np.arange(48), X=counts(48) * 0.3)
    spots = read_spots(section(table=table), table=False)
    assert spots.counts is None
    np.testing.assert_allclose(spots.centres, grid_px() * UM)


def test_a_spot_without_counts_is_allowed() -> None:
    X = counts(48)
    X[7] = 0
    assert read_spots(section(table=table_for(np.arange(48), X=X))).counts[7].sum() == 0


# ---------------------------------------------------------------------------------------- parts of an object


def test_image_only_with_shapes() -> None:
    spots = read_spots(section(table=None))
    assert spots.counts is None
    assert spots.ids[:2].tolist() == ["0", "1"]
    np.testing.assert_allclose(colours(spots), grid_px(), atol=0.7)


def test_table_only() -> None:
    spots = read_spots(section(image=None))
    assert spots.patches is None
    assert spots.um_known
    assert spots.scale.um_per_px is None
    np.testing.assert_allclose(spots.centres, grid_px() * UM)
    unknown = read_spots(section(image=None, shapes=circles(transformations={"global": Identity()})))
    assert not unknown.um_known
    assert unknown.scale is None
    np.testing.assert_allclose(unknown.centres, grid_px())


def test_table_without_shapes() -> None:
    table = ad.AnnData(counts(48), obsm={"spatial": grid_px()})
    np.testing.assert_allclose(read_spots(SpatialData(tables={"t": table})).centres, grid_px())


def test_image_can_be_left_out() -> None:
    sdata = section()
    sdata.images["second"] = image_element()
    assert read_spots(sdata, image=False).patches is None


def test_anndata() -> None:
    table = ad.AnnData(counts(48), obsm={"spatial": grid_px()})
    spots = read_spots(table)
    assert not spots.um_known
    np.testing.assert_allclose(spots.centres, grid_px())
    scaled = read_spots(table, um_per_px=UM)
    assert scaled.um_known
    np.testing.assert_allclose(scaled.centres, grid_px() * UM)


def test_backed_anndata(tmp_path: Path) -> None:
    for name, X in {"sparse": sparse.csr_matrix(counts(48)), "dense": counts(48)}.items():
        ad.AnnData(X, obsm={"spatial": grid_px()}).write_h5ad(tmp_path / f"{name}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        np.testing.assert_array_equal(read_spots(backed).counts.toarray(), counts(48))
        assert backed.isbacked
        backed.file.close()


def test_view_of_anndata() -> None:
    table = ad.AnnData(counts(48), obsm={"spatial": grid_px()})
    view = table[10:20, [3, 1]]
    spots = read_spots(view)
    assert view.is_view
    np.testing.assert_array_equal(spots.counts.toarray(), counts(48)[10:20][:, [3, 1]])
    np.testing.assert_allclose(spots.centres, grid_px()[10:20])


# ----------------------------------------------------------------------------------------- the µm scale


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


@pytest.mark.parametrize("name", [*UM_SYSTEMS, "Micrometers"])
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


def test_agreeing_sources_are_no_problem() -> None:
    sdata = section(table=table_for(np.arange(48), **scalefactors(microns_per_pixel=0.51)))
    assert read_spots(sdata, um_per_px=0.49).scale.source == "the argument um_per_px"
    assert read_spots(sdata).scale.um_per_px == UM


# ----------------------------------------------------------------------------------- coordinate systems


def test_coordinate_system_in_common() -> None:
    spots = read_spots(
        section(
            image=image_element({"a": Identity(), "b": Identity()}), shapes=circles(transformations={"b": Identity()})
        ),
        um_per_px=UM,
    )
    np.testing.assert_allclose(colours(spots), grid_px(), atol=0.7)


def test_several_equivalent_systems() -> None:
    """As spatialdata-io's Visium: shapes and image lie to each other in the same way in both."""
    half = {"full": Identity(), "hires": Scale([0.5, 0.5], axes=("x", "y"))}
    spots = read_spots(section(image=image_element(half), shapes=circles(transformations=half)), um_per_px=UM)
    np.testing.assert_allclose(spots.centres, grid_px() * UM)
    other = {"full": Identity(), "hires": Scale([0.6, 0.5], axes=("x", "y"))}
    with pytest.raises(ValueError, match="lie differently to each other"):
        read_spots(section(image=image_element(half), shapes=circles(transformations=other)), um_per_px=UM)
