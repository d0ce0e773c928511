"""Several sections in one table, one object or several: each is read as if it were alone."""

from __future__ import annotations

import gc
import weakref

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata import SpatialData
from spatialdata.models import TableModel

import storm
import storm._bridge.sections
import storm._inference.section_embedding
from storm._bridge.keys import Keys
from storm._bridge.study import open_study

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


def part(seed: int, n: int = 80) -> ad.AnnData:
    table = storm.datasets.toy("visium", n=n, seed=seed).tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    return table


@pytest.fixture(scope="module")
def parts() -> dict[str, ad.AnnData]:
    return {"A": part(0), "B": part(1, 60), "C": part(2, 70)}


def joined(parts: dict[str, ad.AnnData], **kwargs) -> ad.AnnData:
    """All start at the same place, and observations of different sections have the same names."""
    moved = {}
    for name, one in parts.items():
        moved[name] = one.copy()
        moved[name].obs_names = [f"spot {k}" for k in range(one.n_obs)]
        moved[name].obsm["spatial"] = one.obsm["spatial"] - one.obsm["spatial"].min(axis=0)
    return ad.concat(moved, label="library", **kwargs)


@pytest.fixture(scope="module")
def regions() -> spatialdata.SpatialData:
    """Two sections as ``spatialdata.concatenate`` joins them, each in its own coordinate systems."""
    whole = {}
    for name, seed in (("A", 0), ("B", 1)):
        whole[name] = storm.datasets.toy("visium", n=60, seed=seed)
    return spatialdata.concatenate(whole, concatenate_tables=True)


def of(table: ad.AnnData, key: str, name: str) -> np.ndarray:
    return (table.obs[key] == name).to_numpy()


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
@pytest.mark.parametrize("readout", ["center", "window", "reconstruction", "section"])
def test_a_section_of_a_table_is_embedded_as_if_it_were_alone(parts, tiny_model, readout) -> None:
    table = joined(parts)
    assert not table.obs_names.is_unique
    storm.tl.embed(table, model=tiny_model, library_key="library", readout=readout)
    for name, one in parts.items():
        alone = one.copy()
        storm.tl.embed(alone, model=tiny_model, readout=readout)
        np.testing.assert_allclose(table.obsm["X_storm"][of(table, "library", name)], alone.obsm["X_storm"], atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_order_of_sections_and_rows_changes_nothing(parts, tiny_model, joint) -> None:
    table = joined(parts, index_unique="-")
    mixed = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
    for one in (table, mixed):
        storm.tl.embed(one, model=tiny_model, library_key="library", readout="section")
    at = table.obs_names.get_indexer(mixed.obs_names)
    np.testing.assert_allclose(mixed.obsm["X_storm"], table.obsm["X_storm"][at], atol=2e-4)
    assert list(mixed.uns["storm"]["X_storm"]["sections"]) == ["A", "B", "C"]


def test_each_region_has_its_own_image_and_its_own_um(regions, tiny_model) -> None:
    both = spatialdata.deepcopy(regions)
    storm.tl.embed(both, model=tiny_model, modality="both")
    table = both.tables["table"]
    assert np.isfinite(table.obsm["X_storm"]).all()
    for name, seed in (("A", 0), ("B", 1)):
        alone = storm.datasets.toy("visium", n=60, seed=seed)
        storm.tl.embed(alone, model=tiny_model, modality="both")
        rows = of(table, "region", f"spots-{name}")
        np.testing.assert_allclose(table.obsm["X_storm"][rows], alone.tables["table"].obsm["X_storm"], atol=1e-5)
    record = table.uns["storm"]["X_storm"]
    assert set(record["sections"]) == {"spots-A", "spots-B"}
    assert record["um_per_px"] == alone.tables["table"].uns["storm"]["X_storm"]["um_per_px"]


def test_tiles_of_each_region_are_stored_and_reused(regions, tiny_model) -> None:
    both = spatialdata.deepcopy(regions)
    storm.tl.encode_tiles(both, "stain-texture")
    assert np.isfinite(both.tables["table"].obsm["X_stain-texture"]).all()
    storm.tl.embed(both, model=tiny_model, modality="he")
    record = both.tables["table"].uns["storm"]["X_storm"]
    assert record["tiles_reused"]
    fresh = spatialdata.deepcopy(regions)
    storm.tl.embed(fresh, model=tiny_model, modality="he")
    np.testing.assert_allclose(both.tables["table"].obsm["X_storm"], fresh.tables["table"].obsm["X_storm"], atol=1e-5)


def test_only_the_rows_of_the_chosen_region_are_written(regions, tiny_model) -> None:
    both = spatialdata.deepcopy(regions)
    table = both.tables["table"]
    first = of(table, "region", "spots-A")
    storm.tl.embed(both, model=tiny_model, modality="st", shapes_key="spots-A", seed=0)
    assert np.isnan(table.obsm["X_storm"][~first]).all()
    before = table.obsm["X_storm"][first]
    storm.tl.embed(both, model=tiny_model, modality="st", shapes_key="spots-B", seed=1)
    np.testing.assert_array_equal(table.obsm["X_storm"][first], before)
    sections = table.uns["storm"]["X_storm"]["sections"]
    assert {name: facts["seed"] for name, facts in sections.items()} == {"spots-A": 0, "spots-B": 1}


def test_where_several_images_fit_a_mapping_decides(regions, tiny_model) -> None:
    """In one coordinate system both images lie under both sections."""
    both = spatialdata.deepcopy(regions)
    for element in (*both.images.values(), *both.shapes.values()):
        here = spatialdata.transformations.get_transformation(element, get_all=True)
        to_um = next(value for key, value in here.items() if key.startswith("um"))
        spatialdata.transformations.set_transformation(element, {"um": to_um}, set_all=True)
    with pytest.raises(ValueError, match=r"'spots-A': several images .*'he-A', 'he-B'.*image_key=\{'spots-A': "):
        storm.tl.embed(both, model=tiny_model)
    assert "X_storm" not in both.tables["table"].obsm
    named = {"spots-A": "he-A", "spots-B": "he-B"}
    storm.tl.embed(both, model=tiny_model, modality="he", image_key=named)
    own = spatialdata.deepcopy(regions)
    storm.tl.embed(own, model=tiny_model, modality="he")
    np.testing.assert_allclose(both.tables["table"].obsm["X_storm"], own.tables["table"].obsm["X_storm"], atol=1e-5)
    with pytest.raises(KeyError, match=r"\['left'\].*'spots-A'"):
        storm.tl.embed(both, model=tiny_model, image_key={"left": "he-A"})
    with pytest.raises(KeyError, match=r"'he-C' is not in sdata\.images"):
        storm.tl.embed(both, model=tiny_model, image_key={"spots-A": "he-C"})
    with pytest.raises(TypeError, match="image_key"):
        storm.tl.embed(both, model=tiny_model, image_key={"spots-A": 1})


def test_an_image_that_one_section_lacks_is_named(regions, tiny_model) -> None:
    both = spatialdata.deepcopy(regions)
    del both.images["he-B"]
    with pytest.raises(ValueError, match=r"of 2 sections 1 have no H&E image: 'spots-B'.*modality='st'"):
        storm.tl.embed(both, model=tiny_model)
    assert "X_storm" not in both.tables["table"].obsm
    storm.tl.embed(both, model=tiny_model, modality="st")
    assert np.isfinite(both.tables["table"].obsm["X_storm"]).all()


def test_a_region_without_geometry_is_named(regions, tiny_model) -> None:
    both = spatialdata.deepcopy(regions)
    del both.shapes["spots-B"]
    with pytest.raises(ValueError, match=r"annotates 'spots-B', which is not in the object"):
        storm.tl.embed(both, model=tiny_model, modality="st")
    empty = spatialdata.deepcopy(regions)
    empty.shapes["spots-B"]["geometry"] = empty.shapes["spots-B"].geometry.buffer(-1e9)
    with pytest.raises(ValueError, match=r"section 'spots-B'"):
        storm.tl.embed(empty, model=tiny_model, modality="st")
    assert "X_storm" not in empty.tables["table"].obsm


def test_a_missing_name_of_a_section_is_refused(parts, tiny_model) -> None:
    table = joined(parts, index_unique="-")
    table.obs["library"] = table.obs["library"].astype(object)
    table.obs.iloc[[3, 5], table.obs.columns.get_loc("library")] = np.nan
    with pytest.raises(ValueError, match=r"library_key='library': 2 of 210 rows have no value"):
        storm.tl.embed(table, model=tiny_model, library_key="library")
    with pytest.raises(KeyError, match="library_key='sample' is not in obs"):
        storm.tl.embed(table, model=tiny_model, library_key="sample")
    table.obs["library"] = [1] * 100 + ["1"] * 110
    with pytest.raises(ValueError, match="read the same"):
        storm.tl.embed(table, model=tiny_model, library_key="library")


def test_one_library_only_and_a_library_of_one_spot(parts, tiny_model) -> None:
    one = parts["A"].copy()
    one.obs["library"] = "A"
    storm.tl.embed(one, model=tiny_model, library_key="library")
    alone = parts["A"].copy()
    storm.tl.embed(alone, model=tiny_model)
    np.testing.assert_allclose(one.obsm["X_storm"], alone.obsm["X_storm"], atol=1e-5)
    table = joined({"A": parts["A"], "B": parts["B"][:1].copy()}, index_unique="-")
    storm.tl.embed(table, model=tiny_model, library_key="library")
    assert np.isfinite(table.obsm["X_storm"]).all()


def test_an_error_in_one_section_names_it_and_leaves_all_as_they_were(parts, tiny_model) -> None:
    table = joined(parts, index_unique="-")
    first = np.flatnonzero(of(table, "library", "B"))[0]
    table.obsm["spatial"][first] = np.nan
    with pytest.raises(ValueError, match=r"section 'B': .*NaN"):
        storm.tl.embed(table, model=tiny_model, library_key="library")
    assert "X_storm" not in table.obsm
    assert "storm" not in table.uns
    good, bad = parts["A"].copy(), parts["B"].copy()
    bad.obsm["spatial"][0] = np.nan
    with pytest.raises(ValueError, match=r"section 'data\[1\]': .*NaN"):
        storm.tl.embed([good, bad], model=tiny_model)
    assert "X_storm" not in good.obsm


def test_lists_of_objects(parts, regions, tiny_model) -> None:
    a, b = parts["A"].copy(), parts["B"].copy()
    assert storm.tl.embed([a, b], model=tiny_model) is None
    alone = parts["B"].copy()
    storm.tl.embed(alone, model=tiny_model)
    np.testing.assert_allclose(b.obsm["X_storm"], alone.obsm["X_storm"], atol=1e-5)
    assert "sections" not in b.uns["storm"]["X_storm"]
    copies = storm.tl.embed([parts["A"], parts["B"]], model=tiny_model, copy=True)
    np.testing.assert_array_equal(copies[1].obsm["X_storm"], b.obsm["X_storm"])
    assert "X_storm" not in parts["A"].obsm
    with pytest.raises(ValueError, match=r"data\[0\] and data\[2\] are the same object"):
        storm.tl.embed([a, b, a], model=tiny_model)
    with pytest.raises(ValueError, match="empty list"):
        storm.tl.embed([], model=tiny_model)
    with pytest.raises(TypeError, match="got str"):
        storm.tl.embed([a, "b"], model=tiny_model)
    both = spatialdata.deepcopy(regions)
    with pytest.raises(ValueError, match=r"of 3 sections 1 have no H&E image: 'data\[1\]'"):
        storm.tl.embed([both, a], model=tiny_model)


def test_domains_of_a_list_have_one_set_of_names(parts) -> None:
    rng = np.random.default_rng(0)
    objects, truth = [], []
    for one in parts.values():
        kind = rng.integers(0, 3, one.n_obs)
        table = one.copy()
        table.obsm["X_storm"] = (np.eye(3)[kind] * 9 + rng.normal(size=(one.n_obs, 3))).astype(np.float32)
        objects.append(table)
        truth.append(kind)
    storm.tl.domains(objects, 3)
    labels = np.concatenate([table.obs["storm_domain"].to_numpy(str) for table in objects])
    assert pd.crosstab(np.concatenate(truth), labels).gt(0).sum(axis=1).eq(1).all()
    assert all(list(table.obs["storm_domain"].cat.categories) == ["0", "1", "2"] for table in objects)
    objects[1].obsm["X_storm"] = objects[1].obsm["X_storm"][:, :2]
    with pytest.raises(ValueError, match=r"\[3, 2, 3\] columns"):
        storm.tl.domains(objects, 3, key_added="again")
    assert "again" not in objects[0].obs


def test_a_killed_study_goes_on_where_it_was(regions, tiny_model, tmp_path, monkeypatch) -> None:
    whole = spatialdata.deepcopy(regions)
    whole.write(tmp_path / "both.zarr")
    stored = spatialdata.read_zarr(tmp_path / "both.zarr")
    real, calls = storm._inference.section_embedding.run_windows, []

    def broken(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr("storm._inference.section_embedding.run_windows", broken)
    with pytest.raises(KeyboardInterrupt):
        storm.tl.embed(stored, model=tiny_model)
    left = tmp_path / "both.zarr.storm" / "X_storm"
    assert sorted(folder.name for folder in left.iterdir()) == ["spots-A", "spots-B"]
    monkeypatch.setattr("storm._inference.section_embedding.run_windows", real)
    storm.tl.embed(stored, model=tiny_model)
    assert not left.exists()
    fresh = spatialdata.deepcopy(regions)
    storm.tl.embed(fresh, model=tiny_model)
    np.testing.assert_allclose(stored.tables["table"].obsm["X_storm"], fresh.tables["table"].obsm["X_storm"], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.* of the tiles of section .* are unlike:UserWarning")
@pytest.mark.filterwarnings("ignore:.* of the tiles are unlike:UserWarning")
def test_predictions_of_regions_stand_in_one_table(regions) -> None:
    both = spatialdata.deepcopy(regions)
    storm.tl.predict_expression(both, to="table")
    new = both.tables["table_storm"]
    assert np.isfinite(new.X).all()
    assert set(new.uns["storm"]["storm"]["sections"]) == {"spots-A", "spots-B"}
    alone = storm.datasets.toy("visium", n=60, seed=1)
    storm.tl.predict_expression(alone, to="table")
    rows = of(new, "region", "spots-B")
    np.testing.assert_allclose(new.X[rows], alone.tables["table_storm"].X, atol=1e-4)
    before = new.X.copy()
    storm.tl.predict_expression(both, to="table", shapes_key="spots-A", standardise="section")
    np.testing.assert_allclose(both.tables["table_storm"].X, before, atol=1e-6)
    # Other genes for one region would take what the other region has.
    some = list(new.var_names[:3])
    with pytest.raises(ValueError, match="genes in the rows of other sections, and these are 3 genes"):
        storm.tl.predict_expression(both, some, to="table", shapes_key="spots-A")
    np.testing.assert_allclose(both.tables["table_storm"].X, before, atol=1e-6)
    # Limits of one region leave the other's alone.
    storm.tl.predict_expression(both, to="table", intervals=True)
    limits = both.tables["table_storm"].layers["storm_upper"].copy()
    storm.tl.predict_expression(both, to="table", shapes_key="spots-A")
    left = np.asarray(both.tables["table_storm"].layers["storm_upper"])
    np.testing.assert_array_equal(left[rows], limits[rows])
    assert np.isnan(left[~rows]).all()


def test_names_that_a_store_would_divide(parts, tiny_model) -> None:
    table = joined({"p1/s1": parts["A"], "p1/s2": parts["B"]}, index_unique="-")
    storm.tl.embed(table, model=tiny_model, library_key="library")
    assert set(table.uns["storm"]["X_storm"]["sections"]) == {"p1_s1", "p1_s2"}


def test_a_column_divides_a_region(regions, tiny_model) -> None:
    """Two pieces of tissue on one slide: one image, one element, two sections."""
    one = storm.datasets.toy("visium", n=80, seed=0)
    table = one.tables["table"]
    x = np.array([geometry.x for geometry in one.shapes["spots"].loc[table.obs["spot_id"]].geometry])
    table.obs["piece"] = np.where(x < np.median(x), "left", "right")
    storm.tl.embed(one, model=tiny_model, library_key="piece", readout="window")
    assert np.isfinite(table.obsm["X_storm"]).all()
    assert set(table.uns["storm"]["X_storm"]["sections"]) == {"left", "right"}
    alone = spatialdata.deepcopy(one)
    left = of(table, "piece", "left")
    cut = table[left].copy()
    cut = TableModel.parse(cut, region="spots", region_key="region", instance_key="spot_id", overwrite_metadata=True)
    del alone.tables["table"]
    alone.tables["table"] = cut
    storm.tl.embed(alone, model=tiny_model, readout="window")
    np.testing.assert_allclose(table.obsm["X_storm"][left], cut.obsm["X_storm"], atol=1e-5)


def unnamed(parts) -> ad.AnnData:
    table = joined({"A": parts["A"], "B": parts["B"]}, index_unique="-")
    table.obsm["spatial"][of(table, "library", "B")] += 13.7
    table.obs["kind"] = pd.Categorical(np.where(np.arange(table.n_obs) % 3, "x", "y"))
    return table


@pytest.fixture(scope="module")
def large_parts() -> dict[str, ad.AnnData]:
    return {name: part(seed, 400) for name, seed in (("A", 0), ("B", 3))}


def test_sections_on_top_of_each_other_are_never_mixed(large_parts, tiny_model) -> None:
    table = unnamed(large_parts)
    with pytest.raises(
        ValueError, match=r"several lattices on top of each other.*\['library'\].*library_key='library'"
    ):
        storm.tl.embed(table, model=tiny_model)
    nameless = table.copy()
    del nameless.obs["library"]
    with pytest.raises(ValueError, match=r"several lattices.*No column"):
        storm.tl.embed(nameless, model=tiny_model)
    storm.tl.embed(table, model=tiny_model, library_key="library")
    with pytest.raises(ValueError, match=r"section 'x': .*several lattices.*\['library'\]"):
        storm.tl.embed(table, model=tiny_model, library_key="kind")


def test_a_third_coordinate_that_varies_is_a_question(large_parts, tiny_model) -> None:
    table = unnamed(large_parts)
    table.obsm["spatial"] = np.column_stack([table.obsm["spatial"], np.where(of(table, "library", "A"), 10.0, 20.0)])
    with pytest.raises(ValueError, match=r"third coordinate that takes 2 values.*\['library'\]"):
        storm.tl.embed(table, model=tiny_model)
    storm.tl.embed(table, model=tiny_model, library_key="library")
    flat = large_parts["A"].copy()
    flat.obsm["spatial"] = np.column_stack([flat.obsm["spatial"], np.full(flat.n_obs, 7.0)])
    storm.tl.embed(flat, model=tiny_model)


def test_the_conventional_column_names_sections(parts, tiny_model) -> None:
    table = joined(parts, index_unique="-")
    table.obs["library_id"] = table.obs.pop("library")
    with pytest.raises(ValueError, match=r"obs\['library_id'\] names 3 sections.*library_key='library_id'"):
        storm.tl.embed(table, model=tiny_model)


def test_one_section_is_held_at_a_time(parts, tiny_model, monkeypatch) -> None:
    """Peak memory is that of the largest section and the result."""
    table = joined(parts, index_unique="-")
    real, made, alive = storm._bridge.sections.part_of, [], []

    def counted(*args, **kwargs):
        gc.collect()
        alive.append(sum(one() is not None for one in made))
        part = real(*args, **kwargs)
        made.append(weakref.ref(part))
        assert part.n_obs < table.n_obs
        assert not part.layers
        return part

    monkeypatch.setattr("storm._bridge.sections.part_of", counted)
    table.layers["more"] = table.X.copy()
    for joint in (False, True):
        storm.tl.embed(table, model=tiny_model, library_key="library", readout="adaptive", joint=joint)
    assert len(made) > 6
    assert max(alive) <= 1


def test_sections_of_different_platforms(tiny_model) -> None:
    """Each has its own lattice and its own µm; what they share is the genes."""
    visium = storm.datasets.toy("visium", n=80, seed=0)
    cells = storm.datasets.toy("xenium", n=90, seed=1)
    objects = [visium, cells]
    storm.tl.embed(objects, model=tiny_model, modality="st", readout="adaptive")
    records = [one.tables["table"].uns["storm"]["X_storm"] for one in objects]
    assert [record["windows"] for record in records] == ["hex", "knn"]
    assert all(np.isfinite(one.tables["table"].obsm["X_storm"]).all() for one in objects)
    assert len({one.tables["table"].obsm["X_storm"].shape[1] for one in objects}) == 1


def test_a_section_of_one_of_several_objects_is_named_in_full(regions) -> None:
    """Both objects have a section of the same name, and each section two images that fit."""
    objects = [spatialdata.deepcopy(regions), spatialdata.deepcopy(regions)]
    with pytest.raises(KeyError, match="image_key names the sections"):
        open_study(objects, Keys(), image_key={"data[2], spots-A": "he-A"})
    chosen = {"data[0], spots-A": "he-B"}
    study = open_study(objects, Keys(), image_key=chosen)
    assert {s.name: s.images for s in study}["data[0], spots-A"] == ["he-B"]
    assert {s.name: s.images for s in study}["data[1], spots-A"] == ["he-A"]


def test_names_that_differ_by_a_slash_are_refused(regions) -> None:
    table = regions.tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    table.obs["sample"] = np.where(np.arange(table.n_obs) % 2, "a/b", "a_b")
    with pytest.raises(ValueError, match="differ by a slash only"):
        open_study(table, Keys(), library_key="sample", image=False)


def test_provenance_knows_the_sections_of_today_only(regions) -> None:
    table = regions.tables["table"].copy()
    del table.uns["spatialdata_attrs"]
    for key, names in (("one", "ab"), ("two", "xy")):
        table.obs[key] = np.where(table.obs["region"] == "spots-A", *names)
        storm.tl.embed(table, library_key=key, modality="st", joint=False)
    assert set(table.uns["storm"]["X_storm"]["sections"]) == {"x", "y"}


def test_images_without_expression_are_a_study_too(regions) -> None:
    objects = [SpatialData(images={"he": regions.images[key]}) for key in ("he-A", "he-B")]
    storm.tl.embed(objects)
    alone = SpatialData(images={"he": regions.images["he-B"]})
    storm.tl.embed(alone)
    both, one = (data.tables["tiles"].obsm["X_storm"] for data in (objects[1], alone))
    np.testing.assert_allclose(both, one, atol=1e-5)
