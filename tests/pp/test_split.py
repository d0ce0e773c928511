"""Parts of a section to train and to judge on, and sums over neighbours."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy.sparse import csr_matrix

import storm


def lattice(nx: int, ny: int, pitch: float = 10.0) -> ad.AnnData:
    """Cells 10 µm apart, row by row, each with a gene of its own and one that all have."""
    at = np.indices((nx, ny)).reshape(2, -1).T * pitch
    counts = np.column_stack([np.eye(len(at)), np.arange(len(at))])
    adata = ad.AnnData(csr_matrix(counts.astype(np.float32)), obsm={"spatial": at.astype(float)})
    adata.var_names = [f"G{i}" for i in range(adata.n_vars)]
    return adata


def test_no_window_is_on_both_sides() -> None:
    adata = lattice(40, 12)
    train, test = storm.pp.split_along_x(adata, field_um=0, um_per_px=1)
    x = adata.obsm["spatial"][:, 0]
    assert x[train].max() < x[test].min()
    # 5 × 5 windows reach 20 µm, and the gap is at least as wide as one of them
    assert x[test].min() - x[train].max() > 40
    assert train.sum() == test.sum() == 18 * 12  # x of 0 to 170 and of 220 to 390, around the middle at 195
    wider, _ = storm.pp.split_along_x(adata, field_um=112, um_per_px=1)
    assert x[wider].max() == pytest.approx(195 - (40 + 112) / 2, abs=10)
    exact, _ = storm.pp.split_along_x(adata, gap_um=0, share=0.25, um_per_px=1)
    assert exact.mean() == pytest.approx(0.25, abs=0.03)


def test_each_section_of_a_table_is_divided_for_itself() -> None:
    one, two = lattice(30, 10), lattice(24, 10)
    two.obsm["spatial"][:, 0] += 10_000
    both = ad.concat({"a": one, "b": two}, label="section", index_unique="-")
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    train, test = storm.pp.split_along_x(both, field_um=0, library_key="section", um_per_px=1)
    x = both.obsm["spatial"][:, 0]
    for name, low, high in (("a", 0, 290), ("b", 10_000, 10_230)):
        own = (both.obs["section"] == name).to_numpy()
        assert x[own & train].min() == low
        assert x[own & test].max() == high
        assert x[own & train].max() < x[own & test].min()


def test_a_split_that_cannot_be_is_explained(toy) -> None:
    adata = lattice(10, 10)
    with pytest.raises(ValueError, match=r"90 µm wide, so that a gap of 152 µm at 50% .* leaves 0 on the left"):
        storm.pp.split_along_x(adata, um_per_px=1)
    with pytest.raises(ValueError, match="scale of the places is not known; give um_per_px"):
        storm.pp.split_along_x(adata)
    for share in (0, 1, -1, 2):
        with pytest.raises(ValueError, match="share="):
            storm.pp.split_along_x(adata, share=share, um_per_px=1)
    with pytest.raises(ValueError, match="gap_um="):
        storm.pp.split_along_x(adata, gap_um=-1, um_per_px=1)
    with pytest.raises(TypeError, match="AnnData"):
        storm.pp.split_along_x([toy])
    train, test = storm.pp.split_along_x(toy)
    assert train.sum() > 20 < test.sum()


def test_sums_over_neighbours() -> None:
    adata = lattice(7, 7)
    storm.pp.sum_windows(adata, um_per_px=1)
    sums = adata.layers["window_counts"].toarray()
    members = sums[:, :49] > 0
    assert members.sum(axis=1).tolist() == [9] * 49
    centre = 3 * 7 + 3
    block = [i * 7 + j for i in (2, 3, 4) for j in (2, 3, 4)]
    assert np.flatnonzero(members[centre]).tolist() == block
    assert sums[centre, 49] == sum(block)
    np.testing.assert_array_equal(adata.X.toarray()[:, 49], np.arange(49))
    assert adata.uns["storm"]["window_counts"]["n"] == 9
    again = storm.pp.sum_windows(adata, n=5, um_per_px=1, copy=True)
    assert (again.layers["window_counts"].toarray()[:, :49] > 0).sum(axis=1).max() == 5


def test_sums_do_not_cross_sections() -> None:
    one, two = lattice(5, 5), lattice(5, 5)
    both = ad.concat({"a": one, "b": two}, label="section", index_unique="-")  # at the same places
    order = np.random.default_rng(0).permutation(50)
    both = both[order].copy()
    storm.pp.sum_windows(both, library_key="section", um_per_px=1)
    sums = both.layers["window_counts"].toarray()
    alone = storm.pp.sum_windows(one, um_per_px=1, copy=True).layers["window_counts"].toarray()
    inverse = np.argsort(order)
    np.testing.assert_array_equal(sums[inverse][:25], alone)
    np.testing.assert_array_equal(sums[inverse][25:], alone)


def test_a_layer_of_the_users_is_not_replaced() -> None:
    adata = lattice(5, 5)
    adata.layers["window_counts"] = adata.X.copy()
    with pytest.raises(ValueError, match="window_counts"):
        storm.pp.sum_windows(adata, um_per_px=1)
    del adata.layers["window_counts"]
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="counts"):
        storm.pp.sum_windows(adata, um_per_px=1)
    assert "window_counts" not in adata.layers
    assert set(adata.layers) <= {None}
