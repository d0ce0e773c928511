"""Exports to viewers: what was written is read again and compared with the section, pixel by pixel for QuPath."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from shapely.geometry import shape
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Scale, get_transformation, set_transformation

import storm
from storm import io

#: Names that break a file written carelessly: markup, quotes, the separator, other scripts.
NAMES = ["<script>alert(1)</script>", 'say "a, b"', "Größe; 肿瘤"]


@pytest.fixture
def section(toy):
    """The toy with domains of awkward names, colours of its own, a score, and rows without them."""
    table = toy.tables["table"]
    codes = np.arange(table.n_obs) % 4
    table.obs["storm_domain"] = pd.Categorical.from_codes(np.where(codes == 3, -1, codes), [*NAMES, "unused"])
    table.uns["storm_domain_colors"] = ["#102030", "#aa00ff", "#00ff80", "#ffffff"]
    table.obs["score"] = np.where(codes == 1, np.nan, np.linspace(0, 1, table.n_obs))
    return toy


def features(path):
    return json.loads(path.read_text(encoding="utf-8"))["features"]


# ------------------------------------------------------------------------------------------------------------ Loupe


def test_loupe(section, tmp_path):
    table = section.tables["table"]
    before = table.obs.copy()
    (file,) = io.to_loupe(section, tmp_path / "new" / "domains.csv", ["storm_domain", "score"], n_classes=4)
    frame = pd.read_csv(file, index_col="Barcode", keep_default_na=False)
    assert list(frame.columns) == ["storm_domain", "score"]
    assert list(frame.index) == list(table.obs_names)  # each row has one of the two
    expected = table.obs["storm_domain"].astype(object).fillna("")
    assert frame["storm_domain"].tolist() == expected.tolist()
    # classes of the score: in order, of equal size, missing where it is
    classes = frame["score"]
    assert ((classes == "") == table.obs["score"].isna()).all()
    sizes = classes[classes != ""].value_counts()
    assert len(sizes) == 4
    assert sizes.max() - sizes.min() <= 2
    limits = {name: [float(x) for x in name.split(": ")[1].split(" to ")] for name in sizes.index}
    for name, (low, high) in limits.items():
        own = table.obs["score"][(classes == name).to_numpy()]
        assert low - 1e-3 <= own.min() <= own.max() <= high + 1e-3
    pd.testing.assert_frame_equal(table.obs, before)


def test_loupe_leaves_out_rows_without_a_group(section, tmp_path):
    (file,) = io.to_loupe(section, tmp_path / "domains.csv")
    table = section.tables["table"]
    kept = table.obs_names[table.obs["storm_domain"].notna()]
    assert pd.read_csv(file)["Barcode"].tolist() == list(kept)


def test_loupe_of_several_sections_has_the_barcodes_of_each(section, tmp_path):
    table = section.tables["table"]
    both = ad.concat({"A/1": table, "B": table}, label="sample", index_unique="-")
    both.obs["storm_domain"] = both.obs["storm_domain"].astype("category")
    files = io.to_loupe(both, tmp_path / "domains.csv", library_key="sample")
    assert [file.name for file in files] == ["domains_A_1.csv", "domains_B.csv"]
    kept = table.obs_names[table.obs["storm_domain"].notna()]
    for file in files:
        assert pd.read_csv(file)["Barcode"].tolist() == list(kept)  # without what concat added
    with pytest.raises(ValueError, match="library_key="):
        io.to_loupe(both, tmp_path / "all.csv")
    assert len(list(tmp_path.iterdir())) == 2


def test_loupe_needs_barcodes(section, tmp_path):
    table = section.tables["table"].copy()
    barcodes = list(table.obs_names)
    table.obs_names = [f"{k}x{k}" for k in range(table.n_obs)]
    with pytest.raises(ValueError, match=r"no barcodes, e\.g\. '0x0'.*barcode_key="):
        io.to_loupe(table, tmp_path / "a.csv")
    table.obs["name"] = barcodes
    (file,) = io.to_loupe(table, tmp_path / "a.csv", barcode_key="name", keys="region")
    assert pd.read_csv(file)["Barcode"].tolist() == barcodes
    table.obs["name"] = "one"
    with pytest.raises(ValueError, match=r"same barcodes, e\.g\. 'one'"):
        io.to_loupe(table, tmp_path / "b.csv", barcode_key="name", keys="region")
    with pytest.raises(FileExistsError, match=r"a\.csv exists"):
        io.to_loupe(table, tmp_path / "a.csv")
    with pytest.raises(KeyError, match="no_such"):
        io.to_loupe(table, tmp_path / "b.csv", "no_such")
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_barcodes_of_bins_are_taken_as_they_are(tmp_path):
    bins = storm.datasets.toy("visium_hd", n=60)
    (file,) = io.to_loupe(bins, tmp_path / "a.csv", "domain")
    assert pd.read_csv(file)["Barcode"].tolist() == list(bins.tables["table"].obs_names)


# --------------------------------------------------------------------------------------------------- Xenium Explorer


def test_xenium_explorer(tmp_path):
    cells = storm.datasets.toy("xenium", n=60)
    table = cells.tables["table"]
    (file,) = io.to_xenium_explorer(cells, tmp_path / "groups.csv", "domain")
    frame = pd.read_csv(file, dtype=str)
    assert list(frame.columns) == ["cell_id", "group", "color"]
    assert frame["cell_id"].tolist() == list(table.obs_names)
    assert frame["group"].tolist() == table.obs["domain"].tolist()
    # colours are those of the plot
    table.uns["domain_colors"] = [f"#0000{k:02x}" for k in range(len(table.obs["domain"].cat.categories))]
    (file,) = io.to_xenium_explorer(cells, tmp_path / "groups.csv", "domain", overwrite=True)
    frame = pd.read_csv(file, dtype=str)
    number = {name: k for k, name in enumerate(table.obs["domain"].cat.categories)}
    assert frame["color"].tolist() == [f"#0000{number[name]:02x}" for name in frame["group"]]


def test_xenium_explorer_finds_the_names_of_cells(tmp_path):
    table = storm.datasets.toy("xenium", n=60).tables["table"]
    ids = list(table.obs["cell_id"])
    table.obs_names = [str(k) for k in range(table.n_obs)]  # as spatialdata-io names its rows
    (file,) = io.to_xenium_explorer(table, tmp_path / "a.csv", "domain")
    assert pd.read_csv(file)["cell_id"].tolist() == ids
    del table.obs["cell_id"]
    table.obs_names = [f"slide2_{name}-0" for name in ids]
    (file,) = io.to_xenium_explorer(table, tmp_path / "b.csv", "domain")
    assert pd.read_csv(file)["cell_id"].tolist() == ids


# ----------------------------------------------------------------------------------------------------------- QuPath


def paint(sdata, key, element) -> np.ndarray:
    """Give the section an image on which each instance is painted in a colour of its own, placed oddly."""
    turned = Affine([[0.0, 1.5, 40.0], [-2.0, 0.0, 900.0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    place = get_transformation(sdata[element], "um")
    shapes = spatialdata.transform(sdata[element], to_coordinate_system="um")
    inverse = np.linalg.inv(turned.to_affine_matrix(("x", "y"), ("x", "y")))
    centres = shapely.get_coordinates(shapes.geometry.centroid) @ inverse[:2, :2].T + inverse[:2, 2]
    low = np.floor(centres.min(axis=0)) - 20
    centres -= low
    width, height = np.ceil(centres.max(axis=0)).astype(int) + 20
    pixels = np.zeros((3, height, width), dtype=np.uint8)
    for number, (x, y) in enumerate(centres, start=1):
        pixels[:, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = np.array([number, 200, 99])[:, None, None]
    matrix = turned.to_affine_matrix(("x", "y"), ("x", "y")) @ np.array([[1, 0, low[0]], [0, 1, low[1]], [0, 0, 1]])
    to_um = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    del sdata.images[key]
    sdata.images[key] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"um": to_um})
    set_transformation(sdata[element], {"um": place}, set_all=True)
    return pixels


@pytest.mark.parametrize("platform", ["visium", "visium_hd", "xenium"])
def test_qupath_objects_lie_on_their_pixels(platform, tmp_path):
    sdata = storm.datasets.toy(platform, n=60)
    element = next(iter(sdata.shapes))
    pixels = paint(sdata, "he", element)
    table = sdata.tables["table"]
    (file,) = io.to_qupath(sdata, tmp_path / "a.geojson", "domain", scores=["capture"])
    written = features(file)
    assert len(written) == table.n_obs
    order = list(sdata.shapes[element].index)
    instance = table.obs[table.uns["spatialdata_attrs"]["instance_key"]]
    for feature, name, label, score, own in zip(
        written, table.obs_names, table.obs["domain"], table.obs["capture"], instance, strict=True
    ):
        polygon = shape(feature["geometry"])
        assert polygon.geom_type == "Polygon"
        assert polygon.is_valid
        x, y = polygon.centroid.coords[0]
        assert pixels[:, int(y), int(x)].tolist() == [order.index(own) + 1, 200, 99]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert properties["name"] == name
        assert properties["classification"]["name"] == label
        assert properties["measurements"] == {"capture": score}
    assert len({feature["id"] for feature in written}) == len(written)


def test_qupath_sizes_are_those_of_the_spots(toy, tmp_path):
    (file,) = io.to_qupath(toy, tmp_path / "a.geojson", "domain")
    # 55 µm at 1 µm per pixel, in an image that QuPath has at .5 µm per pixel
    (finer,) = io.to_qupath(toy, tmp_path / "b.geojson", "domain", pixel_um=0.5)
    for one, two in zip(features(file), features(finer), strict=True):
        a, b = shape(one["geometry"]), shape(two["geometry"])
        assert a.bounds[2] - a.bounds[0] == pytest.approx(55, abs=0.02)
        np.testing.assert_allclose(np.array(b.bounds), 2 * np.array(a.bounds), atol=0.02)


def test_qupath_colours_and_names(section, tmp_path):
    (file,) = io.to_qupath(section, tmp_path / "a.geojson", object_type="annotation")
    table = section.tables["table"]
    kept = table.obs[table.obs["storm_domain"].notna()]
    read = features(file)
    assert [one["properties"]["name"] for one in read] == list(kept.index)
    colours = dict(zip(NAMES, [[16, 32, 48], [170, 0, 255], [0, 255, 128]], strict=True))
    for one, label in zip(read, kept["storm_domain"], strict=True):
        assert one["properties"]["classification"] == {"name": label, "color": colours[label]}
    # rows without a domain are there for their score
    (file,) = io.to_qupath(section, tmp_path / "b.geojson", scores=["score"])
    with pytest.raises(KeyError, match="scores='no_such' is not in obs, which"):
        io.to_qupath(section, tmp_path / "c.geojson", scores="no_such")
    read = features(file)
    assert len(read) == table.n_obs
    assert ["measurements" in one["properties"] for one in read] == table.obs["score"].notna().tolist()
    assert ["classification" in one["properties"] for one in read] == table.obs["storm_domain"].notna().tolist()


def test_qupath_of_an_anndata(section, tmp_path):
    table = section.tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    table.obsm["spatial"] = np.column_stack([np.arange(table.n_obs) * 100.0, np.arange(table.n_obs) % 7 * 100.0])
    with pytest.raises(ValueError, match=r"no image.*pixel_um="):
        io.to_qupath(table, tmp_path / "a.geojson")
    (file,) = io.to_qupath(table, tmp_path / "a.geojson", pixel_um=0.25, um_per_px=1.0, scores=["score"])
    read = features(file)
    points = np.array([one["geometry"]["coordinates"] for one in read])
    np.testing.assert_allclose(points, 4 * table.obsm["spatial"])


def test_qupath_of_several_regions(section, tmp_path):
    two = spatialdata.deepcopy(section)
    two.shapes["other"] = two.shapes["spots"]
    set_transformation(two.shapes["other"], {"um": Scale([1, 1], axes=("x", "y"))}, set_all=True)
    table = two.tables["table"]
    table.obs["region"] = pd.Categorical(np.where(np.arange(table.n_obs) < 100, "spots", "other"))
    table.uns["spatialdata_attrs"]["region"] = ["spots", "other"]
    files = io.to_qupath(two, tmp_path / "a.geojson", "domain", image_key="he")
    assert [file.name for file in files] == ["a_other.geojson", "a_spots.geojson"]
    assert [len(features(file)) for file in files] == [table.n_obs - 100, 100]


def test_a_file_is_whole_or_as_it_was(section, tmp_path, monkeypatch):
    (file,) = io.to_qupath(section, tmp_path / "a.geojson")
    before = file.read_bytes()

    def fail(*_, **__):
        msg = "no more"
        raise RuntimeError(msg)

    monkeypatch.setattr("json.dumps", fail)
    with pytest.raises(RuntimeError, match="no more"):
        io.to_qupath(section, file, "domain", overwrite=True)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_measurements_are_no_text(section, tmp_path):
    with pytest.raises(TypeError, match=r"'storm_domain'.*not numbers"):
        io.to_qupath(section, tmp_path / "a.geojson", scores=["storm_domain"])
    section.tables["table"].obs["empty"] = np.nan
    with pytest.raises(ValueError, match="no value"):
        io.to_qupath(section, tmp_path / "a.geojson", "empty")
    assert not list(tmp_path.iterdir())
