"""Real output of the platforms. Where a vendor's file is missing there, it is written from the public format."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import storm
import vendor_folders as vendor
from storm._bridge.read import read_spots


def copy(source: Path, target: Path) -> Path:
    """A copy that may be written to."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder in (target, *target.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)
    return target


@pytest.fixture
def hd_tree(shared_data: Path, tmp_path: Path):
    """Outs around one of the two trees of binned counts: without their ``feature_slice.h5``, pictures with alpha."""

    def make(name: str) -> Path:
        outs = tmp_path / "outs"
        outs.mkdir()
        copy(shared_data / "platforms" / "visium_hd" / name, outs / "binned_outputs")
        vendor.feature_slice(outs / "feature_slice.h5")
        for picture in outs.rglob("*.png"):
            Image.open(picture).convert("RGB").save(picture)
        return outs

    return make


def test_visium(shared_data: Path) -> None:
    folder = shared_data / "platforms" / "visium_outs"
    sdata = storm.io.visium(folder, "lowres")
    facts = sdata.attrs["storm_io"]
    assert sdata["table"].shape == (3352, 815)
    assert facts["um_per_px"] == pytest.approx(0.726, abs=1e-3)
    assert facts["um_per_px_of_pitch"] == pytest.approx(facts["um_per_px"], rel=0.01)
    positions = pd.read_csv(folder / "spatial" / "tissue_positions_list.csv", header=None, index_col=0)
    wanted = positions.loc[sdata["table"].obs_names, [5, 4]].to_numpy()
    np.testing.assert_allclose(read_spots(sdata).centres, wanted * facts["um_per_px"])
    # the spots under tissue are darker than the rest of the picture
    spots = read_spots(sdata)
    on_tissue = spots.patches.read(spots.centres[::20], field_um=100, out_px=7)[:, 3, 3].mean()
    assert on_tissue < np.asarray(sdata["he"]["scale0"]["image"]).mean() - 20
    with pytest.raises(FileNotFoundError, match=r"no tissue_hires_image\.png"):
        storm.io.visium(folder, "hires")


def test_visium_is_embedded(shared_data: Path) -> None:
    sdata = storm.io.visium(shared_data / "platforms" / "visium_outs", False)
    with pytest.warns(UserWarning, match="107 of 3352 rows of 'X_storm' are NaN: 107 without counts"):
        storm.tl.embed(sdata)
    assert np.isfinite(sdata["table"].obsm["X_storm"]).all(axis=1).sum() == 3352 - 107


def test_visium_hd_8(hd_tree) -> None:
    """Its positions are spaced as bins of 16 µm are, which a warning says."""
    outs = hd_tree("seurat_binned_outputs")
    with pytest.warns(UserWarning, match=r"pitch of the array implies 0\.1369 µm per pixel"):
        sdata = storm.io.visium_hd(outs, "hires")
    assert sdata["table"].shape == (2695, 100)
    assert sdata.attrs["storm_io"]["um_per_px"] == pytest.approx(0.27376, abs=1e-5)
    spots = read_spots(sdata)
    assert spots.scale.um_per_px == pytest.approx(0.27376 / 0.25404352, rel=1e-4)
    assert spots.off_tissue.sum() > 0.2 * len(spots)
    assert spots.patches.inside(spots.centres[spots.placed]).mean() > 0.8


def test_visium_hd_16(hd_tree) -> None:
    """Most barcodes of its matrix are not in its table of positions; with a matrix of those that are, it is read."""
    outs = hd_tree("seurat_binned_outputs")
    with pytest.raises(ValueError, match=r"2053 of 2695 barcodes .* have no position .*incomplete"):
        storm.io.visium_hd(outs, False, bin_size=16)
    part = outs / "binned_outputs" / "square_016um"
    names = pd.read_parquet(part / "spatial" / "tissue_positions.parquet").query("in_tissue == 1")["barcode"]
    vendor.write_10x(part / "filtered_feature_bc_matrix.h5", vendor.counts(len(names)), names)
    sdata = storm.io.visium_hd(outs, False, bin_size=16)
    assert sdata["table"].n_obs == len(names)
    assert sdata.attrs["storm_io"]["um_per_px_of_pitch"] == pytest.approx(0.27376, rel=0.01)


def test_visium_hd_2(hd_tree) -> None:
    """Ten bins, and no counts in them."""
    outs = hd_tree("visiumio_binned_outputs")
    with pytest.raises(ValueError, match="table of 10 observations × 10 genes holds no counts"):
        storm.io.visium_hd(outs, False, bin_size=2)
    matrix = outs / "binned_outputs" / "square_002um" / "filtered_feature_bc_matrix.h5"
    names = pd.read_parquet(matrix.parent / "spatial" / "tissue_positions.parquet")["barcode"]
    vendor.write_10x(matrix, vendor.counts(10), names[:10])
    sdata = storm.io.visium_hd(outs, False, bin_size=2)
    assert sdata["bins"].area.to_numpy() * sdata.attrs["storm_io"]["um_per_px"] ** 2 == pytest.approx(4.0)


def test_xenium(shared_data: Path, tmp_path: Path) -> None:
    folder = copy(shared_data / "platforms" / "xenium", tmp_path / "xenium")
    cells = pd.read_parquet(folder / "cells.parquet")
    vendor.xenium_description(folder / "experiment.xenium")
    vendor.xenium_archive(folder / "cells.zarr.zip", cells["cell_id"])
    sdata = storm.io.xenium(folder)
    assert sdata["table"].n_obs == 526
    assert sorted(sdata.shapes) == ["cells", "nuclei"]
    assert not sdata.images
    spots = read_spots(sdata)
    # centroids of the outlines against the vendor's own, µm
    off = np.linalg.norm(spots.centres - cells[["x_centroid", "y_centroid"]].to_numpy(), axis=1)
    assert np.median(off) < 0.5
    assert spots.um_known


def test_cosmx(shared_data: Path, tmp_path: Path) -> None:
    folder = copy(shared_data / "platforms" / "cosmx", tmp_path / "cosmx")
    vendor.cosmx_extras(folder, "Run5642_S3_Quarter", {1: (171400.0, 11341.0)})
    sdata = storm.io.cosmx(folder)
    metadata = pd.read_csv(folder / "Run5642_S3_Quarter_metadata_file.csv")
    spots = read_spots(sdata)
    wanted = metadata[["CenterX_global_px", "CenterY_global_px"]].to_numpy() * 0.120280945
    # the vendor's centre is that of the bounding box
    assert np.median(np.linalg.norm(spots.centres - wanted, axis=1)) < 2.0
    storm.tl.embed(sdata)
    assert np.isfinite(sdata["table"].obsm["X_storm"]).all()
