"""Which rows of which table are read, and their counts."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from spatialdata import SpatialData

from planted_section import UM, circles, counts, grid_px, section, table_for
from storm._bridge import read_spots, select_table


def test_rows_follow_the_table() -> None:
    order = np.random.default_rng(3).permutation(48)[:30]
    spots = read_spots(section(table=table_for(order)))
    np.testing.assert_allclose(spots.centres, grid_px()[order] * UM)


def test_text_instances() -> None:
    names = np.array([f"AAAC-{k}" for k in range(48)])
    order = np.random.default_rng(3).permutation(48)
    spots = read_spots(section(shapes=circles(index=names), table=table_for(names[order])))
    np.testing.assert_allclose(spots.centres, grid_px()[order] * UM)


def test_rows_without_a_shape_have_no_place() -> None:
    spots = read_spots(section(shapes=circles(grid_px()[:40])))
    np.testing.assert_array_equal(spots.placed, np.arange(48) < 40)
    assert spots.counts.shape == (48, 5)


def test_an_instance_belongs_to_one_row() -> None:
    """Of cells too, whose places may coincide for another reason."""
    places = np.random.default_rng(0).uniform(20, 140, (12, 2))
    sdata = section(shapes=circles(places), table=table_for(np.arange(12)))
    sdata.tables["table"].obs["id"] = np.r_[np.arange(11), 3]
    with pytest.raises(ValueError, match=r"annotates the same instance of 'spots' more than once, e.g. \[3\]"):
        read_spots(sdata)
    twice = section(shapes=circles(places, index=np.r_[np.arange(11), 3]), table=table_for(np.arange(11)))
    with pytest.raises(ValueError, match=r"holds the same instance more than once, e.g. \[3\]"):
        read_spots(twice)


def several_regions() -> SpatialData:
    table = table_for(np.arange(48))
    table.obs["id"] = np.r_[np.arange(24), np.arange(24)]
    table.obs["region"] = pd.Categorical(["left"] * 24 + ["right"] * 24)
    table.uns["spatialdata_attrs"]["region"] = ["left", "right"]
    sdata = section(shapes=None, table=None)
    sdata.shapes["left"] = circles(grid_px()[:24])
    sdata.shapes["right"] = circles(grid_px()[24:])
    sdata.tables["table"] = table
    return sdata


def test_several_regions() -> None:
    sdata = several_regions()
    with pytest.raises(ValueError, match=r"several elements; choose one with shapes_key= out of \['left', 'right'\]"):
        read_spots(sdata)
    spots = read_spots(sdata, shapes_key="right")
    np.testing.assert_array_equal(spots.placed, np.arange(48) >= 24)
    np.testing.assert_allclose(spots.centres[24:], grid_px()[24:] * UM)


def test_several_tables() -> None:
    sdata = section()
    sdata.tables["other"] = table_for(np.arange(10))
    assert len(read_spots(sdata, table_key="other")) == 10
    assert select_table(sdata, "other")[0] == "other"
    assert select_table(sdata, "other")[1] is sdata.tables["other"]


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        sparse.csr_matrix,
        sparse.csc_matrix,
        sparse.csr_array,
        lambda x: sparse.csr_matrix(x.astype(np.int64)),
        lambda x: da.from_array(x, chunks=(10, 5)),
        lambda x: da.from_array(x, chunks=(10, 5)).map_blocks(sparse.csr_matrix),
    ],
    ids=["dense", "csr", "csc", "csr_array", "int64", "dask", "dask of csr"],
)
def test_counts_of_any_kind(convert) -> None:
    table = table_for(np.arange(48), X=convert(counts(48)))
    before = type(table.X)
    spots = read_spots(section(table=table))
    assert isinstance(spots.counts, sparse.csr_matrix)
    np.testing.assert_array_equal(spots.counts.toarray(), counts(48))
    assert type(table.X) is before
    # the memory may be the table's own, so nothing here can write to it
    with pytest.raises(ValueError, match="read-only"):
        spots.counts.data[:] = -1


def test_layer() -> None:
    table = table_for(np.arange(48))
    table.layers["counts"] = table.X
    table.X = table.X * 0.37
    np.testing.assert_array_equal(read_spots(section(table=table), layer="counts").counts.toarray(), counts(48))


def test_counts_are_not_needed_for_places() -> None:
    table = table_for(np.arange(48), X=counts(48) * 0.3)
    spots = read_spots(section(table=table), table=False)
    assert spots.counts is None
    np.testing.assert_allclose(spots.centres, grid_px() * UM)


def test_a_spot_without_counts_is_allowed() -> None:
    X = counts(48)
    X[7] = 0
    assert read_spots(section(table=table_for(np.arange(48), X=X))).counts[7].sum() == 0


def test_entries_given_twice_are_summed_on_a_copy() -> None:
    values = np.zeros((48, 5), np.float32)
    values[:, 0] = 1
    # the last spot's EPCAM is given twice
    indices, indptr = np.zeros(49, int), np.append(np.arange(48), 49)
    stored = sparse.csr_matrix((np.ones(49, np.float32), indices, indptr), shape=(48, 5))
    table = table_for(np.arange(48), X=stored)
    spots = read_spots(section(table=table))
    values[-1, 0] = 2
    # The stored entries themselves: toarray() would sum what is given twice.
    np.testing.assert_array_equal(spots.counts.indices, np.zeros(48))
    np.testing.assert_array_equal(spots.counts.data, values[:, 0])
    assert table.X.nnz == 49
    assert table.X.data.flags.writeable
