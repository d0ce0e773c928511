"""Domains of several sections: one set of names, kept over re-runs, and their proportions."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel, TableModel

import storm
from storm._palette import kept_colours, palette

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

SHARES = {"A": [0.5, 0.3, 0.2], "B": [0.1, 0.1, 0.8]}


def planted(name: str, n: int = 200, seed: int = 0) -> ad.AnnData:
    """A section whose embedding holds three groups in known shares."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat([0, 1, 2], (np.array(SHARES[name]) * n).round().astype(int)))
    obs = pd.DataFrame({"sample": name, "kind": kind}, index=[f"spot {k}" for k in range(n)])
    table = ad.AnnData(np.zeros((n, 1), np.float32), obs=obs)
    table.obsm["X_storm"] = (9 * np.eye(3)[kind] + rng.normal(size=(n, 3))).astype(np.float32)
    table.obsm["spatial"] = np.stack(np.meshgrid(np.arange(20), np.arange(n // 20)), axis=-1).reshape(-1, 2) * 100.0
    return table


def joined() -> ad.AnnData:
    both = ad.concat([planted("A"), planted("B", n=100, seed=1)], index_unique="-")
    return both[np.random.default_rng(2).permutation(both.n_obs)].copy()


def as_regions(table: ad.AnnData) -> SpatialData:
    shapes = {}
    for name in ("A", "B"):
        rows = (table.obs["sample"] == name).to_numpy()
        places = table.obsm["spatial"][rows]
        shapes[name] = ShapesModel.parse(places, geometry=0, radius=30.0, index=np.flatnonzero(rows))
    table = table.copy()
    table.obs["sample"], table.obs["id"] = table.obs["sample"].astype("category"), np.arange(table.n_obs)
    return SpatialData(
        shapes=shapes,
        tables={"table": TableModel.parse(table, region=["A", "B"], region_key="sample", instance_key="id")},
    )


def shares(record: dict) -> dict[str, list[float]]:
    """Of each section, in the order of the planted groups."""
    return {str(name): sorted(row) for name, row in zip(record["sections"], record["shares"], strict=True)}


@pytest.mark.parametrize("form", ["library_key", "regions", "list"])
def test_proportions_of_sections(form: str, tmp_path: Path) -> None:
    table = joined()
    if form == "library_key":
        storm.tl.domains(table, 3, library_key="sample")
        results = [table]
        table.write_h5ad(tmp_path / "t.h5ad")
        results.append(ad.read_h5ad(tmp_path / "t.h5ad"))
    elif form == "regions":
        sdata = as_regions(table)
        storm.tl.domains(sdata, 3)
        sdata.write(tmp_path / "s.zarr")
        results = [sdata["table"], read_zarr(tmp_path / "s.zarr")["table"]]
    else:
        results = [planted("A"), planted("B", n=100, seed=1)]
        storm.tl.domains(results, 3)
    for result in results:
        record = result.uns["storm"]["storm_domain"]["proportions"]
        found = list(shares(record).values())
        np.testing.assert_allclose(found, [sorted(SHARES["A"]), sorted(SHARES["B"])])
        assert list(record["n"]) == [200, 100]
        assert list(record["domains"]) == ["0", "1", "2"]
        assert list(record["sections"]) == (["data[0]", "data[1]"] if form == "list" else ["A", "B"])
        # a column of the table is one domain
        if form != "list":
            own = pd.crosstab(result.obs["sample"], result.obs["storm_domain"], normalize="index")
            np.testing.assert_allclose(own.to_numpy(), record["shares"])


def test_a_single_section_needs_no_table() -> None:
    table = planted("A")
    storm.tl.domains(table, 3)
    assert "proportions" not in table.uns["storm"]["storm_domain"]
    with pytest.raises(KeyError, match="library_key='donor' is not in obs"):
        storm.tl.domains(table, 3, library_key="donor")
    table.obs["sample"] = table.obs["sample"].where(table.obs["kind"] > 0)
    with pytest.raises(ValueError, match=r"library_key='sample': 100 of 200 rows have no value"):
        storm.tl.domains(table, 3, library_key="sample")


def test_names_and_colours_are_kept() -> None:
    table = joined()
    named = {0: "tumour", 1: "stroma", 2: "immune"}
    table.obs["mine"] = table.obs["kind"].map(named).astype("category")
    table.uns["mine_colors"] = ["#111111", "#222222", "#333333"]  # immune, stroma, tumour
    storm.tl.domains(table, 3, align_to="mine")
    assert (table.obs["storm_domain"].astype(str) == table.obs["mine"].astype(str)).all()
    assert list(table.obs["storm_domain"].cat.categories) == ["immune", "stroma", "tumour"]
    assert list(table.uns["storm_domain_colors"]) == ["#111111", "#222222", "#333333"]
    assert list(table.uns["mine_colors"]) == ["#111111", "#222222", "#333333"]
    facts = table.uns["storm"]["storm_domain"]
    assert facts["align_to"] == "mine"
    assert len(facts["new_names"]) == 0


def test_a_run_is_aligned_to_the_one_before() -> None:
    """A group of its own appears, and another goes: every other one keeps its name and its colour."""
    table = joined()
    storm.tl.domains(table, 3)
    before = table.obs["storm_domain"].astype(str)
    moved = (table.obs["kind"] == 1).to_numpy() & (np.arange(table.n_obs) % 2 == 0)
    table.obsm["X_storm"][moved] += [40, 40, 0]
    storm.tl.domains(table, 4, align_to="storm_domain")
    after = table.obs["storm_domain"].astype(str)
    stayed = (table.obs["kind"] != 1).to_numpy()
    assert (after[stayed] == before[stayed]).all()
    assert list(table.obs["storm_domain"].cat.categories) == ["0", "1", "2", "3"]
    assert list(table.uns["storm"]["storm_domain"]["new_names"]) == ["3"]
    colours = list(table.uns["storm_domain_colors"])
    assert colours[:3] == palette(3)
    assert len(set(colours)) == 4
    table.obsm["X_storm"][(table.obs["kind"] == 0).to_numpy()] = table.obsm["X_storm"][
        np.flatnonzero(table.obs["kind"] == 2)[0]
    ]
    last = before[(table.obs["kind"] == 2).to_numpy()].iloc[0]
    gone = before[(table.obs["kind"] == 0).to_numpy()].iloc[0]
    storm.tl.domains(table, 3, align_to="storm_domain")
    names = list(table.obs["storm_domain"].cat.categories)
    assert len(names) == 3
    assert {last, gone} - set(names)  # the two are one domain now, under one of their names
    kept = dict(zip(names, table.uns["storm_domain_colors"], strict=True))
    assert all(kept[name] == dict(zip("0123", colours, strict=True))[name] for name in names)


@pytest.mark.parametrize("stored", [["#0072B2", "orange", "k"], ["red", "no colour", "blue"], ["red"], None])
def test_new_domains_get_colours_of_their_own(stored) -> None:
    table = joined()
    table.obs["mine"] = table.obs["kind"].astype("category")
    if stored is not None:
        table.uns["mine_colors"] = stored
    storm.tl.domains(table, 9, align_to="mine")
    colours = [to_hex(colour) for colour in table.uns["storm_domain_colors"]]
    assert len(set(colours)) == 9
    assert colours[:3] == [to_hex(c) for c in (stored if stored and stored[-1] == "k" else palette(3))]


def test_more_domains_than_colours() -> None:
    names = [str(k) for k in range(40)]
    assert len(kept_colours({}, names[:30], names)) == 40


def test_rows_without_an_earlier_label_have_no_say() -> None:
    table = joined()
    table.obs["mine"] = table.obs["kind"].astype(float).where(table.obs["sample"] == "A")
    storm.tl.domains(table, 3, align_to="mine")
    assert (table.obs["storm_domain"].astype(str) == table.obs["kind"].astype(str)).all()


def test_bad_names_to_align_to() -> None:
    table = planted("A")
    with pytest.raises(KeyError, match="align_to='before' is not in obs"):
        storm.tl.domains(table, 3, align_to="before")
    table.obs["area"] = np.linspace(0, 1, 200)
    with pytest.raises(ValueError, match="align_to='area' holds measurements"):
        storm.tl.domains(table, 3, align_to="area")
    assert "storm_domain" not in table.obs
    assert "storm_domain_colors" not in table.uns


def test_lists_are_aligned_together() -> None:
    parts = [planted("A"), planted("B", n=100, seed=1)]
    for part in parts:
        part.obs["mine"] = part.obs["kind"].map({0: "x", 1: "y", 2: "z"})
    copies = storm.tl.domains(parts, 3, align_to="mine", copy=True)
    for part, copy in zip(parts, copies, strict=True):
        assert (copy.obs["storm_domain"].astype(str) == part.obs["mine"]).all()
        assert "storm_domain" not in part.obs
    with pytest.raises(KeyError, match="align_to='mine'"):
        storm.tl.domains([parts[0], planted("B", n=100)], 3, align_to="mine")


def test_colours_of_names_are_kept_from_all_objects() -> None:
    rng = np.random.default_rng(0)
    tables = []
    for names, colours in ((["u", "v"], ["#123456", "#654321"]), (["u", "w"], ["#aaaaaa", "#00ff00"])):
        values = np.repeat([[0.0], [-9.0 if "w" in names else 9.0]], 20, axis=0) + rng.normal(size=(40, 1))
        table = ad.AnnData(shape=(40, 0), obsm={"X_storm": values})
        table.obs["old"] = pd.Categorical(np.repeat(names, 20))
        table.uns["old_colors"] = colours
        tables.append(table)
    storm.tl.domains(tables, 3, align_to="old")
    for table in tables:
        kept = dict(zip(table.obs["storm_domain"].cat.categories, table.uns["storm_domain_colors"], strict=True))
        assert kept == {"u": "#123456", "v": "#654321", "w": "#00ff00"}
