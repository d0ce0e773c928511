"""The figure for checking a section: its contents, read back from the axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import EllipseCollection, PolyCollection
from spatialdata import SpatialData
from spatialdata.transformations import Translation, set_transformation

import storm
from storm._bridge import read_spots


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def outlines_of(ax) -> list:
    return [c for c in ax.collections if isinstance(c, EllipseCollection | PolyCollection)]


def test_the_section_and_its_patches(toy) -> None:
    axes = storm.pl.check(toy)
    assert axes.shape == (13,)
    spots = read_spots(toy)
    counts = np.asarray(spots.counts.sum(axis=1)).ravel()
    section, *patches = axes
    # The whole image is drawn, and all spots over it, in µm with y down.
    x0, y0, x1, y1 = spots.patches.extent_um
    assert section.get_xlim()[0] <= x0 < x1 <= section.get_xlim()[1]
    assert section.get_ylim()[0] >= y1 > y0 >= section.get_ylim()[1]
    drawn = section.collections[0].get_offsets()
    np.testing.assert_allclose(np.sort(drawn[:, 0]), np.sort(spots.centres[:, 0]))
    assert len(section.patches) == 12
    assert [text.get_text() for text in section.texts] == [str(k) for k in range(1, 13)]
    seen = []
    for k, (ax, field) in enumerate(zip(patches, section.patches, strict=True)):
        left, right = ax.get_xlim()
        bottom, top = ax.get_ylim()
        assert (right - left, bottom - top) == pytest.approx((112, 112))
        assert field.get_xy() == pytest.approx((left, top))
        assert ax.images[0].get_array().shape == (320, 320, 3)
        middle = ((left + right) / 2, (bottom + top) / 2)
        row = int(np.argmin(np.square(spots.centres - middle).sum(axis=1)))
        np.testing.assert_allclose(spots.centres[row], middle, atol=1e-9)
        assert ax.get_title() == f"{k + 1}: {counts[row]:,.0f} counts"
        # The spot itself, at its true size, over those around it.
        own = outlines_of(ax)[-1]
        np.testing.assert_allclose(own.get_offsets(), [middle], atol=1e-9)
        assert own.get_widths() == pytest.approx(55)
        seen.append(row)
    assert len(set(seen)) == 12
    shown = counts[seen]
    assert (np.diff(shown) >= 0).all()
    ranks = np.searchsorted(np.sort(counts), shown) / len(counts)
    assert ranks[0] < 1 / 12
    assert ranks[-1] > 11 / 12 - 1e-9
    spread = np.ptp(spots.centres[seen], axis=0) / np.ptp(spots.centres, axis=0)
    assert (spread > 0.6).all()


def test_a_patch_shows_what_lies_there(toy) -> None:
    pixels = read_spots(toy).patches
    ax = storm.pl.check(toy, n=3, field_um=80)[2]
    middle = np.array([[np.mean(ax.get_xlim()), np.mean(ax.get_ylim())]])
    np.testing.assert_array_equal(ax.images[0].get_array(), pixels.read(middle, field_um=80, out_px=320)[0])


@pytest.mark.parametrize("platform", ["visium_hd", "xenium"])
def test_bins_and_cells_are_outlined(platform: str) -> None:
    sdata = storm.datasets.toy(platform, n=300, um_per_px=1.0)
    axes = storm.pl.check(sdata, n=4)
    own, others = outlines_of(axes[3])[-1], outlines_of(axes[3])[0]
    assert len(own.get_paths()) == 1
    assert len(others.get_paths()) > 5
    size = np.ptp(own.get_paths()[0].vertices[:, 0])
    assert size == pytest.approx(8) if platform == "visium_hd" else 3 < size < 30


def test_of_many_spots_some_are_drawn(toy, monkeypatch) -> None:
    monkeypatch.setattr("storm.pl._check._SHOWN", 20)
    section = storm.pl.check(toy, n=1)[0]
    assert len(section.collections[0].get_offsets()) == 20
    assert section.get_title() == "20 of 150 centres on the whole image"


def test_without_counts_and_few_spots(toy) -> None:
    bare = SpatialData(images={"he": toy["he"]}, shapes={"spots": toy["spots"].iloc[:5]})
    axes = storm.pl.check(bare)
    assert [ax.get_title() for ax in axes[1:]] == ["1", "2", "3", "4", "5"]


def test_spots_beside_their_image_are_drawn_there(toy) -> None:
    set_transformation(toy["spots"], Translation([5000, 0], axes=("x", "y")), "um")
    section, *patches = storm.pl.check(toy, n=2)
    assert section.get_xlim()[1] > 5000
    assert all((ax.images[0].get_array() == 255).all() for ax in patches)


def test_several_sections_are_drawn_one_below_the_other(toy) -> None:
    """A list, or a table whose column names the sections: each with its own spots and patches."""
    other = storm.datasets.toy("visium", n=100, seed=1)
    axes = storm.pl.check([toy, other], n=3)
    alone = storm.pl.check(other, n=3)
    assert len(axes) == 8
    assert [ax.get_title() for ax in axes[5:]] == [ax.get_title() for ax in alone[1:]]
    assert axes[4].get_title() == f"data[1]: {alone[0].get_title()}"
    assert axes[0].figure is axes[4].figure
    axes[0].figure.canvas.draw()
    assert axes[4].get_position().y1 < axes[0].get_position().y0
    toy["table"].obs["half"] = np.where(toy["table"].obsm["spatial"][:, 0] < 650, "left", "right")
    left, *_, right, _ = storm.pl.check(toy, n=1, library_key="half")
    n = (toy["table"].obs["half"] == "left").sum()
    assert left.get_title() == f"left: {n} centres on the whole image"
    assert right.get_title() == f"right: {150 - n} centres on the whole image"


def test_a_slide_is_drawn_with_the_tiles_that_would_be_laid(toy) -> None:
    slide = SpatialData(images={"he": toy["he"]})
    section, *patches = storm.pl.check(slide, n=4)
    assert len(patches) == 4
    shown = len(section.collections[0].get_offsets())
    storm.tl.encode_tiles(tiled := SpatialData(images={"he": toy["he"]}), "stain-texture")
    assert shown == tiled["tiles"].n_obs
    assert not slide.tables
    assert not slide.shapes


def test_bad_calls_draw_nothing(toy) -> None:
    before = plt.get_fignums()
    with pytest.raises(ValueError, match="AnnData holds no H&E image"):
        storm.pl.check(toy["table"])
    with pytest.raises(KeyError, match="image_key='x'"):
        storm.pl.check(toy, image_key="x")
    with pytest.raises(ValueError, match="n=0"):
        storm.pl.check(toy, n=0)
    with pytest.raises(ValueError, match=r"n=0\.5 must be a whole number"):
        storm.pl.check(toy, n=0.5)
    with pytest.raises(ValueError, match="field_um=-1"):
        storm.pl.check(toy, field_um=-1)
    assert plt.get_fignums() == before
