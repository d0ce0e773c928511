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
