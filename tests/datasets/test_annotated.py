"""Annotated sections that are read from a mirror only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import storm


@pytest.mark.parametrize(("section", "n"), [("151673", 2929), ("151674", 2877)])
def test_dlpfc_has_spots_100_um_apart_on_their_picture(shared_data: Path, section: str, n: int) -> None:
    from scipy.spatial import cKDTree
    from spatialdata.transformations import get_transformation

    sdata = storm.datasets.dlpfc(section, path=shared_data)
    table = sdata["table"]
    assert table.n_obs == n
    assert set(table.obs["layer"].cat.categories) == {f"Layer{k}" for k in range(1, 7)} | {"WM"}
    assert (table.X.data == np.rint(table.X.data)).all()
    facts = table.uns["dlpfc"]
    assert facts["um_per_px"] == pytest.approx(16.1, abs=0.3)
    assert facts["array_residual_um"] < 25
    circles = sdata["spots"].geometry
    pixels = np.stack([circles.x, circles.y], axis=1)
    matrix = get_transformation(sdata["spots"], "um").to_affine_matrix(("x", "y"), ("x", "y"))
    um = pixels @ matrix[:2, :2].T + matrix[:2, 2]
    assert np.median(cKDTree(um).query(um, 2)[0][:, 1]) == pytest.approx(100, rel=0.02)
    picture = np.asarray(sdata["he"]["scale0"]["image"] if "scale0" in sdata["he"] else sdata["he"])
    x, y = pixels.astype(int).T
    assert picture[:, y, x].mean() < picture.mean() - 10


@pytest.mark.parametrize(("section", "shape"), [("visual", (1207, 1020)), ("prefrontal", (1049, 166))])
def test_starmap_has_layers_and_types(shared_data: Path, section: str, shape: tuple[int, int]) -> None:
    adata = storm.datasets.starmap(section, path=shared_data)
    assert adata.shape == shape
    assert adata.obs["layer"].notna().all()
    assert adata.obs["cell_type"].nunique() > 5
    assert (adata.X.data == np.rint(adata.X.data)).all()


def test_a_section_that_does_not_exist_and_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="151673"):
        storm.datasets.dlpfc("151675")
    with pytest.raises(ValueError, match="visual"):
        storm.datasets.starmap("motor")
    with pytest.raises(FileNotFoundError, match="DLPFC_151673"):
        storm.datasets.dlpfc(path=tmp_path)
    with pytest.raises(FileNotFoundError, match="STORM_DATA_DIR"):
        storm.datasets.starmap()
