"""Outlines that are no polygon: repaired, replaced or left out one by one, and counted; the others stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely

from storm.io._outlines import fit_outlines, trace

SQUARE = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])


def traced(*rings: np.ndarray, closed: bool = False):
    """Outlines named ``a``, ``b``, … 100 apart along x."""
    moved = [np.asarray(ring, dtype=float) + np.array([100 * k, 0]) for k, ring in enumerate(rings)]
    if closed:
        moved = [np.vstack([ring, ring[:1]]) for ring in moved]
    ids = np.repeat([chr(ord("a") + k) for k in range(len(rings))], [len(ring) for ring in moved])
    return ids, np.concatenate(moved)


@pytest.mark.parametrize("closed", [False, True])
def test_plain_outlines(closed: bool) -> None:
    ids, xy = traced(SQUARE, SQUARE * 2, SQUARE[:3], closed=closed)
    outlines = trace(ids, xy)
    assert list(outlines.index) == ["a", "b", "c"]
    np.testing.assert_allclose(shapely.area(outlines.shapes), [16, 64, 8])
    assert (outlines.repaired, len(outlines.lost)) == (0, 0)


def test_vertices_of_an_outline_need_not_lie_together() -> None:
    ids, xy = traced(SQUARE, SQUARE * 2)
    mixed = np.argsort(np.tile(np.arange(4), 2), kind="stable")
    outlines = trace(ids[mixed], xy[mixed])
    np.testing.assert_allclose(shapely.area(outlines.shapes), [16, 64])


@pytest.mark.parametrize(
    "ring",
    [
        SQUARE[:2],
        SQUARE[:1],
        SQUARE[[0, 1, 0]],
        SQUARE[[0, 0, 0, 0]],
        [[0, 0], [1, 1], [2, 2], [3, 3]],
        np.full((4, 2), np.nan),
    ],
)
def test_what_encloses_nothing_is_lost_and_named(ring) -> None:
    ids, xy = traced(SQUARE, ring, SQUARE)
    outlines = trace(ids, xy)
    assert list(outlines.index) == ["a", "c"]
    assert list(outlines.lost) == ["b"]
    np.testing.assert_allclose(shapely.area(outlines.shapes), 16)
    centre = shapely.centroid(outlines.shapes[1])
    assert (centre.x, centre.y) == (202, 2)


def test_a_bow_tie_encloses_two_triangles() -> None:
    ids, xy = traced(SQUARE, SQUARE[[0, 2, 1, 3]])
    outlines = trace(ids, xy)
    assert outlines.repaired == 1
    assert outlines.shapes[1].is_valid
    assert outlines.shapes[1].area == pytest.approx(8)
    assert outlines.shapes[0].area == 16


def test_two_closed_rings_in_one_list_are_two_parts() -> None:
    """As the first builds of Xenium 2.0 wrote two nuclei of one cell."""
    one, other = (np.vstack([ring, ring[:1]]) for ring in (SQUARE, SQUARE + np.array([10, 0])))
    outlines = trace(np.repeat("a", 10), np.vstack([one, other]))
    assert outlines.repaired == 1
    assert shapely.get_num_geometries(outlines.shapes[0]) == 2
    assert outlines.shapes[0].area == pytest.approx(32)
    assert outlines.shapes[0].centroid.x == pytest.approx(7)


def test_a_missing_vertex_is_left_out() -> None:
    ring = np.vstack([SQUARE, [[np.nan, 1.0]]])
    outlines = trace(np.repeat("a", 5), ring)
    assert outlines.repaired == 1
    assert outlines.shapes[0].area == 16


def test_nothing() -> None:
    outlines = trace(np.array([], dtype=str), np.empty((0, 2)))
    assert len(outlines.index) == 0


# ---------------------------------------------------------------------------------------- against the table of cells

FILES = {"table": Path("cells.csv"), "file": Path("outlines.csv")}


def grid(n: int):
    """n squares in a row and their centroids."""
    xy = np.concatenate([SQUARE + np.array([100 * k, 0]) for k in range(n)])
    names = np.array([f"cell{k}" for k in range(n)])
    centroids = np.column_stack([100.0 * np.arange(n) + 2, np.full(n, 2.0)])
    return np.repeat(names, 4), xy, pd.Index(names), centroids


def test_joined_by_name_not_by_order() -> None:
    ids, xy, names, centroids = grid(8)
    turned = np.random.default_rng(0).permutation(8)
    fitted = fit_outlines(trace(ids, xy), names[turned], centroids[turned], np.full(8, 16.0), um=1.0, **FILES)
    assert list(fitted.frame.index) == list(names[turned])
    np.testing.assert_allclose(fitted.frame.geometry.centroid.x, centroids[turned, 0])
    assert fitted.facts == {}


def test_a_cell_without_outline_gets_a_disc_of_its_area() -> None:
    ids, xy, names, centroids = grid(4)
    keep = ids != "cell2"
    area = np.array([16.0, 16, 50, 16])
    with pytest.warns(UserWarning, match=r"of 4 cells, 1 have no usable outline and are discs .*\(outlines"):
        fitted = fit_outlines(trace(ids[keep], xy[keep]), names, centroids, area, um=1.0, **FILES)
    disc = fitted.frame.geometry["cell2"]
    assert disc.area == pytest.approx(50, rel=0.02)
    assert (disc.centroid.x, disc.centroid.y) == pytest.approx((202, 2))
    assert fitted.facts == {"outlines_replaced_by_discs": 1}
    with pytest.warns(UserWarning, match="discs"):
        fitted = fit_outlines(trace(ids[keep], xy[keep]), names, centroids, np.full(4, np.nan), um=1.0, **FILES)
    assert fitted.frame.geometry["cell2"].area == pytest.approx(16, rel=0.02)


def test_outlines_of_other_cells_are_refused() -> None:
    """The names fit, and the places do not: names of another run, or a table that was sorted on its own."""
    ids, xy, names, centroids = grid(50)
    with pytest.raises(ValueError, match=r"50 of 50 cells lie elsewhere by cells\.csv than by outlines\.csv.*'cell0'"):
        fit_outlines(trace(ids, xy), names, np.roll(centroids, 1, axis=0), np.full(50, 16.0), um=1.0, **FILES)
    with pytest.raises(ValueError, match=r"holds none of the cells of the table .*'N0'.*'cell0'.*different runs"):
        fit_outlines(trace(ids, xy), names.str.replace("cell", "N"), centroids, np.full(50, 16.0), um=1.0, **FILES)


def test_no_cell_is_left() -> None:
    ids, xy, names, centroids = grid(2)
    with pytest.raises(ValueError, match="2 of 2 cells lie elsewhere"):
        fit_outlines(trace(ids, xy), names, centroids[::-1], np.full(2, 16.0), um=1.0, **FILES)


def test_two_that_changed_places_are_left_out() -> None:
    ids, xy, names, centroids = grid(400)
    centroids[[3, 4]] = centroids[[4, 3]]
    with pytest.warns(UserWarning, match=r"of 400 cells, 2 lie elsewhere than their outline and are left out"):
        fitted = fit_outlines(trace(ids, xy), names, centroids, np.full(400, 16.0), um=1.0, **FILES)
    assert np.flatnonzero(~fitted.keep).tolist() == [3, 4]
    assert fitted.facts == {"cells_left_out": 2}
    np.testing.assert_allclose(fitted.frame.geometry.centroid.x, centroids[fitted.keep, 0])


def test_the_margin_is_in_um() -> None:
    """A centroid 10 units beside its square lies elsewhere at 1 µm per unit, and not at 0.1."""
    ids, xy, names, centroids = grid(4)
    with pytest.raises(ValueError, match="lie elsewhere"):
        fit_outlines(trace(ids, xy), names, centroids + np.array([10, 0]), np.full(4, 16.0), um=1.0, **FILES)
    fit_outlines(trace(ids, xy), names, centroids + np.array([10, 0]), np.full(4, 16.0), um=0.1, **FILES)


def test_a_vertex_that_went_astray() -> None:
    """Within a slide it makes a huge outline around nothing, which is left out; beyond any slide it is dropped."""
    ids, xy, names, centroids = grid(8)
    for far, kept in ((5000.0, 7), (1e20, 8)):
        spoiled = xy.copy()
        spoiled[13] = far
        outlines = trace(ids, spoiled)
        if kept == 8:
            fitted = fit_outlines(outlines, names, centroids, np.full(8, 16.0), um=1.0, **FILES)
            assert fitted.facts == {"outlines_repaired": 1}
        else:
            with pytest.warns(UserWarning, match="1 lie elsewhere than their outline"):
                fitted = fit_outlines(outlines, names, centroids, np.full(8, 16.0), um=1.0, **FILES)
        assert len(fitted.frame) == kept
