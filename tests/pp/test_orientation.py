"""Flips and shifts: sections that lie rightly are left alone, and what was turned on purpose is found and named."""

from __future__ import annotations

import numpy as np
import pytest

import storm
from storm._bridge import read_spots
from storm.data.orientation import (
    LEAST_FIT,
    MARGIN,
    TURNS,
    Section,
    is_better,
    is_shifted,
    turned,
)
from storm.data.patches import ImageLevel, PatchReader
from storm.data.sources import ArraySource
from storm.data.tissue import section_maps, tissue_share
from storm.data.windows import make_windows

WRONG = [turn for turn in TURNS if turn != "as given"]


class Held:
    """A section's maps and places, read once."""

    def __init__(self, sdata) -> None:
        self.spots = read_spots(sdata)
        self.windows = make_windows(self.spots.centres)
        self.cells = self.windows.kind == "knn"
        self.maps = section_maps(self.spots.patches, nuclei=self.cells)
        self.points = self.maps.place(self.spots.centres)
        self.total = np.asarray(self.spots.counts.sum(axis=1)).ravel()

    def section(self, points=None) -> Section:
        points = self.points if points is None else points
        return Section(self.maps, points, total=self.total, pitch_um=self.windows.pitch, cells=self.cells)


@pytest.fixture(scope="module", params=["visium", "visium_hd", "xenium"])
def toy_held(request) -> Held:
    return Held(storm.datasets.toy(request.param, seed=1, n={"visium": 300, "visium_hd": 10_000}.get(request.param)))


# ---------------------------------------------------------------------------------------------- maps


def picture() -> np.ndarray:
    """White glass, and a purple disc of 600 µm around (1400, 500) µm, drawn at 2 µm/px."""
    y, x = np.mgrid[0:700, 0:1000] * 2.0 + 1
    image = np.full((3, 700, 1000), 240, dtype=np.uint8)
    image[:, np.hypot(x - 1400, y - 500) < 300] = np.array([[120], [60], [160]], dtype=np.uint8)
    return image


def reader_of(image: np.ndarray, um_to_px: list[list[float]]) -> PatchReader:
    return PatchReader([ImageLevel(ArraySource(image), np.array(um_to_px))])


@pytest.mark.parametrize(
    "um_to_px", [[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, -40.0], [0, 0.5, 99.0]], [[0, 0.5, 0], [-0.5, 0, 700]]]
)
def test_maps_lie_in_the_frame_of_the_image(um_to_px) -> None:
    maps = section_maps(reader_of(picture(), um_to_px))
    assert maps.size_um == pytest.approx((2000, 1400))
    y, x = np.nonzero(maps.tissue)
    assert ((x + 0.5) * maps.step_um).mean() == pytest.approx(1400, abs=5)
    assert ((y + 0.5) * maps.step_um).mean() == pytest.approx(500, abs=5)
    assert maps.tissue.sum() * maps.step_um**2 == pytest.approx(np.pi * 300**2, rel=0.03)
    assert maps.haematoxylin[maps.tissue > 0].mean() > 0.3 > maps.haematoxylin[maps.tissue == 0].mean()
    # Points follow the reader's own transformation.
    points = np.array([[100.0, 200.0], [5.0, 7.0]])
    np.testing.assert_allclose(
        maps.place(points), 2 * (points @ np.array(um_to_px)[:, :2].T + np.array(um_to_px)[:, 2])
    )


def test_maps_cover_images_of_any_size() -> None:
    for height, width in ((33, 40), (65, 200), (129, 64)):
        image = np.zeros((3, height, width), dtype=np.uint8)
        image[0] = 200
        maps = section_maps(reader_of(image, [[0.5, 0, 0], [0, 0.5, 0]]), nuclei=True)
        assert maps.tissue.shape == (-(-height // 4), -(-width // 4))
        assert maps.tissue[:-1, :-1].all()
        assert maps.nuclei.shape == tuple(4 * n for n in maps.tissue.shape)


def test_nuclei_stand_out_of_what_surrounds_them() -> None:
    rng = np.random.default_rng(0)
    image = np.full((3, 400, 400), 215, dtype=np.uint8)
    image[1] = 170
    centres = rng.uniform(40, 760, (60, 2))
    y, x = np.mgrid[0:400, 0:400] * 2.0 + 1
    for cx, cy in centres:
        image[:, np.hypot(x - cx, y - cy) < 5] = np.array([[80], [50], [140]], dtype=np.uint8)
    maps = section_maps(reader_of(image, [[0.5, 0, 0], [0, 0.5, 0]]), nuclei=True)
    kwargs = {"total": None, "pitch_um": 30.0, "cells": True}
    assert Section(maps, centres, **kwargs).place("as given").nuclei == 1
    assert Section(maps, rng.uniform(40, 760, (200, 2)), **kwargs).place("as given").nuclei < 0
    # A shift by a nucleus' radius is found, to the step of the search.
    best = Section(maps, centres + np.array([10.0, -5.0]), **kwargs).shifted()
    assert best.shift_um == pytest.approx((-10.0, 5.0), abs=2.5)
    coarse = section_maps(reader_of(image, [[0.2, 0, 0], [0, 0.2, 0]]), nuclei=True)
    assert coarse.nuclei is None


def test_tissue_share_counts_the_field() -> None:
    reader = reader_of(picture(), [[0.5, 0, 0], [0, 0.5, 0]])
    share = tissue_share(reader, np.array([[1400.0, 500], [200, 200], [1400, 800], [-10, 5]]), field_um=96)
    np.testing.assert_allclose(share, [1, 0, 0.47, 0], atol=0.06)


# ---------------------------------------------------------------------------------------------- turns


def test_turns_are_what_users_do() -> None:
    """Against numpy's own flips of an image in which a pixel is marked."""
    image = np.zeros((5, 8))
    image[1, 2] = 1
    point = np.array([[2.5, 1.5]])
    made = {
        "x mirrored": image[:, ::-1],
        "y mirrored": image[::-1],
        "half turn": image[::-1, ::-1],
        "x and y swapped": image.T,
        "quarter turn": np.rot90(image, -1),
        "quarter turn back": np.rot90(image, 1),
        "swapped and half turn": image[::-1, ::-1].T,
    }
    for turn, other in made.items():
        x, y = turned(point, other.shape[::-1], turn=turn)[0]
        assert other[int(y), int(x)] == 1, turn
    middle = np.array([3.0, 4.0])
    np.testing.assert_allclose(turned(point, (0, 0), turn="half turn", middle=middle), 2 * middle - point)


def test_toys_as_they_are_raise_no_alarm(toy_held: Held) -> None:
    section = toy_held.section()
    given, best, *others = section.orientations()
    assert given.turn == "as given"
    assert len(others) == 2 * 7 + 3 - 1
    assert given.score > best.score + MARGIN
    assert not is_better(best, given)
    assert given.fit > 0.75
    assert not is_shifted(section.shifted(), given)


@pytest.mark.parametrize("about", ["image", "spots"])
@pytest.mark.parametrize("turn", WRONG)
def test_turned_toys_are_found_and_named(toy_held: Held, turn: str, about: str) -> None:
    points = toy_held.points
    middle = (points.min(axis=0) + points.max(axis=0)) / 2 if about == "spots" else None
    there = turned(points, toy_held.maps.size_um, turn=turn, middle=middle)
    given, best, *_ = toy_held.section(there).orientations()
    assert is_better(best, given)
    back = {"quarter turn": "quarter turn back", "quarter turn back": "quarter turn"}
    assert best.turn == back.get(turn, turn)
    assert best.fit > 0.75 > LEAST_FIT > given.fit


def test_shifted_toys_are_found(toy_held: Held) -> None:
    away = 2 * toy_held.section().step_um
    section = toy_held.section(toy_held.points + np.array([away, 0.0]))
    best = section.shifted()
    assert is_shifted(best, section.place("as given"))
    assert best.shift_um == pytest.approx((-away, 0), abs=0.5 * section.step_um)


def test_counts_that_have_nothing_to_do_with_the_image_raise_no_alarm(toy_held: Held) -> None:
    alarms = 0
    for seed in range(20):
        section = toy_held.section()
        section.cells = None
        section.ranks = np.random.default_rng(seed).permutation(section.ranks)
        given, best, *_ = section.orientations()
        alarms += is_better(best, given)
    assert alarms == 0


def test_too_little_is_said_to_be_too_little(toy_held: Held) -> None:
    few = Section(toy_held.maps, toy_held.points[:20], total=toy_held.total[:20], pitch_um=100.0, cells=False)
    assert not few.informed
    given, best, *_ = few.orientations()
    assert np.isnan(given.fit)
    assert not is_better(best, given)
    bare = Section(toy_held.maps, toy_held.points, total=None, pitch_um=100.0, cells=False)
    assert not bare.informed
    same = Section(toy_held.maps, toy_held.points, total=np.ones(len(toy_held.points)), pitch_um=100.0, cells=False)
    assert not same.informed


# ---------------------------------------------------------------------------------------------- real sections


def real(name: str, shared_data) -> Held:
    load = storm.datasets.mob if name.startswith("rep") else storm.datasets.her2st
    return Held(load(name, path=shared_data))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "rep12" else pytest.mark.slow)
        for name in ("B4", "C2", "C3", "C4", "C5", "C6", "rep11", "rep12")
    ],
)
def test_real_sections(name: str, shared_data) -> None:
    """No alarm as they are, nor a shift; every mistaken frame of the image is found, and named rightly."""
    held = real(name, shared_data)
    section = held.section()
    given, best, *_ = section.orientations()
    assert not is_better(best, given)
    assert given.score > best.score + 0.15
    assert section.shifted().shift_um == (0.0, 0.0)
    back = {"quarter turn": "quarter turn back", "quarter turn back": "quarter turn"}
    for turn in WRONG:
        there = turned(held.points, held.maps.size_um, turn=turn)
        given, best, *_ = held.section(there).orientations()
        assert is_better(best, given), turn
        assert best.turn == back.get(turn, turn)
    pitch = section.step_um
    for shift in ((2 * pitch, 0), (-2 * pitch, 0), (0, 2 * pitch), (0, -2 * pitch)):
        moved = held.section(held.points + shift)
        assert is_shifted(moved.shifted(), moved.place("as given")), shift
