"""An AnnData of scanpy or squidpy, with its pictures: what is planted in them lies under the right spots."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from spatialdata import SpatialData, read_zarr

import storm
import vendor_folders as vendor
from storm._bridge import read_spots
from storm.io import from_anndata

pytestmark = [
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
    pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning"),
]

UM = 0.5
HIRES, LOWRES = 0.25, 0.0625
FULL = (1920, 2560)  # y, x
FACTORS = {
    "spot_diameter_fullres": 65 / UM,
    "fiducial_diameter_fullres": 105 / UM,
    "tissue_hires_scalef": HIRES,
    "tissue_lowres_scalef": LOWRES,
}


def picture(step: int = 1) -> np.ndarray:
    """Red is x and green is y of the full-resolution pixel, uint8 (y, x, 3)."""
    y, x = (np.arange(n)[::step] + (step - 1) / 2 for n in FULL)
    red, green = np.broadcast_to(x / 16, (len(y), len(x))), np.broadcast_to(y[:, None] / 8, (len(y), len(x)))
    return np.stack([red, green, np.full_like(red, 30)], axis=-1).round().astype(np.uint8)


def section(n_rows: int = 6, *, name: str = "A", seed: int = 0) -> ad.AnnData:
    """Spots of a Visium lattice in the order of nothing, in pixels of an image that is wider than it is high."""
    rng = np.random.default_rng(seed)
    row, col = (a.ravel() for a in np.meshgrid(np.arange(n_rows), np.arange(8), indexing="ij"))
    col = 2 * col + row % 2
    order = rng.permutation(len(row))
    row, col = row[order], col[order]
    xy = np.column_stack([150 + col * 50 / UM, 200 + row * 50 * np.sqrt(3) / UM])
    obs = pd.DataFrame({"in_tissue": 1, "array_row": row, "array_col": col}, index=[f"AC{k}-1" for k in order])
    adata = ad.AnnData(rng.poisson(3, (len(row), 4)).astype(np.float32), obs=obs)
    adata.var_names = ["EPCAM", "CD3E", "COL1A1", "ACTB"]
    adata.obsm["spatial"] = xy
    adata.uns["spatial"] = {name: {"images": {"hires": picture(4), "lowres": picture(16)}, "scalefactors": FACTORS}}
    return adata


def study(*names: str) -> ad.AnnData:
    """Sections in one table, their rows mixed, and barcodes that repeat as they do when tables are stacked."""
    parts = {name: section(name=name, seed=k) for k, name in enumerate(names)}
    joined = ad.concat(parts, label="sample", uns_merge="unique")
    return joined[np.random.default_rng(0).permutation(joined.n_obs)].copy()


def under(sdata: SpatialData, **keys) -> np.ndarray:
    """x and y that the picture shows under the centre of each spot, in pixels of the full-resolution image, (n, 2)."""
    spots = read_spots(sdata, **keys)
    patches = spots.patches.read(spots.centres, field_um=32.0, out_px=16).astype(float)
    return patches[:, 7:9, 7:9].mean(axis=(1, 2))[:, :2] * (16, 8)


def test_planted_pixels_lie_under_their_spots() -> None:
    adata = section()
    sdata = from_anndata(adata)
    assert list(sdata.images) == ["A_he"]
    assert sorted(sdata.coordinate_systems) == ["global", "um"]
    spots = read_spots(sdata)
    np.testing.assert_allclose(spots.centres, adata.obsm["spatial"] * UM)
    assert spots.scale.um_per_px == pytest.approx(UM / HIRES)
    assert "spot_diameter_fullres" in spots.scale.source
    np.testing.assert_allclose(under(sdata), adata.obsm["spatial"], atol=12)  # a step of colour is 8 or 16 pixels
    assert sdata["A"]["radius"].to_numpy() == pytest.approx(65 / 2 / UM)
    facts = sdata.attrs["storm_io"]
    assert facts["um_per_px"] == pytest.approx(UM)
    assert (facts["reader"], facts["image"], facts["image_um_per_px"]) == ("from_anndata", "hires", UM / HIRES)


def assert_equal(one: ad.AnnData, other: ad.AnnData) -> None:
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    np.testing.assert_array_equal(one.X, other.X)
    for slot in ("obsm", "layers"):
        np.testing.assert_equal(dict(getattr(one, slot)), dict(getattr(other, slot)))
    np.testing.assert_equal(one.uns, other.uns)


def test_what_the_user_has_is_kept_and_never_changed() -> None:
    adata = section()
    adata.obs["region"] = ["left", "right"] * 24
    adata.layers["raw"] = adata.X * 2
    adata.obsm["X_pca"] = np.ones((48, 2))
    adata.uns["spatialdata_attrs"] = {"region": "gone", "region_key": "region", "instance_key": "gone"}
    before = adata.copy()
    sdata = from_anndata(adata)
    table = sdata["table"]
    assert_equal(adata, before)
    assert list(table.obs_names) == list(adata.obs_names)
    assert list(table.obs["region"]) == ["left", "right"] * 24
    assert table.uns["spatialdata_attrs"]["region_key"] == "storm_region"
    np.testing.assert_array_equal(table.layers["raw"], adata.layers["raw"])
    np.testing.assert_array_equal(table.uns["spatial"]["A"]["images"]["hires"], picture(4))
    table.X[:] = 0
    table.obsm["X_pca"][:] = 0
    assert_equal(adata, before)


def test_a_table_goes_back_and_forth() -> None:
    adata = section()
    first = from_anndata(adata)["table"]
    second = from_anndata(first)["table"]
    assert list(second.obs) == list(first.obs)  # the very columns: nothing is lost, nothing is added
    for number in range(3):
        before = second[::-1].copy()  # other rows: the columns of before stay as they are
        second = from_anndata(before)["table"]
        pd.testing.assert_frame_equal(second.obs[before.obs.columns], before.obs)
        attrs = second.uns["spatialdata_attrs"]
        assert attrs["region_key"] == "region"
        assert attrs["instance_key"] == ["storm_spot_id", "spot_id", "storm_spot_id"][number]
    adata.obs = adata.obs.assign(region="mine", storm_region="mine", storm_region_2="mine")
    table = from_anndata(adata)["table"]
    assert table.uns["spatialdata_attrs"]["region_key"] == "storm_region_3"
    assert (table.obs[["region", "storm_region", "storm_region_2"]] == "mine").all(axis=None)


def test_several_libraries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adata = study("A", "B 2")
    with caplog.at_level(logging.WARNING, logger="storm"):
        sdata = from_anndata(adata, library_key="sample")
    assert sum("reduced picture 'hires'" in record.getMessage() for record in caplog.records) == 2
    assert sorted(sdata.images) == ["A_he", "B_2_he"]
    assert set(sdata.shapes) == {"A", "B_2"}
    assert sorted(sdata.coordinate_systems) == ["global-A", "global-B_2", "um-A", "um-B_2"]
    assert not sdata["table"].obs_names.is_unique
    sdata.write(tmp_path / "s.zarr")
    for data in (sdata, read_zarr(tmp_path / "s.zarr")):
        assert list(data["table"].obs_names) == list(adata.obs_names)
        assert list(data["table"].obs["sample"]) == list(adata.obs["sample"])
        for name, key in (("A", "A"), ("B 2", "B_2")):
            rows = (adata.obs["sample"] == name).to_numpy()
            keys = {"shapes_key": key, "image_key": f"{key}_he"}
            spots = read_spots(data, **keys)
            np.testing.assert_allclose(spots.centres[rows], adata.obsm["spatial"][rows] * UM)
            assert np.isnan(spots.centres[~rows]).all()
            assert "storm.io.from_anndata has from: uns['spatial']" in spots.scale.source
            np.testing.assert_allclose(under(data, **keys)[rows], adata.obsm["spatial"][rows], atol=12)


def test_the_scale_of_each_library_is_its_own() -> None:
    adata = study("A", "B")
    rows = (adata.obs["sample"] == "B").to_numpy()
    factors = {key: value * 2 for key, value in FACTORS.items() if "diameter" in key}
    adata.uns["spatial"]["B"]["scalefactors"] = FACTORS | factors | {"tissue_hires_scalef": HIRES / 2}
    adata.obsm["spatial"][rows] *= 2
    sdata = from_anndata(adata, library_key="sample")
    spots = read_spots(sdata, shapes_key="B", image_key="B_he")
    np.testing.assert_allclose(spots.centres[rows], adata.obsm["spatial"][rows] * UM / 2)
    assert spots.scale.um_per_px == pytest.approx(UM / 2 / (HIRES / 2))


def image_file(folder: Path) -> Path:
    Image.fromarray(picture()).save(folder / "he.png")
    return folder / "he.png"


def test_an_image_at_full_resolution(tmp_path: Path) -> None:
    adata = section()
    for image in (image_file(tmp_path), str(image_file(tmp_path)), picture(), {"A": picture()}):
        sdata = from_anndata(adata, image)
        assert read_spots(sdata).scale.um_per_px == pytest.approx(UM)
        np.testing.assert_allclose(under(sdata), adata.obsm["spatial"], atol=9)
        assert len(sdata["A_he"].keys()) > 1  # levels
    both = from_anndata(study("A", "B"), {"A": image_file(tmp_path)}, library_key="sample")
    assert both.attrs["storm_io"]["libraries"]["A"]["image"] == "he.png"
    assert both.attrs["storm_io"]["libraries"]["B"]["image"] == "hires"


def test_another_picture_or_none() -> None:
    adata = section()
    sdata = from_anndata(adata, "lowres")
    assert read_spots(sdata).scale.um_per_px == pytest.approx(UM / LOWRES)
    np.testing.assert_allclose(under(sdata), adata.obsm["spatial"], atol=20)
    assert not from_anndata(adata, False).images
    del adata.uns["spatial"]["A"]["images"]
    with pytest.warns(UserWarning, match=r"no picture of \['A'\]"):
        sdata = from_anndata(adata)
    np.testing.assert_allclose(read_spots(sdata).centres, adata.obsm["spatial"] * UM)


def as_float(pixels: np.ndarray) -> np.ndarray:
    return pixels / np.float32(255)


def with_alpha(pixels: np.ndarray, *, transparent: bool = False) -> np.ndarray:
    alpha = np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)
    if transparent:
        alpha[:40] = 0
    return np.concatenate([pixels, alpha], axis=-1)


@pytest.mark.parametrize(
    "change",
    [as_float, lambda p: p.astype(np.float64), lambda p: p.astype(np.int64), with_alpha,
     lambda p: as_float(with_alpha(p))],
    ids=["0 to 1", "0 to 255", "int64", "RGBA", "RGBA 0 to 1"],
)  # fmt: skip
def test_kinds_of_pictures(change) -> None:
    adata = section()
    adata.uns["spatial"]["A"]["images"]["hires"] = change(picture(4))
    pixels = from_anndata(adata)["A_he"]["scale0"]["image"].to_numpy()
    np.testing.assert_array_equal(pixels, np.moveaxis(picture(4), -1, 0))


def test_transparent_pixels_show_paper() -> None:
    adata = section()
    adata.uns["spatial"]["A"]["images"]["hires"] = with_alpha(picture(4), transparent=True)
    pixels = from_anndata(adata)["A_he"]["scale0"]["image"].to_numpy()
    assert (pixels[:, :40] == 255).all()
    np.testing.assert_array_equal(pixels[:, 40:], np.moveaxis(picture(4), -1, 0)[:, 40:])


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (picture(4)[..., 0], r"\['hires'\] has shape \(480, 640\)"),
        (np.moveaxis(picture(4), -1, 0), "channels first; give"),
        (picture(4)[..., :2], "2 channels of uint8"),
        (picture(4).astype(np.uint16) * 257, r"holds uint16 from .* of 16 bits, give picture / 65535"),
        (picture(4).astype(np.uint16) * 16, r"holds uint16 from .* of 12 bits, give picture / 4095"),
        (picture(4).astype(np.float32) - 9, r"holds float32 from -\d+ .* from 0 to 255$"),
        (as_float(picture(4)) * 3, "neither 0 to 1 nor 0 to 255"),
        (as_float(picture(4)) - 1, "holds float32 from -"),
        (np.full(picture(4).shape, np.nan), "from nan"),
        (picture(4) > 9, "holds bool"),
    ],
)
def test_what_is_no_picture(pixels: np.ndarray, words: str) -> None:
    adata = section()
    adata.uns["spatial"]["A"]["images"]["hires"] = pixels
    with pytest.raises(ValueError, match=words):
        from_anndata(adata)


def without(*keys: str) -> dict:
    return {key: value for key, value in FACTORS.items() if key not in keys}


def test_pictures_without_scale_factors() -> None:
    adata = section()
    adata.uns["spatial"]["A"]["scalefactors"] = without("tissue_hires_scalef", "tissue_lowres_scalef")
    with pytest.raises(ValueError, match=r"pictures of library 'A', \['hires', 'lowres'\], have no scale factors"):
        from_anndata(adata)
    with pytest.raises(ValueError, match=r"image='hires': library 'A' has no such picture with a scale factor"):
        from_anndata(adata, "hires")
    assert not from_anndata(adata, False).images
    adata.uns["spatial"]["A"]["scalefactors"] = without("tissue_hires_scalef")
    assert from_anndata(adata).attrs["storm_io"]["image"] == "lowres"


def test_an_unknown_scale_is_asked_for() -> None:
    adata = section()
    adata.uns["spatial"]["A"]["scalefactors"] = without("spot_diameter_fullres", "fiducial_diameter_fullres")
    with pytest.raises(ValueError, match=r"no µm scale is known for library 'A': its scale factors hold \['tissue_h"):
        from_anndata(adata)
    with pytest.raises(ValueError, match=r"the size of the spots of library 'A' is not known.*spot_um="):
        from_anndata(adata, um_per_px=UM)
    sdata = from_anndata(adata, um_per_px={"A": UM}, spot_um=55)
    assert sdata["A"]["radius"].to_numpy() == pytest.approx(55 / 2 / UM)
    np.testing.assert_allclose(read_spots(sdata).centres, adata.obsm["spatial"] * UM)
    adata.uns["spatial"]["A"]["metadata"] = {"chemistry_description": "Spatial 3' v1"}
    sdata = from_anndata(adata)
    assert sdata.attrs["storm_io"]["um_per_px"] == pytest.approx(UM)
    assert "pitch" in sdata.attrs["storm_io"]["um_per_px_source"]
    with pytest.raises(ValueError, match="two sources disagree about the µm per pixel of library 'A'"):
        from_anndata(section(), um_per_px=0.7)


def test_the_file_of_the_image_tells_an_unknown_scale(tmp_path: Path) -> None:
    """In its pixels the coordinates are; scale factors that know it, and the argument, come first."""
    adata = section()
    adata.uns["spatial"]["A"]["scalefactors"] = without("fiducial_diameter_fullres")
    per_cm = (1e4 / UM, 1e4 / UM)
    tifffile.imwrite(tmp_path / "he.tif", picture(), photometric="rgb", resolution=per_cm, resolutionunit="CENTIMETER")
    sdata = from_anndata(adata, tmp_path / "he.tif")
    assert sdata.attrs["storm_io"]["um_per_px"] == pytest.approx(UM)
    assert "resolution tags" in sdata.attrs["storm_io"]["um_per_px_source"]
    np.testing.assert_allclose(read_spots(sdata).centres, adata.obsm["spatial"] * UM)
    assert from_anndata(adata, tmp_path / "he.tif", um_per_px=0.6).attrs["storm_io"]["um_per_px"] == 0.6
    with pytest.raises(ValueError, match=r"no µm scale is known for library 'A'.*, and he\.png does not tell"):
        from_anndata(adata, image_file(tmp_path))


def test_coordinates_that_are_not_pixels() -> None:
    adata = section()
    adata.obsm["pixels"] = adata.obsm["spatial"].copy()
    adata.obsm["spatial"] *= UM
    with pytest.raises(ValueError, match=r"implies 1 µm per unit of obsm.*another key does, of \['pixels'"):
        from_anndata(adata)
    del adata.obs["array_row"]
    adata.obsm["spatial"] = adata.obsm["pixels"] * 3
    with pytest.raises(ValueError, match=r"% of the spots lie beyond uns\['spatial'\]\['A'\]\['images'\]\['hires'\]"):
        from_anndata(adata)
    with pytest.raises(ValueError, match=r"% of the spots lie beyond the image"):
        from_anndata(adata, picture())


def test_the_pitch_contradicts_the_scale_a_little() -> None:
    """As in sections of Space Ranger's first versions."""
    adata = section()
    adata.uns["spatial"]["A"]["scalefactors"] = FACTORS | {"spot_diameter_fullres": 1.07 * 65 / UM}
    with pytest.warns(UserWarning, match=r"implies 0\.5 µm per unit of obsm\['spatial'\].*gives 0\.4673 µm per pixel"):
        from_anndata(adata)


def test_an_image_that_is_not_the_full_resolution_one() -> None:
    with pytest.raises(ValueError, match=r"has the size of uns.*'hires'"):
        from_anndata(section(), picture(4))
    with pytest.raises(ValueError, match=r"was made from an image of about 2560 × 1920 px"):
        from_anndata(section(), picture()[:-200])


def test_which_library() -> None:
    adata = study("A", "B")
    with pytest.raises(ValueError, match=r"several libraries, \['A', 'B'\].*columns that do: \['sample'\]"):
        from_anndata(adata)
    with pytest.raises(KeyError, match="library_key='section' is not in obs"):
        from_anndata(adata, library_key="section")
    adata.obs["other"] = adata.obs["sample"].cat.rename_categories({"A": "one", "B": "two"})
    with pytest.raises(ValueError, match=r"obs\['other'\] holds \['one', 'two'\], and uns.*do: \['sample'"):
        from_anndata(adata, library_key="other")
    with pytest.raises(KeyError, match=r"image names \['C'\]; the libraries are \['"):
        from_anndata(adata, {"C": "c.tif"}, library_key="sample")
    for image in ("he.tif", picture()):
        with pytest.raises(ValueError, match=r"one image was given for the libraries"):
            from_anndata(adata, image, library_key="sample")
    adata.obs["sample"] = adata.obs["sample"].astype(object)
    adata.obs.iloc[3, list(adata.obs).index("sample")] = np.nan
    with pytest.raises(ValueError, match=r"obs\['sample'\] is missing for 1 of 96 rows"):
        from_anndata(adata, library_key="sample")


def test_rows_of_one_section_that_kept_the_pictures_of_all() -> None:
    adata = study("A", "B")
    one = adata[adata.obs["sample"] == "B"]
    sdata = from_anndata(one, library_key="sample")
    assert list(sdata.images) == ["B_he"]
    np.testing.assert_allclose(read_spots(sdata).centres, one.obsm["spatial"] * UM)


def test_a_library_without_an_entry() -> None:
    """It has no picture, which is said, and its scale is asked for and not that of another library."""
    adata = study("A", "B")
    del adata.uns["spatial"]["B"]
    with pytest.raises(ValueError, match="no µm scale is known for library 'B': its scale factors hold nothing") as bad:
        from_anndata(adata, library_key="sample")
    assert "; and spot_um= (diameter of its spots" in str(bad.value)  # all that is missing is asked for at once
    with pytest.raises(ValueError, match=r"um_per_px=\{'B': …\}\)$"):
        from_anndata(adata, library_key="sample", spot_um=55)
    with pytest.warns(UserWarning, match=r"no picture of \['B'\]"):
        sdata = from_anndata(adata, library_key="sample", um_per_px={"B": 2 * UM}, spot_um=55)
    assert list(sdata.images) == ["A_he"]
    rows = (adata.obs["sample"] == "B").to_numpy()
    spots = read_spots(sdata, shapes_key="B", image=False)
    np.testing.assert_allclose(spots.centres[rows], adata.obsm["spatial"][rows] * 2 * UM)
    from_anndata(adata, {"B": False}, library_key="sample", um_per_px={"B": UM}, spot_um=55)  # no warning


def test_bad_objects() -> None:
    with pytest.raises(TypeError, match="adata is a str"):
        from_anndata("a.h5ad")
    with pytest.raises(ValueError, match="the AnnData is empty"):
        from_anndata(section()[:0])
    adata = section()
    with pytest.raises(TypeError, match="image is a int"):
        from_anndata(adata, 3)
    with pytest.raises(FileNotFoundError, match="there is no image"):
        from_anndata(adata, "he.tif")
    bad = section()
    bad.obsm["spatial"][3] = np.nan
    with pytest.raises(ValueError, match=r"1 of 48 coordinates in obsm\['spatial'\] are NaN"):
        from_anndata(bad)
    bad = section()
    bad.obs["percent mito"] = 1.0
    with pytest.raises(ValueError, match="obs/percent mito"):
        from_anndata(bad)
    del adata.obsm["spatial"]
    with pytest.raises(ValueError, match=r"no coordinates in obsm\['spatial'\]"):
        from_anndata(adata)


def test_from_there_to_an_embedding(tiny_model, toy: SpatialData) -> None:
    """The pipeline takes the object, and obs names that repeat stay as they are."""
    adata = section()
    adata.obs_names = ["twice"] * 48
    adata = ad.AnnData(
        np.random.default_rng(0).poisson(2, (48, 40)).astype(np.float32),
        obs=adata.obs, obsm=dict(adata.obsm), uns=adata.uns, var=pd.DataFrame(index=toy["table"].var_names[:40]),
    )  # fmt: skip
    sdata = from_anndata(adata, picture())
    storm.tl.embed(sdata, model=tiny_model, modality="both", field_um=60)
    assert np.isfinite(sdata["table"].obsm["X_storm"]).all()
    assert list(sdata["table"].obs_names) == ["twice"] * 48


@pytest.mark.filterwarnings("ignore:Use `squidpy.read.visium` instead:FutureWarning")
@pytest.mark.parametrize("reader", ["squidpy", "scanpy"])
def test_what_the_readers_read(tmp_path: Path, reader: str) -> None:
    """A folder by way of squidpy (pictures of uint8) or scanpy (floats) is what ``storm.io.visium`` reads of it."""
    import scanpy as sc
    import squidpy as sq

    outs, he, _ = vendor.visium_folder(tmp_path)
    adata = (sq.read.visium if reader == "squidpy" else sc.read_visium)(outs, library_id="A")
    assert adata.uns["spatial"]["A"]["images"]["hires"].dtype == (np.uint8 if reader == "squidpy" else np.float32)
    here, there = read_spots(from_anndata(adata, he)), read_spots(storm.io.visium(outs, he))
    order = pd.Index(here.ids).get_indexer(there.ids)
    np.testing.assert_array_equal(here.centres[order], there.centres)
    one, other = (spots.patches.read(there.centres, field_um=16, out_px=8) for spots in (here, there))
    np.testing.assert_array_equal(one, other)
    pictures = from_anndata(adata)["A_he"], storm.io.visium(outs, "hires")["he"]
    np.testing.assert_array_equal(*(picture["scale0"]["image"].to_numpy() for picture in pictures))


def test_a_study_is_embedded_as_its_sections_are(tiny_model, toy: SpatialData) -> None:
    """Regions, images and systems of a study fit together: each section gets what it gets alone."""
    names = toy["table"].var_names[:40]
    parts = {}
    for seed, name in enumerate("AB"):
        one = section(name=name, seed=seed)
        counts = np.random.default_rng(seed).poisson(2, (48, 40)).astype(np.float32)
        parts[name] = ad.AnnData(
            counts, obs=one.obs, obsm=dict(one.obsm), uns=one.uns, var=pd.DataFrame(index=names)
        )  # fmt: skip
    joined = ad.concat(parts, label="sample", uns_merge="unique", index_unique="-")
    images = {"A": picture(), "B": picture()[:, ::-1].copy()}
    study = from_anndata(joined, images, library_key="sample")
    storm.tl.embed(study, model=tiny_model, modality="both", field_um=60, joint=False)
    for name, part in parts.items():
        alone = from_anndata(part, images[name])
        storm.tl.embed(alone, model=tiny_model, modality="both", field_um=60)
        rows = (joined.obs["sample"] == name).to_numpy()
        np.testing.assert_allclose(
            study["table"].obsm["X_storm"][rows], alone["table"].obsm["X_storm"], atol=1e-5
        )  # fmt: skip


def test_bins_and_a_table_on_disk(tmp_path: Path) -> None:
    """Visium HD: the size of a bin is in the scale factors."""
    row, col = (a.ravel() for a in np.meshgrid(np.arange(5), np.arange(6), indexing="ij"))
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"bin {k}" for k in range(30)])
    adata = ad.AnnData(np.ones((30, 2), np.float32), obs=obs)
    adata.obsm["spatial"] = np.column_stack([100 + 16 / UM * col, 100 + 16 / UM * row])
    factors = {"microns_per_pixel": UM, "bin_size_um": 16.0, "spot_diameter_fullres": 16 / UM}
    adata.uns["spatial"] = {"A": {"scalefactors": factors | {"fiducial_diameter_fullres": 900.0}}}
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    sdata = from_anndata(backed, picture())
    backed.file.close()
    assert sdata.attrs["storm_io"]["um_per_px"] == UM
    assert sdata["A"]["radius"].to_numpy() == pytest.approx(8 / UM)
    np.testing.assert_allclose(read_spots(sdata).centres, adata.obsm["spatial"] * UM)


@pytest.mark.parametrize("name", ["151673", "151674"])
def test_real_sections(shared_data: Path, name: str) -> None:
    """Visium of the human cortex, whose diameters are of an early version: spots lie on tissue."""
    folder = shared_data / "domains"
    adata = ad.read_h5ad(folder / f"DLPFC_{name}.h5ad")
    picture = np.asarray(Image.open(folder / f"{name}_tissue_lowres_image.png").convert("RGB"))
    factors = json.loads((folder / f"{name}_scalefactors_json.json").read_text())
    adata.uns["spatial"] = {name: {"images": {"lowres": picture / np.float32(255)}, "scalefactors": factors}}
    with pytest.raises(ValueError, match=r"implies 1 µm per unit.*of \['spatial_fullres_px'\], copy it there"):
        from_anndata(adata)
    adata.obsm["spatial"] = adata.obsm["spatial_fullres_px"]
    with pytest.warns(UserWarning, match=r"implies 0\.72(39|41) .* gives 0\.674"):
        sdata = from_anndata(adata)
    spots = read_spots(sdata)
    on_tissue = spots.patches.read(spots.centres[::20], field_um=60, out_px=3)[:, 1, 1].mean()
    assert on_tissue < picture.mean() - 10
