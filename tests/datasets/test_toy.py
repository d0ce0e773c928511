"""The drawn section: its structure on every platform, and that what is planted can be found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy import sparse
from spatialdata.transformations import get_transformation

import storm
from storm.datasets import _toy
from storm.datasets._paint import Painter
from storm.datasets._panel import CONTENT
from storm.datasets._types import CELLS, DOMAINS, T_CELL

PLATFORMS = {"visium": "spots", "visium_hd": "bins", "xenium": "cells", "cosmx": "cells", "st": "spots"}
# anndata announces a default, and the standard library's contextlib is what it names as the culprit
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

AXES = (("x", "y"), ("x", "y"))


def levels(sdata: sd.SpatialData) -> list[np.ndarray]:
    return [np.asarray(node["image"].data) for node in sdata["he"].children.values()]


def um_to_px(sdata: sd.SpatialData) -> np.ndarray:
    """3 × 3 matrix from µm to pixels of the full-resolution image."""
    return get_transformation(sdata["he"], "um").inverse().to_affine_matrix(*AXES)


def centres_um(sdata: sd.SpatialData, shapes: str) -> np.ndarray:
    points = sdata[shapes].geometry.centroid
    matrix = get_transformation(sdata[shapes], "um").to_affine_matrix(*AXES)
    return np.stack([points.x, points.y], axis=1) @ matrix[:2, :2].T + matrix[:2, 2]


@pytest.fixture(scope="module")
def visium() -> sd.SpatialData:
    return storm.datasets.toy("visium", n=200, seed=3, truth=True)


# ------------------------------------------------------------------------------------------------------- structure


@pytest.mark.parametrize("platform", PLATFORMS)
def test_structure(platform: str, tmp_path: Path) -> None:
    n, shapes = (40 if platform == "st" else 80), PLATFORMS[platform]
    sdata = storm.datasets.toy(platform, n=n, um_per_px=2.0)
    table = sdata["table"]
    assert list(sdata.shapes) == [shapes]
    assert set(sdata.coordinate_systems) == {"global", "um"}
    assert table.n_obs == len(sdata[shapes]) == n
    assert isinstance(table.X, sparse.csr_matrix)
    assert table.X.dtype == np.float32
    assert (table.X.data == np.round(table.X.data)).all()
    assert table.var_names.is_unique
    assert table.obs_names.is_unique
    assert len({"EPCAM", "KRT8", "COL1A1", "PECAM1", "CD3E", "ACTB", "ADIPOQ"} & set(table.var_names)) >= 4
    assert list(table.obs["domain"].cat.categories) == list(DOMAINS)
    assert table.uns["toy"]["synthetic"]
    assert sdata.attrs["toy"]["seed"] == 0
    images = levels(sdata)
    assert len(images) > 1
    assert all(image.dtype == np.uint8 and image.shape[0] == 3 for image in images)
    key = table.uns["spatialdata_attrs"]["instance_key"]
    assert table.obs[key].tolist() == sdata[shapes].index.tolist()
    # every centre lies in the image, and on tissue
    inside = centres_um(sdata, shapes) / 2.0
    assert (inside > 0).all()
    assert (inside < images[0].shape[:0:-1]).all()

    sdata.write(tmp_path / "toy.zarr")
    back = sd.read_zarr(tmp_path / "toy.zarr")
    assert (back["table"].X != table.X).nnz == 0
    assert back["table"].obs["domain"].equals(table.obs["domain"])
    np.testing.assert_array_equal(levels(back)[-1], images[-1])


def test_cells_are_typed() -> None:
    sdata = storm.datasets.toy("xenium", n=300)
    types = sdata["table"].obs["cell_type"]
    assert list(types.cat.categories) == list(CELLS)
    assert types.nunique() >= 7
    assert sdata["table"].n_vars == 220
    assert sdata["cells"].geometry.is_valid.all()


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"platform": "slide-seq"}, ValueError, "visium_hd"),
        ({"n": 5}, ValueError, "at least 20"),
        ({"n": True}, ValueError, "integer"),
        ({"n": 200.5}, ValueError, "integer"),
        ({"um_per_px": 0.0}, ValueError, "um_per_px"),
        ({"um_per_px": -1.0}, ValueError, "um_per_px"),
        ({"n_genes": 0}, ValueError, "n_genes"),
        ({"n_genes": 400}, ValueError, "306"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_bad_arguments(kwargs: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        storm.datasets.toy(**kwargs)


# ----------------------------------------------------------------------------------------------------- determinism


def test_same_seed_same_section() -> None:
    first, again, other = (storm.datasets.toy("visium", n=60, seed=s, um_per_px=2.0) for s in (1, 1, 2))
    for a, b in zip(levels(first), levels(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first["table"].X != again["table"].X).nnz == 0
    assert first["table"].obs_names.equals(again["table"].obs_names)
    assert (first["table"].X != other["table"].X).nnz > 100


@pytest.mark.parametrize("platform", ["visium", "xenium"])
def test_store_equals_memory(platform: str, tmp_path: Path) -> None:
    kwargs = {"n": 100, "seed": 5, "um_per_px": 1.0 if platform == "visium" else 0.25}
    memory = storm.datasets.toy(platform, **kwargs)
    disk = storm.datasets.toy(platform, **kwargs, path=tmp_path / "toy.zarr")
    assert disk.path == tmp_path / "toy.zarr"
    for a, b in zip(levels(memory), levels(disk), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (memory["table"].X != disk["table"].X).nnz == 0
    chunks = disk["he"]["scale0"]["image"].data.chunksize
    assert 256 <= max(chunks[1:]) <= 1024
    with pytest.raises(FileExistsError, match="exists"):
        storm.datasets.toy(platform, **kwargs, path=tmp_path / "toy.zarr")


def test_no_half_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        msg = "no more paint"
        raise RuntimeError(msg)

    monkeypatch.setattr(Painter, "paint", fail)
    with pytest.raises(RuntimeError, match="no more paint"):
        storm.datasets.toy(n=30, um_per_px=4.0, path=tmp_path / "toy.zarr")
    assert not list(tmp_path.iterdir())


def test_tiles_join() -> None:
    section, nuclei, _, _ = _toy._draw("visium", 60, 4)
    painter = Painter(section, nuclei, um_per_px=0.7)
    whole = painter.paint(300, 400, (200, 320))
    parts = [painter.paint(300, 400, (200, 123)), painter.paint(300, 523, (200, 197))]
    difference = np.abs(whole.astype(int) - np.concatenate(parts, axis=2))
    assert whole.std() > 20
    assert difference.max() <= 2


def test_resolution_changes_pixels_not_tissue() -> None:
    fine, coarse = (storm.datasets.toy("visium", n=60, seed=1, um_per_px=m) for m in (1.0, 2.0))
    assert (fine["table"].X != coarse["table"].X).nnz == 0
    halved, small = levels(fine)[1].astype(float), levels(coarse)[0].astype(float)
    h, w = (min(a, b) for a, b in zip(halved.shape[1:], small.shape[1:], strict=True))
    assert np.corrcoef(halved[:, :h, :w].ravel(), small[:, :h, :w].ravel())[0, 1] > 0.9


# ----------------------------------------------------------------------------------------------- micrometres and truth


def test_spots_keep_their_pitch(visium: sd.SpatialData) -> None:
    centres = centres_um(visium, "spots")
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    nearest = np.sort(distance, axis=1)[:, 1]
    np.testing.assert_allclose(nearest, 100.0, atol=1e-6)
    radius = visium["spots"]["radius"].to_numpy() * visium["table"].uns["toy"]["um_per_px"]
    np.testing.assert_allclose(radius, 27.5)
    # µm centre → pixel of the image is where the circle lies in pixels
    matrix = um_to_px(visium)
    circles = visium["spots"].geometry
    pixels = centres @ matrix[:2, :2].T + matrix[:2, 2]
    np.testing.assert_allclose(pixels, np.stack([circles.x, circles.y], axis=1), atol=1e-6)


@pytest.mark.parametrize("um_per_px", [0.5, 0.83])
def test_nucleus_is_dark_where_it_was_drawn(um_per_px: float) -> None:
    sdata = storm.datasets.toy("xenium", n=400, seed=2, um_per_px=um_per_px)
    cells = centres_um(sdata, "cells")[(sdata["table"].obs["cell_type"] == CELLS[T_CELL]).to_numpy()]
    matrix = um_to_px(sdata)
    red = levels(sdata)[0][0].astype(float)

    def at(um: np.ndarray) -> np.ndarray:
        x, y = np.floor(um @ matrix[:2, :2].T + matrix[:2, 2]).astype(int).T
        ok = (x >= 0) & (y >= 0) & (x < red.shape[1]) & (y < red.shape[0])
        return red[y[ok], x[ok]]

    assert len(cells) > 30
    beside = np.concatenate([at(cells + 4.5 * np.array([np.cos(t), np.sin(t)])) for t in range(6)])
    assert np.median(at(cells)) < 110
    assert np.median(at(cells)) < np.median(beside) - 40


@pytest.mark.parametrize(
    ("domain", "genes"),
    [
        ("invasive cancer", ["EPCAM", "ERBB2", "KRT19"]),
        ("adipose tissue", ["ADIPOQ", "PLIN1", "FABP4"]),
        ("immune infiltrate", ["CD3E", "CD79A", "PTPRC"]),
        ("connective tissue", ["DCN", "COL1A2", "LUM"]),
        ("breast glands", ["SCGB2A2", "KRT5", "PIP"]),
    ],
)
def test_markers_mark_their_domain(visium: sd.SpatialData, domain: str, genes: list[str]) -> None:
    table = visium["table"]
    counts = table.X.toarray()
    share = counts / counts.sum(axis=1, keepdims=True)
    inside = (table.obs["domain"] == domain).to_numpy()
    assert inside.sum() >= 10
    for gene in genes:
        column = share[:, table.var_names.get_loc(gene)]
        assert column[inside].mean() > 1.5 * column[~inside].mean(), gene


def test_counts_follow_the_cells_that_are_drawn(visium: sd.SpatialData) -> None:
    table = visium["table"]
    abundance = pd.DataFrame(table.obsm["cells"], columns=list(table.uns["toy"]["cell_types"]))
    for cell, gene in {"tumour cell": "FASN", "T cell": "CD3D", "B cell": "MS4A1", "luminal cell": "SCGB2A2"}.items():
        counts = table[:, gene].X.toarray().ravel()
        assert np.corrcoef(np.log1p(counts), np.log1p(abundance[cell]))[0, 1] > 0.5, gene
    # under tumour, counts follow the number of nuclei too: local morphology, not the domain alone
    tumour = (table.obs["domain"] == "invasive cancer").to_numpy()
    total = np.asarray(table.X.sum(axis=1)).ravel()
    content = abundance.to_numpy() @ CONTENT
    assert np.corrcoef(total[tumour], content[tumour])[0, 1] > 0.4


@pytest.mark.parametrize("platform", ["visium", "visium_hd", "xenium", "st"])
def test_sections_can_be_put_together(platform: str) -> None:
    parts = {name: storm.datasets.toy(platform, n=40, seed=seed, um_per_px=4.0) for seed, name in enumerate("AB")}
    both = sd.concatenate(parts, concatenate_tables=True)["table"]
    assert both.n_obs == sum(one["table"].n_obs for one in parts.values())
    if platform != "xenium":
        assert both.obsm["cells"].shape == (both.n_obs, len(parts["A"]["table"].uns["toy"]["cell_types"]))


def test_counts_scatter_around_the_rate(visium: sd.SpatialData) -> None:
    table = visium["table"]
    rate = table.layers["rate"]
    mean = rate * table.obs["capture"].to_numpy()[:, None]
    counts = table.X.toarray()
    common = mean.mean(axis=0) > 5
    assert common.sum() > 50
    ratio = counts.sum(axis=0)[common] / mean.sum(axis=0)[common]
    assert np.abs(ratio - 1).max() < 0.25
    # more than Poisson, as a negative-binomial with a dispersion of about 0.12
    excess = ((counts - mean) ** 2 - mean)[:, common].sum(axis=0) / (mean**2)[:, common].sum(axis=0)
    assert 0.05 < np.median(excess) < 0.3


def test_hidden_genes_are_not_in_the_image(visium: sd.SpatialData) -> None:
    """Interferon-induced genes vary in space, but not with the cells that are drawn."""
    table = visium["table"]
    rate = np.log(table.layers["rate"][:, table.var_names.get_loc("ISG15")])
    cells = np.log1p(table.obsm["cells"])
    design = np.column_stack([cells, np.ones(len(cells))])
    residual = rate - design @ np.linalg.lstsq(design, rate, rcond=None)[0]
    assert residual.std() > 0.25


def test_every_domain_has_its_share() -> None:
    for seed in range(3):
        table = storm.datasets.toy("visium", n=150, seed=seed, um_per_px=4.0)["table"]
        share = table.obs["domain"].value_counts(normalize=True)
        assert share.min() > 0.06
        assert share.max() < 0.5
