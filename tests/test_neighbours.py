"""The neighbours go on where STORM ends: scanpy and squidpy on an embedded section, and both file formats."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import spatialdata
import squidpy as sq
from spatialdata import SpatialData

import storm

# What anndata and squidpy tell those who call them as they are called everywhere.
pytestmark = [
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
    pytest.mark.filterwarnings("ignore:Calling `spatial_neighbors` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def embedded(toy_once, tiny_model) -> SpatialData:
    """The toy with an embedding and domains, one spot of it without an image."""
    from storm._settings import settings

    settings.verbosity = 0
    sdata = storm.tl.embed(toy_once, model=tiny_model, copy=True)
    storm.tl.domains(sdata, 4)
    return sdata


@pytest.fixture
def adata(embedded) -> ad.AnnData:
    return embedded.tables["table"].copy()


def test_scanpy_goes_on(adata):
    sc.pp.neighbors(adata, use_rep="X_storm", random_state=0)
    assert adata.obsp["connectivities"].shape == (adata.n_obs, adata.n_obs)
    sc.tl.umap(adata, random_state=0, maxiter=20)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    ax = sc.pl.umap(adata, color="storm_domain", show=False)
    assert ax.get_title() == "storm_domain"
    # scanpy leaves its colours, and our plot takes them
    assert len(adata.uns["storm_domain_colors"]) == adata.obs["storm_domain"].nunique()
    storm.pl.domains(adata)
    plt.close("all")


def test_squidpy_goes_on(adata):
    sq.gr.spatial_neighbors(adata, coord_type="generic", n_neighs=6)
    assert "spatial_connectivities" in adata.obsp
    sq.gr.nhood_enrichment(adata, cluster_key="storm_domain", n_perms=10, show_progress_bar=False, seed=0)
    sq.pl.spatial_scatter(adata, shape=None, color="storm_domain")
    plt.close("all")


def same(one: ad.AnnData, two: ad.AnnData) -> None:
    np.testing.assert_array_equal(one.obsm["X_storm"], two.obsm["X_storm"])
    assert two.obsm["X_storm"].dtype == np.float32
    assert one.obs["storm_domain"].tolist() == two.obs["storm_domain"].tolist()
    assert two.obs["storm_domain"].dtype == "category"
    for key in ("X_storm", "storm_domain"):
        kept, read = one.uns["storm"][key], two.uns["storm"][key]
        assert kept.keys() == read.keys()
        assert all(
            np.array_equal(np.asarray(kept[k]), np.asarray(read[k])) for k in kept if not isinstance(kept[k], dict)
        )


def test_h5ad_round_trip(adata, tmp_path):
    adata.write_h5ad(tmp_path / "table.h5ad")
    same(adata, ad.read_h5ad(tmp_path / "table.h5ad"))


def test_anndata_zarr_round_trip(adata, tmp_path):
    adata.write_zarr(tmp_path / "table.zarr")
    same(adata, ad.read_zarr(tmp_path / "table.zarr"))


def test_spatialdata_round_trip(embedded, tmp_path):
    embedded.write(tmp_path / "section.zarr")
    read = spatialdata.read_zarr(tmp_path / "section.zarr")
    same(embedded.tables["table"], read.tables["table"])
    # and what was read can be worked on
    storm.tl.domains(read, 3)
    assert read.tables["table"].obs["storm_domain"].nunique() == 3


def test_spatialdata_queries_keep_the_results(embedded):
    x0, y0, x1, y1 = 300, 300, 900, 900
    part = spatialdata.bounding_box_query(
        embedded, axes=("x", "y"), min_coordinate=[x0, y0], max_coordinate=[x1, y1], target_coordinate_system="um"
    )
    table = part.tables["table"]
    assert 0 < table.n_obs < embedded.tables["table"].n_obs
    assert "X_storm" in table.obsm
    storm.pl.domains(part)
    plt.close("all")


@pytest.mark.parametrize("platform", ["visium", "visium_hd", "xenium"])
@pytest.mark.parametrize("system", ["global", "um"])
def test_spatialdata_plot_draws_the_store(platform, system, tmp_path):
    """What is written is drawn in both systems: every spot where it is, in the colours that are kept."""
    import spatialdata_plot  # noqa: F401  adds .pl

    section = storm.datasets.toy(platform, n=60)
    table = section.tables["table"]
    table.obs["storm_domain"] = table.obs["domain"].astype("category")
    names = list(table.obs["storm_domain"].cat.categories)
    table.uns["storm_domain_colors"] = [f"#10{20 * k:02x}30" for k in range(len(names))]
    section.write(tmp_path / "section.zarr")
    read = spatialdata.read_zarr(tmp_path / "section.zarr")
    (shapes,) = read.shapes
    _, ax = plt.subplots()
    drawing = read.pl.render_images("he").pl.render_shapes(shapes, color="storm_domain", table_name="table")
    drawing.pl.show(coordinate_systems=system, ax=ax)
    drawn = ax.collections[0]
    colours = {tuple((255 * np.asarray(colour[:3])).round().astype(int)) for colour in drawn.get_facecolors()}
    assert colours == {(0x10, 20 * names.index(name), 0x30) for name in set(table.obs["storm_domain"])}
    centres = [path.get_extents().get_points().mean(axis=0) for path in drawn.get_paths()]
    moved = spatialdata.transform(read.shapes[shapes], to_coordinate_system=system).geometry
    planted = [np.reshape(one.bounds, (2, 2)).mean(axis=0) for one in moved]
    np.testing.assert_allclose(centres, planted, atol=0.01)
    plt.close("all")


@pytest.mark.parametrize("platform", ["visium", "visium_hd", "xenium"])
def test_napari_spatialdata_finds_what_it_reads(platform, tmp_path):
    """napari-spatialdata shows the elements of a chosen system, and colours each by the table joined to it."""
    section = storm.datasets.toy(platform, n=60)
    section.tables["table"].obs["storm_domain"] = section.tables["table"].obs["domain"].astype("category")
    section.write(tmp_path / "section.zarr")
    read = spatialdata.read_zarr(tmp_path / "section.zarr")
    (shapes,) = read.shapes
    assert set(read.coordinate_systems) == {"global", "um"}
    for system in read.coordinate_systems:
        shown = read.filter_by_coordinate_system(system)
        assert set(shown.images) == {"he"}
        assert set(shown.shapes) == {shapes}
    elements, table = spatialdata.join_spatialelement_table(
        sdata=read, spatial_element_names=[shapes], table_name="table", how="left", match_rows="left"
    )
    assert table.n_obs == len(elements[shapes]) == section.tables["table"].n_obs
    assert table.obs["storm_domain"].notna().all()
