"""Alignments of an H&E that was taken afterwards: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vendor_folders as vendor
from storm import io
from storm.io._alignment import read_alignment

MATRIX = np.array([[1.9, -0.3, 1000], [0.3, 1.9, 3000], [0, 0, 1]])


def test_arrays_and_csv_agree(tmp_path: Path) -> None:
    for given in (MATRIX, MATRIX[:2], MATRIX.tolist(), vendor.write_matrix(tmp_path / "m.csv", MATRIX)):
        matrix, facts = read_alignment(given)
        np.testing.assert_allclose(matrix, MATRIX)
        assert facts == {}


def test_key_points(tmp_path: Path) -> None:
    moving = np.random.default_rng(0).uniform(0, 500, (6, 2))
    fixed = moving @ MATRIX[:2, :2].T + MATRIX[:2, 2]
    file = tmp_path / "points.csv"
    lines = [f"{a},{b},{c},{d}" for (a, b), (c, d) in zip(fixed, moving, strict=True)]
    file.write_text("fixedX,fixedY,alignmentX,alignmentY\n" + "\n".join(lines))
    matrix, facts = read_alignment(file)
    np.testing.assert_allclose(matrix, MATRIX, atol=1e-6)
    assert facts["key_points"] == 6
    assert facts["key_points_residual_px"] < 1e-6
    for few in (lines[:2], [lines[0]] * 4):
        file.write_text("fixedX,fixedY,alignmentX,alignmentY\n" + "\n".join(few))
        with pytest.raises(ValueError, match=r"key points; an affine map needs three"):
            read_alignment(file)
    file.write_text("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,x")
    with pytest.raises(ValueError, match="not a number"):
        read_alignment(file)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(2), r"shape \(2, 2\)"),
        (np.full((3, 3), np.nan), "not finite"),
        (MATRIX.T, r"last row.*not 0, 0, 1"),
        (MATRIX * [[1], [-1], [1]], r"determinant.*-3\.7.*flip"),
        (np.zeros((2, 3)), "cannot be inverted"),
        ("no_such.csv", "no_such.csv"),
        ([["a"]], "3 × 3 array of numbers"),
    ],
)
def test_what_is_no_alignment(matrix, words: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_alignment(matrix)


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("a,b\n1,2", "neither a 3 × 3"), ("1,2\n3", "neither")])
def test_what_is_no_file_of_an_alignment(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "m.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_alignment(file)


# ----------------------------------------------------------------------------------- against the section and its H&E

SHIFT = np.array([[2.0, 0, 1000], [0, 2, 3000], [0, 0, 1]])


def test_scale_off_by_ten(tmp_path: Path) -> None:
    folder, he, _ = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    wrong = SHIFT * [[10, 10, 1], [10, 10, 1], [1, 1, 1]]
    with pytest.raises(ValueError, match=r"implies 4\.25 µm per pixel.*0\.425 by the argument um_per_px.*factor 10"):
        io.xenium(folder, he, wrong, um_per_px=0.425)
    with pytest.raises(ValueError, match=r"implies 42\.5 µm per pixel.*which no H&E scan has"):
        io.xenium(folder, he, SHIFT * [[100, 100, 1], [100, 100, 1], [1, 1, 1]])


def test_scale_of_the_file(tmp_path: Path) -> None:
    """The H&E tells its own scale, by a resolution tag; the alignment must agree with it roughly."""
    folder, he, px = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    tagged = tmp_path / "tagged.tif"
    per_cm = 10_000 / 0.425
    with vendor.tifffile.TiffWriter(tagged) as file:
        file.write(vendor.he_image(px), photometric="rgb", tile=(64, 64), resolution=(per_cm, per_cm), resolutionunit=3)
    io.xenium(folder, tagged, SHIFT)
    with pytest.raises(ValueError, match=r"implies 4\.25 µm.*but they are 0\.425 by .*resolution tags"):
        io.xenium(folder, tagged, SHIFT * [[10, 10, 1], [10, 10, 1], [1, 1, 1]])
    with pytest.raises(ValueError, match="its inverse would fit"):
        io.xenium(folder, tagged, np.linalg.inv(SHIFT))
    assert he.is_file()


def test_no_cell_on_the_image(tmp_path: Path) -> None:
    folder, he, _ = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    away = SHIFT.copy()
    away[0, 2] += 50_000
    with pytest.raises(ValueError, match=r"no cell lies on slide_he_image\.ome\.tif \(480 × 360 px\)"):
        io.xenium(folder, he, away)


def test_small_image_is_a_picture_too(tmp_path: Path) -> None:
    folder, _, px = vendor.xenium_folder(tmp_path, alignment=SHIFT)
    Image.fromarray(vendor.he_image(px)).save(tmp_path / "he.png")
    assert io.xenium(folder, tmp_path / "he.png", SHIFT).attrs["storm_io"]["cells_on_image"] == 1.0
