"""Vendors' folders that are broken or do not fit together: errors that name what is wrong and say what to do."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse import csr_matrix

import vendor_folders as vendor
from storm import io

SHIFT = np.array([[2.0, 0, 1000], [0, 2, 3000], [0, 0, 1]])


@pytest.fixture
def visium(tmp_path: Path) -> tuple[Path, Path]:
    return vendor.visium_folder(tmp_path)[:2]


@pytest.fixture
def xenium(tmp_path: Path) -> tuple[Path, Path]:
    return vendor.xenium_folder(tmp_path, alignment=SHIFT)[:2]


# ------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("reader", [io.visium, io.visium_hd, io.xenium, io.cosmx], ids=lambda r: r.__name__)
def test_no_such_folder(tmp_path: Path, reader) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        reader(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"is not a .* folder: it holds none of .*, but notes\.txt"):
        reader(tmp_path)


def test_the_folder_of_another_platform_is_recognised(tmp_path: Path) -> None:
    """The error names the reader of what was given, a single folder of bins included."""
    visium, *_ = vendor.visium_folder(tmp_path / "a")
    bins, *_ = vendor.visium_hd_folder(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"; storm\.io\.visium_hd reads .*outs$"):
        io.visium(bins)
    with pytest.raises(FileNotFoundError, match=r"; storm\.io\.visium reads .*outs$"):
        io.xenium(visium)
    part = bins / "binned_outputs" / "square_008um"
    with pytest.raises(FileNotFoundError, match=r"is that of bins, which storm\.io\.visium_hd reads"):
        io.visium(part)
    with pytest.raises(FileNotFoundError, match=r"; storm\.io\.visium_hd reads .*binned_outputs$"):
        io.visium_hd(part)


@pytest.mark.parametrize(
    "name",
    ["filtered_feature_bc_matrix.h5", "spatial/scalefactors_json.json", "spatial/tissue_positions.csv"],
)
def test_visium_file_is_missing(visium: tuple[Path, Path], name: str) -> None:
    (visium[0] / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"is missing: .* holds no .*{Path(name).name}"):
        io.visium(*visium)


@pytest.mark.parametrize(
    "name",
    ["experiment.xenium", "cells.parquet", "cell_feature_matrix.h5", "cell_boundaries.parquet"],
)
def test_xenium_file_is_missing(xenium: tuple[Path, Path], name: str) -> None:
    (xenium[0] / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"is missing: .* holds no {name}"):
        io.xenium(*xenium, SHIFT)


def test_cosmx_file_is_missing(tmp_path: Path) -> None:
    folder, _, _ = vendor.cosmx_folder(tmp_path, alignment=SHIFT)
    (folder / "run_fov_positions_file.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"positions of the fields of view is missing"):
        io.cosmx(folder)


@pytest.mark.parametrize("name", ["run_fov_positions_file.csv", "run-polygons.csv"])
def test_cosmx_file_is_empty(tmp_path: Path, name: str) -> None:
    folder, _, _ = vendor.cosmx_folder(tmp_path, alignment=SHIFT)
    (folder / name).write_text("")
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a table: No columns"):
        io.cosmx(folder)


# --------------------------------------------------------------------------------------------------- broken files


def test_truncated_matrix(visium: tuple[Path, Path]) -> None:
    file = visium[0] / "filtered_feature_bc_matrix.h5"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"filtered_feature_bc_matrix\.h5 cannot be read as a matrix of 10x Genomics"):
        io.visium(*visium)


def test_broken_json(visium: tuple[Path, Path]) -> None:
    (visium[0] / "spatial" / "scalefactors_json.json").write_text("{")
    with pytest.raises(ValueError, match=r"scalefactors_json\.json is not a json file"):
        io.visium(*visium)


def test_truncated_image(visium: tuple[Path, Path]) -> None:
    visium[1].write_bytes(visium[1].read_bytes()[:-5000])
    with pytest.raises((ValueError, ImportError), match=r"he\.tif"):
        io.visium(*visium)
    visium[1].write_bytes(b"")
    with pytest.raises((ValueError, ImportError), match=r"he\.tif cannot be read as an image; tried as TIFF"):
        io.visium(*visium)
    with pytest.raises(FileNotFoundError, match=r"there is no image .*lost\.tif"):
        io.visium(visium[0], "lost.tif")


def test_truncated_reduced_picture(visium: tuple[Path, Path]) -> None:
    picture = visium[0] / "spatial" / "tissue_hires_image.png"
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as a"):
        io.visium(visium[0], "hires")
    picture.unlink()
    with pytest.raises(FileNotFoundError, match=r"no tissue_hires_image\.png; there are \['lowres'\]"):
        io.visium(visium[0], "hires")


# ------------------------------------------------------------------------------------- files that do not fit together


def write_positions(folder: Path, change) -> None:
    file = folder / "spatial" / "tissue_positions.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)


def test_barcodes_of_another_sample(visium: tuple[Path, Path]) -> None:
    write_positions(visium[0], lambda f: f.assign(barcode="N" + f["barcode"]))
    with pytest.raises(ValueError, match=r"4 of 4 barcodes .* have no position .*different samples"):
        io.visium(*visium)


def test_some_barcodes_without_position(visium: tuple[Path, Path]) -> None:
    write_positions(visium[0], lambda f: f.iloc[:-1])
    with pytest.raises(ValueError, match=r"1 of 4 barcodes .* have no position .*incomplete"):
        io.visium(*visium)


def test_empty_capture_area(visium: tuple[Path, Path], tmp_path: Path) -> None:
    matrix = visium[0] / "filtered_feature_bc_matrix.h5"
    vendor.write_10x(matrix, np.zeros((0, 5), dtype=np.int32), [])
    with pytest.raises(ValueError, match=r"holds no barcodes: no spot of the capture area was called tissue"):
        io.visium(*visium)
    vendor.write_10x(matrix, np.zeros((4, 5), dtype=np.int32), vendor.barcodes(4))
    with pytest.raises(ValueError, match=r"the table of 4 observations × 5 genes holds no counts"):
        io.visium(*visium)


def test_matrix_without_genes(visium: tuple[Path, Path]) -> None:
    matrix = visium[0] / "filtered_feature_bc_matrix.h5"
    vendor.write_10x(matrix, vendor.counts(4), vendor.barcodes(4), kind="Antibody Capture")
    with pytest.raises(ValueError, match=r"4 observations × 0 genes holds no counts"):
        io.visium(*visium)


def test_xenium_table_and_outlines_of_different_runs(xenium: tuple[Path, Path]) -> None:
    file = xenium[0] / "cell_boundaries.parquet"
    frame = pd.read_parquet(file)
    prefixed = frame.assign(cell_id=frame["cell_id"].str.replace("aaaa", "bbbb", regex=False))
    vendor.xenium_description(xenium[0] / "experiment.xenium", version="1.0.1")
    vendor.xenium_archive(xenium[0] / "cells.zarr.zip", vendor.xenium_ids(5), version="1.0.1")
    prefixed.to_parquet(file)
    with pytest.raises(ValueError, match=r"cells of cell_feature_matrix\.h5 .* are not those of cell_boundaries"):
        io.xenium(*xenium, SHIFT)


def test_xenium_says_which_shapes_the_table_annotates(xenium: tuple[Path, Path], caplog) -> None:
    with caplog.at_level("INFO", logger="storm"):
        sdata = io.xenium(*xenium, SHIFT)
    assert "the table annotates shapes['cells'], not shapes['nuclei']" in caplog.text
    assert set(sdata["table"].obs["region"]) == {"cells"}


def test_xenium_without_pixel_size(xenium: tuple[Path, Path]) -> None:
    (xenium[0] / "experiment.xenium").write_text(json.dumps({"analysis_sw_version": "xenium-1.6.0.8"}))
    with pytest.raises(ValueError, match=r"experiment\.xenium holds no pixel_size, but \['analysis_sw_version'\]"):
        io.xenium(*xenium, SHIFT)


def test_cosmx_tables_without_common_cells(tmp_path: Path) -> None:
    folder, _, _ = vendor.cosmx_folder(tmp_path, alignment=SHIFT)
    file = folder / "run_metadata_file.csv"
    frame = pd.read_csv(file)
    frame.assign(fov=frame["fov"] + 10).to_csv(file, index=False)
    with pytest.raises(ValueError, match="have no cell in common"):
        io.cosmx(folder)


def test_cosmx_polygons_of_another_run(tmp_path: Path) -> None:
    folder, _, _ = vendor.cosmx_folder(tmp_path, alignment=SHIFT)
    file = folder / "run-polygons.csv"
    frame = pd.read_csv(file)
    frame.assign(fov=99).to_csv(file, index=False)
    with pytest.raises(ValueError, match="holds none of the cells of the table"):
        io.cosmx(folder)
    frame.drop(columns="x_global_px").to_csv(file, index=False)
    with pytest.raises(ValueError, match="has no columns"):
        io.cosmx(folder)


# ---------------------------------------------------------------------- an image that is not the full-resolution one


def test_reduced_picture_given_as_full_resolution(visium: tuple[Path, Path]) -> None:
    hires = visium[0] / "spatial" / "tissue_hires_image.png"
    with pytest.raises(ValueError, match=r"the size of tissue_hires_image\.png, the reduced picture.*image='hires'"):
        io.visium(visium[0], hires)


def test_resized_image(visium: tuple[Path, Path], tmp_path: Path) -> None:
    whole = np.asarray(Image.open(visium[0] / "spatial" / "tissue_hires_image.png"))
    small = tmp_path / "small.png"
    Image.fromarray(np.ascontiguousarray(whole[::2, ::2])).save(small)
    with pytest.raises(ValueError, match=r"lie beyond the image: small\.png is 120 × 90 px.*reduced copy"):
        io.visium(visium[0], small)
    for other in (
        np.kron(whole, np.ones((4, 4, 1), dtype=np.uint8)),
        np.kron(whole, np.ones((3, 2, 1), dtype=np.uint8)),
    ):
        Image.fromarray(other).save(small)
        with pytest.raises(ValueError, match=r"was made from an image of about 480 × 360 px"):
            io.visium(visium[0], small)


def test_turned_image(visium: tuple[Path, Path], tmp_path: Path) -> None:
    """An image whose x and y are swapped has the wrong size, if it is no square."""
    turned = tmp_path / "turned.png"
    Image.fromarray(np.zeros((*vendor.SIZE[::-1], 3), dtype=np.uint8)).save(turned)
    with pytest.raises(ValueError, match=r"turned\.png is 360 × 480 px.*480 × 360 px"):
        io.visium(visium[0], turned)


def test_visium_hd_image_and_barcodes(tmp_path: Path) -> None:
    outs, he, _ = vendor.visium_hd_folder(tmp_path)
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((90, 120, 3), dtype=np.uint8)).save(small)
    with pytest.raises(ValueError, match="lie beyond the image"):
        io.visium_hd(outs, small)
    file = outs / "binned_outputs" / "square_008um" / "spatial" / "tissue_positions.parquet"
    frame = pd.read_parquet(file)
    frame.iloc[3:].to_parquet(file)
    with pytest.raises(ValueError, match=r"3 of 20 barcodes .* have no position"):
        io.visium_hd(outs, he)


def test_several_images(tmp_path: Path) -> None:
    outs, he, _ = vendor.visium_hd_folder(tmp_path)
    (he.parent / "if.tif").write_bytes(he.read_bytes())
    with pytest.raises(ValueError, match=r"several images, \['he\.btf', 'if\.tif'\]; choose the H&E with image="):
        io.visium_hd(outs)


def test_counts_are_those_of_the_file(visium: tuple[Path, Path]) -> None:
    table = io.visium(visium[0], False)["table"]
    with h5py.File(visium[0] / "filtered_feature_bc_matrix.h5") as file:
        group = file["matrix"]
        wanted = csr_matrix((group["data"][:], group["indices"][:], group["indptr"][:]), shape=group["shape"][:][::-1])
    np.testing.assert_array_equal(table.X.toarray(), wanted.toarray())
    assert list(table.var_names) == vendor.GENES
