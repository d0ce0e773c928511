"""Reading spots from SpatialData and AnnData: a section of known colours, or the parts of it that there are."""

from __future__ import annotations

import pickle
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity

from planted_section import UM, circles, colours, counts, frames, grid_px, image_element, planted_image, section
from storm._bridge import read_spots

# anndata announces a change of its own defaults, in the name of contextlib
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


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
