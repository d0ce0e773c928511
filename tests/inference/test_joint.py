"""Sections embedded together: axes that mean the same, and shifts that are technical only."""

from __future__ import annotations

import gc
import sys
import tempfile
import weakref
from contextlib import nullcontext
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import storm
import storm._inference.joint_steps
from storm._inference.alignment import align
from storm.data.normalise import moments, pooled
from storm.data.reach import Reach

pytestmark = pytest.mark.filterwarnings("ignore:'storm-mini' knows 0 of the table's:UserWarning")

GENES = [f"GENE{k}" for k in range(120)]
KINDS = np.random.default_rng(7).gamma(1.0, 1.0, size=(4, 120))


def section(kinds: str, *, seed: int, depth: float = 1.0, side: int = 16, genes: int = 120) -> ad.AnnData:
    """Stripes of tissue; ``"aab"`` is two thirds of the first kind. A section's depth and chemistry differ."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:side, :side]
    kind = np.array([ord(k) - ord("a") for k in kinds])[(i.ravel() * len(kinds)) // side]
    chemistry = np.exp(rng.normal(scale=0.5, size=120))
    counts = rng.poisson(KINDS[kind] * chemistry * depth * rng.gamma(8, 1 / 8, (side * side, 1)) * 3)
    table = ad.AnnData(sparse.csr_matrix(counts[:, :genes].astype(np.float32)), var=pd.DataFrame(index=GENES[:genes]))
    table.obs_names = [f"spot {k}" for k in range(table.n_obs)]
    table.obs["kind"] = pd.Categorical([chr(ord("a") + k) for k in kind], categories=list("abcd"))
    table.obsm["spatial"] = np.column_stack([i.ravel(), j.ravel()]) * 100.0 + rng.normal(size=(side * side, 2))
    return table


def labels(objects: list[ad.AnnData], n: int) -> list[np.ndarray]:
    storm.tl.domains(objects, n)
    return [table.obs["storm_domain"].to_numpy(str) for table in objects]


@pytest.fixture(scope="module")
def model() -> storm.StormModel:
    """It knows none of the genes, so that a section stands on its own expression."""
    return storm.load_model("storm-mini")


@pytest.mark.parametrize("batch", ["anchors", "center"])
def test_sections_of_the_same_tissue_share_their_domains(model, batch) -> None:
    objects = [section("abcd", seed=0), section("dacb", seed=1, depth=0.5), section("bdca", seed=2, depth=2)]
    storm.tl.embed(objects, model=model, batch=batch)
    truth = np.concatenate([table.obs["kind"].to_numpy(str) for table in objects])
    assert adjusted_rand_score(truth, np.concatenate(labels(objects, 4))) > 0.85
    shared = {table.uns["storm"]["X_storm"]["axes"] for table in objects}
    assert len(shared) == 1
    assert all(table.uns["storm"]["X_storm"]["batch"] == batch for table in objects)


def test_a_section_of_one_tissue_finds_it_in_the_other(model) -> None:
    """Which the mean of a section cannot do."""
    found: dict[str, list[float]] = {"anchors": [], "center": []}
    for kind in "abcd":
        for batch, shares in found.items():
            whole, part = section("abcd", seed=3), section(kind, seed=4, depth=0.6)
            storm.tl.embed([whole, part], model=model, batch=batch)
            first, second = labels([whole, part], 4)
            name = pd.crosstab(whole.obs["kind"].to_numpy(str), first).loc[kind].idxmax()
            shares.append(float((second == name).mean()))
    assert min(found["anchors"]) > 0.9
    assert np.mean(found["center"]) < 0.6


def test_a_table_and_a_list_are_the_same_study(model) -> None:
    objects = {"A": section("abcd", seed=0), "B": section("abdc", seed=1)}
    table = ad.concat(objects, label="library", index_unique="-")
    storm.tl.embed(table, model=model, library_key="library")
    storm.tl.embed(list(objects.values()), model=model)
    whole = np.concatenate([one.obsm["X_storm"] for one in objects.values()])
    np.testing.assert_allclose(table.obsm["X_storm"], whole, atol=1e-5)
    record = table.uns["storm"]["X_storm"]
    assert record["joint"]
    assert record["library_key"] == "library"
    assert record["n_common_genes"] == 120
    assert {name: facts["reach"] > 0 for name, facts in record["sections"].items()} == {"A": True, "B": True}


def test_order_of_rows_and_sections_changes_nothing(model) -> None:
    objects = {"A": section("abcd", seed=0), "B": section("bc", seed=1), "C": section("dab", seed=2)}
    table = ad.concat(objects, label="library", index_unique="-")
    mixed = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
    for one in (table, mixed):
        storm.tl.embed(one, model=model, library_key="library")
    at = table.obs_names.get_indexer(mixed.obs_names)
    np.testing.assert_allclose(mixed.obsm["X_storm"], table.obsm["X_storm"][at], atol=1e-4)
    storm.tl.embed(list(objects.values())[::-1], model=model)
    for name, one in objects.items():
        rows = (table.obs["library"] == name).to_numpy()
        np.testing.assert_allclose(one.obsm["X_storm"], table.obsm["X_storm"][rows], atol=1e-4)


def test_genes_that_all_sections_measure_are_used(model, caplog) -> None:
    storm.settings.verbosity = 1
    objects = [section("abcd", seed=0), section("abcd", seed=1, genes=90)]
    objects[1] = objects[1][:, ::-1].copy()
    storm.tl.embed(objects, model=model)
    assert "2 sections measure 90 to 120 genes: the 90 that all of them measure are used" in caplog.text
    assert objects[0].uns["storm"]["X_storm"]["n_common_genes"] == 90
    cut = [objects[0][:, :90].copy(), objects[1].copy()]
    storm.tl.embed(cut, model=model)
    np.testing.assert_allclose(objects[1].obsm["X_storm"], cut[1].obsm["X_storm"], atol=1e-5)
    other = section("abcd", seed=2)
    other.var_names = [f"OTHER{k}" for k in range(115)] + GENES[:5]
    with pytest.raises(ValueError, match=r"5 genes in common.*'data\[0\]' 120, 'data\[1\]' 120.*joint=False"):
        storm.tl.embed([section("abcd", seed=0), other], model=model)


def test_the_same_section_twice_is_named(model) -> None:
    one = section("abcd", seed=0)
    again = one[::-1].copy()
    with pytest.raises(ValueError, match=r"'data\[0\]' and 'data\[1\]' hold the same counts"):
        storm.tl.embed([one, again], model=model)
    assert "X_storm" not in one.obsm


@pytest.mark.parametrize("readout", ["center", "window", "adaptive"])
def test_not_jointly_is_each_by_itself(toy_once, tiny_model, readout) -> None:
    first = toy_once.tables["table"].copy()
    del first.uns["spatialdata_attrs"]
    second = first[:90].copy()
    alone = [first.copy(), second.copy()]
    storm.tl.embed([first, second], model=tiny_model, joint=False, readout=readout)
    for one, other in zip((first, second), alone, strict=True):
        storm.tl.embed(other, model=tiny_model, readout=readout)
        np.testing.assert_array_equal(one.obsm["X_storm"], other.obsm["X_storm"])


@pytest.mark.parametrize("closed", [1, 2])
def test_sections_of_one_table_whose_gates_decide_differently(toy_once, tiny_model, monkeypatch, closed) -> None:
    """Each is what it is alone, and zero in the columns of the network where that takes no part."""
    table = toy_once.tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    table.X.data[table.X.indptr[3] : table.X.indptr[4]] = 0  # a row without counts
    sections = table.obs["sample"] = pd.Categorical(np.where(np.arange(table.n_obs) < 90, "a", "b"))
    calls = []

    def gate(*given):
        calls.append(1)
        decision = storm._inference.joint_steps.gate(*given)
        tokens, _ = storm._inference.section_embedding.st_tokens(given[1], tiny_model)
        return replace(decision, tokens=None if len(calls) == closed else tokens)

    monkeypatch.setattr("storm._inference.section_embedding.gate", gate)
    options = {"model": tiny_model, "modality": "st", "readout": "adaptive", "per_modality": True}
    with pytest.warns(UserWarning, match="1 without counts"):
        storm.tl.embed(table, library_key="sample", joint=False, **options)
    calls.clear()
    alone = [table[sections == name].copy() for name in "ab"]
    for one, empty in zip(alone, (1, 0), strict=True):
        del one.obsm["X_storm"], one.obsm["X_storm_st"], one.uns["storm"]
        with pytest.warns(UserWarning, match="1 without counts") if empty else nullcontext():
            storm.tl.embed(one, **options)
    width = max(one.obsm["X_storm"].shape[1] for one in alone)
    for name, own in zip("ab", alone, strict=True):
        for key in ("X_storm", "X_storm_st"):
            found, expected = table.obsm[key][sections == name], own.obsm[key]
            assert found.shape[1] == width
            added = width - expected.shape[1]
            assert (added > 0) == (name == "ab"[closed - 1])
            np.testing.assert_array_equal(found[:, added:], expected)
            known = ~np.isnan(expected).any(axis=1)
            assert (found[known, :added] == 0).all()
            assert np.isnan(found[~known]).all()
    assert [facts["st_tokens"] for facts in table.uns["storm"]["X_storm"]["sections"].values()] == [
        closed == 2, closed == 1
    ]  # fmt: skip


def test_one_section_is_not_a_study(model) -> None:
    one, other = section("abcd", seed=0), section("abcd", seed=0)
    storm.tl.embed([one], model=model)
    storm.tl.embed(other, model=model)
    np.testing.assert_array_equal(one.obsm["X_storm"], other.obsm["X_storm"])
    assert "joint" not in one.uns["storm"]["X_storm"]


def test_a_section_of_one_spot_and_spots_without_counts(model) -> None:
    whole, small, gaps = section("abcd", seed=0), section("a", seed=1, side=1), section("abcd", seed=2)
    gaps.X.data[gaps.X.indptr[5] : gaps.X.indptr[6]] = 0
    with pytest.warns(UserWarning, match=r"section 'data\[2\]': 1 of 256 rows of 'X_storm' are NaN: 1 without counts"):
        storm.tl.embed([whole, small, gaps], model=model)
    assert np.isfinite(small.obsm["X_storm"]).all()
    assert np.flatnonzero(np.isnan(gaps.obsm["X_storm"]).any(axis=1)).tolist() == [5]


def test_the_network_takes_part_in_all_sections_or_in_none(toy_once, tiny_model, monkeypatch) -> None:
    """Otherwise columns of one section would be another section's zeros. Spots decide, not sections."""
    tables = []
    for n in (150, 60):
        table = toy_once.tables["table"][:n].copy()
        table.X = sparse.random(n, table.n_vars, 0.2, random_state=n, format="csr", dtype=np.float32).ceil()
        del table.uns["spatialdata_attrs"]
        tables.append(table)
    encoder = {150: 0.5, 60: -0.5}
    real = storm._inference.joint_steps.gate

    def decided(own, spots, windows, model):
        reach = Reach(1.0, np.array([1.0]), np.array([own.best + encoder[len(spots)]]))
        return replace(real(own, spots, windows, model), reach=reach)

    monkeypatch.setattr("storm._inference.joint_steps.gate", decided)
    for sign, width in ((1, 42), (-1, 10)):
        encoder = {n: sign * gain for n, gain in encoder.items()}
        storm.tl.embed(tables, model=tiny_model, readout="adaptive")
        for table in tables:
            assert table.obsm["X_storm"].shape[1] == width
            assert table.uns["storm"]["X_storm"]["st_tokens"] == (width == 42)


def test_too_few_genes_in_one_section_leave_the_network_out_of_all(toy_once, tiny_model) -> None:
    tables = []
    for seed in (0, 1):
        table = storm.datasets.toy("visium", n=150, seed=seed).tables["table"].copy()
        del table.uns["spatialdata_attrs"]
        table.var_names = [*table.var_names[:106], *(f"OTHER{k}" for k in range(200))]
        tables.append(table)
    tables[1].var_names = [*(f"STRANGE{k}" for k in range(106)), *tables[1].var_names[106:]]
    with pytest.warns(UserWarning, match="knows 0 of the table's 306 genes"):
        storm.tl.embed(tables, model=tiny_model, readout="adaptive")
    assert [table.obsm["X_storm"].shape[1] for table in tables] == [10, 10]
    assert not tables[0].uns["storm"]["X_storm"]["st_tokens"]


def test_he_and_expression_of_a_study(tiny_model) -> None:
    objects = [storm.datasets.toy("visium", n=80, seed=seed) for seed in (0, 1)]
    storm.tl.embed(objects, model=tiny_model, readout="adaptive", per_modality=True)
    widths = {one.tables["table"].obsm["X_storm"].shape[1] for one in objects}
    assert len(widths) == 1
    for one in objects:
        table = one.tables["table"]
        assert np.isfinite(table.obsm["X_storm"]).all()
        both = np.concatenate([table.obsm["X_storm_he"], table.obsm["X_storm_st"]], axis=1)
        np.testing.assert_array_equal(both, table.obsm["X_storm"])


def test_one_section_is_held_at_a_time(tiny_model, monkeypatch, tmp_path) -> None:
    """What is large lies on the disk between the steps: memory is that of the largest section and the result."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held: list[weakref.ref] = []
    read, tiles = storm._inference.joint_steps.read_section, storm._inference.joint_steps.model_tiles

    def read_one(*args):
        gc.collect()
        assert not [one for one in held if one() is not None]
        spots, windows = read(*args)
        held.extend(map(weakref.ref, (spots, windows, spots.counts)))
        return spots, windows

    def tiles_of_one(*args, **kwargs):
        found = tiles(*args, **kwargs)
        held.append(weakref.ref(found.values))
        return found

    monkeypatch.setattr(storm._inference.joint_steps, "read_section", read_one)
    monkeypatch.setattr(storm._inference.joint_steps, "model_tiles", tiles_of_one)
    objects = [storm.datasets.toy("visium", n=40, seed=seed) for seed in (0, 1, 2)]
    for one in objects:
        one.tables["table"].X = one.tables["table"].X.astype(np.float64)  # otherwise the counts are the user's own
    storm.tl.embed(objects, model=tiny_model, readout="adaptive")
    assert len(held) >= 3 * 4 + 3 * 3
    assert not list(tmp_path.glob("storm-*"))


def test_harmony(model, monkeypatch) -> None:
    pytest.importorskip("harmony")
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(3, 6)) * 5
    parts = [(kinds[rng.integers(0, 3, 60)] + rng.normal(size=(60, 6)) + shift).astype(np.float32) for shift in (0, 2)]
    parts[0][4] = np.nan
    aligned = align(parts, batch="harmony")
    assert np.isnan(aligned.parts[0][4]).all()
    gap = [np.linalg.norm(np.nanmean(two[0], axis=0) - np.nanmean(two[1], axis=0)) for two in (parts, aligned.parts)]
    assert gap[1] < 0.5 * gap[0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "harmony" else sys)
    with pytest.raises(ImportError, match=r"pip install 'storm-spatial\[harmony\]'"):
        align(parts, batch="harmony")


def test_shifts_of_other_values_by_the_same_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(90, 4)) * 5
    parts = [scores[:60].astype(np.float32), (scores[30:] + 1.5).astype(np.float32)]
    other = [np.column_stack([part[:, 0], part[:, 1]]) + 40 * k for k, part in enumerate(parts)]
    aligned = align(parts, batch="anchors")
    rows = aligned.paired_rows
    shifts = aligned.shifts(np.zeros((2, 2)), [values[at] for values, at in zip(other, rows, strict=True)])
    assert aligned.anchors is not None
    np.testing.assert_allclose(shifts, aligned.anchors.shifts(other), atol=1e-9)
    np.testing.assert_allclose(shifts[1] - shifts[0], [41.5, 41.5], atol=2.0)


def test_pooled_statistics_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(4000, 3)) * [1, 2, 3], rng.normal(size=(1000, 3)) + 5]
    parts[0][7] = np.nan
    shifts = np.array([[0.0, 0, 0], [5.0, 5, 5]])
    mean, std = pooled([moments(part) for part in parts], shifts, np.zeros(3), np.ones(3))
    whole = np.concatenate([parts[0], parts[1] - 5])
    np.testing.assert_allclose(mean, np.nanmean(whole, axis=0), atol=0.01)
    np.testing.assert_allclose(std, np.nanstd(whole, axis=0), rtol=0.01)


def test_the_window_of_a_section_says_nothing_of_what_else_it_holds(toy_once) -> None:
    """So that sections which hold different tissue, embedded one by one, may be laid beside each other."""
    whole = toy_once.tables["table"].copy()
    del whole.uns["spatialdata_attrs"]
    left = whole.obsm["spatial"][:, 0] < np.quantile(whole.obsm["spatial"][:, 0], 0.5)
    half = whole[left].copy()
    storm.tl.embed(whole, readout="window")
    storm.tl.embed(half, readout="window")
    edge = np.ptp(half.obsm["spatial"][:, 0]) - (half.obsm["spatial"][:, 0] - half.obsm["spatial"][:, 0].min())
    pitch = np.median(np.sort(np.linalg.norm(half.obsm["spatial"][:, None] - half.obsm["spatial"], axis=-1))[:, 1])
    inner = edge > 3 * pitch
    assert inner.sum() > 10
    np.testing.assert_allclose(half.obsm["X_storm"][inner], whole.obsm["X_storm"][left][inner], atol=1e-4)
