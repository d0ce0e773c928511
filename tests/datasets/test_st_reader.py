"""The reader of legacy Spatial Transcriptomics on small files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from spatialdata.transformations import get_transformation

from storm.io import st
from storm.io._placing import fit_scale
from storm.io._pyramid import halve, level_shapes, pyramid

GRID = [(x, y) for x in range(5, 10) for y in range(7, 11)]


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(1)
    counts = pd.DataFrame(rng.poisson(1.0, (len(GRID), 4)), columns=list("ABCD"), index=[f"{x}x{y}" for x, y in GRID])
    spots = pd.DataFrame(GRID, columns=["x", "y"])
    # 0.8 µm per pixel, turned by 10°
    turn = np.deg2rad(10)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    spots[["pixel_x", "pixel_y"]] = np.array(GRID) * 250.0 @ rotation.T + [300, 20]
    files = {k: tmp_path / k for k in ("counts.tsv", "spots.tsv", "he.png")}
    counts.to_csv(files["counts.tsv"], sep="\t")
    spots.to_csv(files["spots.tsv"], sep="\t", index=False)
    pixels = rng.integers(0, 255, (40, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(files["he.png"])
    return {k.split(".")[0]: v for k, v in files.items()}


def rewrite(path: Path, change, **kwargs) -> None:
    frame = change(pd.read_csv(path, sep="\t", **kwargs))
    frame.to_csv(path, sep="\t", index=bool(kwargs))


def test_reads_all(section: dict[str, Path]) -> None:
    sdata = st(section["counts"], section["spots"], section["he"])
    table = sdata["table"]
    assert table.uns["st"]["um_per_px"] == pytest.approx(0.8)
    assert table.uns["st"]["array_residual_um"] == pytest.approx(0, abs=1e-6)
    frame = pd.read_csv(section["counts"], sep="\t", index_col=0)
    np.testing.assert_array_equal(table.X.toarray(), frame.to_numpy())
    assert table.obs[["array_col", "array_row"]].to_numpy().tolist() == [list(p) for p in GRID]
    np.testing.assert_array_equal(
        np.asarray(sdata["he"]["scale0"]["image"].data).transpose(1, 2, 0), np.asarray(Image.open(section["he"]))
    )
    scale = get_transformation(sdata["he"], "um").to_affine_matrix(("x", "y"), ("x", "y"))
    assert scale[0, 0] == pytest.approx(0.8)
    assert sdata["spots"]["radius"].iloc[0] == pytest.approx(62.5)


def test_given_scale_wins(section: dict[str, Path]) -> None:
    sdata = st(section["counts"], section["spots"], um_per_px=0.5)
    assert sdata["table"].uns["st"]["um_per_px_source"] == "given"
    assert sdata["spots"]["radius"].iloc[0] == pytest.approx(100.0)
    assert not sdata.images


def test_rows_of_one_table_only_are_left_out(section: dict[str, Path]) -> None:
    rewrite(section["counts"], lambda f: f.iloc[2:].rename({"9x10": "99x1"}), index_col=0)
    table = st(section["counts"], section["spots"])["table"]
    assert table.n_obs == len(GRID) - 3
    assert table.uns["st"]["counts_without_spot"] == 1
    assert table.uns["st"]["spots_without_counts"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.assign(A="text"), "are text"),
        (lambda f: f.assign(A=-1), "negative"),
        (lambda f: f.assign(A=np.nan), "missing"),
        (lambda f: f.rename({"5x7": "5x8"}), "spot twice"),
        (lambda f: f.rename(lambda s: "1" + s), "no spot in common"),
        (lambda f: f.iloc[:0], "empty"),
    ],
)
def test_bad_counts(section: dict[str, Path], change, words: str) -> None:
    rewrite(section["counts"], change, index_col=0)
    with pytest.raises(ValueError, match=words):
        st(section["counts"], section["spots"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="pixel_x"), "pixel_x"),
        (lambda f: f.assign(x=5, y=7), "spot twice"),
        (lambda f: f.assign(pixel_y=1.0), "on a line"),
    ],
)
def test_bad_spots(section: dict[str, Path], change, words: str) -> None:
    rewrite(section["spots"], change)
    with pytest.raises(ValueError, match=words):
        st(section["counts"], section["spots"])


def test_bad_arguments(section: dict[str, Path]) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        st(section["counts"], section["spots"], "nowhere.jpg")
    with pytest.raises(ValueError, match="um_per_px"):
        st(section["counts"], section["spots"], um_per_px=0)
    with pytest.raises(ValueError, match="pitch_um"):
        st(section["counts"], section["spots"], pitch_um=-1)


def test_fit_takes_reflections() -> None:
    """Some arrays are numbered against the direction of the image's axes."""
    um = np.array(GRID) * 200.0
    assert fit_scale(um, um[:, ::-1] * [1, -1] / 0.69)[0] == pytest.approx(0.69)


def test_pyramid_is_the_mean_of_four_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 1301, 701), dtype=np.uint8)
    small = halve(image)
    blocks = image[:, :1300, :700].reshape(3, 650, 2, 350, 2).astype(float).mean(axis=(2, 4))
    assert np.abs(small - blocks).max() <= 0.5
    assert [level.shape[1:] for level in pyramid(image)] == level_shapes((1301, 701)) == [(1301, 701), (650, 350)]
