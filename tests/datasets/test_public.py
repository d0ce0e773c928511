"""Public sections: the real files where they are, and made-up mirrors for everything that can go wrong."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy import sparse
from spatialdata.transformations import get_transformation

import storm
from storm.datasets import _her2st
from storm.datasets._fetch import PublicFiles, read_registry

pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")


def centres_um(sdata: sd.SpatialData) -> np.ndarray:
    circles = sdata["spots"].geometry
    matrix = get_transformation(sdata["spots"], "um").to_affine_matrix(("x", "y"), ("x", "y"))
    return np.stack([circles.x, circles.y], axis=1) @ matrix[:2, :2].T + matrix[:2, 2]


# -------------------------------------------------------------------------------------------------------- real files


def test_her2st_with_image(shared_data: Path, tmp_path: Path) -> None:
    sdata = storm.datasets.her2st("C2", path=shared_data)
    table = sdata["table"]
    assert table.shape == (187, 15706)
    assert isinstance(table.X, sparse.csr_matrix)
    assert table.X.dtype == np.float32
    assert {"ERBB2", "COL1A1"} <= set(table.var_names)
    assert [node["image"].shape for node in sdata["he"].children.values()][:2] == [(3, 9911, 9274), (3, 4955, 4637)]
    assert set(sdata.coordinate_systems) == {"global", "um"}
    assert 0.683 < table.uns["st"]["um_per_px"] < 0.693
    assert "pitch of 200" in table.uns["st"]["um_per_px_source"]
    um = centres_um(sdata)
    radius = sdata["spots"]["radius"] * table.uns["st"]["um_per_px"]
    np.testing.assert_allclose(radius, 50.0)
    # neighbours on the array are 200 µm apart
    array = table.obs[["array_col", "array_row"]].to_numpy()
    step = np.abs(array[:, None] - array[None]).sum(axis=2) == 1
    distance = np.linalg.norm(um[:, None] - um[None], axis=2)[step]
    assert abs(np.median(distance) - 200) < 5
    # spots lie on tissue: darker than the image as a whole
    small = np.asarray(sdata["he"]["scale3"]["image"].data)
    x, y = (um / table.uns["st"]["um_per_px"] / 8).astype(int).T
    assert small[:, y, x].mean() < small.mean() - 40

    without = storm.datasets.her2st("C2", path=shared_data / "her2st", image=False)
    assert not without.images
    without.write(tmp_path / "c2.zarr")
    assert (sd.read_zarr(tmp_path / "c2.zarr")["table"].X != table.X).nnz == 0


@pytest.mark.parametrize(("section", "n", "classes"), [("B1", 295, 5), ("C1", 176, 4), ("D1", 306, 4), ("G2", 467, 7)])
def test_her2st_labels(shared_data: Path, section: str, n: int, classes: int) -> None:
    storm.settings.data_dir = shared_data
    sdata = storm.datasets.her2st(section)
    labels = sdata["table"].obs["label"]
    assert not sdata.images
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert labels.notna().sum() == n == sdata["table"].n_obs
    assert labels.nunique() == classes
    assert "invasive cancer" in labels.cat.categories


def test_her2st_says_what_it_left_out(shared_data: Path) -> None:
    facts = storm.datasets.her2st("C4", path=shared_data, image=False)["table"].uns["st"]
    assert (facts["spots_without_counts"], facts["counts_without_spot"]) == (3, 0)


def test_registry_knows_the_mirror_s_files(shared_data: Path) -> None:
    registry = read_registry("her2st")
    assert len(registry) == 70
    for file in ("ST-spotfiles/C2_selection.tsv", "ST-cnts/B1.tsv.gz", "ST-pat/lbl/G2_labeled_coordinates.tsv"):
        assert hashlib.sha256((shared_data / "her2st" / file).read_bytes()).hexdigest() == registry[file]


@pytest.mark.parametrize(("section", "shape"), [("rep11", (262, 16218)), ("rep12", (282, 16034))])
def test_mob(shared_data: Path, section: str, shape: tuple[int, int]) -> None:
    sdata = storm.datasets.mob(section, path=shared_data)
    table = sdata["table"]
    assert table.shape == shape
    assert table.obs["layer"].nunique() == 5
    assert table.obs["layer"].isna().sum() == (3 if section == "rep12" else 0)
    assert table.uns["st"]["um_per_px"] == pytest.approx(2.75, rel=0.01)
    assert sdata["he"]["scale0"]["image"].shape[1] in (2475, 2478)
    nearest = np.sort(np.linalg.norm(np.diff(centres_um(sdata), axis=0), axis=1))
    assert abs(np.median(nearest[:100]) - 200) < 20


# ------------------------------------------------------------------------------------------------- without real files


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror of two tiny sections; X9 has an image and labels."""
    root = tmp_path / "mirror" / "her2st"
    grid = [(x, y) for x in range(3, 7) for y in range(2, 6)]
    rng = np.random.default_rng(0)
    for section in ("X1", "X9"):
        counts = pd.DataFrame(rng.poisson(2.0, (len(grid), 3)), columns=["A", "B", "C"])
        counts.index = [f"{x}x{y}" for x, y in grid]
        spots = pd.DataFrame(grid, columns=["x", "y"])
        spots["pixel_x"], spots["pixel_y"] = spots["x"] * 40.0, spots["y"] * 40.0
        for folder in ("ST-cnts", "ST-spotfiles", "ST-pat/lbl"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        counts.to_csv(root / "ST-cnts" / f"{section}.tsv.gz", sep="\t")
        spots.to_csv(root / "ST-spotfiles" / f"{section}_selection.tsv", sep="\t", index=False)
    labels = pd.DataFrame(
        {"Row.names": "p", "x": [3.1, 3.9, np.nan], "y": [2.2, 1.8, np.nan], "label": ["t", "s", "s"]}
    )
    labels.to_csv(root / "ST-pat" / "lbl" / "X9_labeled_coordinates.tsv", sep="\t", index=False)
    from PIL import Image

    (root / "ST-imgs" / "X" / "X9").mkdir(parents=True)
    Image.new("RGB", (300, 260), (200, 120, 180)).save(root / "ST-imgs" / "X" / "X9" / "any name.jpg")
    return root


@pytest.mark.parametrize("parent", [False, True])
def test_mirror_may_hold_more(mirror: Path, parent: bool) -> None:
    sdata = storm.datasets.her2st("X9", path=mirror.parent if parent else mirror)
    assert sdata["he"]["scale0"]["image"].shape == (3, 260, 300)
    assert sdata["table"].uns["st"]["um_per_px"] == pytest.approx(5.0)
    labels = sdata["table"].obs["label"]
    assert labels["3x2"] == "t"
    assert labels["4x2"] == "s"
    assert labels.notna().sum() == 2
    assert "label" not in storm.datasets.her2st("X1", path=mirror)["table"].obs


def test_clone_of_the_repository_is_a_mirror(mirror: Path) -> None:
    shutil.move(mirror, mirror.with_name("data"))
    assert storm.datasets.her2st("X1", path=mirror.parent)["table"].n_obs == 16


def test_unknown_section(mirror: Path) -> None:
    with pytest.raises(ValueError, match=r"Z1.*'B1'.*'X9'"):
        storm.datasets.her2st("Z1", path=mirror)
    with pytest.raises(ValueError, match="rep12"):
        storm.datasets.mob("rep13", path=mirror)


def test_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ST-cnts"):
        storm.datasets.her2st("C2", path=tmp_path)
    storm.settings.data_dir = None
    with pytest.raises(FileNotFoundError, match="STORM_DATA_DIR"):
        storm.datasets.mob()


def test_offline_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def offline(*_: object, **__: object) -> None:
        msg = "no route to host"
        raise ConnectionError(msg)

    monkeypatch.setattr(pooch, "retrieve", offline)
    storm.settings.data_dir = None
    storm.settings.cache_dir = tmp_path
    with pytest.raises(FileNotFoundError, match=r"ST-cnts/C2.tsv.gz could not be fetched .*STORM_DATA_DIR"):
        storm.datasets.her2st("C2")


def test_download_is_verified_and_kept(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come from their address with the registered hash, and land in the cache folder."""
    import pooch

    folders = ("ST-cnts", "ST-spotfiles")
    registry = {
        p.relative_to(mirror).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for folder in folders
        for p in (mirror / folder).iterdir()
    }
    asked = []

    def download(url: str, output_file: str, _pooch: object) -> None:
        asked.append(url)
        shutil.copy(mirror / url.split("/data/")[1], output_file)

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **_: download)
    monkeypatch.setattr(_her2st, "read_registry", lambda _: registry)
    storm.settings.data_dir = None
    storm.settings.cache_dir = tmp_path / "cache"
    assert storm.datasets.her2st("X1")["table"].n_obs == 16
    assert [url.split("/raw/")[1][:7] for url in asked] == ["e75e5c5", "9f2260c"]
    storm.datasets.her2st("X1")
    assert len(asked) == 2
    assert (tmp_path / "cache" / "her2st" / "ST-cnts" / "X1.tsv.gz").is_file()
    registry["ST-cnts/X9.tsv.gz"] = "0" * 64
    with pytest.raises(ValueError, match="hash"):
        storm.datasets.her2st("X9")


def test_explicit_path_wins(mirror: Path, tmp_path: Path) -> None:
    storm.settings.data_dir = tmp_path
    assert PublicFiles.open("her2st", marker="ST-cnts", path=mirror).mirror == mirror
    assert PublicFiles.open("her2st", marker="ST-cnts", path=None).mirror is None


def test_a_mirror_s_file_is_verified(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a mirror that is not the published one is refused; files without a known sum are taken as they are."""
    file = mirror / "ST-cnts" / "X1.tsv.gz"
    registry = {"ST-cnts/X1.tsv.gz": hashlib.sha256(file.read_bytes()).hexdigest()}
    monkeypatch.setattr(_her2st, "read_registry", lambda _: registry)
    assert storm.datasets.her2st("X1", path=mirror)["table"].n_obs == 16
    counts = pd.read_csv(file, sep="\t", index_col=0)
    (counts + 1).to_csv(file, sep="\t")
    with pytest.raises(
        ValueError, match=r"X1\.tsv\.gz is not the published file: its sha256 is .*remove it from the mirror"
    ):
        storm.datasets.her2st("X1", path=mirror)
    storm.settings.data_dir = mirror.parent
    with pytest.raises(ValueError, match="is not the published file"):
        storm.datasets.her2st("X1")
    assert storm.datasets.her2st("X9", path=mirror)["table"].n_obs == 16
