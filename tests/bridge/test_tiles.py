"""Tiles over the tissue of an image that has no spots."""

from __future__ import annotations

import numpy as np
import pytest
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale, set_transformation

from storm._bridge import make_tile_table, read_spots
from storm._bridge.keys import Keys
from storm._bridge.selection import select
from storm._keys import TILES, TILES_TABLE


def tissue_image(all_tissue: bool = False) -> np.ndarray:
    """Pink tissue in the middle of a bright slide, with some noise."""
    rng = np.random.default_rng(0)
    image = np.full((3, 400, 600), 243.0)
    inner = (slice(None),) if all_tissue else (slice(None), slice(100, 300), slice(150, 450))
    image[inner] = np.reshape([200, 120, 170], (3, 1, 1))
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def slide(image: np.ndarray, um: float = 2.0, **kwargs) -> SpatialData:
    places = {"global": Identity(), "um": Scale([um, um], axes=("x", "y"))}
    return SpatialData(images={"he": Image2DModel.parse(image, dims=("c", "y", "x"), transformations=places, **kwargs)})


@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
def test_tiles_cover_tissue_and_nothing_else(scale_factors) -> None:
    sdata = slide(tissue_image(), scale_factors=scale_factors)
    shapes, table = make_tile_table(select(sdata, image=True), field_um=50)
    assert list(sdata.tables) == list(sdata.shapes) == []
    assert table.shape == (12 * 8, 0)  # 600 × 400 µm of tissue
    boxes = shapes.total_bounds
    assert boxes.tolist() == [300, 200, 900, 600]
    assert shapes.area.to_numpy() == pytest.approx(2500)
    sdata.shapes[TILES], sdata.tables[TILES_TABLE] = shapes, table
    spots = read_spots(sdata)
    assert spots.counts is None
    np.testing.assert_allclose(spots.centres, table.obsm["spatial"])
    assert spots.patches.read(spots.centres, field_um=50, out_px=8)[..., 0].max() < 230
    assert len(make_tile_table(select(sdata, image=True), field_um=50, tissue=False)[1]) == 24 * 16
    assert len(make_tile_table(select(sdata, image=True), field_um=50, stride_um=100)[1]) == 6 * 4


def test_a_quarter_of_a_tile_must_be_tissue() -> None:
    """Four columns of tiles of 160 µm with 0, an eighth, three eighths and all of their pixels on tissue."""
    image = np.full((3, 320, 320), 243, dtype=np.uint8)
    for x in (slice(80, 90), slice(160, 190), slice(240, 320)):
        image[:, :, x] = np.reshape([200, 120, 170], (3, 1, 1))
    shapes, _ = make_tile_table(select(slide(image)), field_um=160)
    assert sorted(set(shapes.centroid.x)) == [400, 560]
    assert len(shapes) == 8


@pytest.mark.parametrize("stride_um", [1e-3, 1e-300])
def test_a_grid_too_fine_to_be_held_is_refused_before_it_is_made(stride_um: float) -> None:
    with pytest.raises(
        ValueError, match=rf"stride_um={stride_um:g} lays .* tiles over the image of 1200 × 800 µm.*take .* GB"
    ):
        make_tile_table(select(slide(tissue_image())), field_um=50, stride_um=stride_um)


def test_a_field_too_large_to_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match=r"field_um=1e\+06 covers .* pixels"):
        make_tile_table(select(slide(tissue_image())), field_um=1e6)


def test_tiles_of_a_slide_that_is_all_tissue() -> None:
    assert len(make_tile_table(select(slide(tissue_image(all_tissue=True))), field_um=50)[1]) == 24 * 16


def test_tiles_in_pixels() -> None:
    sdata = slide(tissue_image())
    set_transformation(sdata.images["he"], {"global": Identity()}, set_all=True)
    shapes, table = make_tile_table(select(sdata, Keys(um_per_px=2.0), image=True), field_um=50)
    sdata.shapes[TILES], sdata.tables[TILES_TABLE] = shapes, table
    spots = read_spots(sdata, um_per_px=2.0, table=False)
    np.testing.assert_allclose(spots.centres, table.obsm["spatial"])


def test_tiles_need_tissue_and_a_scale() -> None:
    glass = np.full((3, 200, 200), 240, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"no tile of 50 µm lies on tissue of image 'he' \(400 × 400 µm\)"):
        make_tile_table(select(slide(glass)), field_um=50)
    sdata = slide(glass)
    set_transformation(sdata.images["he"], {"global": Identity()}, set_all=True)
    with pytest.raises(ValueError, match="no µm scale is known for image 'he'"):
        make_tile_table(select(sdata, image=True), field_um=50)
