"""Bad input when a section is read: a clear error each time, and the object as it was."""

from __future__ import annotations

import re
from collections.abc import Callable

import anndata as ad
import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Image3DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, set_transformation

from storm._bridge import read_spots, select_table
from storm.data import sources as pixel_sources

N = 30
PLACES = {"global": Identity(), "um": Scale([0.5, 0.5], axes=("x", "y"))}


def rgb(channels: int = 3, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (channels, 100, 120)).astype(dtype)


def image(array: np.ndarray | None = None, **kwargs):
    kwargs = {"dims": ("c", "y", "x"), "transformations": dict(PLACES)} | kwargs
    return Image2DModel.parse(rgb() if array is None else array, **kwargs)


def shapes(px: np.ndarray | None = None, transformations: dict | None = None) -> gpd.GeoDataFrame:
    if px is None:
        px = np.random.default_rng(0).uniform((5, 5), (115, 95), (N, 2))
    return ShapesModel.parse(px, geometry=0, radius=3.0, transformations=transformations or dict(PLACES))


def table(n: int = N, X: np.ndarray | None = None, **uns) -> ad.AnnData:
    X = sparse.csr_matrix(np.random.default_rng(0).poisson(2, (n, 4)).astype(np.float32)) if X is None else X
    obs = pd.DataFrame({"region": pd.Categorical(["spots"] * n), "id": np.arange(n)}, index=[f"s{k}" for k in range(n)])
    made = ad.AnnData(X=X, obs=obs, var=pd.DataFrame(index=["A", "B", "C", "D"]), uns=uns)
    return TableModel.parse(made, region="spots", region_key="region", instance_key="id") if n else made


def section(**parts) -> SpatialData:
    parts = {"image": image(), "shapes": shapes(), "table": table()} | parts
    return SpatialData(
        images={} if parts["image"] is None else {"he": parts["image"]},
        shapes={} if parts["shapes"] is None else {"spots": parts["shapes"]},
        tables={} if parts["table"] is None else {"table": parts["table"]},
    )


def in_pixels(**uns) -> SpatialData:
    pixels = {"global": Identity()}
    return section(image=image(transformations=pixels), shapes=shapes(transformations=pixels), table=table(**uns))


def with_second_image() -> SpatialData:
    sdata = section()
    sdata.images["dapi"] = image(rgb(1), c_coords=["DAPI"])
    return sdata


def counts(value: float, kind: Callable = np.asarray) -> ad.AnnData:
    X = np.random.default_rng(0).poisson(2, (N, 4)).astype(np.float64)
    X[3, 2] = value
    return table(X=kind(X))


def duplicated_genes() -> ad.AnnData:
    made = table()
    made.var_names = ["A", "B", "A", "B"]
    return made


def other_instances() -> ad.AnnData:
    made = table()
    made.obs["id"] = [f"cell_{k}" for k in range(N)]
    return made


def unlinked() -> ad.AnnData:
    made = table()
    del made.uns["spatialdata_attrs"]
    return made


def annotating(region: str) -> ad.AnnData:
    made = table()
    made.obs["region"] = pd.Categorical([region] * N)
    made.uns["spatialdata_attrs"]["region"] = region
    return made


def at(**changes) -> gpd.GeoDataFrame:
    """Shapes with single coordinates replaced."""
    px = np.random.default_rng(0).uniform((5, 5), (115, 95), (N, 2))
    for row, value in changes.items():
        px[int(row[1:])] = value
    return shapes(px)


def on_lattice(**changes: int) -> gpd.GeoDataFrame:
    """Shapes on a square lattice, single ones of them at the place of another."""
    px = np.stack(np.meshgrid(np.arange(6), np.arange(5)), -1).reshape(-1, 2) * 15.0 + 10
    place = np.arange(N)
    for row, other in changes.items():
        place[int(row[1:])] = other
    return shapes(px[place])


def repeated_index() -> gpd.GeoDataFrame:
    made = shapes()
    made.index = [0, 0, *range(2, N)]
    return made


def volume() -> SpatialData:
    stack = Image3DModel.parse(rgb()[:, None], dims=("c", "z", "y", "x"), transformations=dict(PLACES))
    sdata = section(image=None)
    sdata.images["he"] = stack
    return sdata


XY = ad.AnnData(np.ones((N, 4), dtype=np.float32))


def coordinates(values) -> ad.AnnData:
    made = table()
    made.obsm["spatial"] = values
    return made


PLAIN = np.random.default_rng(1).uniform(0, 100, (N, 2))
MICRONS = {"spatial": {"lib": {"scalefactors": {"microns_per_pixel": 0.3}}}}
HOLE = PLAIN.copy()
HOLE[5] = np.nan
# a section that is in the table twice
TWICE = np.repeat(PLAIN[: N // 2], 2, axis=0)

# name: (how to make the object, keywords, error, words that the text must hold)
CASES: dict[str, tuple[Callable, dict, type[Exception], list[str]]] = {
    # what to read
    "not a container": (lambda: np.zeros(3), {}, TypeError, ["ndarray", "spatialdata.read_zarr"]),
    "no image": (lambda: section(image=None), {"image": True}, ValueError, ["no image", "Image2DModel.parse"]),
    "no image in AnnData": (lambda: coordinates(PLAIN), {"image": True}, ValueError, ["AnnData", "modality='st'"]),
    "several images": (
        with_second_image,
        {},
        ValueError,
        ["several images", "image_key=", "'dapi' (1 c × 100 y", "'he'"],
    ),
    "missing image": (section, {"image_key": "HE"}, KeyError, ["image_key='HE'", "'he'"]),
    "missing table": (section, {"table_key": "t"}, KeyError, ["table_key='t'", "'table'"]),
    "no table": (lambda: section(table=None), {"table": True}, ValueError, ["holds no table", "TableModel.parse"]),
    "key of an AnnData": (lambda: coordinates(PLAIN), {"table_key": "t"}, ValueError, ["leave table_key out"]),
    "missing layer": (section, {"layer": "raw"}, KeyError, ["layer='raw'", "nothing"]),
    "nothing at all": (SpatialData, {}, ValueError, ["neither a table nor shapes"]),
    # the scale
    "no scale": (
        in_pixels,
        {},
        ValueError,
        ["no µm scale is known for image 'he'", "um_per_px=", "storm.pp.set_scale"],
    ),
    "argument against transformation": (
        section,
        {"um_per_px": 0.6},
        ValueError,
        ["0.6 from the argument um_per_px", "0.5 from the coordinate system 'um'"],
    ),
    "argument against metadata": (
        lambda: in_pixels(**MICRONS),
        {"um_per_px": 0.5},
        ValueError,
        ["0.5 from the argument", "0.3 from uns['spatial']['lib']"],
    ),
    "transformation against metadata": (
        lambda: section(table=table(**MICRONS)),
        {},
        ValueError,
        ["0.5 from the coordinate", "0.3 from uns['spatial']"],
    ),
    "metadata of an AnnData against the argument": (
        lambda: ad.AnnData(XY.X, obsm={"spatial": PLAIN}, uns=MICRONS),
        {"um_per_px": 1.0},
        ValueError,
        ["µm per pixel of the coordinates", "1 from the argument", "0.3 from uns"],
    ),
    "impossible scale": (in_pixels, {"um_per_px": -1}, ValueError, ["um_per_px=-1", "positive"]),
    "no number": (in_pixels, {"um_per_px": "0.5"}, TypeError, ["um_per_px", "'0.5'"]),
    # table and shapes
    "other shapes": (lambda: section(table=annotating("cells")), {}, ValueError, ["annotates 'cells'", "['spots']"]),
    "shapes that the table does not annotate": (
        section,
        {"shapes_key": "cells"},
        ValueError,
        ["does not annotate", "['spots']"],
    ),
    "other instances": (
        lambda: section(table=other_instances()),
        {},
        ValueError,
        ["other instances", "'cell_0'", "[0, 1, 2]"],
    ),
    "no link": (
        lambda: section(table=unlinked()),
        {},
        ValueError,
        ["annotates no element", "set_table_annotates_spatialelement"],
    ),
    "instances twice": (
        lambda: section(shapes=repeated_index()),
        {},
        ValueError,
        ["'spots' holds the same instance", "[0]"],
    ),
    "missing shapes, no table": (
        lambda: section(table=None),
        {"shapes_key": "x"},
        KeyError,
        ["shapes_key='x'", "spots"],
    ),
    # frames
    "no common frame": (
        lambda: section(shapes=shapes(transformations={"other": Identity()})),
        {},
        ValueError,
        [
            "no coordinate system in common",
            "image 'he': ['global', 'um']",
            "shapes 'spots': ['other']",
            "set_transformation",
        ],
    ),
    "unknown frame": (section, {"coordinate_system": "aligned"}, ValueError, ["coordinate_system='aligned'", "global"]),
    "all centres off the image": (
        lambda: section(shapes=shapes(np.random.default_rng(0).uniform(500, 900, (N, 2)))),
        {},
        ValueError,
        ["no centre lies on image 'he'", "the image x 0 to 60, y 0 to 50", "coordinate_system="],
    ),
    # the image
    "one channel": (
        lambda: section(image=image(rgb(1))),
        {},
        ValueError,
        ["1 channel [", "another picture", "image_key="],
    ),
    "four channels": (
        lambda: section(image=image(rgb(4), c_coords=["r", "g", "b", "a"])),
        {},
        ValueError,
        ["4 channels ['r', 'g', 'b', 'a']", ".isel(c=[0, 1, 2])"],
    ),
    "four stains": (
        lambda: section(image=image(rgb(4), c_coords=["DAPI", "CD3", "CK", "18S"])),
        {},
        ValueError,
        ["4 channels ['DAPI', 'CD3', 'CK', '18S']", "another picture; name the H&E image with image_key="],
    ),
    "four channels in another order": (
        lambda: section(image=image(rgb(4), c_coords=["blue", "green", "red", "alpha"])),
        {},
        ValueError,
        [".isel(c=[2, 1, 0])"],
    ),
    "fluorescence": (
        lambda: section(image=image(c_coords=["DAPI", "CD3", "CK"])),
        {},
        ValueError,
        ["['DAPI', 'CD3', 'CK']", "set_channel_names"],
    ),
    "float": (lambda: section(image=image(rgb() / 255)), {}, TypeError, ["float64", " * 255).round()"]),
    "16 bit": (lambda: section(image=image(rgb(dtype="uint16"))), {}, TypeError, ["uint16", " // 257)"]),
    "three dimensions": (volume, {}, ValueError, ["z axis"]),
    # coordinates
    "NaN in shapes": (
        lambda: section(shapes=at(r7=(np.nan, 3))),
        {},
        ValueError,
        ["1 of 30 coordinates in shapes 'spots'", "'s7'"],
    ),
    "shapes twice in one place": (
        lambda: section(shapes=on_lattice(r7=7, r9=7)),
        {},
        ValueError,
        ["2 of 30 rows share", "'s7', 's9'", "form a lattice"],
    ),
    "NaN in obsm": (lambda: coordinates(HOLE), {}, ValueError, ["1 of 30 coordinates in obsm['spatial']", "'s5'"]),
    "obsm twice in one place": (lambda: coordinates(TWICE), {}, ValueError, ["30 of 30 rows share", "'s0', 's1'"]),
    "no coordinates": (table, {}, ValueError, ["no coordinates in obsm['spatial']", "nothing"]),
    "one coordinate": (lambda: coordinates(PLAIN[:, :1]), {}, ValueError, ["shape (30, 1)"]),
    "text as coordinates": (lambda: coordinates(np.full((N, 2), "a")), {}, ValueError, ["not numbers"]),
    # counts
    "negative": (lambda: section(table=counts(-2)), {}, ValueError, ["negative values, down to -2", "layer="]),
    "logarithms": (
        lambda: section(table=counts(0.693)),
        {},
        ValueError,
        ["non-count values (for example 0.693)", "layer="],
    ),
    "logarithms in CSC": (lambda: section(table=counts(0.693, sparse.csc_matrix)), {}, ValueError, ["non-count"]),
    "logarithms in dask": (lambda: section(table=counts(0.693, da.from_array)), {}, ValueError, ["non-count"]),
    "NaN": (lambda: section(table=counts(np.nan)), {}, ValueError, ["NaN or infinite values (1 of them)"]),
    "infinity": (lambda: section(table=counts(np.inf, sparse.csr_matrix)), {}, ValueError, ["NaN or infinite"]),
    "genes twice": (
        lambda: section(table=duplicated_genes()),
        {},
        ValueError,
        ["2 var_names", "['A', 'B']", "var_names_make_unique"],
    ),
    "no observations": (lambda: table(0), {}, ValueError, ["table is empty", "0 observations × 4 genes"]),
    "no genes": (
        lambda: section(table=table(X=np.zeros((N, 4)))[:, []].copy()),
        {"table": True},
        ValueError,
        ["30 observations × 0 genes"],
    ),
    "no X": (
        lambda: section(table=ad.AnnData(obs=table().obs, var=table().var, uns=table().uns)),
        {},
        ValueError,
        ["no X", "layer="],
    ),
}


def state(data) -> str:
    """What an object holds, as text."""
    if not isinstance(data, (SpatialData, ad.AnnData)):
        return repr(data)
    tables = data.tables if isinstance(data, SpatialData) else {"": data}
    rows = [
        (
            k,
            repr(t),
            t.obs.to_csv(),
            list(t.var_names),
            str(t.X),
            {k: np.asarray(v).tolist() for k, v in t.obsm.items()},
            t.uns,
        )
        for k, t in tables.items()
    ]
    if isinstance(data, ad.AnnData):
        return str(rows)
    return str([rows, repr(data), [(k, v.to_csv()) for k, v in data.shapes.items()]])


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
@pytest.mark.filterwarnings("ignore:The table is annotating:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str) -> None:
    make, options, error, words = CASES[name]
    data = make()
    before = state(data)
    with pytest.raises(error) as caught:
        read_spots(data, **options)
    text = str(caught.value)
    for word in words:
        assert word in text.replace("\\'", "'"), text
    assert not re.search(r"\{|\}|None|<class", text), text
    assert state(data) == before


@pytest.mark.parametrize("pyramid", [None, [2]])
@pytest.mark.parametrize(
    "array", [rgb(4), rgb(dtype="uint16") * np.uint16(257), rgb() / 255], ids=["4 channels", "uint16", "float"]
)
def test_the_advice_about_images_works(array: np.ndarray, pyramid: list[int] | None) -> None:
    import spatialdata

    sdata = section(image=image(array, scale_factors=pyramid))
    with pytest.raises((TypeError, ValueError)) as caught:
        read_spots(sdata)
    code = re.search(r"sdata\.images\['he'\] = .*?scale_factors=\[2, 2, 2\]\)", str(caught.value))
    exec(code[0], {"sdata": sdata, "spatialdata": spatialdata})
    spots = read_spots(sdata)
    assert spots.scale.um_per_px == 0.5
    expected = rgb(4)[:3] if len(array) == 4 else rgb()
    corner = spots.patches.read(np.array([[5.0, 5.0]]), field_um=10, out_px=20)[0]
    np.testing.assert_array_equal(corner, np.moveaxis(expected[:, :20, :20], 0, 2))


def test_cells_with_rounded_positions_may_share_them() -> None:
    sdata = section(shapes=at(r7=(50, 50), r9=(50, 50), r11=(50, 50)))
    with pytest.warns(UserWarning, match=r"3 of 30 rows share their coordinates in shapes 'spots'.*'s7', 's9', 's11'"):
        spots = read_spots(sdata)
    np.testing.assert_allclose(spots.centres[[7, 9, 11]], 25)
    assert spots.placed.all()


def test_several_tables_need_a_key() -> None:
    sdata = section()
    sdata.tables["more"] = table()
    with pytest.raises(ValueError, match=r"several tables; choose one with table_key= out of \['more', 'table'\]"):
        select_table(sdata)
    with pytest.raises(ValueError, match="several tables"):
        read_spots(sdata)


def test_centres_partly_off_the_image_are_left_to_the_caller() -> None:
    spots = read_spots(section(shapes=at(r3=(-50, 10), r4=(500, 10))))
    inside = spots.patches.inside(spots.centres)
    assert np.flatnonzero(~inside).tolist() == [3, 4]
    assert (spots.patches.read(spots.centres, field_um=5, out_px=8)[[3, 4]] == 255).all()


def test_image_of_one_huge_chunk_warns_with_the_fix(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    array = zarr.create_array(tmp_path / "a.zarr", shape=(3, 100, 120), dtype="u1", chunks=(3, 100, 120))
    array[:] = rgb()
    monkeypatch.setattr("storm._bridge.image.HUGE_CHUNK_PX", 10_000)
    assert pixel_sources.HUGE_CHUNK_PX == 64_000_000
    with pytest.warns(UserWarning, match=r"chunks of 120 × 100 pixels.*chunks=\(3, 512, 512\)\); sdata\.write"):
        spots = read_spots(section(image=image(da.from_zarr(array))))
    assert spots.patches.inside(spots.centres).all()
    read_spots(section())  # in memory nothing is decoded: no warning


def test_image_decoded_again_for_every_block_warns() -> None:
    import dask

    page = da.from_delayed(dask.delayed(rgb)(), (3, 100, 120), "u1").rechunk((3, 20, 20))
    with pytest.warns(UserWarning, match="5 × 6 blocks of image 'he' are cut lazily"):
        read_spots(section(image=image(page)))


def test_transformation_without_area() -> None:
    sdata = section()
    set_transformation(sdata.images["he"], Scale([0.5, 0.0], axes=("x", "y")), "um")
    with pytest.raises(ValueError, match="into 'um' cannot be inverted"):
        read_spots(sdata)
