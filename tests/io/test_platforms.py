"""Readers of vendors' folders: a mark in the H&E lies under the spot that they place there, to the pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from spatialdata import SpatialData

import vendor_folders as vendor
from storm import io
from storm._bridge.read import read_spots

PX = 32


def crops(he: Path, px: np.ndarray) -> np.ndarray:
    pixels = tifffile.imread(he, key=0)
    half = PX // 2
    return np.stack([pixels[y - half : y + half, x - half : x + half] for x, y in px.round().astype(int)])


def assert_planted(sdata: SpatialData, he: Path, px: np.ndarray, *, um_per_px: float, turn: int = 0) -> None:
    """The patch of every spot is the crop of the H&E around it, turned with the alignment."""
    spots = read_spots(sdata)
    assert spots.scale.um_per_px == pytest.approx(um_per_px)
    patches = spots.patches.read(spots.centres, field_um=PX * um_per_px, out_px=PX)
    np.testing.assert_array_equal(patches, np.rot90(crops(he, px), turn, axes=(1, 2)))
    assert (patches == vendor.MARK).all(axis=-1).any()
    # rows of the table are the spots that they should be: observation k was given k + 1 counts of the first gene
    assert spots.counts[:, 0].toarray().ravel().tolist() == list(range(1, len(px) + 1))
    assert spots.counts.dtype == np.float32


def names(sdata: SpatialData) -> dict[str, list[str]]:
    return {"images": sorted(sdata.images), "shapes": sorted(sdata.shapes), "tables": sorted(sdata.tables)}


# --------------------------------------------------------------------------------------------------------- Visium


@pytest.mark.parametrize("version", [1, 2])
def test_visium(tmp_path: Path, version: int) -> None:
    outs, he, px = vendor.visium_folder(tmp_path, version=version)
    sdata = io.visium(outs, he)
    assert names(sdata) == {"images": ["he"], "shapes": ["spots"], "tables": ["table"]}
    assert sorted(sdata.coordinate_systems) == ["global", "um"]
    assert_planted(sdata, he, px, um_per_px=vendor.UM)
    facts = sdata.attrs["storm_io"]
    assert facts["um_per_px"] == vendor.UM
    assert "spot_diameter_fullres" in facts["um_per_px_source"]
    assert facts["um_per_px_of_pitch"] == pytest.approx(vendor.UM, rel=0.01)
    assert {"array_row", "array_col"} <= set(sdata["table"].obs)


def test_visium_takes_the_folder_above(tmp_path: Path) -> None:
    outs, he, _ = vendor.visium_folder(tmp_path)
    assert io.visium(outs.parent, he)["table"].n_obs == io.visium(outs, he)["table"].n_obs


def test_visium_scale_sources(tmp_path: Path) -> None:
    outs, he, px = vendor.visium_folder(tmp_path)
    sdata = io.visium(outs, he, um_per_px=0.51)
    assert sdata.attrs["storm_io"]["um_per_px_source"] == "the argument um_per_px"
    assert_planted(sdata, he, px, um_per_px=0.51)
    with pytest.raises(ValueError, match=r"5 from the argument um_per_px, 0\.5 from spot_diameter_fullres"):
        io.visium(outs, he, um_per_px=5.0)
    factors = vendor.scalefactors(spot_diameter_fullres=65 / 0.7)
    (outs / "spatial" / "scalefactors_json.json").write_text(vendor.json.dumps(factors))
    with pytest.warns(UserWarning, match=r"pitch of the array implies 0\.500"):
        io.visium(outs, he)


@pytest.mark.parametrize(("name", "factor"), [("hires", 2), ("lowres", 10)])
def test_visium_reduced_picture(tmp_path: Path, name: str, factor: int) -> None:
    outs, _, px = vendor.visium_folder(tmp_path)
    spots = read_spots(io.visium(outs, name))
    assert spots.scale.um_per_px == pytest.approx(factor * vendor.UM)
    np.testing.assert_allclose(spots.centres, px * vendor.UM)
    x, y, right, bottom = spots.patches.extent_um
    assert (x, y) == (0, 0)
    assert (right, bottom) == pytest.approx((vendor.SIZE[1] * vendor.UM, vendor.SIZE[0] * vendor.UM))


def test_visium_without_image(tmp_path: Path) -> None:
    outs, _, px = vendor.visium_folder(tmp_path)
    with pytest.warns(UserWarning, match=r"holds no H&E, only expression.*image='hires'"):
        sdata = io.visium(outs)
    assert not sdata.images
    np.testing.assert_allclose(read_spots(sdata).centres, px * vendor.UM)
    assert not io.visium(outs, False).images


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_visium_can_be_stored(tmp_path: Path) -> None:
    from spatialdata import read_zarr

    outs, he, px = vendor.visium_folder(tmp_path)
    io.visium(outs, he).write(tmp_path / "section.zarr")
    again = read_zarr(tmp_path / "section.zarr")
    assert again.attrs["storm_io"]["reader"] == "visium"
    assert_planted(again, he, px, um_per_px=vendor.UM)


# ------------------------------------------------------------------------------------------------------ Visium HD


@pytest.mark.parametrize(("bin_size", "inside"), [(8, True), (16, False), (2, True)])
def test_visium_hd(tmp_path: Path, bin_size: int, inside: bool) -> None:
    outs, he, px = vendor.visium_hd_folder(tmp_path, bin_size=bin_size, image_inside=inside)
    sdata = io.visium_hd(outs, None if inside else he, bin_size=bin_size)
    assert names(sdata) == {"images": ["he"], "shapes": ["bins"], "tables": ["table"]}
    assert_planted(sdata, he, px, um_per_px=vendor.UM)
    assert sdata["bins"].area.to_numpy() == pytest.approx((bin_size / vendor.UM) ** 2)
    assert sdata.attrs["storm_io"]["bin_size"] == bin_size
    assert sdata.attrs["storm_io"]["um_per_px_of_pitch"] == pytest.approx(vendor.UM)


def test_visium_hd_cells(tmp_path: Path) -> None:
    outs, he, _ = vendor.visium_hd_folder(tmp_path)
    centres = vendor.add_segmented_cells(outs)
    he = vendor.write_he(he, vendor.he_image(centres))
    sdata = io.visium_hd(outs, bin_size="cells")
    assert names(sdata) == {"images": ["he"], "shapes": ["cells"], "tables": ["table"]}
    assert_planted(sdata, he, centres, um_per_px=vendor.UM)


def test_visium_hd_without_what_was_asked(tmp_path: Path) -> None:
    outs, he, _ = vendor.visium_hd_folder(tmp_path, image_inside=False)
    with pytest.raises(FileNotFoundError, match=r"no square_002um, but square_008um"):
        io.visium_hd(outs, he, bin_size=2)
    with pytest.raises(FileNotFoundError, match="segmented_outputs"):
        io.visium_hd(outs, he, bin_size="cells")
    with pytest.raises(ValueError, match="bin_size=4"):
        io.visium_hd(outs, he, bin_size=4)
    with pytest.warns(UserWarning, match="microscope_image"):
        assert not io.visium_hd(outs).images


# --------------------------------------------------------------------------------------------------------- Xenium

SHIFT = np.array([[2.0, 0, 1000], [0, 2, 3000], [0, 0, 1]])
#: The H&E was scanned a quarter turn from the platform: its x is the platform's y.
TURNED = np.array([[0.0, -2, 3000], [2, 0, 1000], [0, 0, 1]])


@pytest.mark.parametrize(("alignment", "turn"), [(SHIFT, 0), (TURNED, -1)], ids=["shift", "turn"])
def test_xenium(tmp_path: Path, alignment: np.ndarray, turn: int) -> None:
    folder, he, px = vendor.xenium_folder(tmp_path, alignment=alignment)
    sdata = io.xenium(folder, he, alignment)
    assert names(sdata) == {"images": ["he"], "shapes": ["cells", "nuclei"], "tables": ["table"]}
    assert sdata["table"].uns["spatialdata_attrs"]["region"] == "cells"
    assert_planted(sdata, he, px, um_per_px=2 * vendor.PIXEL, turn=turn)
    facts = sdata.attrs["storm_io"]
    assert facts["um_per_px"] == vendor.PIXEL
    assert facts["image_um_per_px"] == pytest.approx(2 * vendor.PIXEL)
    assert facts["cells_on_image"] == 1.0


def test_xenium_finds_image_and_alignment(tmp_path: Path) -> None:
    folder, he, px = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    with pytest.raises(ValueError, match=r"pass alignment=.*slide_he_imagealignment\.csv"):
        io.xenium(folder)
    vendor.write_matrix(folder / "slide_he_imagealignment.csv", SHIFT)
    assert_planted(io.xenium(folder), he, px, um_per_px=2 * vendor.PIXEL)
    sdata = io.xenium(folder, False, nuclei=False)
    assert names(sdata) == {"images": [], "shapes": ["cells"], "tables": ["table"]}


def test_xenium_lies_in_global_as_the_vendor_has_it(tmp_path: Path) -> None:
    folder, he, px = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    sdata = io.xenium(folder, he, SHIFT)
    spots = read_spots(sdata, coordinate_system="global")
    assert spots.scale.um_per_unit == pytest.approx(vendor.PIXEL)
    assert spots.scale.um_per_px == pytest.approx(2 * vendor.PIXEL)
    np.testing.assert_allclose(spots.centres / vendor.PIXEL, px * 2 + [1000, 3000], rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------- CosMx


@pytest.mark.parametrize("polygons", [True, False])
def test_cosmx(tmp_path: Path, polygons: bool) -> None:
    folder, he, px = vendor.cosmx_folder(tmp_path, alignment=SHIFT, polygons=polygons)
    sdata = io.cosmx(folder, he, SHIFT)
    assert names(sdata) == {"images": ["he"], "shapes": ["cells"], "tables": ["table"]}
    assert_planted(sdata, he, px, um_per_px=2 * 0.120280945)
    facts = sdata.attrs["storm_io"]
    assert facts["fields_of_view"] == 2
    assert facts["shapes"] == ("polygons" if polygons else "circles")
    assert sdata["table"].obs_names.tolist() == ["1_1", "2_1", "3_1", "1_2", "2_2", "3_2"]


def test_cosmx_scale(tmp_path: Path) -> None:
    folder, _, _ = vendor.cosmx_folder(tmp_path, alignment=SHIFT, um=0.18)
    facts = io.cosmx(folder).attrs["storm_io"]
    assert facts["um_per_px"] == pytest.approx(0.18)
    assert "fov_positions" in facts["um_per_px_source"]
    with pytest.raises(ValueError, match=r"0\.12 from the argument um_per_px, 0\.18 from run_fov_positions"):
        io.cosmx(folder, um_per_px=0.12)


def test_cosmx_image_needs_an_alignment(tmp_path: Path) -> None:
    folder, he, _ = vendor.cosmx_folder(tmp_path, alignment=SHIFT)
    with pytest.raises(ValueError, match=r"the position of he\.tif .* no healignment\.csv lies"):
        io.cosmx(folder, he)
