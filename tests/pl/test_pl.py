"""Plots: their contents, read back from the axes, and errors before a figure is made."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.colors import to_hex

import storm
from storm._bridge import read_view
from storm._bridge.image import levels_of
from storm._palette import OKABE_ITO, palette
from storm.pl import _draw

UM_PER_PX = 2.0


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def drawn():
    return {p: storm.datasets.toy(p, n=60, seed=3, um_per_px=UM_PER_PX) for p in ("visium", "visium_hd", "xenium")}


@pytest.fixture
def visium(drawn):
    """A section with domains (three of them missing) and a prediction, written by hand."""
    from spatialdata import SpatialData

    sdata = drawn["visium"]
    table = sdata["table"].copy()
    labels = pd.Series((np.arange(60) % 4).astype(str), index=table.obs_names, dtype="category")
    labels.iloc[:3] = np.nan
    table.obs["storm_domain"] = labels
    table.layers["storm"] = np.tile(np.linspace(0.5, 2, 60, dtype=np.float32)[:, None], (1, table.n_vars))
    table.layers["storm"][:, table.var_names.get_loc("COL1A1")] = np.nan
    table.var["storm_r"] = 0.25
    return SpatialData(images={"he": sdata["he"]}, shapes={"spots": sdata["spots"]}, tables={"table": table})


def spots_of(ax):
    return [c for c in ax.collections if isinstance(c, EllipseCollection | PolyCollection)]


# ---------------------------------------------------------------------------------------------- the view


def test_view_lies_in_um(drawn):
    sdata = drawn["visium"]
    view = read_view(sdata)
    np.testing.assert_allclose(view.centres, sdata["table"].obsm["spatial"] * UM_PER_PX)
    np.testing.assert_allclose(view.diameters, 55)
    assert view.um_known
    assert view.outlines is None
    left, right, bottom, top = view.extent
    assert left < view.centres[:, 0].min() < view.centres[:, 0].max() < right
    assert top < view.centres[:, 1].min() < view.centres[:, 1].max() < bottom
    assert view.image.dtype == np.uint8
    assert max(view.image.shape) == pytest.approx(1600, abs=2)


def test_view_shows_the_right_place(drawn):
    """A red square painted on the image is red in the view, where it lies in µm, and nowhere else."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import get_transformation

    sdata = drawn["visium"]
    pixels = levels_of(sdata["he"])[0].to_numpy().copy()
    pixels[:, 100:130, 150:200] = np.array([255, 0, 0])[:, None, None]
    image = Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=get_transformation(sdata["he"], get_all=True),
    )
    marked = SpatialData(images={"he": image}, shapes={"spots": sdata["spots"]}, tables={"table": sdata["table"]})
    view = read_view(marked, max_px=800)
    red = (view.image[..., 0] > 200) & (view.image[..., 1] < 80)
    left, right, bottom, top = view.extent
    rows, columns = np.nonzero(red)
    x = left + (columns + 0.5) / red.shape[1] * (right - left)
    y = top + (rows + 0.5) / red.shape[0] * (bottom - top)
    px = (right - left) / red.shape[1]
    assert x.min() == pytest.approx(150 * UM_PER_PX, abs=2 * px)
    assert x.max() == pytest.approx(200 * UM_PER_PX, abs=2 * px)
    assert y.min() == pytest.approx(100 * UM_PER_PX, abs=2 * px)
    assert y.max() == pytest.approx(130 * UM_PER_PX, abs=2 * px)


def test_view_in_pieces_is_the_same_picture(drawn, monkeypatch):
    whole = read_view(drawn["visium"]).image.astype(float)
    monkeypatch.setattr("storm._bridge.view._WHOLE_PX", 10)
    monkeypatch.setattr("storm._bridge.view._PIECES", 4)
    pieces = read_view(drawn["visium"]).image.astype(float)
    rows, columns = (min(a, b) for a, b in zip(whole.shape[:2], pieces.shape[:2], strict=True))
    assert abs(rows - len(whole)) <= 4
    assert np.abs(whole[:rows, :columns] - pieces[:rows, :columns]).mean() < 4


def test_view_of_bins_and_cells_has_outlines(drawn):
    bins = read_view(drawn["visium_hd"])
    assert bins.outlines.shape == (60, 5, 2)
    np.testing.assert_allclose(bins.outlines[:, :4].mean(axis=1), bins.centres, atol=1e-9)
    np.testing.assert_allclose(bins.diameters, 8)
    cells = read_view(drawn["xenium"])
    assert len(cells.outlines) == 60
    assert (np.linalg.norm(cells.outlines[7] - cells.centres[7], axis=1) < 15).all()


def test_view_follows_the_table_not_the_shapes(drawn):
    from spatialdata import SpatialData

    sdata = drawn["xenium"]
    order = np.random.default_rng(0).permutation(60)
    mixed = SpatialData(
        images={"he": sdata["he"]}, shapes={"cells": sdata["cells"].iloc[order]}, tables={"table": sdata["table"]}
    )
    for one, two in zip(read_view(mixed).outlines, read_view(sdata).outlines, strict=True):
        np.testing.assert_array_equal(one, two)


def test_outlines_of_different_corners_and_parts(drawn):
    import shapely
    from spatialdata import SpatialData

    sdata = drawn["xenium"]
    cells = sdata["cells"].copy()
    first = cells.geometry.iloc[0]
    speck = shapely.box(0, 0, 0.1, 0.1)
    cells.loc[cells.index[0], "geometry"] = shapely.MultiPolygon([speck, first])
    cells.loc[cells.index[1], "geometry"] = cells.geometry.iloc[1].simplify(1.0)
    changed = SpatialData(images={"he": sdata["he"]}, shapes={"cells": cells}, tables={"table": sdata["table"]})
    view = read_view(changed)
    assert isinstance(view.outlines, list)
    np.testing.assert_array_equal(view.outlines[0], read_view(sdata).outlines[0])
    ax = storm.pl.domains(changed, "domain")
    assert sum(len(c.get_paths()) for c in spots_of(ax)) == 60


# ---------------------------------------------------------------------------------------------- domains


def test_domains(visium):
    ax = storm.pl.domains(visium)
    assert ax.get_aspect() == 1
    low, high = ax.get_ylim()
    assert low > high  # y down, as in images
    assert ax.get_title() == "storm_domain"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["0", "1", "2", "3", "none"]
    drawn = spots_of(ax)
    codes = visium["table"].obs["storm_domain"].cat.codes.to_numpy()
    assert [len(c.get_offsets()) for c in drawn] == [*(int((codes == k).sum()) for k in range(4)), 3]
    expected = [to_hex(c) for c in [*OKABE_ITO[:4], _draw.MISSING]]
    assert [to_hex(c.get_facecolor()[0]) for c in drawn] == expected
    np.testing.assert_allclose(
        drawn[2].get_offsets(), (visium["table"].obsm["spatial"] * UM_PER_PX)[codes == 2], atol=1e-6
    )
    assert len(ax.images) == 1
    assert any("µm" in t.get_text() for t in ax.findobj(match=lambda a: hasattr(a, "get_text")))


def test_domains_into_given_axes_with_given_colours(visium):
    _, ax = plt.subplots()
    colours = {"0": "red", "1": "lime", "2": "blue", "3": "#123456"}
    assert storm.pl.domains(visium, ax=ax, palette=colours, legend=False, title="", image_alpha=0) is ax
    assert [to_hex(c.get_facecolor()[0]) for c in spots_of(ax)[:4]] == ["#ff0000", "#00ff00", "#0000ff", "#123456"]
    assert ax.get_legend() is None
    assert not ax.images
    visium["table"].uns["storm_domain_colors"] = ["#111111", "#222222", "#333333", "#444444"]
    assert to_hex(spots_of(storm.pl.domains(visium))[1].get_facecolor()[0]) == "#222222"


def test_domains_of_an_anndata(visium):
    adata = visium["table"].copy()
    ax = storm.pl.domains(adata)
    assert not ax.images
    assert sum(len(c.get_offsets()) for c in spots_of(ax)) == 60


@pytest.mark.parametrize("platform", ["visium_hd", "xenium"])
def test_bins_and_cells_are_drawn_as_they_are(drawn, platform):
    ax = storm.pl.domains(drawn[platform], "domain")
    paths = [path for c in spots_of(ax) for path in c.get_paths()]
    assert len(paths) == 60
    size = np.median([np.ptp(path.vertices[:, 0]) for path in paths])
    assert size == pytest.approx(8, rel=1e-6) if platform == "visium_hd" else 4 < size < 30
    smaller = storm.pl.domains(drawn[platform], "domain", size=0.5)
    half = [np.ptp(path.vertices[:, 0]) for c in spots_of(smaller) for path in c.get_paths()]
    assert np.median(half) == pytest.approx(size / 2, rel=0.01)


def test_palette_has_no_colour_twice():
    colours = palette(24)
    assert len(set(colours)) == 24


def test_domains_names_what_is_wrong(visium):
    before = plt.get_fignums()
    with pytest.raises(KeyError, match=r"key='nope' is not in obs .*storm.tl.domains.*'storm_domain'"):
        storm.pl.domains(visium, "nope")
    visium["table"].obs["depth"] = np.arange(60) + 0.5
    with pytest.raises(ValueError, match=r"'depth'.* 60 different values.*measurements, not domains"):
        storm.pl.domains(visium, "depth")
    with pytest.raises(ValueError, match=r"no colour for \['1', '2', '3'\]"):
        storm.pl.domains(visium, palette={"0": "red"})
    with pytest.raises(ValueError, match="2 colours for 4 domains"):
        storm.pl.domains(visium, palette=["red", "blue"])
    with pytest.raises(KeyError, match="image_key='x'"):
        storm.pl.domains(visium, image_key="x")
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    "labels",
    [
        pd.array(["a", "b", None], dtype="string"),
        pd.array([1, 2, pd.NA], dtype="Int64"),
        np.array([1.0, 2.0, np.nan]),
        np.array(["a", "b", None], dtype=object),
        np.array(["a", "b", pd.NA], dtype=object),
        pd.Categorical(["a", "b", None], categories=["a", "b", "unused"]),
        pd.array([True, False, pd.NA], dtype="boolean"),
    ],
    ids=lambda labels: str(labels.dtype),
)
def test_missing_labels_of_every_spelling(visium, labels):
    visium["table"].obs["labels"] = pd.Series(labels).iloc[np.arange(60) % 3].array
    ax = storm.pl.domains(visium, "labels", palette=["red", "blue", "lime"])
    drawn = {to_hex(c.get_facecolor()[0]): len(c.get_offsets()) for c in spots_of(ax)}
    assert drawn == {"#ff0000": 20, "#0000ff": 20, to_hex(_draw.MISSING): 20}
    assert ax.get_legend().get_texts()[-1].get_text() == "none"


def test_without_any_label_all_spots_are_grey(visium):
    visium["table"].obs["storm_domain"] = pd.Categorical([None] * 60)
    (drawn,) = spots_of(storm.pl.domains(visium))
    assert to_hex(drawn.get_facecolor()[0]) == to_hex(_draw.MISSING)
    assert len(drawn.get_offsets()) == 60


def test_stored_colours_that_are_none_are_not_used(visium):
    visium["table"].uns["storm_domain_colors"] = ["red", "no colour", "blue", "lime"]
    drawn = spots_of(storm.pl.domains(visium))
    assert [to_hex(c.get_facecolor()[0]) for c in drawn[:4]] == [to_hex(c) for c in OKABE_ITO[:4]]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": 0}, ValueError, "size=0 must be positive"),
        ({"size": "big"}, TypeError, "size is a number"),
        ({"alpha": 2}, ValueError, "alpha=2 must be from 0"),
        ({"image_alpha": np.nan}, ValueError, "image_alpha=nan"),
        ({"alpha": None}, TypeError, "alpha=None is a NoneType"),
        ({"ax": np.zeros(2)}, TypeError, "ax is a ndarray; give one matplotlib axes"),
        ({"palette": "tab10"}, ValueError, "palette='tab10' is text; give a list of 4 colours"),
        ({"palette": ["red", "blue", "nope", "lime"]}, ValueError, r"palette holds \['nope'\]"),
        ({"key": 5}, KeyError, "key=5 is not in obs"),
        ({"table_key": "../table"}, KeyError, "table_key='../table' is not in sdata.tables, which holds: 'table'"),
        ({"shapes_key": "spot"}, ValueError, "shapes_key='spot'"),
        ({"coordinate_system": "mm"}, ValueError, "coordinate_system='mm'"),
        ({"um_per_px": -1.0}, ValueError, "um_per_px=-1.0"),
    ],
)
def test_arguments_that_make_no_sense(visium, options, error, words):
    before = plt.get_fignums()
    with pytest.raises(error, match=words):
        storm.pl.domains(visium, **options)
    assert plt.get_fignums() == before


def test_columns_that_hold_no_labels(visium):
    before = plt.get_fignums()
    table = visium["table"]
    table.obs["lists"] = [[1]] * 60
    with pytest.raises(TypeError, match=r"'lists'.* holds lists or other containers"):
        storm.pl.domains(visium, "lists")
    table.obs = pd.concat([table.obs, table.obs[["storm_domain"]]], axis=1)
    with pytest.raises(ValueError, match="2 columns called 'storm_domain'"):
        storm.pl.domains(visium)
    assert plt.get_fignums() == before


# ---------------------------------------------------------------------------------------------- H&E, expression


def test_he(visium):
    ax = storm.pl.he(visium, outlines=True)
    assert len(ax.images) == 1
    assert len(spots_of(ax)[0].get_offsets()) == 60
    with pytest.raises(ValueError, match="AnnData holds no H&E image"):
        storm.pl.he(visium["table"])


def test_expression(visium):
    axes = storm.pl.expression(visium, ["EPCAM", "COL1A1"])
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["H&E", "measured", "predicted"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["EPCAM", "COL1A1"]
    assert len({ax.get_xlim() + ax.get_ylim() for ax in axes.ravel()}) == 1
    table = visium["table"]
    counts = table.X.toarray().astype(float)
    scaled = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    shown = spots_of(axes[0, 1])[0].get_array()
    np.testing.assert_allclose(shown, scaled[:, table.var_names.get_loc("EPCAM")], rtol=1e-6)
    np.testing.assert_allclose(spots_of(axes[0, 2])[0].get_array(), np.linspace(0.5, 2, 60), rtol=1e-6)
    assert axes[0, 2].get_xlabel() == "held-out r = 0.25"
    # COL1A1 has no prediction: its column of the layer is NaN
    assert not spots_of(axes[1, 2])
    assert axes[1, 2].texts[0].get_text() == "not predicted"


def test_expression_scales(visium):
    own = storm.pl.expression(visium, "EPCAM", scale="own")
    norms = [spots_of(ax)[0].norm for ax in own[0, 1:]]
    assert norms[0].vmax != norms[1].vmax
    shared = storm.pl.expression(visium, "EPCAM")
    norms = [spots_of(ax)[0].norm for ax in shared[0, 1:]]
    assert (norms[0].vmin, norms[0].vmax) == (norms[1].vmin, norms[1].vmax)
    bars = [ax for ax in own[0, 0].figure.axes if ax not in own]
    assert [bar.get_ylabel() for bar in bars] == ["log1p of counts per 10,000"] * 2
    raw = storm.pl.expression(visium, "EPCAM", log1p=False)
    counts = visium["table"][:, "EPCAM"].X.toarray().ravel()
    np.testing.assert_array_equal(spots_of(raw[0, 1])[0].get_array(), counts)
    with pytest.raises(ValueError, match=r"scale='same'.*'shared', 'own'"):
        storm.pl.expression(visium, "EPCAM", scale="same")


def test_expression_of_genes_beside_the_table(visium):
    from anndata import AnnData
    from spatialdata.models import TableModel

    table = visium["table"]
    beside = AnnData(
        np.arange(120, dtype=np.float32).reshape(60, 2),
        obs=table.obs[["region", "spot_id"]].copy(),
        var=pd.DataFrame({"storm_r": [0.5, 0.1]}, index=["NEW1", "NEW2"]),
    )
    visium["table_storm"] = TableModel.parse(beside, region="spots", region_key="region", instance_key="spot_id")
    axes = storm.pl.expression(visium, "NEW1")
    assert [ax.get_title() for ax in axes[0]] == ["H&E", "predicted"]
    np.testing.assert_array_equal(spots_of(axes[0, 1])[0].get_array(), np.arange(0, 120, 2))
    assert axes[0, 1].get_xlabel() == "held-out r = 0.50"
    both = storm.pl.expression(visium, ["NEW2", "EPCAM"])
    assert both[0, 1].texts[0].get_text() == "not measured"


def test_expression_of_a_table_that_holds_ids(visium):
    """What was measured is not left out without a word."""
    table = visium["table"]
    visium["table_storm"] = table[:, ["EPCAM"]].copy()
    del table.layers["storm"]
    table.var["gene_symbols"] = table.var_names
    table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
    with pytest.warns(UserWarning, match=r"'EPCAM' is drawn without.*var\['gene_symbols'\] names them: first table"):
        storm.pl.expression(visium, "EPCAM")


def test_expression_of_an_anndata_and_into_given_axes(visium):
    adata = visium["table"].copy()
    axes = storm.pl.expression(adata, "EPCAM")
    assert [ax.get_title() for ax in axes[0]] == ["measured", "predicted"]
    _, given = plt.subplots(1, 2)
    assert storm.pl.expression(adata, "EPCAM", axes=given)[0, 1] is given[1]
    with pytest.raises(ValueError, match=r"1 rows of 2 panels: give shape \(1, 2\)"):
        storm.pl.expression(adata, "EPCAM", axes=plt.subplots(1, 3)[1])


def test_expression_leaves_out_what_has_no_value(visium):
    visium["table"].layers["storm"][5:9] = np.nan
    axes = storm.pl.expression(visium, "EPCAM")
    assert len(spots_of(axes[0, 2])[0].get_offsets()) == 56


def test_expression_names_what_is_wrong(visium):
    with pytest.raises(KeyError, match=r"'NOPE' is neither among the 306 genes .*predict_expression"):
        storm.pl.expression(visium, ["EPCAM", "NOPE"])
    with pytest.raises(KeyError, match=r"layer='nope' is not in layers.*'storm'"):
        storm.pl.expression(visium, "EPCAM", layer="nope")
    from anndata import AnnData

    visium["table_storm"] = AnnData(np.ones((3, 1), dtype=np.float32), var=pd.DataFrame(index=["NEW"]))
    with pytest.raises(ValueError, match=r"'table_storm' does not hold the same spots"):
        storm.pl.expression(visium, "NEW")


@pytest.mark.parametrize(
    ("genes", "options", "error", "words"),
    [
        ([], {}, ValueError, "genes is empty"),
        (5, {}, TypeError, r"genes holds \[5\]"),
        (["EPCAM", None], {}, TypeError, r"genes holds \[None\]"),
        ("EPCAM", {"cmap": "nope"}, ValueError, "cmap='nope' is not a colour map"),
        ("EPCAM", {"size": -1}, ValueError, "size=-1"),
        ("EPCAM", {"image_alpha": 7}, ValueError, "image_alpha=7"),
        ("EPCAM", {"axes": np.zeros((1, 3))}, TypeError, "ax is a float"),
    ],
)
def test_expression_arguments_that_make_no_sense(visium, genes, options, error, words):
    before = plt.get_fignums()
    with pytest.raises(error, match=words):
        storm.pl.expression(visium, genes, **options)
    assert plt.get_fignums() == before


def test_expression_of_odd_tables(visium):
    table = visium["table"]
    table.uns["storm"] = [1]
    with pytest.raises(ValueError, match=r"uns\['storm'\] holds list"):
        storm.pl.expression(visium, "EPCAM")
    del table.uns["storm"]
    table.var["storm_r"] = "unknown"
    axes = storm.pl.expression(visium, "EPCAM")
    assert axes[0, 2].get_xlabel() == ""
    table.layers["complex"] = table.X.toarray() * 1j
    with pytest.raises(TypeError, match="'EPCAM' are of type complex"):
        storm.pl.expression(visium, "EPCAM", layer="complex")
    table.layers["nothing"] = np.full(table.shape, np.nan)
    axes = storm.pl.expression(visium, "EPCAM", layer="nothing")
    assert axes[0, 1].texts[0].get_text() == "not measured"
    names = table.var_names.to_numpy().copy()
    names[names == "COL1A1"] = "EPCAM"
    table.var_names = names
    with pytest.raises(ValueError, match="2 genes of the table are called 'EPCAM'"):
        storm.pl.expression(visium, "EPCAM")


def test_a_figure_can_be_saved(visium, tmp_path):
    for name in ("png", "pdf"):
        storm.pl.domains(visium).figure.savefig(tmp_path / f"domains.{name}")
        storm.pl.expression(visium, "EPCAM")[0, 0].figure.savefig(tmp_path / f"expression.{name}")
    assert (tmp_path / "expression.pdf").stat().st_size > 10_000


# ---------------------------------------------------------------------------------------------- planes and names


def test_umap_draws_planes_in_the_colours_of_the_domains(visium):
    table = visium["table"]
    rng = np.random.default_rng(0)
    for name in ("he", "st"):
        table.obsm[f"X_umap_{name}"] = rng.normal(size=(60, 2))
    table.obsm["X_umap_st"][:6] = np.nan
    table.uns["storm_domain_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    axes = storm.pl.umap(visium, reps={"H&E": "X_umap_he", "expression": "X_umap_st"})
    assert [ax.get_title() for ax in axes] == ["H&E", "expression"]
    sizes = [sum(len(c.get_offsets()) for c in ax.collections) for ax in axes]
    assert sizes == [60, 54]
    drawn = {to_hex(c.get_facecolor()[0]): np.asarray(c.get_offsets()) for c in axes[0].collections}
    for code, colour in enumerate(table.uns["storm_domain_colors"]):
        rows = table.obs["storm_domain"].cat.codes.to_numpy() == code
        np.testing.assert_array_equal(drawn[colour], table.obsm["X_umap_he"][rows])
    np.testing.assert_array_equal(drawn[_draw.MISSING.lower()], table.obsm["X_umap_he"][:3])
    own = plt.subplots()[1]
    assert storm.pl.umap(visium, reps="X_umap_he", ax=own, title="t") is own
    assert own.get_title() == "t"


def test_umap_names_what_is_wrong(visium):
    visium["table"].obsm["X_storm"] = np.zeros((60, 5))
    with pytest.raises(KeyError, match=r"run sc\.pp\.neighbors and sc\.tl\.umap"):
        storm.pl.umap(visium)
    with pytest.raises(ValueError, match="has 5 columns"):
        storm.pl.umap(visium, reps="X_storm")
    with pytest.raises(ValueError, match="reps is empty"):
        storm.pl.umap(visium, reps=[])
    with pytest.raises(ValueError, match="one ax was given"):
        storm.pl.umap(visium, reps=["X_a", "X_b"], ax=plt.subplots()[1])
    assert len(plt.get_fignums()) == 1


def test_renamed_domains_keep_their_colours_and_later_runs_their_names(visium):
    """What the page on biology promises of pandas' rename_categories."""
    table = visium["table"]
    table.obsm["X_storm"] = np.eye(4)[np.arange(60) % 4] + np.random.default_rng(0).normal(0, 0.01, (60, 4))
    storm.tl.domains(visium, 4)
    table.uns["storm_domain_colors"] = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]

    def colours() -> list[str]:
        drawn = spots_of(storm.pl.domains(visium))
        return sorted((to_hex(c.get_facecolor()[0]), len(c.get_offsets())) for c in drawn)

    before, labels = colours(), table.obs["storm_domain"].copy()
    table.obs["storm_domain"] = labels.cat.rename_categories({"0": "tumour", "3": "fat"})
    assert colours() == before
    assert list(table.obs["storm_domain"].cat.categories) == ["tumour", "1", "2", "fat"]
    renamed = table.obs["storm_domain"].copy()
    storm.tl.domains(visium, 4, align_to="storm_domain", seed=5)
    assert table.obs["storm_domain"].astype(str).tolist() == renamed.astype(str).tolist()
    assert colours() == before
