"""Vendors' folders as they come: files that are not needed, bad rows, other names and forms of the same tables.

What is planted, observation k with k + 1 counts of the first gene at its own place, is found again, or the file that is
wrong is named.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from spatialdata import SpatialData

import vendor_folders as vendor
from storm import io
from storm._bridge.read import read_spots

SHIFT = np.array([[2.0, 0, 1000], [0, 2, 3000], [0, 0, 1]])
#: µm per global pixel of CosMx.
COSMX_UM = 0.120280945


def assert_places(
    sdata: SpatialData, um: np.ndarray, *, left_out: tuple[int, ...] = (), tolerance: float = 0.05
) -> None:
    """Every row lies where the observation with its counts was planted."""
    table = sdata["table"]
    planted = table.X.toarray()[:, 0].astype(int) - 1
    assert sorted(planted) == [k for k in range(len(um)) if k not in left_out]
    assert list(table.var_names) == vendor.GENES
    assert np.abs(read_spots(sdata).centres - um[planted]).max() < tolerance


def facts(sdata: SpatialData) -> dict:
    return sdata.attrs["storm_io"]


# --------------------------------------------------------------------------------------------------------- Visium


@pytest.fixture
def visium(tmp_path: Path) -> tuple[Path, np.ndarray]:
    outs, _, px = vendor.visium_folder(tmp_path)
    return outs, px * vendor.UM


def positions(outs: Path, name: str = "tissue_positions.csv") -> tuple[Path, pd.DataFrame]:
    file = outs / "spatial" / name
    return file, pd.read_csv(file)


def factors(outs: Path, **more) -> None:
    file = outs / "spatial" / "scalefactors_json.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def test_two_tables_of_positions_that_differ(visium: tuple[Path, np.ndarray]) -> None:
    outs, um = visium
    file, frame = positions(outs)
    old = file.with_name("tissue_positions_list.csv")
    frame.to_csv(old, index=False, header=False)
    assert_places(io.visium(outs, False), um)
    frame.assign(pxl_row_in_fullres=frame["pxl_row_in_fullres"] + 3).to_csv(old, index=False, header=False)
    with pytest.raises(ValueError, match=r"tissue_positions\.csv and tissue_positions_list\.csv place the spots diff"):
        io.visium(outs, False)


def test_positions_in_any_order_and_with_more_columns(visium: tuple[Path, np.ndarray]) -> None:
    outs, um = visium
    file, frame = positions(outs)
    frame.sample(frac=1, random_state=0).assign(comment="x")[[*frame.columns[::-1], "comment"]].to_csv(
        file, index=False
    )
    assert_places(io.visium(outs, False), um)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("pxl_row_in_fullres", np.nan, "1 of 4 positions .*NaN or infinite"),
        ("pxl_col_in_fullres", np.inf, "1 of 4 positions .*NaN or infinite"),
        ("pxl_col_in_fullres", "left", "column 'pxl_col_in_fullres' holds 'left' in place of a number"),
        ("array_row", np.nan, "are missing for 1 barcodes"),
    ],
)
def test_a_spot_without_a_position(visium: tuple[Path, np.ndarray], column: str, value, words: str) -> None:
    file, frame = positions(visium[0])
    frame[column] = frame[column].astype(object)
    frame.loc[1, column] = value
    frame.to_csv(file, index=False)
    with pytest.raises(ValueError, match=words) as error:
        io.visium(visium[0], False)
    assert "tissue_positions.csv" in str(error.value)


def test_a_barcode_with_two_positions(visium: tuple[Path, np.ndarray]) -> None:
    file, frame = positions(visium[0])
    pd.concat([frame, frame.iloc[:1]]).to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"tissue_positions\.csv names 1 barcodes twice"):
        io.visium(visium[0], False)


def large_visium(path: Path) -> tuple[Path, pd.DataFrame]:
    """A hexagon lattice of 400 spots, and its table of positions in the order of the barcodes."""
    row, col = (a.ravel() for a in np.meshgrid(np.arange(20), np.arange(20), indexing="ij"))
    col = 2 * col + row % 2
    names = vendor.barcodes(400)
    outs, _, _ = vendor.visium_folder(path)
    vendor.write_10x(outs / "filtered_feature_bc_matrix.h5", vendor.counts(400), names)
    frame = pd.DataFrame({"barcode": names, "in_tissue": 1, "array_row": row, "array_col": col})
    frame["pxl_row_in_fullres"] = 100 + row * 50 * np.sqrt(3) / vendor.UM
    frame["pxl_col_in_fullres"] = 60 + col * 50 / vendor.UM
    return outs, frame


def test_pixels_of_other_spots(tmp_path: Path) -> None:
    """Pixels that were sorted on their own: every barcode has a position, and it is that of another spot."""
    outs, frame = large_visium(tmp_path)
    file = outs / "spatial" / "tissue_positions.csv"
    pixels = ["pxl_row_in_fullres", "pxl_col_in_fullres"]
    um = frame[pixels[::-1]].to_numpy() * vendor.UM
    frame.to_csv(file, index=False)
    assert_places(io.visium(outs, False), um)
    shuffled = frame.copy()
    shuffled[pixels] = frame[pixels].sample(frac=1, random_state=0).to_numpy()
    shuffled.to_csv(file, index=False)
    with pytest.raises(ValueError, match=r"of 400 spots lie in the image elsewhere than on the array"):
        io.visium(outs, False)
    swapped = frame.copy()
    swapped.loc[[0, 399], pixels] = frame.loc[[399, 0], pixels].to_numpy()
    swapped.to_csv(file, index=False)
    with pytest.warns(UserWarning, match=r"2 of 400 spots lie in the image elsewhere"):
        io.visium(outs, False)


def test_spots_outside_the_tissue_are_counted(visium: tuple[Path, np.ndarray], caplog) -> None:
    outs, um = visium
    file, frame = positions(outs)
    frame["in_tissue"] = [0, 1, 1, 1]
    frame.to_csv(file, index=False)
    (outs / "filtered_feature_bc_matrix.h5").rename(outs / "raw_feature_bc_matrix.h5")
    with caplog.at_level("WARNING", logger="storm"):
        sdata = io.visium(outs, False, filtered=False)
    assert sdata["table"].n_obs == len(um)
    assert facts(sdata)["outside_tissue"] == 1
    assert sdata["table"].obs["in_tissue"].tolist().count(0) == 1
    assert "'outside_tissue': 1" in caplog.text


@pytest.mark.parametrize("value", [0, -3.0, "89,5", "unknown", None, True, float("nan"), 1e-12, 1e300, [89.5]])
def test_what_is_no_scale_factor(visium: tuple[Path, np.ndarray], value) -> None:
    """The array tells the scale then; with spots on a line nothing does, ``um_per_px=`` is asked for, and wins."""
    outs, um = visium
    factors(outs, spot_diameter_fullres=value)
    sdata = io.visium(outs, False)
    assert_places(sdata, um, tolerance=1.0)
    assert facts(sdata)["um_per_px_source"] == "the pitch of the array"
    assert facts(sdata)["um_per_px"] == pytest.approx(vendor.UM, rel=0.01)
    file, frame = positions(outs)
    frame.assign(array_row=0, pxl_row_in_fullres=100).to_csv(file, index=False)
    with pytest.raises(ValueError, match="holds no usable spot_diameter_fullres; pass um_per_px="):
        io.visium(outs, False)
    sdata = io.visium(outs, False, um_per_px=0.25)
    assert facts(sdata)["um_per_px"] == 0.25
    assert read_spots(sdata).scale.um_per_px is None


@pytest.mark.parametrize("value", [-1.0, 0, float("nan"), 1e12, 1e-9])
def test_impossible_um_per_px(visium: tuple[Path, np.ndarray], value: float) -> None:
    factors(visium[0], spot_diameter_fullres=0)
    file, frame = positions(visium[0])
    frame.assign(array_row=0, pxl_row_in_fullres=100).to_csv(file, index=False)  # the array tells no scale
    with pytest.raises(ValueError, match=r"um_per_px=.* (must be positive and finite|is not possible)"):
        io.visium(visium[0], False, um_per_px=value)


@pytest.mark.parametrize("text", ["[1, 2]", "3", '"text"', "null", "{", "", "[" * 100_000])
def test_scale_factors_that_are_no_object(visium: tuple[Path, np.ndarray], text: str) -> None:
    (visium[0] / "spatial" / "scalefactors_json.json").write_text(text)
    with pytest.raises(ValueError, match=r"scalefactors_json\.json (is not a json file|holds a)"):
        io.visium(visium[0], False)


def test_a_reduced_picture_that_is_not_needed(visium: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    outs, um = visium
    for key in ("hires", "lowres"):
        (outs / "spatial" / f"tissue_{key}_image.png").write_bytes(b"no picture")
    assert_places(io.visium(outs, False), um)
    assert io.visium(outs, tmp_path / "he.tif").images


@pytest.mark.parametrize("content", [b"", b"\x00\x01\xff" * 50, b"a,b\n1,2\n", b'"'])
def test_damaged_positions(visium: tuple[Path, np.ndarray], content: bytes) -> None:
    (visium[0] / "spatial" / "tissue_positions.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"tissue_positions\.csv"):
        io.visium(visium[0], False)


# ------------------------------------------------------------------------------------------------------ Visium HD


@pytest.fixture
def hd(tmp_path: Path) -> tuple[Path, np.ndarray]:
    outs, _, px = vendor.visium_hd_folder(tmp_path)
    return outs, px * vendor.UM


def test_bins_need_nothing_else(hd: tuple[Path, np.ndarray]) -> None:
    outs, um = hd
    vendor.add_segmented_cells(outs)
    (outs / "segmented_outputs" / "cell_segmentations.geojson").write_text('{"type": "Feat')
    (outs / "feature_slice.h5").unlink()
    for picture in outs.rglob("tissue_*_image.png"):
        picture.unlink()
    assert_places(io.visium_hd(outs, False), um)
    assert_places(io.visium_hd(outs / "binned_outputs", False), um)


def test_bins_of_a_folder_with_a_prefix(hd: tuple[Path, np.ndarray]) -> None:
    outs, um = hd
    (outs / "feature_slice.h5").rename(outs / "Sample_1_feature_slice.h5")
    assert_places(io.visium_hd(outs, False), um)


def test_damaged_parquet(hd: tuple[Path, np.ndarray]) -> None:
    file = hd[0] / "binned_outputs" / "square_008um" / "spatial" / "tissue_positions.parquet"
    for content in (b"", file.read_bytes()[:-30], b"PAR1" + b"\xff" * 200 + b"PAR1"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"tissue_positions\.parquet cannot be read as a table"):
            io.visium_hd(hd[0], False)


def segmentation(outs: Path, change) -> None:
    file = outs / "segmented_outputs" / "cell_segmentations.geojson"
    content = json.loads(file.read_text())
    change(content["features"])
    file.write_text(json.dumps(content))


def test_cells_in_any_order(hd: tuple[Path, np.ndarray]) -> None:
    outs, _ = hd
    um = vendor.add_segmented_cells(outs) * vendor.UM
    segmentation(outs, lambda features: features.reverse())
    assert_places(io.visium_hd(outs, False, bin_size="cells"), um)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f["geometry"]["coordinates"][0].__delitem__(slice(2, None)),
        lambda f: f.update(geometry=None),
        lambda f: f.update(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}),
        lambda f: f.update(geometry={"type": "Polygon", "coordinates": "text"}),
        lambda f: f.update(properties={}),
    ],
)
def test_one_bad_outline_of_a_cell(hd: tuple[Path, np.ndarray], spoil) -> None:
    outs, _ = hd
    um = vendor.add_segmented_cells(outs) * vendor.UM
    segmentation(outs, lambda features: spoil(features[1]))
    with pytest.warns(UserWarning, match="1 of 3 cells have no usable outline and are left out"):
        sdata = io.visium_hd(outs, False, bin_size="cells")
    assert_places(sdata, um, left_out=(1,))
    assert facts(sdata)["cells_left_out"] == 1


def test_outlines_of_several_parts_and_with_holes(hd: tuple[Path, np.ndarray]) -> None:
    outs, _ = hd
    centres = vendor.add_segmented_cells(outs)
    whole, hole = (shapely.box(*(centres[1] - half), *(centres[1] + half)) for half in (8, 3))
    parts = shapely.MultiPolygon(
        [shapely.box(x - 1, y - 1, x + 1, y + 1) for x, y in centres[2] + np.array([[-4, 0], [4, 0]])]
    )

    def change(features) -> None:
        features[1]["geometry"] = json.loads(shapely.to_geojson(whole - hole))
        features[2]["geometry"] = json.loads(shapely.to_geojson(parts))

    segmentation(outs, change)
    sdata = io.visium_hd(outs, False, bin_size="cells")
    assert_places(sdata, centres * vendor.UM)
    assert sorted(sdata["cells"].area) == pytest.approx([8, 256 - 36, 256])


def test_segmentation_without_cells(hd: tuple[Path, np.ndarray]) -> None:
    outs, _ = hd
    vendor.add_segmented_cells(outs)
    segmentation(outs, lambda features: features.clear())
    with pytest.raises(ValueError, match=r"cell_segmentations\.geojson holds the outline of none of the cells"):
        io.visium_hd(outs, False, bin_size="cells")
    (outs / "segmented_outputs" / "cell_segmentations.geojson").write_text("[]")
    with pytest.raises(ValueError, match=r"cell_segmentations\.geojson holds a list"):
        io.visium_hd(outs, False, bin_size="cells")


# --------------------------------------------------------------------------------------------------------- Xenium


@pytest.fixture
def xenium(tmp_path: Path) -> tuple[Path, np.ndarray]:
    folder, _, px = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    (folder / "slide_he_image.ome.tif").unlink()
    return folder, (px * 2 + np.array([1000, 3000])) * vendor.PIXEL


def rewrite(file: Path, change) -> None:
    change(pd.read_parquet(file)).to_parquet(file)


@pytest.mark.parametrize("version", ["R&D", "Xenium-4.0.0", "xenium-4.0.1.0", None, 7])
def test_any_version(xenium: tuple[Path, np.ndarray], version) -> None:
    """Nothing that is read depends on the version, or on the archive of cells."""
    folder, um = xenium
    told = {"pixel_size": vendor.PIXEL} | ({} if version is None else {"analysis_sw_version": version})
    (folder / "experiment.xenium").write_text(json.dumps(told))
    (folder / "cells.zarr.zip").write_bytes(b"not an archive")
    assert_places(io.xenium(folder), um)


def test_tables_in_orders_of_their_own(xenium: tuple[Path, np.ndarray]) -> None:
    folder, um = xenium
    rewrite(folder / "cells.parquet", lambda f: f.iloc[::-1])
    rewrite(folder / "cell_boundaries.parquet", lambda f: f.sort_values("cell_id", ascending=False, kind="stable"))
    assert_places(io.xenium(folder), um)


@pytest.mark.parametrize("form", ["bytes", "numbers", "csv"])
def test_forms_of_names(xenium: tuple[Path, np.ndarray], form: str) -> None:
    folder, um = xenium
    numbers = dict(zip(vendor.xenium_ids(5), range(1, 6), strict=True))
    if form == "numbers":
        vendor.write_10x(folder / "cell_feature_matrix.h5", vendor.counts(5), map(str, numbers.values()))
    for name in ("cells", "cell_boundaries", "nucleus_boundaries"):
        file = folder / f"{name}.parquet"
        if form == "csv":
            pd.read_parquet(file).to_csv(folder / f"{name}.csv.gz", index=False)
            file.unlink()
        else:
            make = str.encode if form == "bytes" else numbers.__getitem__
            rewrite(file, lambda f, make=make: f.assign(cell_id=f["cell_id"].map(make)))
    assert_places(io.xenium(folder), um)


def test_outlines_of_shifted_names_are_refused(xenium: tuple[Path, np.ndarray]) -> None:
    """Names that all exist, but of the next cell each: the vendor's centroids say so."""
    folder, _ = xenium
    ids = vendor.xenium_ids(5)
    following = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    rewrite(folder / "cell_boundaries.parquet", lambda f: f.assign(cell_id=f["cell_id"].map(following)))
    with pytest.raises(ValueError, match=r"5 of 5 cells lie elsewhere by cells\.parquet than by cell_boundaries"):
        io.xenium(folder)


def test_cells_of_only_one_table(xenium: tuple[Path, np.ndarray]) -> None:
    folder, um = xenium
    rewrite(folder / "cells.parquet", lambda f: f.drop(index=2))
    with pytest.warns(UserWarning, match=r"do not hold the same cells: \{'counts_without_cell': 1\}"):
        sdata = io.xenium(folder)
    assert_places(sdata, um, left_out=(2,))
    assert facts(sdata)["counts_without_cell"] == 1
    assert facts(sdata)["outlines_of_no_cell"] == 1


def test_a_centroid_that_is_missing(xenium: tuple[Path, np.ndarray]) -> None:
    rewrite(xenium[0] / "cells.parquet", lambda f: f.assign(x_centroid=f["x_centroid"].where(f.index != 3)))
    with pytest.raises(ValueError, match=r"1 of 5 positions in .*cells\.parquet are NaN or infinite"):
        io.xenium(xenium[0])


@pytest.mark.parametrize("pixel_size", [0, -0.2125, "0,2125", "R&D", None, 1e12, True, [0.2125]])
def test_what_is_no_pixel_size(xenium: tuple[Path, np.ndarray], pixel_size) -> None:
    (xenium[0] / "experiment.xenium").write_text(json.dumps({"pixel_size": pixel_size}))
    with pytest.raises(ValueError, match=r"pixel_size=.* in .*experiment\.xenium cannot be the µm per pixel"):
        io.xenium(xenium[0])


def spoil_outline(file: Path, keep: list[int]) -> None:
    frame = pd.read_parquet(file)
    rows = [part for _, part in frame.groupby("cell_id", sort=False)]
    rows[2] = rows[2].iloc[keep]
    pd.concat(rows).to_parquet(file)


@pytest.mark.parametrize("keep", [[0, 4, 0], [0, 0], [0, 6, 0, 0], [3, 3, 3, 3], []])
def test_one_degenerate_outline(xenium: tuple[Path, np.ndarray], keep: list[int]) -> None:
    """The cell is where its centroid is, with its area; and its nucleus is left out."""
    folder, um = xenium
    spoil_outline(folder / "cell_boundaries.parquet", keep)
    spoil_outline(folder / "nucleus_boundaries.parquet", keep)
    with pytest.warns(UserWarning, match=r"of 5 cells, 1 have no usable outline and are discs"):
        sdata = io.xenium(folder)
    assert_places(sdata, um)
    assert sdata["cells"].area.iloc[2] == pytest.approx(80.0, rel=0.02)  # the vendor's cell_area
    assert facts(sdata)["outlines_replaced_by_discs"] == 1
    assert len(sdata["nuclei"]) == 4


def test_nuclei_that_cannot_be_read(xenium: tuple[Path, np.ndarray]) -> None:
    folder, um = xenium
    (folder / "nucleus_boundaries.parquet").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"shapes\['nuclei'\] are left out: .*nucleus_boundaries\.parquet"):
        sdata = io.xenium(folder)
    assert_places(sdata, um)
    assert "nuclei" not in sdata.shapes
    assert_places(io.xenium(folder, nuclei=False), um)


def test_cells_of_two_parts_and_two_nuclei(xenium: tuple[Path, np.ndarray]) -> None:
    """From version 2.0 on every outline has a label; a cell may have two outlines, or two nuclei."""
    folder, um = xenium
    for name in ("cell", "nucleus"):

        def relabel(frame: pd.DataFrame) -> pd.DataFrame:
            frame["label_id"] = np.repeat(np.arange(1, 6), 13)
            second = frame[frame["label_id"] == 1].assign(label_id=6)
            return pd.concat([frame, second.assign(vertex_y=second["vertex_y"] + 12)])

        rewrite(folder / f"{name}_boundaries.parquet", relabel)
    sdata = io.xenium(folder)
    cells, nuclei = sdata["cells"], sdata["nuclei"]
    assert cells.geometry.geom_type.tolist() == ["MultiPolygon", *["Polygon"] * 4]
    assert cells.geometry.iloc[0].centroid.y == pytest.approx(um[0, 1] + 6, abs=0.1)
    assert sorted(nuclei.index) == [1, 2, 3, 4, 5, 6]
    assert nuclei["cell_id"].tolist().count(vendor.xenium_ids(5)[0]) == 2
    assert len(sdata["table"]) == len(cells) == 5


def test_two_tables_of_cells_that_differ(xenium: tuple[Path, np.ndarray]) -> None:
    folder, um = xenium
    cells = pd.read_parquet(folder / "cells.parquet")
    cells.to_csv(folder / "cells.csv.gz", index=False)
    assert_places(io.xenium(folder), um)
    cells.assign(x_centroid=cells["x_centroid"] + 5).to_csv(folder / "cells.csv.gz", index=False)
    with pytest.raises(ValueError, match=r"cells\.parquet and cells\.csv\.gz hold different cells"):
        io.xenium(folder)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_what_was_read_can_be_stored(xenium: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, um = xenium
    rewrite(folder / "cells.parquet", lambda f: f.assign(**{"a/b c": 1, "Cell_ID": "x", "empty": None}))
    io.xenium(folder).write(tmp_path / "section.zarr")
    assert_places(SpatialData.read(tmp_path / "section.zarr"), um)


# ---------------------------------------------------------------------------------------------------------- CosMx


@pytest.fixture
def cosmx(tmp_path: Path) -> tuple[Path, np.ndarray]:
    folder, _, px = vendor.cosmx_folder(tmp_path, alignment=SHIFT)
    for name in ("CellComposite", "CellLabels"):
        shutil.rmtree(folder / name)
    return folder, (px * 2 + np.array([1000, 3000])) * COSMX_UM


def recsv(file: Path, change) -> None:
    change(pd.read_csv(file)).to_csv(file, index=False)


def test_cosmx_needs_no_pictures(cosmx: tuple[Path, np.ndarray]) -> None:
    sdata = io.cosmx(cosmx[0])
    assert_places(sdata, cosmx[1])
    assert facts(sdata)["rows_outside_cells"] == 1


def test_cosmx_all_gzipped(cosmx: tuple[Path, np.ndarray]) -> None:
    folder, um = cosmx
    for file in list(folder.glob("*.csv")):
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    assert_places(io.cosmx(folder), um)  # both forms, and the same
    for file in list(folder.glob("*.csv")):
        file.unlink()
    assert_places(io.cosmx(folder), um)


@pytest.mark.parametrize("name", ["exprMat_file", "metadata_file", "fov_positions_file"])
def test_cosmx_two_forms_that_differ(cosmx: tuple[Path, np.ndarray], name: str) -> None:
    file = cosmx[0] / f"run_{name}.csv"
    (cosmx[0] / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes().replace(b"1", b"2")))
    with pytest.raises(ValueError, match=rf"{file.name} and {file.name}\.gz, and they differ"):
        io.cosmx(cosmx[0])


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """With the vendor's further names of cells, as newer exports have them."""
    text = "c_1_" + frame["fov"].astype(str) + "_" + frame[frame.columns[frame.columns.get_loc("fov") + 1]].astype(str)
    return frame.assign(cell=text, cell_id=text)


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding")
def test_cosmx_further_columns(cosmx: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """Names of cells in text, a column of text, one of row numbers, and controls are not genes."""
    folder, um = cosmx
    recsv(
        folder / "run_exprMat_file.csv",
        lambda f: named(f).assign(slide="A", NegPrb3=5, Negative01=4, SystemControl12=2, FalseCode7=1).reset_index(),
    )
    text = (folder / "run_exprMat_file.csv").read_text()
    (folder / "run_exprMat_file.csv").write_text(text.removeprefix("index"))
    recsv(folder / "run_metadata_file.csv", lambda f: named(f).assign(**{"Mean.CD298/B2M": 1.0, "a b": "x"}))
    recsv(folder / "run-polygons.csv", named)
    sdata = io.cosmx(folder)
    assert_places(sdata, um)
    assert facts(sdata)["features_left_out"] == {"controls (by their names)": 4}
    assert facts(sdata)["text_columns_left_out"] == 1
    sdata.write(tmp_path / "section.zarr")
    assert_places(SpatialData.read(tmp_path / "section.zarr"), um)


def test_cosmx_rows_in_any_order(cosmx: tuple[Path, np.ndarray]) -> None:
    folder, um = cosmx
    recsv(folder / "run_exprMat_file.csv", lambda f: f.sample(frac=1, random_state=1))
    recsv(folder / "run_metadata_file.csv", lambda f: f.iloc[::-1])
    sdata = io.cosmx(folder)
    assert_places(sdata, um)
    assert sdata["table"].obs_names.tolist() == ["3_2", "2_2", "1_2", "3_1", "2_1", "1_1"]  # as in the metadata


def test_cosmx_names_that_contradict_the_numbers(cosmx: tuple[Path, np.ndarray]) -> None:
    """Numbers were assigned anew in one of the tables: the names in text still tell."""
    folder, _ = cosmx
    recsv(folder / "run_exprMat_file.csv", named)
    recsv(folder / "run_metadata_file.csv", lambda f: named(f).assign(cell_ID=[2, 1, 3, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"disagree about 2 cells: cell '2_1' .* is 'c_1_1_2' in the column"):
        io.cosmx(folder)


def test_cosmx_polygons_of_renumbered_cells(cosmx: tuple[Path, np.ndarray]) -> None:
    recsv(cosmx[0] / "run-polygons.csv", lambda f: f.assign(cellID=4 - f["cellID"]))
    with pytest.raises(ValueError, match=r"4 of 6 cells lie elsewhere by run_metadata_file\.csv than by run-poly"):
        io.cosmx(cosmx[0])


def test_cosmx_cells_of_one_table_only(cosmx: tuple[Path, np.ndarray]) -> None:
    folder, um = cosmx
    recsv(folder / "run_metadata_file.csv", lambda f: f.drop(index=4))
    with pytest.warns(UserWarning, match=r"do not hold the same cells: \{'counts_without_cell': 1\}"):
        sdata = io.cosmx(folder)
    assert_places(sdata, um, left_out=(4,))


def test_cosmx_field_of_view_with_one_cell(cosmx: tuple[Path, np.ndarray]) -> None:
    folder, um = cosmx
    for name in ("exprMat_file", "metadata_file"):
        recsv(folder / f"run_{name}.csv", lambda f: f[(f["fov"] == 1) | (f["cell_ID"] == 1)])
    assert_places(io.cosmx(folder), um, left_out=(4, 5))


def test_cosmx_one_polygon_of_two_corners(cosmx: tuple[Path, np.ndarray]) -> None:
    folder, um = cosmx
    recsv(folder / "run-polygons.csv", lambda f: f.drop(index=[4, 5]))
    with pytest.warns(UserWarning, match="of 6 cells, 1 have no usable outline and are discs of their area"):
        sdata = io.cosmx(folder)
    assert_places(sdata, um)
    assert sdata["cells"].area.iloc[1] == pytest.approx(5000, rel=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(CD3E=f["CD3E"].where(f.index != 3, "a")), "column 'CD3E' holds 'a' in place of a count"),
        (lambda f: f.assign(CD3E=-f["CD3E"] - 1), "counts that are negative or infinite"),
        (
            lambda f: f.assign(CD3E=f["CD3E"].where(f.index != 3)),
            "column 'CD3E' holds an empty cell",
        ),
        (lambda f: pd.concat([f, f.iloc[2:3]]), "names 1 cells twice, e.g. '2_1'"),
        (lambda f: f.drop(columns="fov"), "the columns .'fov', 'cell_ID'."),
        (lambda f: f.iloc[:1], "0 observations × 5 genes holds no counts"),
        (lambda f: f.assign(**dict.fromkeys(vendor.GENES, 0)), "6 observations × 5 genes holds no counts"),
        (lambda f: f[["fov", "cell_ID"]].assign(NegPrb1=1), "holds no column of a gene"),
    ],
)
def test_cosmx_bad_counts(cosmx: tuple[Path, np.ndarray], change, words: str) -> None:
    recsv(cosmx[0] / "run_exprMat_file.csv", change)
    with pytest.raises(ValueError, match=rf"run_exprMat_file\.csv.*{words}"):
        io.cosmx(cosmx[0])


def test_cosmx_counts_in_blocks(cosmx: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from storm.io import _cosmx_tables

    whole = io.cosmx(cosmx[0])["table"]
    monkeypatch.setattr(_cosmx_tables, "_BLOCK", 10)
    blocks = io.cosmx(cosmx[0])["table"]
    assert (whole.X != blocks.X).nnz == 0
    assert blocks.obs_names.equals(whole.obs_names)


@pytest.mark.parametrize("name", ["exprMat_file", "metadata_file"])
def test_cosmx_cut_short(cosmx: tuple[Path, np.ndarray], name: str) -> None:
    file = cosmx[0] / f"run_{name}.csv"
    packed = gzip.compress(
        np.random.default_rng(0).permutation(np.frombuffer(file.read_bytes() * 50, np.uint8)).tobytes()
    )
    file.unlink()
    (cosmx[0] / f"{file.name}.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=rf"run_{name}\.csv\.gz cannot be read as a table"):
        io.cosmx(cosmx[0])


# the scale of CosMx


def test_cosmx_scale_of_areas(cosmx: tuple[Path, np.ndarray]) -> None:
    """Areas in pixels and in µm² are a source, too; with it the positions of the fields of view are not needed."""
    folder, um = cosmx
    recsv(folder / "run_metadata_file.csv", lambda f: f.assign(**{"Area.um2": f["Area"] * 0.15**2}))
    (folder / "run_fov_positions_file.csv").unlink()
    sdata = io.cosmx(folder)
    assert facts(sdata)["um_per_px"] == pytest.approx(0.15)
    assert_places(sdata, um / COSMX_UM * 0.15)
    with pytest.raises(ValueError, match=r"0\.12 from the argument um_per_px, 0\.15 from Area and Area\.um2"):
        io.cosmx(folder, um_per_px=0.12)


@pytest.mark.parametrize("sign", ["local", "positions"])
def test_cosmx_prototype_is_not_taken_for_the_instrument(cosmx: tuple[Path, np.ndarray], sign: str) -> None:
    folder, um = cosmx
    if sign == "local":
        recsv(folder / "run_metadata_file.csv", lambda f: f.assign(CenterX_local_px=f["CenterX_local_px"] + 5000))
    else:
        frame = pd.DataFrame({"fov": [1, 2], "x_global_px": [494.4, 5966.7], "y_global_px": [0.0, 0]})
        frame.to_csv(folder / "run_fov_positions_file.csv", index=False)
    with pytest.raises(ValueError, match=r"the µm per pixel are unknown: .* pass um_per_px= \(0\.18 for"):
        io.cosmx(folder)
    assert_places(io.cosmx(folder, um_per_px=0.18), um / COSMX_UM * 0.18)


def test_cosmx_two_positions_show_no_error_of_their_own(cosmx: tuple[Path, np.ndarray]) -> None:
    frame = pd.DataFrame({"fov": [1, 2], "x_global_px": [0.0, 4000], "y_global_px": [0.0, 0]})
    frame["x_global_mm"], frame["y_global_mm"] = [0.0, 0.84], 0.0
    frame.to_csv(cosmx[0] / "run_fov_positions_file.csv", index=False)
    with pytest.raises(ValueError, match=r"two fields of view imply 0\.21 µm per pixel, which no instrument has"):
        io.cosmx(cosmx[0])


def test_cosmx_positions_that_fit_no_scale(cosmx: tuple[Path, np.ndarray]) -> None:
    folder, _ = cosmx
    frame = pd.DataFrame({"FOV": [1, 2, 3], "x_global_px": [0.0, 4000, 8000], "y_global_px": [0.0, 0, 0]})
    frame["X_mm"], frame["Y_mm"] = [0.0, 0.9, 0.96], 0.0
    frame.to_csv(folder / "run_fov_positions_file.csv", index=False)
    with pytest.raises(ValueError, match="in pixels and in mm do not fit one scale"):
        io.cosmx(folder)
    frame["X_mm"] = [0.96, 0.48, 0.0]  # stages may run against the picture
    frame.to_csv(folder / "run_fov_positions_file.csv", index=False)
    assert facts(io.cosmx(folder))["um_per_px"] == pytest.approx(0.12)


# ----------------------------------------------------------------------------------------------------------- noise


def test_antibodies_beside_bins(hd: tuple[Path, np.ndarray]) -> None:
    outs, um = hd
    with h5py.File(outs / "binned_outputs" / "square_008um" / "filtered_feature_bc_matrix.h5", "a") as file:
        features = file["matrix/features"]
        kinds = features["feature_type"][:].astype("S20")
        kinds[4] = b"Antibody Capture"
        del features["feature_type"]
        features["feature_type"] = kinds
    with pytest.warns(UserWarning, match="not genes: 1 Antibody Capture"):
        sdata = io.visium_hd(outs, False)
    assert list(sdata["table"].var_names) == vendor.GENES[:4]
    assert sdata["table"].n_obs == len(um)
