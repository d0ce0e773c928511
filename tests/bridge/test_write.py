"""Writing results: everything or nothing, into memory and into the store."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import zarr
from scipy import sparse
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel, TableModel

from storm._bridge import add_elements, annotate_like, check_writable, persist, write_results

# anndata announces a change of its own defaults, in the name of contextlib
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

N, G = 12, 4
RNG = np.random.default_rng(0)
EMBEDDING = RNG.normal(size=(N, 6))


def make_table() -> ad.AnnData:
    table = ad.AnnData(
        X=sparse.csr_matrix(RNG.poisson(2, (N, G)).astype(np.float32)),
        obs=pd.DataFrame(
            {"region": pd.Categorical(["spots"] * N), "id": np.arange(N), "label": ["a", "b"] * (N // 2)},
            index=[f"s{k}" for k in range(N)],
        ),
        var=pd.DataFrame(index=["A", "B", "C", "D"]),
        uns={"storm": {"before": {"seed": 1}}},
        obsm={"spatial": RNG.normal(size=(N, 2))},
    )
    return TableModel.parse(table, region="spots", region_key="region", instance_key="id")


def make_sdata() -> SpatialData:
    shapes = ShapesModel.parse(np.arange(2.0 * N).reshape(N, 2), geometry=0, radius=1.0, index=np.arange(N))
    return SpatialData(shapes={"spots": shapes}, tables={"table": make_table()})


def state(table: ad.AnnData) -> tuple:
    """Everything that a write may change."""
    return (
        {k: table.obs[k].tolist() for k in table.obs},
        {k: table.var[k].tolist() for k in table.var},
        {k: np.array(table.obsm[k]).tolist() for k in table.obsm},
        sorted(table.layers),
        table.uns.get("storm"),
        None if table.uns.get("storm") is None else {k: dict(v) for k, v in table.uns["storm"].items()},
        table.obs_names.tolist(),
    )


def results() -> dict:
    return {
        "obs": {"storm_domain": pd.Categorical(["0", "1", "2"] * (N // 3)), "label": np.arange(N)},
        "obsm": {"X_storm": EMBEDDING},
        "layers": {"storm": np.ones((N, G)), "sparse": sparse.csr_matrix((N, G), dtype=np.float32)},
        "var": {"storm_r": np.linspace(0, 1, G)},
        "uns": {"X_storm": {"seed": 0, "source": None, "files": ("a", "b"), "path": Path("x/y"), "empty": []}},
    }


@pytest.mark.parametrize("container", ["SpatialData", "AnnData"])
def test_results_are_written(container: str) -> None:
    data = make_sdata() if container == "SpatialData" else make_table()
    table = data.tables["table"] if container == "SpatialData" else data
    write_results(table, **results())
    assert table.obs["storm_domain"].tolist() == ["0", "1", "2"] * 4
    assert table.obs["storm_domain"].dtype == "category"
    assert table.obs["label"].tolist() == list(range(N))
    assert table.obsm["X_storm"].dtype == np.float32
    np.testing.assert_allclose(table.obsm["X_storm"], EMBEDDING, rtol=1e-6)
    assert table.layers["storm"].dtype == np.float32
    assert sparse.issparse(table.layers["sparse"])
    assert table.var["storm_r"].tolist() == np.linspace(0, 1, G).tolist()
    assert table.uns["storm"]["before"] == {"seed": 1}
    assert table.uns["storm"]["X_storm"]["path"] == "x/y"


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_what_is_written_can_be_stored(suffix: str, tmp_path: Path) -> None:
    table = make_table()
    write_results(table, **results())
    path = tmp_path / f"t.{suffix}"
    (table.write_h5ad if suffix == "h5ad" else table.write_zarr)(path)
    back = (ad.read_h5ad if suffix == "h5ad" else ad.read_zarr)(path)
    np.testing.assert_array_equal(back.obsm["X_storm"], table.obsm["X_storm"])
    stored = back.uns["storm"]["X_storm"]
    assert (stored["seed"], stored["source"], list(stored["files"]), len(stored["empty"])) == (0, None, ["a", "b"], 0)


BAD = {
    "obs too short": ({"obs": {"x": np.zeros(N - 1)}}, ValueError, r"obs\['x'\] has shape \(11,\), expected \(12,\)"),
    "obs of two columns": ({"obs": {"x": np.zeros((N, 2))}}, ValueError, r"expected \(12,\)"),
    "obs in another order": (
        {"obs": {"x": pd.Series(np.zeros(N), index=[f"s{k}" for k in range(N)][::-1])}},
        ValueError,
        "table's order",
    ),
    "obsm": (
        {"obsm": {"x": np.zeros((N + 1, 3))}},
        ValueError,
        r"obsm\['x'\] has shape \(13, 3\), expected \(12, 'd'\)",
    ),
    "obsm of one dimension": ({"obsm": {"x": np.zeros(N)}}, ValueError, "expected"),
    "obsm of text": ({"obsm": {"x": np.full((N, 2), "a")}}, ValueError, "could not convert"),
    "layer": ({"layers": {"x": np.zeros((N, G + 1))}}, ValueError, r"expected \(12, 4\)"),
    "var": ({"var": {"x": np.zeros(N)}}, ValueError, r"var\['x'\] has shape \(12,\), expected \(4,\)"),
    "uns": ({"uns": {"x": {"model": object()}}}, TypeError, r"uns\['storm'\]\['x'\]\['model'\] is object"),
    "uns key": ({"uns": {"x": {"a/b": 1}}}, TypeError, "without '/'"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_writes_nothing(name: str) -> None:
    wrong, error, text = BAD[name]
    table = make_table()
    before = state(table)
    good = results()
    with pytest.raises(error, match=text):
        write_results(table, **{**good, **{slot: {**good[slot], **values} for slot, values in wrong.items()}})
    assert state(table) == before


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_failure_half_way_is_undone(fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from storm._bridge import write

    table = make_table()
    before = state(table)
    calls = iter(range(1, 100))
    assign = write._assign

    def broken(*args) -> None:
        if next(calls) == fails_at:
            raise MemoryError
        assign(*args)

    monkeypatch.setattr(write, "_assign", broken)
    with pytest.raises(MemoryError):
        write_results(table, **results())
    assert state(table) == before


def test_views_are_refused() -> None:
    view = make_table()[:5]
    with pytest.raises(ValueError, match=r"view of another AnnData.*adata = adata.copy\(\)"):
        check_writable(view)
    with pytest.raises(ValueError, match="view"):
        write_results(view, obsm={"X_storm": EMBEDDING[:5]})
    assert view.is_view
    sdata = make_sdata()
    sdata.tables["part"] = sdata.tables["table"][:5]
    with pytest.raises(ValueError, match=r"sdata.tables\['part'\] = sdata.tables\['part'\].copy\(\)"):
        check_writable(sdata.tables["part"], "part")
    check_writable(sdata.tables["table"], "table")


def test_backed_table_keeps_results_in_memory(tmp_path: Path) -> None:
    make_table().write_h5ad(tmp_path / "t.h5ad")
    backed = ad.read_h5ad(tmp_path / "t.h5ad", backed="r")
    write_results(backed, obs={"d": np.arange(N)}, obsm={"X_storm": EMBEDDING}, uns={"X_storm": {"seed": 0}})
    assert backed.obsm["X_storm"].shape == (N, 6)
    assert "X_storm" not in ad.read_h5ad(tmp_path / "t.h5ad").obsm
    backed.file.close()


def test_new_table_annotates_the_same_shapes() -> None:
    sdata = make_sdata()
    new = annotate_like(sdata.tables["table"], np.ones((N, 2), dtype=np.float32), var=pd.DataFrame(index=["X", "Y"]))
    add_elements(sdata, tables={"table_storm": new})
    assert sdata.tables["table_storm"].obs_names.equals(sdata.tables["table"].obs_names)
    assert sdata.get_annotated_regions(sdata.tables["table_storm"]) == ["spots"]
    plain = annotate_like(ad.AnnData(np.ones((3, 1))), np.ones((3, 2)), var=pd.DataFrame(index=["X", "Y"]))
    assert plain.shape == (3, 2)


def test_elements_are_added_together_or_not_at_all() -> None:
    sdata = make_sdata()
    old = sdata.shapes["spots"]
    new = ShapesModel.parse(gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]))
    with pytest.raises(TypeError):
        add_elements(sdata, shapes={"spots": new, "more": new}, tables={"bad": "not a table"})
    assert sdata.shapes["spots"] is old
    assert list(sdata.shapes) == ["spots"]
    add_elements(sdata, shapes={"spots": new})
    assert sdata.shapes["spots"] is new
    with pytest.raises(TypeError, match="only a SpatialData"):
        add_elements(make_table(), shapes={"spots": new})


# --------------------------------------------------------------------------------------------- the store


@pytest.fixture
def stored(tmp_path: Path) -> SpatialData:
    make_sdata().write(tmp_path / "s.zarr")
    return read_zarr(tmp_path / "s.zarr")


def test_only_what_was_written_is_stored(stored: SpatialData) -> None:
    write_results(stored.tables["table"], **results())
    stored.tables["table"].obs["private"] = 1
    persist(stored, obs=["storm_domain", "label"], obsm=["X_storm"], layers=["storm"], var=["storm_r"], uns=["X_storm"])
    back = read_zarr(stored.path).tables["table"]
    assert back.obs["storm_domain"].tolist() == ["0", "1", "2"] * 4
    assert back.obs["storm_domain"].dtype == "category"
    assert back.obs["label"].tolist() == list(range(N))
    assert "private" not in back.obs
    np.testing.assert_allclose(back.obsm["X_storm"], EMBEDDING, rtol=1e-6)
    assert back.var["storm_r"].tolist() == np.linspace(0, 1, G).tolist()
    assert (back.layers["storm"] == 1).all()
    assert set(back.uns["storm"]) == {"before", "X_storm"}
    assert back.uns["storm"]["X_storm"]["seed"] == 0
    persist(stored, obsm=["X_storm"])  # and again
    assert zarr.open_array(Path(stored.path) / "tables/table/obsm/X_storm").chunks == (N, 6)


def test_new_elements_are_stored(stored: SpatialData) -> None:
    shapes = ShapesModel.parse(gpd.GeoDataFrame(geometry=[shapely.box(k, 0, k + 1, 1) for k in range(N)]))
    new = annotate_like(stored.tables["table"], np.ones((N, 2), dtype=np.float32), var=pd.DataFrame(index=["X", "Y"]))
    for _ in range(2):  # the second time they are replaced
        add_elements(stored, shapes={"tiles": shapes}, tables={"table_storm": new})
        persist(stored, shapes=["tiles"], tables=["table_storm"])
    back = read_zarr(stored.path)
    assert len(back.shapes["tiles"]) == N
    assert back.tables["table_storm"].shape == (N, 2)


def test_persist_tells_what_is_missing(stored: SpatialData) -> None:
    with pytest.raises(ValueError, match=r"sdata\.write"):
        persist(make_sdata(), obsm=["X_storm"])
    with pytest.raises(KeyError, match="obsm of table 'table', which holds: 'spatial'"):
        persist(stored, obsm=["X_storm"])
    with pytest.raises(KeyError, match="'before'"):
        persist(stored, uns=["X_storm"])
    stored.tables["second"] = make_table()
    with pytest.raises(KeyError, match="does not hold table 'second' yet"):
        persist(stored, "second", obsm=["spatial"])
