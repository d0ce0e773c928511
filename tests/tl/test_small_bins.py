"""Bins of 2 µm: refused with advice, and the advice works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

import storm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "platforms.md"
SIDE, UM_PER_PX, BIN_UM = 40, 0.5, 2.0


def fine(genes: list[str], *, bin_um: float = BIN_UM) -> SpatialData:
    """Bins as Visium HD has them: squares in pixels, placed in µm too."""
    places = np.indices((SIDE, SIDE)).reshape(2, -1).T[:, ::-1]
    centres, half = (places + 0.5) * bin_um / UM_PER_PX, bin_um / UM_PER_PX / 2
    counts = csr_matrix(np.random.default_rng(0).poisson(0.3, (len(places), len(genes))).astype(np.float32))
    obs = pd.DataFrame({"region": pd.Categorical(["bins"] * len(places)), "location_id": np.arange(len(places))})
    obs.index = [f"s_002um_{y:05d}_{x:05d}-1" for x, y in places]
    squares = gpd.GeoDataFrame(geometry=shapely.box(*(centres - half).T, *(centres + half).T))
    where = {"global": Identity(), "um": Scale([UM_PER_PX, UM_PER_PX], axes=("x", "y"))}
    table = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
    return SpatialData(
        shapes={"bins": ShapesModel.parse(squares, transformations=where)},
        tables={"table": TableModel.parse(table, region="bins", region_key="region", instance_key="location_id")},
    )


@pytest.fixture
def genes() -> list[str]:
    return list(storm.load_model().expression.vocabulary.symbols[:60])


def test_bins_of_2_um_are_refused_with_advice(genes: list[str]) -> None:
    sdata = fine(genes)
    before = sdata["table"].X.copy()
    with pytest.raises(ValueError, match=r"4 × 4 bins to squares of 8 µm with spatialdata.aggregate\(") as caught:
        storm.tl.embed(sdata)
    assert "storm.io.visium_hd(folder, bin_size=8)" in str(caught.value)
    assert not sdata["table"].obsm
    assert "storm" not in sdata["table"].uns
    assert (sdata["table"].X != before).nnz == 0
    with pytest.raises(ValueError, match="bins of 2 µm"):
        storm.tl.adapt(sdata, modality="st")
    row = storm.pp.check(sdata, estimate=False)["bins"]
    assert row.verdict == "fail"
    assert "spatialdata.aggregate" in row.explanation


def test_who_names_the_window_means_it(genes: list[str]) -> None:
    sdata = fine(genes)
    storm.tl.embed(sdata, window="lattice")
    assert sdata["table"].obsm["X_storm"].shape[0] == SIDE * SIDE


def test_larger_bins_and_unknown_scales_are_not_refused(genes: list[str]) -> None:
    storm.tl.embed(fine(genes, bin_um=8.0))
    sdata = fine(genes)
    places = np.indices((SIDE, SIDE)).reshape(2, -1).T * 2.0
    table = ad.AnnData(sdata["table"].X, var=sdata["table"].var, obsm={"spatial": places})
    storm.tl.embed(table)  # 2 of an unknown unit
    with pytest.raises(ValueError, match="bins of 2 µm"):
        storm.tl.embed(table, um_per_px=1.0)


def test_predicted_expression_is_refused_before_a_tile_is_read(toy, genes: list[str]) -> None:
    sdata = fine(genes)
    sdata.images["he"] = toy.images["he"]
    with pytest.raises(ValueError, match="bins of 2 µm"):
        storm.tl.predict_expression(sdata)
    with pytest.raises(ValueError, match="bins of 2 µm"):
        storm.tl.fit_expression(sdata)


@pytest.mark.skipif(not PAGE.is_file(), reason="the tests run outside of the repository: no docs here")
def test_the_page_sums_bins_as_it_says(genes: list[str]) -> None:
    code = re.search(r"```python\n([^`]*?= aggregate\(.*?)```", PAGE.read_text(), flags=re.S).group(1)
    sdata = fine(genes)
    there = {"sdata": sdata}
    exec(compile(code, PAGE.name, "exec"), there)
    coarse = there["coarse"]
    wanted = sdata["table"].X.toarray().reshape(SIDE // 4, 4, SIDE // 4, 4, -1).sum(axis=(1, 3))
    np.testing.assert_array_equal(coarse["table"].X.toarray(), wanted.reshape(-1, len(genes)))
    assert list(coarse["table"].var_names) == genes
    report = storm.pp.check(coarse, estimate=False)
    assert report.ok
    assert report["pitch"].facts["pitch"] == pytest.approx(8.0)
    storm.tl.embed(coarse)
    assert np.isfinite(coarse["table"].obsm["X_storm"]).all()
