"""Sections that lie on top of each other are told from one section by their places alone."""

from __future__ import annotations

import numpy as np
import pytest

from storm.data.overlay import overlaid


def hexagons(
    n: int = 40, *, turn: float = 0.0, shift=(0.0, 0.0), jitter: float = 0.0, holes: float = 0.0, seed: int = 0
):
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:n, :n]
    points = np.column_stack([(i + 0.5 * (j % 2)).ravel(), (j * np.sqrt(3) / 2).ravel()]) * 100
    middle = points.mean(axis=0)
    points = (points - middle) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + middle
    points = points[rng.random(len(points)) >= holes]
    return points + shift + rng.normal(size=points.shape) * jitter * 100


def squares(n: int = 40, *, shift=(0.0, 0.0), jitter: float = 0.0, seed: int = 0):
    i, j = np.mgrid[:n, :n]
    noise = np.random.default_rng(seed).normal(size=(n * n, 2)) * jitter * 100
    return np.column_stack([i.ravel(), j.ravel()]) * 100.0 + shift + noise


@pytest.mark.parametrize(
    "other",
    [
        hexagons(shift=(13.7, 13.7)),
        hexagons(shift=(4, 1)),
        hexagons(turn=0.05, shift=(10, 5)),
        hexagons(turn=0.5),
        hexagons(shift=(30, 10), jitter=0.04, seed=1),
        hexagons(shift=(30, 10), holes=0.4),
        hexagons(30, shift=(730, 590)),
    ],
)
def test_two_lattices_in_one_place_are_two(other) -> None:
    assert overlaid(np.concatenate([hexagons(), other]))


@pytest.mark.parametrize("shift", [(20, 30), (10, 0), (77, 11)])
def test_printed_squares(shift) -> None:
    assert overlaid(np.concatenate([squares(jitter=0.03), squares(shift=shift, jitter=0.03, seed=1)]))


def test_many_sections() -> None:
    rng = np.random.default_rng(0)
    parts = [hexagons(turn=rng.uniform(-0.05, 0.05), shift=rng.uniform(-200, 200, 2)) for _ in range(4)]
    assert overlaid(np.concatenate(parts))


@pytest.mark.parametrize(
    "points",
    [
        hexagons(),
        hexagons(jitter=0.05),
        hexagons(holes=0.5),
        squares(jitter=0.05),
        np.concatenate([hexagons(), hexagons(turn=0.3, shift=(6000, 13))]),
        np.random.default_rng(0).random((5000, 2)),
        np.concatenate([np.random.default_rng(k).random((2000, 2)) for k in (1, 2)]),
        np.random.default_rng(0).random((5000, 2)).round(2),
        hexagons(4),
    ],
    ids=["hex", "jitter", "holes", "square", "beside", "cells", "two of cells", "rounded", "few"],
)
def test_one_section_is_one(points) -> None:
    assert not overlaid(points)
