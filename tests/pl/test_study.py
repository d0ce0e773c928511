"""Plots of several sections: one panel for each, with the same colours, and the shares of the domains."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import spatialdata
from matplotlib.colors import to_hex

import storm
from storm._palette import OKABE_ITO
from storm.pl import _draw


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def toys() -> dict[str, spatialdata.SpatialData]:
    """Two sections of different sizes, with labels of which one lacks a name and has a spot without any."""
    sections = {name: storm.datasets.toy("visium", n=n, seed=n) for name, n in (("A", 60), ("B", 90))}
    for name, sdata in sections.items():
        table = sdata["table"]
        labels = np.array(["x", "y", "z"], dtype=object)[np.arange(table.n_obs) % (2 if name == "A" else 3)]
        labels[5] = None
        table.obs["mine"] = pd.Categorical(labels, categories=["x", "y", "z"][: 2 if name == "A" else 3])
    return sections


def joined(toys) -> spatialdata.SpatialData:
    both = spatialdata.concatenate(
        {name: spatialdata.deepcopy(sdata) for name, sdata in toys.items()}, concatenate_tables=True
    )
    both["table"].obs["mine"] = both["table"].obs["mine"].astype("category")
    return both


def drawn(ax) -> dict[str, int]:
    """Number of spots by colour."""
    return {to_hex(c.get_facecolor()[0]): len(c.get_offsets()) for c in ax.collections}


def wanted(sdata) -> dict[str, int]:
    codes = sdata["table"].obs["mine"].cat.codes.to_numpy()
    names = {k: to_hex(colour) for k, colour in enumerate(OKABE_ITO[:3])} | {-1: to_hex(_draw.MISSING)}
    return {names[k]: int((codes == k).sum()) for k in np.unique(codes)}


@pytest.mark.parametrize("form", ["list", "regions", "table"])
def test_one_panel_for_each_section(toys, form: str) -> None:
    if form == "list":
        axes = storm.pl.domains(list(toys.values()), "mine")
        titles = ["data[0]", "data[1]"]
    elif form == "regions":
        axes = storm.pl.domains(joined(toys), "mine")
        titles = ["spots-A", "spots-B"]
    else:
        table = ad.concat({name: sdata["table"] for name, sdata in toys.items()}, label="sample", index_unique="-")
        table.obs["mine"] = table.obs["mine"].astype("category")
        table = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
        axes = storm.pl.domains(table, "mine", library_key="sample")
        titles = ["A", "B"]
    assert [ax.get_title() for ax in axes] == titles
    assert [len(ax.images) for ax in axes] == ([0, 0] if form == "table" else [1, 1])
    for ax, sdata in zip(axes, toys.values(), strict=True):
        assert drawn(ax) == wanted(sdata)
    # one legend, one scale bar, and one scale
    assert [ax.get_legend() is None for ax in axes] == [True, False]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["x", "y", "z", "none"]
    spans = np.array([[np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())] for ax in axes])
    if form != "table":
        np.testing.assert_allclose(spans[0], spans[1])
        bars = ["µm" in text.get_text() for ax in axes for text in ax.findobj(plt.Text) if "µm" in text.get_text()]
        assert len(bars) == 1


def test_spots_of_a_panel_lie_where_those_of_the_section_alone_do(toys) -> None:
    axes = storm.pl.domains(joined(toys), "mine")
    for ax, sdata in zip(axes, toys.values(), strict=True):
        alone = storm.pl.domains(sdata, "mine")
        for one, other in zip(ax.collections, alone.collections, strict=True):
            np.testing.assert_allclose(one.get_offsets(), other.get_offsets())
        for picture, other in zip(ax.images, alone.images, strict=True):
            np.testing.assert_allclose(picture.get_extent(), other.get_extent())


def test_colours_by_name(toys) -> None:
    table = toys["B"]["table"]
    table.uns["mine_colors"] = ["#111111", "#222222", "#333333"]
    try:
        axes = storm.pl.domains(list(toys.values()), "mine")
        assert set(drawn(axes[0])) == {"#111111", "#222222", to_hex(_draw.MISSING)}
        assert set(drawn(axes[1])) == {"#111111", "#222222", "#333333", to_hex(_draw.MISSING)}
    finally:
        del table.uns["mine_colors"]
    axes = storm.pl.domains(list(toys.values()), "mine", palette={"x": "red", "y": "lime", "z": "blue"}, legend=False)
    assert set(drawn(axes[0])) == {"#ff0000", "#00ff00", to_hex(_draw.MISSING)}
    assert all(ax.get_legend() is None for ax in axes)


def test_rows_of_panels(toys) -> None:
    three = [*toys.values(), spatialdata.deepcopy(toys["A"])]
    axes = storm.pl.domains(three, "mine", columns=2, title="")
    assert len(axes) == 3
    assert len(axes[0].figure.axes) == 4
    assert axes[1].get_legend() is not None
    tops = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert tops == [0, 0, 1]


def test_one_region_is_a_section(toys) -> None:
    both = joined(toys)
    ax = storm.pl.domains(both, "mine", shapes_key="spots-B")
    assert drawn(ax) == wanted(toys["B"])
    assert ax.get_title() == "mine"


def test_image_of_each_section_by_name(toys) -> None:
    both = joined(toys)
    both["table"].obs["mine"] = both["table"].obs["mine"].astype("category")
    axes = storm.pl.domains(both, "mine", image_key={"spots-A": "he-A", "spots-B": "he-B"})
    assert [len(ax.images) for ax in axes] == [1, 1]
    with pytest.raises(KeyError, match=r"image_key names the sections \['spots-C'\], which are not there"):
        storm.pl.domains(both, "mine", image_key={"spots-C": "he-B"})
    with pytest.raises(KeyError, match="image_key='he-C' is not in"):
        storm.pl.domains(both, "mine", image_key={"spots-A": "he-C"})


def test_bad_calls(toys) -> None:
    with pytest.raises(ValueError, match=r"one ax was given for 2 sections, \['data\[0\]', 'data\[1\]'\]"):
        storm.pl.domains(list(toys.values()), "mine", ax=plt.subplots()[1])
    with pytest.raises(KeyError, match="key='nothing' is not in obs"):
        storm.pl.domains(list(toys.values()), "nothing")
    with pytest.raises(KeyError, match="library_key='sample' is not in obs"):
        storm.pl.domains(toys["A"]["table"], "mine", library_key="sample")
    with pytest.raises(ValueError, match="columns=0"):
        storm.pl.domains(list(toys.values()), "mine", columns=0)


# --------------------------------------------------------------------------------------- H&E and expression


def test_he_of_each_section(toys) -> None:
    axes = storm.pl.he(list(toys.values()), outlines=True, columns=1)
    assert [ax.get_title() for ax in axes] == ["data[0]", "data[1]"]
    assert [len(ax.images) for ax in axes] == [1, 1]
    assert [len(ax.collections[0].get_offsets()) for ax in axes] == [one["table"].n_obs for one in toys.values()]
    np.testing.assert_allclose(np.ptp(axes[0].get_xlim()), np.ptp(axes[1].get_xlim()))
    assert [ax.get_title() for ax in storm.pl.he(joined(toys))] == ["spots-A", "spots-B"]
    with pytest.raises(ValueError, match="one ax was given for 2 sections"):
        storm.pl.he(joined(toys), ax=plt.subplots()[1])


@pytest.mark.parametrize("form", ["list", "regions", "table"])
def test_expression_of_each_section(toys, form: str) -> None:
    """One row per gene and section, with the values of that section, in the colours of all."""
    genes = list(toys["A"]["table"].var_names[:2])
    titles = ["data[0]", "data[1]"] if form == "list" else ["spots-A", "spots-B"] if form == "regions" else ["A", "B"]
    if form == "list":
        axes = storm.pl.expression(list(toys.values()), genes)
    elif form == "regions":
        axes = storm.pl.expression(joined(toys), genes)
    else:
        table = ad.concat({name: sdata["table"] for name, sdata in toys.items()}, label="sample", index_unique="-")
        table = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
        axes = storm.pl.expression(table, genes, library_key="sample")
    assert axes.shape == (4, 1 if form == "table" else 2)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == [f"{gene}, {title}" for gene in genes for title in titles]
    expected = [storm.pl.expression(one, gene)[0, 1] for gene in genes for one in toys.values()]
    for ax, alone in zip(axes[:, -1], expected, strict=True):
        drawn, other = ax.collections[0], alone.collections[0]
        np.testing.assert_allclose(np.sort(drawn.get_array()), np.sort(other.get_array()))
    for first, second in (axes[:2, -1], axes[2:, -1]):
        assert first.collections[0].norm is second.collections[0].norm


def test_predicted_values_of_each_section(toys) -> None:
    """Predictions in a table of their own are divided like the measured ones."""
    both = joined(toys)
    table = both["table"]
    values = np.arange(table.n_obs, dtype=np.float32)[:, None]
    table.layers["storm"] = np.repeat(values, table.n_vars, axis=1)
    axes = storm.pl.expression(both, table.var_names[0])
    n = toys["A"]["table"].n_obs
    np.testing.assert_array_equal(np.sort(axes[0, 2].collections[0].get_array()), np.arange(n))
    np.testing.assert_array_equal(np.sort(axes[1, 2].collections[0].get_array()), np.arange(n, table.n_obs))


# ------------------------------------------------------------------------------------------------ proportions


@pytest.fixture
def shared() -> ad.AnnData:
    table = ad.AnnData(np.zeros((5, 1), np.float32), obs=pd.DataFrame({"mine": list("xxyyx")}, index=list("abcde")))
    shares = np.array([[0.75, 0.25], [0.0, 1.0], [np.nan, np.nan]])
    table.uns["storm"] = {
        "mine": {
            "proportions": {"sections": ["A", "B", "C"], "domains": ["x", "y"], "shares": shares, "n": [4, 1200, 0]}
        }
    }
    return table


def test_proportions(shared) -> None:
    before = shared.copy()
    ax = storm.pl.proportions(shared, "mine")
    bars = {(round(b.get_y() + b.get_height() / 2), to_hex(b.get_facecolor())): b for b in ax.patches}
    x, y = map(to_hex, OKABE_ITO[:2])
    assert (bars[0, x].get_x(), bars[0, x].get_width()) == (0, 0.75)
    assert (bars[0, y].get_x(), bars[0, y].get_width()) == (0.75, 0.25)
    assert (bars[1, x].get_width(), bars[1, y].get_width()) == (0, 1)
    assert bars[2, x].get_width() == bars[2, y].get_width() == 0
    assert [text.get_text() for text in ax.get_yticklabels()] == ["A", "B", "C"]
    low, high = ax.get_ylim()
    assert low > high  # the first section is on top
    assert [text.get_text() for text in ax.texts] == ["n", "4", "1,200", "0"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["x", "y"]
    assert shared.obs.equals(before.obs)


def test_proportions_in_the_colours_of_the_domains(shared) -> None:
    shared.uns["mine_colors"] = ["#111111", "#222222"]
    _, ax = plt.subplots()
    assert storm.pl.proportions([shared, shared.copy()], "mine", ax=ax, legend=False, title="shares") is ax
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches} == {"#111111", "#222222"}
    assert ax.get_title() == "shares"


def test_proportions_that_are_not_there(shared) -> None:
    del shared.uns["storm"]["mine"]["proportions"]
    with pytest.raises(KeyError, match=r"holds no proportions: storm\.tl\.domains stores them if"):
        storm.pl.proportions(shared, "mine")
    with pytest.raises(KeyError, match="key='other' is not in obs"):
        storm.pl.proportions(shared, "other")
