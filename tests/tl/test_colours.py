"""One picture: colours of domains as storm, scanpy, squidpy and spatialdata-plot draw them."""

from __future__ import annotations

from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import spatialdata_plot  # noqa: F401  adds sdata.pl
import squidpy as sq
from matplotlib.colors import to_hex

import storm
from storm._palette import palette
from storm.cli import main

#: Spots of the section.
N = 150

pytestmark = [
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def embedded(toy):
    """A section with a planted embedding of three clusters of different sizes."""
    table = toy["table"]
    centre = np.repeat([0.0, 10.0, 20.0], [table.n_obs - 30, 20, 10])
    table.obsm["X_storm"] = (centre[:, None] + np.random.default_rng(0).normal(0, 0.1, (table.n_obs, 2))).astype("f4")
    return toy


def drawn(ax) -> Counter:
    """How many spots have which colour in an axes."""
    counts: Counter = Counter()
    for collection in ax.collections:
        faces = np.atleast_2d(collection.get_facecolor())
        n, paths = len(collection.get_offsets()), len(collection.get_paths())
        n = paths if n == 1 else n  # patches have one offset together, entries of a legend none
        faces = faces if len(faces) == n else np.repeat(faces, n, axis=0)
        counts.update(to_hex(face) for face in faces)
    # squidpy draws each spot twice
    times = max(1, sum(counts.values()) // N)
    return Counter({colour: n // times for colour, n in counts.items()})


def test_all_draw_one_picture(embedded):
    storm.tl.domains(embedded, 3)
    table = embedded["table"]
    colours = table.uns["storm_domain_colors"].tolist()
    sizes = table.obs["storm_domain"].value_counts(sort=False).tolist()
    wanted = Counter(dict(zip(colours, sizes, strict=True)))
    assert len(wanted) == 3
    axes = [plt.subplots()[1] for _ in range(4)]
    storm.pl.domains(embedded, ax=axes[0])
    sc.pl.embedding(table, basis="spatial", color="storm_domain", ax=axes[1], show=False)
    sq.pl.spatial_scatter(table, shape=None, color="storm_domain", ax=axes[2])
    embedded.pl.render_shapes("spots", color="storm_domain", table_name="table").pl.show(
        ax=axes[3], coordinate_systems="global"
    )
    for ax in axes:
        assert drawn(ax) == wanted
    assert table.uns["storm_domain_colors"].tolist() == colours, "the others keep them"


@pytest.mark.parametrize("own", [["#ff0000", "#00ff0080", "blue"], np.array(["red", "#123456"])])
def test_colours_of_the_user_are_kept(embedded, own):
    table = embedded["table"]
    table.uns["storm_domain_colors"] = own
    storm.tl.domains(embedded, 3)
    stored = table.uns["storm_domain_colors"]
    assert [to_hex(c, keep_alpha=True) for c in stored[: len(own)]] == [to_hex(c, keep_alpha=True) for c in own]
    assert len(set(stored)) == 3
    storm.tl.domains(embedded, 2)
    assert table.uns["storm_domain_colors"].tolist() == stored.tolist()[:2]


def test_colours_that_are_none_are_replaced(embedded):
    embedded["table"].uns["storm_domain_colors"] = ["no colour", "red", "blue"]
    storm.tl.domains(embedded, 3)
    assert embedded["table"].uns["storm_domain_colors"].tolist() == [c.lower() for c in palette(3)]


def test_domains_that_stay_keep_their_colour(embedded):
    table = embedded["table"]
    storm.tl.domains(embedded, 3)
    table.uns["storm_domain_colors"] = ["#111111", "#222222", "#333333"]
    storm.tl.subcluster(embedded, "0", 2)
    names = table.obs["storm_domain_sub"].cat.categories.tolist()
    colours = dict(zip(names, table.uns["storm_domain_sub_colors"], strict=True))
    assert (colours["1"], colours["2"]) == ("#222222", "#333333")
    assert len(set(colours.values())) == 4


def test_objects_of_a_list_have_the_same_colours(embedded):
    other = storm.tl.domains(embedded, 2, copy=True)
    other["table"].uns["storm_domain_colors"] = ["#111111", "#222222"]
    both = [embedded, other]
    storm.tl.domains(both, 3)
    stored = [one["table"].uns["storm_domain_colors"].tolist() for one in both]
    assert stored[0] == stored[1]
    assert stored[0][:2] == ["#111111", "#222222"]


def test_the_command_stores_them(embedded, tmp_path):
    import spatialdata as sd

    embedded.write(tmp_path / "in.zarr")
    assert main(["domains", str(tmp_path / "in.zarr"), "--n-domains", "3", "--quiet"]) == 0
    assert len(sd.read_zarr(tmp_path / "in.zarr")["table"].uns["storm_domain_colors"]) == 3
