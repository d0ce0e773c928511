"""Patches are true in µm, against planted colours and spatialdata's rasterization, at every level."""

from __future__ import annotations

import numpy as np
import pytest

from planted_pixels import IDENTITY, noise, pyramid, smooth
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import as_source


def affine(linear, shift=(0.0, 0.0)) -> np.ndarray:
    return np.column_stack([np.asarray(linear, dtype=float), shift])


def turn(degrees: float, scale: float = 1.0) -> np.ndarray:
    a = np.deg2rad(degrees)
    return scale * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


# ------------------------------------------------------------------------------------------- truth in µm

PX = {
    "half": affine(turn(0, 2.0), (3.3, -1.7)),
    "coarse": affine(turn(0, 0.41), (11.0, 17.2)),
    "mirrored": affine([[-1.3, 0], [0, 1.3]], (140.4, 2.0)),
    "upside down": affine([[1.3, 0], [0, -1.3]], (2.0, 140.4)),
    "quarter turn": affine([[0, -1.3], [1.3, 0]], (140.4, 2.2)),
    "transposed": affine([[0, 1.3], [1.1, 0]], (1.4, 2.2)),
    "anisotropic": affine([[0.8, 0], [0, 1.7]], (1.4, 2.2)),
    "rotated": affine(turn(33, 1.4), (60.0, 5.0)),
    "sheared": affine([[1.2, 0.4], [0, 0.9]], (3.0, 4.0)),
}


@pytest.mark.parametrize("name", PX)
def test_colour_is_a_function_of_position(name: str) -> None:
    """Red and green are planted as linear functions of µm; every pixel of every patch must show its own position."""
    um_to_px, size = PX[name], 150
    px = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), axis=-1)
    um = (px - um_to_px[:, 2]) @ np.linalg.inv(um_to_px[:, :2]).T
    low, high = um.min(axis=(0, 1)), um.max(axis=(0, 1))
    slope = np.array([230, 160]) / (high - low)
    image = np.zeros((3, size, size), dtype=np.uint8)
    dither = np.random.default_rng(0).uniform(size=um.shape)  # unbiased rounding
    image[:2] = np.moveaxis(np.floor((um - low) * slope + dither), -1, 0)
    reader = PatchReader([ImageLevel(as_source(image), um_to_px)])

    field, out = 24 * reader.um_per_px, 20
    middle = (np.array([size / 2, size / 2]) - um_to_px[:, 2]) @ np.linalg.inv(um_to_px[:, :2]).T
    centres = middle + np.random.default_rng(1).uniform(-0.6, 0.6, (30, 2)) * field
    patches = reader.read(centres, field_um=field, out_px=out).astype(float)

    at = (np.arange(out) + 0.5) / out * field - field / 2
    x = centres[:, None, None, 0] + at[None, None, :]
    y = centres[:, None, None, 1] + at[None, :, None]
    error = np.stack([patches[..., 0] - (x - low[0]) * slope[0], patches[..., 1] - (y - low[1]) * slope[1]], axis=-1)
    inner = error[:, 3:-3, 3:-3]
    assert np.abs(inner).max() < 2.5  # rounding, twice
    # means over a patch see a shift of a sixth of a pixel, means over all patches one of a fortieth
    shift_px = inner.mean(axis=(1, 2)) / slope / reader.um_per_px
    assert np.abs(shift_px).max() < 0.16
    assert np.abs(shift_px.mean(axis=0)).max() < 0.025
    assert (patches[..., 2] == 0).all()


@pytest.mark.parametrize("name", ["half", "mirrored", "anisotropic", "rotated", "sheared"])
def test_agrees_with_rasterize(name: str) -> None:
    """spatialdata samples the nearest pixel at the *corner* of each target pixel; the box is shifted accordingly."""
    from spatialdata import rasterize
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine

    um_to_px, size, out = PX[name], 220, 48
    px_to_um = np.linalg.inv(np.vstack([um_to_px, [0, 0, 1]]))
    image = smooth(size, size, sigma=9)
    element = Image2DModel.parse(
        image, dims=("c", "y", "x"), transformations={"um": Affine(px_to_um, ("x", "y"), ("x", "y"))}
    )
    reader = PatchReader([ImageLevel(as_source(image), um_to_px)])
    field = 60 * reader.um_per_px
    centre = px_to_um[:2, :2] @ [size / 2 + 4.4, size / 2 - 7.1] + px_to_um[:2, 2]
    ours = reader.read(centre[None], field_um=field, out_px=out)[0].astype(float)

    half_target = np.full(2, field / out / 2)
    half_source = px_to_um[:2, :2] @ [0.5, 0.5]
    low = centre - field / 2 + half_target - half_source
    theirs = rasterize(
        element,
        axes=("x", "y"),
        min_coordinate=low.tolist(),
        max_coordinate=(low + field).tolist(),
        target_coordinate_system="um",
        target_width=out,
    )
    theirs = np.moveaxis(theirs.data.compute(scheduler="synchronous"), 0, 2).astype(float)
    gradient = np.abs(np.diff(theirs, axis=1)).max()
    difference = np.abs(ours - theirs)[2:-2, 2:-2]
    assert difference.max() <= gradient + 2  # nearest neighbour is off by up to half a pixel both ways
    assert np.abs((ours - theirs)[2:-2, 2:-2].mean()) < 0.15
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.998


def test_pixels_are_copied_where_nothing_is_resized() -> None:
    image = noise(90, 70)
    patch = PatchReader([ImageLevel(as_source(image), IDENTITY)]).read(np.array([[30.0, 50.0]]), field_um=20, out_px=20)
    np.testing.assert_array_equal(patch[0], np.moveaxis(image[:, 40:60, 20:40], 0, 2))


def test_down_sampling_is_antialiased() -> None:
    stripes = np.zeros((3, 200, 200), dtype=np.uint8)
    stripes[:, :, ::2] = 255
    for linear in (turn(0), turn(20)):
        reader = PatchReader([ImageLevel(as_source(stripes), affine(linear, (100, 100)))])
        patch = reader.read(np.zeros((1, 2)), field_um=96, out_px=24)
        assert np.abs(patch[0, 2:-2, 2:-2].astype(float) - 127.5).max() < 12


def test_beyond_the_image_is_white() -> None:
    reader = PatchReader([ImageLevel(as_source(np.zeros((3, 60, 80), dtype=np.uint8)), IDENTITY)])
    centres = np.array([[0.0, 0.0], [79.9, 59.9], [40.0, 30.0], [80.0, 30.0], [-0.1, 30.0], [np.nan, 3.0]])
    np.testing.assert_array_equal(reader.inside(centres), [True, True, True, False, False, False])
    patches = reader.read(centres, field_um=20, out_px=20)
    assert (patches[0, :10] == 255).all()
    assert (patches[0, :, :10] == 255).all()
    assert (patches[0, 10:, 10:] == 0).all()
    assert (patches[1, 12:, :] == 255).all()
    assert (patches[2] == 0).all()
    assert (patches[3:] == 255).all()
    assert reader.extent_um == (0, 0, 80, 60)


# ------------------------------------------------------------------------------------------------ levels


def test_level_is_chosen_for_the_wanted_resolution() -> None:
    reader = pyramid(noise(256, 256))
    assert [level.um_per_px for level in reader.levels] == [1, 2, 4]
    assert reader.level_for(64, 128) == 0  # finer than there is: the finest
    assert reader.level_for(64, 64) == 0
    assert reader.level_for(64, 33) == 1  # 1.94 µm/px, level of 2.0: within 5 %
    assert reader.level_for(64, 36) == 0
    assert reader.level_for(64, 10) == 2


def test_level_is_chosen_by_the_longer_side_of_its_pixels() -> None:
    """A level with pixels of 1 × 4 µm has pixels of 2 µm in the mean, and is too coarse for 2.2 µm along y."""
    fine = ImageLevel(as_source(noise(64, 64)), IDENTITY)
    for linear in ([[1, 0], [0, 0.25]], [[0.25, 0], [0, 1]], turn(30) @ np.diag([1, 0.25])):
        uneven = ImageLevel(as_source(noise(16, 64)), affine(linear))
        assert uneven.um_per_px == pytest.approx(2)
        assert uneven.um_per_px_coarsest == pytest.approx(4)
        reader = PatchReader([fine, uneven])
        assert reader.level_for(22, 10) == 0
        assert reader.level_for(41, 10) == 1


def test_coarse_level_agrees_with_fine_level() -> None:
    image = smooth(512, 512, sigma=12)
    coarse = image.reshape(3, 128, 4, 128, 4).mean(axis=(2, 4)).round().astype(np.uint8)
    fine = PatchReader([ImageLevel(as_source(image), IDENTITY)])
    both = PatchReader([ImageLevel(as_source(image), IDENTITY), ImageLevel(as_source(coarse), IDENTITY / 4)])
    centres = np.random.default_rng(0).uniform(150, 350, (10, 2))
    a = fine.read(centres, field_um=128, out_px=32).astype(int)
    b = both.read(centres, field_um=128, out_px=32).astype(int)
    assert both.level_for(128, 32) == 1
    assert np.abs(a - b)[:, 2:-2, 2:-2].max() <= 2


def test_bad_arguments() -> None:
    reader = pyramid(noise(64, 64))
    with pytest.raises(ValueError, match="field_um=0"):
        reader.read(np.zeros((1, 2)), field_um=0, out_px=8)
    with pytest.raises(ValueError, match="whole number"):
        reader.read(np.zeros((1, 2)), field_um=8, out_px=8.5)
    for wrong in (0, True, None, "a"):
        with pytest.raises(ValueError, match=f"out_px={wrong!r} must be a whole number"):
            reader.read(np.zeros((1, 2)), field_um=8, out_px=wrong)
    with pytest.raises(ValueError, match=r"batch_size=2.5 must be a whole number"):
        reader.iter_patches(np.zeros((1, 2)), field_um=8, out_px=8, batch_size=2.5)
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        reader.iter_patches(np.zeros((1, 3)), field_um=8, out_px=8)
    with pytest.raises(ValueError, match="at least one"):
        PatchReader([])
    with pytest.raises(ValueError, match="affine"):
        ImageLevel(as_source(noise(8, 8)), np.zeros((2, 3)))
    with pytest.raises(TypeError, match="uint8"):
        as_source(np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match="three channels"):
        as_source(np.zeros((2, 8, 8), dtype=np.uint8))


@pytest.mark.parametrize("linear", [turn(0), turn(33)], ids=["straight", "rotated"])
def test_sizes_are_checked_before_anything_is_allocated(linear: np.ndarray) -> None:
    reader = PatchReader([ImageLevel(as_source(noise(64, 64)), affine(linear, (20, 20)))])
    centre = np.array([[20.0, 20.0]])
    with pytest.raises(ValueError, match=r"field_um=100000 covers .* × .* pixels .* at 1 µm/px; they take .* GB"):
        reader.iter_patches(centre, field_um=1e5, out_px=8)
    with pytest.raises(ValueError, match=r"field_um=1e\+200 covers"):
        reader.iter_patches(centre, field_um=1e200, out_px=8)
    with pytest.raises(ValueError, match=r"a batch of 1 patches of out_px=1000000 takes 3e\+03 GB.*smaller"):
        reader.iter_patches(centre, field_um=10, out_px=10**6)
    with pytest.raises(ValueError, match=r"a batch of 4 patches of out_px=20000 takes 4.8 GB"):
        reader.iter_patches(np.repeat(centre, 9, axis=0), field_um=10, out_px=20_000, batch_size=4)
    with pytest.raises(ValueError, match=r"1 patches of out_px=100000000 take 3e\+07 GB, and .* GB of memory are free"):
        reader.read(centre, field_um=10, out_px=10**8)
    if reader.boxes_suffice(10, 8):
        with pytest.raises(ValueError, match=r"field_um=100000 covers"):
            reader.iter_canvases(centre, field_um=1e5, out_px=8)


def test_no_centre_no_patch() -> None:
    reader = pyramid(noise(64, 64))
    assert list(reader.iter_patches(np.zeros((0, 2)), field_um=8, out_px=8)) == []
    assert list(reader.iter_patches(np.full((4, 2), -9.0), field_um=8, out_px=8)) == []
    assert reader.read(np.zeros((0, 2)), field_um=8, out_px=8).shape == (0, 8, 8, 3)


def test_the_extent_of_an_image_that_is_shifted_and_mirrored() -> None:
    """x pixels are 2 x + 10, y pixels 50 - y: the box around 60 × 50 pixels, in µm."""
    moved = ImageLevel(as_source(noise(50, 60)), np.array([[2.0, 0.0, 10.0], [0.0, -1.0, 50.0]]))
    assert PatchReader([moved]).extent_um == pytest.approx((-5.0, 0.0, 25.0, 50.0))
