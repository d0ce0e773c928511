"""The report: what is planted in a section is a row, a good section has none that warns, and only bad calls raise."""

from __future__ import annotations

import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from anndata import AnnData
from scipy import sparse
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, get_transformation, set_transformation

import storm
from section_images import pixels_of, with_image
from storm import _keys
from storm.pp._report import CheckReport, Row

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


@pytest.fixture
def check(tiny_model):
    """The check with a model whose genes are the toy's, without measuring time."""

    def run(sdata, **options) -> CheckReport:
        return storm.pp.check(sdata, **{"model": tiny_model, "estimate": False} | options)

    return run


def verdicts(report: CheckReport) -> dict[str, str]:
    return {row.name: row.verdict for row in report.rows if row.verdict in ("warn", "fail")}


def in_pixels_only(sdata) -> None:
    """Forget the µm system."""
    for element in (sdata["he"], *sdata.shapes.values()):
        set_transformation(element, {"global": get_transformation(element, "global")}, set_all=True)


# ---------------------------------------------------------------------------------------------- good sections


def test_a_good_section_is_good_and_left_alone(toy, check) -> None:
    before = toy["table"].copy()
    report = check(toy)
    assert verdicts(report) == {}
    assert report.ok
    assert report.verdict == "ok"
    assert [row.name for row in report.rows] == [
        "places", "scale", "pitch", "kind", "inside", "tissue", "orientation", "shift", "patch", "chunks", "counts",
        "genes", "windows",
    ]  # fmt: skip
    assert report["scale"].facts["um_per_px"] == 1.0
    assert report["pitch"].facts["pitch"] == pytest.approx(100)
    assert report["patch"].facts["upsampling"] == pytest.approx(1)
    counts = np.asarray(toy["table"].X.sum(axis=1)).ravel()
    assert report["counts"].facts["median"] == np.median(counts)
    assert report["genes"].facts["matched"] == toy["table"].n_vars
    assert toy["table"].uns.keys() == before.uns.keys()


def test_the_report_is_a_table_a_text_and_a_page(toy, check) -> None:
    report = check(toy)
    table = report.table
    assert list(table.columns) == ["value", "verdict", "explanation"]
    assert table.loc["pitch", "verdict"] == "ok"
    text = repr(report)
    assert text.startswith("13 checks: 13 ok")
    assert max(map(len, text.splitlines())) <= 100
    assert "hexagonal lattice, 100 µm, as Visium has" in text
    assert report._repr_html_().count("<tr>") == 14
    with pytest.raises(KeyError, match=r"no check is named 'time'; there are \['places'"):
        report["time"]
    assert "time" not in report


def test_advice_stands_under_what_is_wrong_and_is_escaped() -> None:
    report = CheckReport((Row("a", "1 < 2", "fail", "do <b> this"), Row("b", "x", "ok", "unsaid")))
    assert repr(report).splitlines() == [
        "2 checks: 1 fail, 1 ok",
        "FAIL  a  1 < 2",
        "         → do <b> this",
        "ok    b  x",
    ]
    assert "do &lt;b&gt; this" in report._repr_html_()
    assert report.verdict == "fail"
    assert not report.ok


def test_the_report_is_stored_if_asked_for(toy, check, tmp_path: Path) -> None:
    report = check(toy, store=True)
    stored = toy["table"].uns["storm"][_keys.CHECK]
    assert stored["tissue"]["verdict"] == "ok"
    assert stored["pitch"]["pitch"] == report["pitch"].facts["pitch"]
    toy.write(tmp_path / "a.zarr")
    again = spatialdata.read_zarr(tmp_path / "a.zarr")["table"].uns["storm"][_keys.CHECK]
    assert again["scale"]["value"] == report["scale"].value


@pytest.mark.parametrize(("platform", "n"), [("visium_hd", 4000), ("xenium", 1500)])
def test_other_platforms_are_good(platform: str, n: int) -> None:
    report = storm.pp.check(storm.datasets.toy(platform, n=n), estimate=False)
    assert verdicts(report) == {}
    assert report["genes"].verdict == "info"  # a targeted panel
    assert "as Visium HD, 8 µm has" in report["pitch"].value or "no lattice (cells)" in report["pitch"].value


@pytest.mark.parametrize(
    ("change", "kind", "verdict"),
    [
        (lambda pixels: 255 - pixels, "dark", "fail"),
        (lambda pixels: pixels[:1].repeat(3, axis=0), "gray", "fail"),
        (lambda pixels: np.full_like(pixels, 244), "empty", "warn"),
    ],
)
def test_images_that_are_not_of_this_kind(toy, check, change, kind: str, verdict: str) -> None:
    row = check(with_image(toy, change(pixels_of(toy))))["kind"]
    assert (row.facts["kind"], row.verdict) == (kind, verdict)


def test_stains_with_names_are_not_read(toy, check) -> None:
    toy.set_channel_names("he", ["DAPI", "CD3", "CD8"])
    row = check(toy)["image"]
    assert row.verdict == "fail"
    assert "'he' has the channels ['DAPI', 'CD3', 'CD8']" in row.explanation
    assert "image_key=" in row.explanation


def test_an_anndata_is_checked_without_an_image(toy, check) -> None:
    table = toy["table"].copy()
    report = check(table)
    assert report.ok
    assert "orientation" not in report
    assert report["scale"].verdict == "info"
    assert "1 if this is Visium (100 µm)" in report["pitch"].explanation
    assert check(table, um_per_px=1.0)["pitch"].value.endswith("as Visium has")


def test_an_image_alone_is_tiled(toy, check) -> None:
    report = check(spatialdata.SpatialData(images={"he": toy["he"]}))
    assert report.ok
    assert report["tissue"].facts["share"] == 1
    assert "orientation" not in report
    assert "counts" not in report


def test_tiles_of_an_earlier_call_are_no_platform(toy, check, tiny_model) -> None:
    """The same rows before and after they were stored: their distance says nothing about the scale."""
    slide = spatialdata.SpatialData(images={"he": toy["he"]})
    before = [row.name for row in check(slide).rows]
    storm.tl.embed(slide, model=tiny_model)
    after = check(slide)
    assert [row.name for row in after.rows] == before
    assert verdicts(after) == {}


# ---------------------------------------------------------------------------------------------- places and scale


def test_a_flipped_section_is_told_with_the_way_back(toy, check) -> None:
    report = check(with_image(toy, pixels_of(toy)[:, :, ::-1].copy()))
    assert report["orientation"].verdict == "fail"
    width = pixels_of(toy).shape[2]
    assert f"replace x by {width} − x;" in report["orientation"].explanation
    assert "shift" not in report
    swapped = check(with_image(toy, pixels_of(toy).transpose(0, 2, 1).copy()))
    assert "x and y look swapped" in swapped["orientation"].explanation
    assert "exchange the two columns" in swapped["orientation"].explanation
    mended = with_image(toy, pixels_of(toy)[:, :, ::-1].copy())
    mirror = Affine([[-1, 0, width], [0, 1, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    for system, there in get_transformation(mended["spots"], get_all=True).items():
        set_transformation(mended["spots"], Sequence([mirror, there]), to_coordinate_system=system)
    assert check(mended).ok


def test_a_shifted_section_is_told(toy, check) -> None:
    report = check(with_image(toy, np.roll(pixels_of(toy), 150, axis=2)))
    assert report["orientation"].verdict == "info"
    assert report["shift"].verdict == "warn"
    assert report["shift"].facts["x_um"] == pytest.approx(150, abs=50)
    assert "+150 µm are added to x" in report["shift"].explanation
    # The same, its image stored in mirror writing: the shift is that of the coordinates, not of the image's columns.
    pixels = np.roll(pixels_of(toy), 150, axis=2)[:, :, ::-1].copy()
    mirrored = with_image(toy, pixels)
    back = Affine([[-1, 0, pixels.shape[2]], [0, 1, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(mirrored["he"], {"um": back, "global": back}, set_all=True)
    again = check(mirrored)
    where = {"x_um": report["shift"].facts["x_um"], "y_um": 0}
    assert {key: again["shift"].facts[key] for key in where} == where
    assert "+150 µm are added to x" in again["shift"].explanation


def test_an_unknown_scale_is_a_row_that_says_what_to_give(toy, check) -> None:
    in_pixels_only(toy)
    report = check(toy)
    assert verdicts(report) == {"scale": "fail"}
    assert "um_per_px=" in report["scale"].explanation
    assert "1 if this is Visium" in report["pitch"].explanation
    assert "genes" in report
    assert check(toy, um_per_px=1.0).ok


def test_sources_that_disagree_are_both_named(toy, check) -> None:
    report = check(toy, um_per_px=2.0)
    assert report["scale"].verdict == "fail"
    assert re.search(r"2 from the argument um_per_px, 1 from the coordinate system 'um'", report["scale"].explanation)


@pytest.mark.parametrize("wrong", [10.0, 0.1, 0.5])
def test_a_wrong_scale_shows_in_the_pitch(toy, check, wrong: float) -> None:
    in_pixels_only(toy)
    report = check(toy, um_per_px=wrong)
    assert report["pitch"].verdict == "warn"
    assert f"um_per_px would be 1 instead of {wrong:g}" in report["pitch"].explanation
    toy["table"].uns["platform"] = "Visium"
    assert check(toy, um_per_px=wrong)["pitch"].verdict == "fail"


def test_the_size_of_bins_that_a_reader_noted_is_expected(check) -> None:
    bins = storm.datasets.toy("visium_hd", n=400, um_per_px=1.0)
    bins.attrs.update({"platform": "visium_hd", _keys.READ: {"bin_size": 8}})
    in_pixels_only(bins)
    assert check(bins, um_per_px=1.0)["pitch"].value.endswith("as Visium HD, 8 µm has")
    twice = check(bins, um_per_px=2.0)["pitch"]
    assert twice.verdict == "fail"
    assert "off by a factor of 0.5" in twice.explanation  # and not: fine, bins of 16 µm


def test_cells_of_the_wrong_size_are_told() -> None:
    cells = storm.datasets.toy("xenium", n=200)
    for element in (cells["he"], cells["cells"]):
        set_transformation(element, {"global": get_transformation(element, "global")}, set_all=True)
    report = storm.pp.check(cells, um_per_px=5.0, estimate=False)
    assert report["pitch"].verdict == "warn"
    assert "the scale is off by a factor of" in report["pitch"].explanation


def test_a_small_copy_taken_for_the_image_is_told(toy, check) -> None:
    report = check(with_image(toy, pixels_of(toy)[:, ::8, ::8].copy()))
    assert report["inside"].verdict == "fail"
    assert "low-resolution copy" in report["inside"].explanation
    far = with_image(toy, pixels_of(toy)[:, ::40, ::40].copy())
    report = check(far)
    assert report["inside"].facts["share"] == 0
    assert report["inside"].verdict == "fail"
    # Told to be what it is, it is only coarse.
    coarse = check(with_image(toy, pixels_of(toy)[:, ::8, ::8].copy(), 8.0))
    assert coarse["inside"].verdict == "ok"
    assert coarse["patch"].verdict == "warn"
    assert coarse["patch"].facts["upsampling"] == pytest.approx(8)


def test_elements_without_a_common_system_are_told(toy, check) -> None:
    set_transformation(toy["he"], {"slide": Identity()}, set_all=True)
    report = check(toy)
    assert report["image"].verdict == "fail"
    assert "no coordinate system in common" in report["image"].explanation
    assert report["counts"].verdict == "ok"


def test_a_region_that_names_nothing_is_told(toy, check) -> None:
    table = toy["table"].copy()
    table.obs["region"] = pd.Categorical(["nowhere"] * table.n_obs)
    table.uns["spatialdata_attrs"]["region"] = "nowhere"
    del table.obsm["spatial"]
    del toy.tables["table"]
    toy["table"] = table
    report = check(toy)
    assert verdicts(report) == {"places": "fail"}
    assert "'nowhere', which is not in the object" in report["places"].explanation


def test_rows_without_a_geometry_are_counted(toy, check) -> None:
    n = len(toy["spots"])
    toy.shapes["spots"] = toy["spots"].iloc[: n - 30]
    report = check(toy)
    assert report["places"].verdict == "warn"
    assert report["places"].facts == {"n": n, "placed": n - 30}
    assert f"{n - 30} of {n} rows" in report["places"].value


def test_places_taken_twice_are_told(toy, check) -> None:
    spots = toy["spots"].copy()
    spots.geometry = [spots.geometry.iloc[4], *spots.geometry.iloc[1:]]
    toy.shapes["spots"] = spots
    report = check(toy)
    assert report["places"].verdict == "fail"
    assert "share their coordinates" in report["places"].explanation


def test_nuclei_beside_cells_are_named() -> None:
    sdata = storm.datasets.toy("xenium", n=200)
    sdata["nuclei"] = sdata["cells"].copy()
    report = storm.pp.check(sdata, estimate=False)
    assert report["shapes"].verdict == "info"
    assert "annotates 'cells'; 'nuclei' are not used" in report["shapes"].explanation


# ---------------------------------------------------------------------------------------------- table


def test_an_empty_capture_area_is_told(toy, check) -> None:
    empty = check(toy["table"][:0].copy())
    assert "0 observations" in empty["places"].explanation
    assert empty.verdict == "fail"
    toy["table"].X = sparse.csr_matrix(toy["table"].shape, dtype=np.float32)
    report = check(toy)
    assert report["counts"].verdict == "fail"
    assert report["orientation"].verdict == "info"


def test_counts_that_are_no_counts_are_told(toy, check) -> None:
    toy["table"].layers["raw"] = toy["table"].X.copy()
    toy["table"].X = toy["table"].X.log1p()
    report = check(toy)
    assert report["counts"].verdict == "fail"
    assert "non-count values" in report["counts"].explanation
    assert "'raw'" in report["counts"].explanation
    assert report["tissue"].verdict == "ok"
    assert check(toy, layer="raw").ok


def test_unknown_genes_are_told(toy, check) -> None:
    toy["table"].var_names = [f"g{k}" for k in range(toy["table"].n_vars)]
    report = check(toy)
    assert report["genes"].verdict == "fail"
    assert "'g0'" in report["genes"].explanation


def test_empty_and_poor_spots_are_told(toy, check) -> None:
    counts = toy["table"].X.tolil()
    counts[:40] = 0
    toy["table"].X = counts.tocsr()
    assert check(toy)["counts"].verdict == "warn"
    assert check(toy)["counts"].facts["empty"] == 40


def lattice(pitch: float, n: int, *, keep: np.ndarray | None = None) -> AnnData:
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    places = np.column_stack([x.ravel(), y.ravel()]) * pitch
    places = places if keep is None else places[keep]
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(9, (len(places), 5)).astype(np.float32))
    var = pd.DataFrame(index=["EPCAM", "COL1A1", "CD3E", "MKI67", "VIM"])
    return AnnData(counts, var=var, obsm={"spatial": places})


def test_bins_of_2_um_are_to_be_summed(check) -> None:
    report = check(lattice(2.0, 20), um_per_px=1.0)
    assert report["bins"].verdict == "fail"
    assert "square_008um" in report["bins"].explanation
    assert "Visium HD, 2 µm" in report["pitch"].value
    assert "bins" not in check(lattice(8.0, 20), um_per_px=1.0)


def test_missing_neighbours_are_counted(check) -> None:
    full = check(lattice(8.0, 20))["windows"]
    inner = 16 / 20
    assert full.facts["complete"] == pytest.approx(inner**2)
    assert full.facts["mean"] == pytest.approx(((16 * 5 + 2 * 4 + 2 * 3) / 20) ** 2)
    sparse_rows = np.sort(np.random.default_rng(1).choice(900, 250, replace=False))
    report = check(lattice(8.0, 30, keep=sparse_rows))
    assert report["windows"].facts["kind"] == "square"
    assert report["windows"].verdict == "warn"


# ---------------------------------------------------------------------------------------------- real data


def xenium_he(folder: Path, *, columns: list[str]) -> spatialdata.SpatialData:
    """200 cells of a Xenium section with their H&E, placed by the columns of ``obs`` that are taken for x and y."""
    from anndata import read_h5ad
    from PIL import Image

    table = read_h5ad(folder / "NCBI858.h5ad")
    with Image.open(folder / "NCBI858.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    um = {"um": Scale([2.125, 2.125], axes=("x", "y"))}
    cells = gpd.GeoDataFrame(
        {"radius": np.full(table.n_obs, 5.0)},
        geometry=shapely.points(table.obs[columns].to_numpy()),
        index=table.obs_names,
    )
    table.obs["region"], table.obs["cell"] = pd.Categorical(["cells"] * table.n_obs), table.obs_names
    table.uns = {}
    return spatialdata.SpatialData(
        images={"he": Image2DModel.parse(pixels, dims="cyx", c_coords=["r", "g", "b"], transformations=um)},
        shapes={"cells": ShapesModel.parse(cells, transformations=um)},
        tables={"table": TableModel.parse(table, region="cells", region_key="region", instance_key="cell")},
    )


def test_xenium_cells_whose_x_and_y_are_swapped(shared_data: Path) -> None:
    folder = shared_data / "platforms" / "xenium_he"
    report = storm.pp.check(xenium_he(folder, columns=["x_pixel", "y_pixel"]), estimate=False)
    assert {"inside", "tissue", "orientation"} <= verdicts(report).keys()
    assert report["orientation"].verdict == "fail"
    assert "x and y look swapped" in report["orientation"].explanation
    assert "With x and y exchanged all centres would lie on the image" in report["inside"].explanation
    right = storm.pp.check(xenium_he(folder, columns=["y_pixel", "x_pixel"]), estimate=False)
    assert verdicts(right) == {"patch": "warn", "genes": "warn"}  # 148 of 338 genes are the model's
    assert right["orientation"].facts["nuclei"] > 0.7
