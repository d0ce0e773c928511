"""Where results go: keys that cannot be stored, are reserved or are taken are refused before anything is computed."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata.models import TableModel

import storm
from storm._bridge.write import check_keys_added
from storm._checks import check_choice, check_new_key


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "a+b", "a/b", "/abs", "..", ".", "../../evil", "zarr.json", "_index", "__x", "µ", "a\n"]
)
def test_what_no_store_can_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key_added="):
        check_new_key(key)


@pytest.mark.parametrize("key", [None, 3, ("a",)])
def test_keys_are_text(key) -> None:
    with pytest.raises(TypeError, match="give the key as text"):
        check_new_key(key)


@pytest.mark.parametrize("key", ["X_storm", "a.b-c_1", "storm_domain", "X_timm_vit"])
def test_ordinary_keys_are_taken(key: str) -> None:
    assert check_new_key(key) == key


@pytest.mark.parametrize(
    "value", [pd.NA, [], np.zeros(2), {}, object(), "c", None, 1], ids=lambda value: type(value).__name__
)
def test_whatever_is_no_option_is_named(value) -> None:
    with pytest.raises(ValueError, match=r"mode=.* is not an option; choose one of \['a', 'b'\]"):
        check_choice(value, ("a", "b"), name="mode")
    check_choice("a", ("a", "b"), name="mode")


def table_of(toy) -> ad.AnnData:
    table = toy.tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    return table


@pytest.mark.parametrize("key", ["spatial", "Spatial", "../x", "check"])
def test_an_embedding_never_replaces_the_coordinates(toy, tiny_model, key: str) -> None:
    table = table_of(toy)
    before = table.obsm["spatial"].copy()
    with pytest.raises(ValueError, match="key_added="):
        storm.tl.embed(table, model=tiny_model, key_added=key)
    np.testing.assert_array_equal(table.obsm["spatial"], before)
    assert "X_storm" not in table.obsm


def test_domains_never_replace_what_links_the_table_or_was_there_before(toy, tiny_model) -> None:
    storm.tl.embed(toy, model=tiny_model, modality="st")
    table = toy.tables["table"]
    table.obs["mine"] = "annotated by hand"
    for key in ("region", "spot_id", "mine", "domain"):
        before = table.obs.copy()
        with pytest.raises(ValueError, match=f"key_added={key!r}"):
            storm.tl.domains(toy, 3, key_added=key)
        pd.testing.assert_frame_equal(table.obs, before)
    storm.tl.domains(toy, 3, key_added="five")
    storm.tl.domains(toy, 4, key_added="five")  # what STORM wrote may be written again
    assert table.obs["five"].nunique() == 4


def test_a_default_key_is_ours_without_provenance(toy, tiny_model) -> None:
    """Provenance in ``uns`` is lost in ``anndata.concat``, the embedding is not."""
    table = table_of(toy)
    storm.tl.embed(table, model=tiny_model)
    del table.uns["storm"]
    storm.tl.embed(table, model=tiny_model)
    table.layers["counts"] = table.X.copy()
    with pytest.raises(ValueError, match=r"layers\['counts'\] exists already and was not written by STORM"):
        check_keys_added(table, layers=["counts"])


def test_an_embedding_of_another_package_is_kept(toy, tiny_model) -> None:
    table = table_of(toy)
    table.obsm["X_pca"] = np.ones((table.n_obs, 2))
    with pytest.raises(ValueError, match=r"obsm\['X_pca'\] exists already"):
        storm.tl.embed(table, model=tiny_model, key_added="X_pca")
    np.testing.assert_array_equal(table.obsm["X_pca"], 1)


def test_a_column_of_var_is_not_replaced_by_the_reliability_of_genes(toy) -> None:
    table = table_of(toy)
    table.var["mine_r"] = 1.0
    with pytest.raises(ValueError, match=r"key_added='mine': var\['mine_r'\] exists already"):
        check_keys_added(table, layers=["mine"])
    table.uns["storm"] = {"mine": {}}
    check_keys_added(table, layers=["mine"])


def test_provenance_that_is_none_is_named(toy, tiny_model) -> None:
    table = table_of(toy)
    table.uns["storm"] = [1]
    with pytest.raises(ValueError, match=r"uns\['storm'\] holds list"):
        storm.tl.embed(table, model=tiny_model)
    assert "X_storm" not in table.obsm


@pytest.fixture
def two_regions():
    tables, shapes = [], {}
    for name, seed in (("A", 0), ("B", 1)):
        section = storm.datasets.toy("visium", n=80, seed=seed)
        table = section.tables["table"].copy()
        table.obs["region"] = pd.Categorical([name] * table.n_obs)
        table.obs_names = [f"{name}_{k}" for k in table.obs_names]
        tables.append(table)
        shapes[name] = section.shapes["spots"]
    joined = ad.concat(tables)
    joined.obs["region"] = joined.obs["region"].astype("category")
    table = TableModel.parse(joined, region=["A", "B"], region_key="region", instance_key="spot_id")
    return spatialdata.SpatialData(shapes=shapes, tables={"table": table})


def test_the_second_region_leaves_the_first_alone(two_regions, tiny_model) -> None:
    """And each is embedded as if the other were not there: neither statistics nor neighbours are shared."""
    table = two_regions.tables["table"]
    first = (table.obs["region"] == "A").to_numpy()
    storm.tl.embed(two_regions, model=tiny_model, shapes_key="A")
    alone = table.obsm["X_storm"].copy()
    assert np.isfinite(alone[first]).all()
    assert np.isnan(alone[~first]).all()
    storm.tl.embed(two_regions, model=tiny_model, shapes_key="B")
    np.testing.assert_array_equal(table.obsm["X_storm"][first], alone[first])
    assert np.isfinite(table.obsm["X_storm"]).all()
    record = table.uns["storm"]["X_storm"]
    assert set(record["sections"]) == {"A", "B"}
    by_itself = table[first].copy()
    del by_itself.uns["spatialdata_attrs"]
    by_itself.obsm["spatial"] = np.column_stack(
        [two_regions.shapes["A"].geometry.x, two_regions.shapes["A"].geometry.y]
    )
    storm.tl.embed(by_itself, model=tiny_model)
    np.testing.assert_allclose(by_itself.obsm["X_storm"], alone[first], atol=1e-5)


def test_another_read_out_for_another_region_needs_another_key(two_regions, tiny_model) -> None:
    storm.tl.embed(two_regions, model=tiny_model, shapes_key="A", readout="center")
    before = two_regions.tables["table"].obsm["X_storm"].copy()
    with pytest.raises(ValueError, match="give another key_added, or compute all regions in the same way"):
        storm.tl.embed(two_regions, model=tiny_model, shapes_key="B", readout="window")
    np.testing.assert_array_equal(two_regions.tables["table"].obsm["X_storm"], before)


def test_several_libraries_are_a_question(toy, tiny_model) -> None:
    table = table_of(toy)
    table.obs["slide"] = np.where(np.arange(table.n_obs) % 2, "one", "two")
    table.uns["spatial"] = {"one": {}, "two": {}}
    with pytest.raises(ValueError, match=r"several libraries, \['one', 'two'\].*\['slide'\]"):
        storm.tl.embed(table, model=tiny_model)
    part = table[table.obs["slide"] == "one"].copy()
    storm.tl.embed(part, model=tiny_model, window="knn")  # its uns still holds the pictures of both
    assert np.isfinite(part.obsm["X_storm"]).all()


def test_spots_outside_the_tissue_take_no_part(toy, tiny_model) -> None:
    table = table_of(toy)
    table.obs["in_tissue"] = (np.arange(table.n_obs) >= 10).astype(int)
    with pytest.warns(UserWarning, match=r"10 outside the tissue \(in_tissue is 0\)"):
        storm.tl.embed(table, model=tiny_model)
    kept = table[10:].copy()
    storm.tl.embed(kept, model=tiny_model)
    assert np.isnan(table.obsm["X_storm"][:10]).all()
    np.testing.assert_allclose(table.obsm["X_storm"][10:], kept.obsm["X_storm"], atol=1e-5)
    row = storm.pp.check(table, model=tiny_model, estimate=False)["in_tissue"]
    assert row.facts == {"outside": 10}


@pytest.fixture
def halves() -> ad.AnnData:
    """Two halves with genes of their own, adjacent and ranked."""
    rng = np.random.default_rng(0)
    centres = np.array([(x, y) for y in range(6) for x in range(12)], dtype=float) * 100
    right = centres[:, 0] >= 600
    counts = rng.poisson(np.where(right[:, None] == (np.arange(24) < 12), 6, 2)).astype(np.float32)
    adata = ad.AnnData(counts, obsm={"spatial": centres, "X_storm": rng.normal(size=(72, 3))})
    adata.var_names = [f"GENE{i}" for i in range(24)]
    adata.obs["storm_domain"] = pd.Categorical(np.where(right, "right", "left"))
    storm.tl.rank_domain_genes(adata)
    storm.tl.adjacent_domains(adata)
    return adata


SETS = {"some": [f"GENE{i}" for i in range(12)], "others": [f"GENE{i}" for i in range(12, 24)]}


def test_tables_of_one_function_are_not_replaced_by_another(halves) -> None:
    storm.tl.enrich(halves, SETS)
    storm.tl.domain_stability(halves, [2, 3], runs=2)
    storm.tl.signature(halves, ["GENE1"], method="zscore", key_added="score")
    before = dict(halves.uns["storm"])
    verbs = {
        "rank_genes_groups": storm.tl.rank_domain_genes,
        "storm_domain_adjacency": storm.tl.adjacent_domains,
        "enrichment": lambda adata, key_added: storm.tl.enrich(adata, SETS, key_added=key_added),
        "domain_stability": lambda adata, key_added: storm.tl.domain_stability(
            adata, [2, 3], runs=2, key_added=key_added
        ),
        "score": lambda adata, key_added: storm.tl.signature(adata, ["GENE1"], method="zscore", key_added=key_added),
    }
    for own, verb in verbs.items():
        for key in before:
            if key != own:
                with pytest.raises(ValueError, match=rf"key_added='{key}': uns\['storm'\]\['{key}'\] belongs to"):
                    verb(halves, key_added=key)
        for key in ("check", "a/b"):
            with pytest.raises(ValueError, match=f"key_added='{key}'"):
                verb(halves, key_added=key)
    assert all(halves.uns["storm"][key] is record for key, record in before.items())
    for own, verb in verbs.items():
        verb(halves, key_added=own)  # its own it replaces
    assert set(halves.uns["storm"]) == set(before)


def test_a_table_of_that_name_does_not_make_a_column_ours(halves) -> None:
    halves.obs["enrichment"] = "annotated by hand"
    halves.obs["enrichment_ood_p"] = 1.0
    storm.tl.enrich(halves, SETS)
    for key in ("enrichment", "enrichment_ood_p"):
        with pytest.raises(ValueError, match=f"key_added='{key}'"):
            storm.tl.signature(halves, ["GENE1"], key_added=key)
    assert (halves.obs["enrichment"] == "annotated by hand").all()
    assert (halves.obs["enrichment_ood_p"] == 1).all()
