"""Contributions go to the tiles of the slide that they are of, by their places, or nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import storm
from storm.prognosis import Cohort, Explanation, OutcomeFit, add_slides, explain, fit, write_explanation

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unlike those that the head was trained on:UserWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory, toy_once) -> tuple[list[Path], float]:
    """Eight pieces of tissue, and their µm per pixel."""
    pixels = np.ascontiguousarray(np.asarray(toy_once["he"]["scale0"]["image"]).transpose(1, 2, 0))
    size = min(pixels.shape[:2]) // 2
    folder = tmp_path_factory.mktemp("slides")
    files = []
    for k in range(8):
        start = k * (min(pixels.shape[:2]) - size) // 8
        files.append(folder / f"S{k}.png")
        Image.fromarray(pixels[start : start + size, start : start + size]).save(files[-1])
    return files, 700 / size


@pytest.fixture(scope="module")
def explained(tmp_path_factory, paths) -> Explanation:
    """Of a patient with two slides, by a model of the cohort that STORM made of the slides."""
    files, scale = paths
    table = pd.DataFrame({"patient": ["p0", *(f"p{k}" for k in range(7))], "path": [str(file) for file in files]})
    table.index = [f"slide-{k}" for k in range(8)]
    names = [f"p{k}" for k in range(7)]
    people = pd.DataFrame({"OS_time": np.arange(1.0, 8), "OS_event": [1, 1, 0, 1, 1, 0, 1]}, index=names)
    folder = tmp_path_factory.mktemp("cohort") / "c"
    cohort = Cohort.create(folder, patients=people, slides=table.assign(um_per_px=scale))
    add_slides(cohort, device="cpu")
    config = OutcomeFit(epochs=2, tiles_per_bag=16, width=8, patients_per_batch=8)
    with pytest.warns(UserWarning, match="below ten any network"):
        model = fit(cohort, "OS", patients=names[1:], network="mean", baselines=False, config=config, device="cpu")
    return explain(model, cohort, "p0", device="cpu", steps=24)


def slide(paths, k: int = 0):
    return storm.io.slide(paths[0][k], um_per_px=paths[1])


def by_place(explained: Explanation, centres: np.ndarray, which: int) -> np.ndarray:
    """Position in the explanation of each place."""
    own = np.flatnonzero(explained.slide == which)
    found = [own[np.hypot(*(explained.xy_um[own] - place).T).argmin()] for place in centres]
    assert sorted(found) == sorted(own)
    return np.array(found)


def test_a_slide_without_tiles_gets_them(explained: Explanation, paths) -> None:
    sdata = slide(paths, 1)
    write_explanation(sdata, explained, slide="slide-1")
    table, genes = sdata.tables["tiles"], sdata.tables["tiles_storm_risk"]
    at = by_place(explained, np.asarray(table.obsm["spatial"]), 1)
    assert not np.array_equal(at, np.sort(at))  # features lie in another order than tiles
    np.testing.assert_array_equal(table.obs["storm_risk"], explained.tiles[at])
    np.testing.assert_array_equal(table.obs["storm_risk_he"], explained.he[at])
    np.testing.assert_array_equal(genes.X, explained.genes[at])
    assert list(genes.var_names) == list(explained.gene_names)
    assert table.uns["storm"]["storm_risk"]["patient"] == "p0"
    np.testing.assert_allclose(
        table.obs["storm_risk"], table.obs["storm_risk_he"] + genes.X.sum(axis=1), rtol=1e-3, atol=1e-6
    )
    # The new table is no second table to choose from, and another call replaces both.
    write_explanation(sdata, replace(explained, tiles=2 * explained.tiles), slide="slide-1")
    np.testing.assert_array_equal(sdata.tables["tiles"].obs["storm_risk"], 2 * explained.tiles[at])


def test_the_tiles_of_an_embedding_in_any_order(explained: Explanation, paths, tmp_path: Path) -> None:
    sdata = slide(paths)
    storm.tl.embed(sdata, device="cpu")
    order = np.random.default_rng(0).permutation(sdata.tables["tiles"].n_obs)
    table = sdata.tables["tiles"][order].copy()
    del sdata.tables["tiles"]
    sdata.tables["tiles"] = table
    copied = write_explanation(sdata, explained, slide="slide-0", copy=True)
    assert "storm_risk" not in sdata.tables["tiles"].obs
    result = copied.tables["tiles"]
    at = by_place(explained, np.asarray(result.obsm["spatial"]), 0)
    np.testing.assert_array_equal(result.obs["storm_risk"], explained.tiles[at])
    assert result.obs_names.equals(table.obs_names)
    copied.write(tmp_path / "s.zarr")
    import spatialdata

    again = spatialdata.read_zarr(tmp_path / "s.zarr")
    np.testing.assert_array_equal(again.tables["tiles"].obs["storm_risk"], explained.tiles[at])
    assert again.tables["tiles_storm_risk"].uns["storm"]["storm_risk"]["slide"] == "slide-0"


def test_genes_of_the_table_get_a_layer(explained: Explanation, paths) -> None:
    sdata = slide(paths)
    storm.tl.predict_expression(sdata, device="cpu")
    write_explanation(sdata, explained, slide="slide-0", table_key="tiles_storm")
    table = sdata.tables["tiles_storm"]
    at = by_place(explained, np.asarray(table.obsm["spatial"]), 0)
    columns = [table.var_names.get_loc(gene) for gene in explained.gene_names]
    np.testing.assert_array_equal(table.layers["storm_risk"][:, columns], explained.genes[at])
    assert "tiles_storm_storm_risk" not in sdata.tables


def test_tiles_that_were_not_explained(explained: Explanation, paths) -> None:
    whole = slide(paths)
    write_explanation(whole, explained, slide="slide-0")
    first = np.flatnonzero(explained.slide == 0)[0]
    kept = np.arange(len(explained.tiles)) != first
    less = replace(
        explained, tiles=explained.tiles[kept], genes=None, he=None, xy_um=explained.xy_um[kept],
        slide=explained.slide[kept],
    )  # fmt: skip
    sdata = slide(paths)
    with pytest.warns(UserWarning, match=f"1 of {whole.tables['tiles'].n_obs} tiles of the table were not explained"):
        write_explanation(sdata, less, slide="slide-0")
    column = sdata.tables["tiles"].obs["storm_risk"]
    assert column.isna().sum() == 1
    known = column.notna()
    np.testing.assert_array_equal(column[known], whole.tables["tiles"].obs["storm_risk"][known.to_numpy()])
    assert set(sdata.tables) == {"tiles"}


def test_another_slide_is_refused_and_left_as_it_was(explained: Explanation, paths, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"has the slides \['slide-0', 'slide-1'\]; name the one"):
        write_explanation(slide(paths), explained)
    with pytest.raises(KeyError, match="no slide 'slide-7'"):
        write_explanation(slide(paths), explained, slide="slide-7")
    other = slide(paths, 3)
    with pytest.raises(ValueError, match=r"read from 'S3.png', and slide 'slide-0' of the cohort is 'S0.png'"):
        write_explanation(other, explained, slide="slide-0")
    moved = replace(explained, xy_um=explained.xy_um + 30, files=())
    with pytest.raises(ValueError, match=r"tiles of slide 'slide-0' lie at no tile .*another field, stride"):
        write_explanation(other, moved, slide="slide-0")
    assert not other.tables
    assert not other.shapes
    same = replace(explained, xy_um=np.repeat(explained.xy_um[:1], len(explained.xy_um), axis=0))
    with pytest.raises(ValueError, match="lie where another one"):
        write_explanation(slide(paths), same, slide="slide-0")
    with pytest.raises(TypeError, match="explanation is a dict"):
        write_explanation(other, {})
    sdata = slide(paths)
    sdata.attrs["mine"] = 1
    write_explanation(sdata, explained, slide="slide-0")
    before = sdata.tables["tiles"].copy()

    def fails(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr("storm._bridge.workspace.add_elements", fails)
    with pytest.raises(RuntimeError, match="no"):
        write_explanation(sdata, replace(explained, tiles=-explained.tiles), slide="slide-0")
    pd.testing.assert_frame_equal(sdata.tables["tiles"].obs, before.obs)
