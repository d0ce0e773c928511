"""Where spots are: transformations of image and shapes, kinds of geometry, coordinate systems."""

from __future__ import annotations

import anndata as ad
import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata.models import Labels2DModel, PointsModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation

from planted_section import SIZE, UM, circles, colours, frames, grid_px, image_element, section, table_for
from storm._bridge import read_spots

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


@pytest.mark.parametrize("kind", ["complex", "datetime64[s]", "bool"])
def test_coordinates_are_real_numbers(kind: str) -> None:
    table = ad.AnnData(np.ones((6, 2), dtype=np.float32), obsm={"spatial": np.arange(12).reshape(6, 2).astype(kind)})
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] holds .*, not coordinates"):
        read_spots(table)


def test_coordinates_beyond_any_slide_are_damaged() -> None:
    places = np.arange(12.0).reshape(6, 2)
    places[3] = 1e18
    table = ad.AnnData(np.ones((6, 2), dtype=np.float32), obsm={"spatial": places})
    with pytest.raises(ValueError, match=r"reach 1e\+18, beyond any slide"):
        read_spots(table)
