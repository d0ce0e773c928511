"""Counts at the door: damaged matrices, odd types, ``.raw``, features that are not genes, and other gene names."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from planted_section import counts
from storm._bridge.counts import first_fraction, layer_names, named_layers, read_counts
from storm.data.genes import Vocabulary

N, G = 12, 5
EXPRESSION = "Gene Expression"


def table(X=None, **parts) -> ad.AnnData:
    var = pd.DataFrame(index=["EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC"])
    return ad.AnnData(sparse.csr_matrix(counts(N)) if X is None else X, var=var, **parts)


def damaged(part: str, at: int, value: int, kind: type = sparse.csr_matrix) -> sparse.spmatrix:
    matrix = kind(counts(N))
    getattr(matrix, part)[at] = value
    return matrix


DAMAGES = {
    "index too large": ("indices", 3, 10**6, "indices run from 0 to 1000000, expected 0 to 4"),
    "negative index": ("indices", 3, -(10**6), "expected 0 to 4"),
    "indptr ends beyond": ("indptr", -1, 10**6, "indptr ends at 1000000"),
    "indptr goes back": ("indptr", 4, 10**6, "indptr does not rise from 0"),
    "indptr begins elsewhere": ("indptr", 0, 1, "indptr does not rise from 0"),
    "negative indptr": ("indptr", 2, -5, "indptr does not rise from 0"),
}


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_matrix_is_refused_before_scipy_reads_it(name: str, kind: type) -> None:
    part, at, value, words = DAMAGES[name]
    if kind is sparse.csc_matrix:
        words = words.replace("to 4", f"to {N - 1}")
    with pytest.raises(ValueError, match=r"X is a damaged CS[RC] matrix") as caught:
        read_counts(table(damaged(part, at, value, kind)))
    assert words in str(caught.value)
    stored = table(layers={"counts": damaged(part, at, value, kind)})
    with pytest.raises(ValueError, match=r"layers\['counts'\] is a damaged"):
        read_counts(stored, "counts")


def test_a_damaged_matrix_without_values_and_one_with_too_few() -> None:
    empty = sparse.csr_matrix((N, G), dtype=np.float32)
    empty.indptr[3] = 10**6
    with pytest.raises(ValueError, match="indptr does not rise"):
        read_counts(table(empty))
    short = sparse.csr_matrix(counts(N))
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match=f"{short.nnz - 1} values|with .* indices"):
        read_counts(table(short))


def test_a_damaged_parent_of_a_view_is_refused() -> None:
    parent = table(damaged("indices", 3, 10**6), layers={"counts": damaged("indptr", 4, 10**6)})
    view = parent[[4, 2], [3, 1]]
    with pytest.raises(ValueError, match="X is a damaged CSR"):
        read_counts(view)
    with pytest.raises(ValueError, match=r"layers\['counts'\] is a damaged CSR"):
        read_counts(view, "counts")


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_a_damaged_store_is_refused(tmp_path) -> None:
    import h5py

    table().write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/indices"][3] = 10**6
    with pytest.raises(ValueError, match="X is a damaged CSR"):
        read_counts(ad.read_h5ad(tmp_path / "a.h5ad"))
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    for stored in (backed, backed[[4, 2], [3, 1]]):
        with pytest.raises(ValueError, match="X is a damaged CSR"):
            read_counts(stored)
    backed.file.close()
    blocks = da.from_array(counts(N), chunks=(4, G)).map_blocks(lambda x: _spoiled(sparse.csr_matrix(x)))
    with pytest.raises(ValueError, match=r"X is a damaged CSR|cannot be read"):
        read_counts(table(blocks))


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_a_lazily_read_table(tmp_path) -> None:
    from anndata.experimental import read_lazy

    stored = table()
    stored.var["feature_types"] = [EXPRESSION] * 4 + ["Antibody Capture"]
    stored.write_zarr(tmp_path / "a.zarr")
    with pytest.warns(UserWarning, match="1 of the table's 5 features"):
        matrix, genes = read_counts(read_lazy(tmp_path / "a.zarr"))
    assert genes.tolist() == ["EPCAM", "CD3E", "COL1A1", "ACTB"]
    np.testing.assert_array_equal(matrix.toarray(), counts(N)[:, :4])


def _spoiled(block: sparse.csr_matrix) -> sparse.csr_matrix:
    if block.nnz:
        block.indices[0] = 10**6
    return block


def test_a_store_that_cannot_be_read_names_the_matrix() -> None:
    def broken(block: np.ndarray) -> np.ndarray:
        msg = "decompression failed"
        raise RuntimeError(msg)

    lazy = da.from_array(counts(N), chunks=(4, G)).map_blocks(broken, dtype=np.float32, meta=np.empty((0, 0), "f4"))
    with pytest.raises(ValueError, match=r"layers\['a'\] cannot be read.*RuntimeError: decompression failed"):
        read_counts(table(layers={"a": lazy}), "a")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("complex64", "complex64"), ("object", "object"), ("datetime64[s]", r"datetime64\[s\]"), ("U3", "<U3")],
)
def test_what_is_not_a_number_is_refused_by_its_type(dtype: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"X holds {name}, not numbers"):
        read_counts(table(counts(N).astype(np.int64).astype(dtype)))


def test_complex_in_a_sparse_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="X holds complex64, not numbers"):
        read_counts(table(sparse.csr_matrix(counts(N).astype(np.complex64))))


def test_half_precision_is_read_as_far_as_it_is_exact() -> None:
    small = counts(N)
    small[0, 0] = 2048
    np.testing.assert_array_equal(read_counts(table(small.astype(np.float16)))[0].toarray(), small)
    in_sparse = sparse.csr_matrix(small)
    in_sparse.data = in_sparse.data.astype(np.float16)
    np.testing.assert_array_equal(read_counts(table(in_sparse))[0].toarray(), small)
    # 2049 is stored as 2048 and 2051 as 2052: what is above may have been another number.
    small[0, 0] = 2051
    with pytest.raises(ValueError, match=r"float16.*above 2048 exactly.*up to 2052"):
        read_counts(table(small.astype(np.float16)))


def test_masked_values_are_not_taken_as_they_lie() -> None:
    X = np.ma.MaskedArray(counts(N), mask=np.zeros((N, G), dtype=bool))
    np.testing.assert_array_equal(read_counts(table(X))[0].toarray(), counts(N))
    X[3, 2] = np.ma.masked
    with pytest.raises(ValueError, match="X is a masked array with 1 masked values"):
        read_counts(table(X))


def test_stale_flags_of_a_matrix_are_not_believed() -> None:
    """scipy remembers that a matrix was sorted and without duplicates, also after its arrays were changed."""
    stored = sparse.csr_matrix((np.ones(4, np.float32), [0, 2, 1, 3], [0, 2, 4, *[4] * (N - 2)]), shape=(N, G))
    assert stored.has_canonical_format
    stored.indices[:2] = 2
    matrix, _ = read_counts(table(stored))
    assert matrix.nnz == 3
    assert matrix[0, 2] == 2
    assert stored.nnz == 4


# ------------------------------------------------------------------------------------------------ .raw


def test_counts_in_raw_are_read_by_name() -> None:
    whole = table()
    whole.X = whole.X.multiply(0.37).tocsr()
    part = whole[:, [3, 1]].copy()
    part.raw = table()
    matrix, genes = read_counts(part, "raw")
    np.testing.assert_array_equal(matrix.toarray(), counts(N))
    assert genes.tolist() == ["EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC"]
    view, _ = read_counts(part[[7, 2]], "raw")
    np.testing.assert_array_equal(view.toarray(), counts(N)[[7, 2]])
    with pytest.raises(ValueError, match=r"non-count values.*\.raw of the table holds whole numbers.*layer='raw'"):
        read_counts(part)
    with pytest.raises(KeyError, match=r"layer='row'.*'raw'"):
        read_counts(part, "row")
    part.layers["raw"] = sparse.csr_matrix(np.ones((N, 2), np.float32))
    assert read_counts(part, "raw")[0].shape == (N, 2), "a layer of that name goes first"
    del part.layers["raw"]
    part.raw = whole
    with pytest.raises(ValueError, match=r"\.raw holds non-count values"):
        read_counts(part, "raw")


def test_the_matrix_is_no_layer() -> None:
    """Since anndata 0.13 it stands among the layers, as ``None``."""
    assert layer_names(ad.AnnData(np.ones((3, 2)), layers={"a": np.ones((3, 2))})) == ["a"]
    newer = SimpleNamespace(layers={None: 0, "a": 1}, raw=None)
    assert layer_names(newer) == named_layers(newer) == ["a"]


def test_without_raw_the_layers_are_listed() -> None:
    with pytest.raises(KeyError, match=r"layer='raw'.*'a'"):
        read_counts(table(layers={"a": counts(N)}), "raw")


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
def test_the_advice_about_repeated_names_works() -> None:
    stored = table()
    stored.var_names = ["A", "B", "A", "C", "D"]
    stored.raw = stored.copy()
    with pytest.raises(ValueError, match=r"1 var_names occur more than once, e.g. \['A'\]") as caught:
        read_counts(stored)
    exec(str(caught.value).rpartition("or call ")[2], {"table": stored})
    assert read_counts(stored)[1].tolist() == ["A", "B", "A-1", "C", "D"]
    with pytest.raises(ValueError, match="1 var_names") as caught:
        read_counts(stored, "raw")
    exec(str(caught.value).rpartition("or call ")[2], {"table": stored})
    assert read_counts(stored, "raw")[1].tolist() == ["A", "B", "A-1", "C", "D"]


# ------------------------------------------------------------------------------- what is not a gene


def test_features_that_are_not_genes_are_left_out_and_counted() -> None:
    stored = table()
    stored.var["feature_types"] = [EXPRESSION, "Antibody Capture", EXPRESSION, "CRISPR Guide Capture", EXPRESSION]
    with pytest.warns(UserWarning, match=r"2 of the table's 5 features .* 1 'Antibody Capture', 1 'CRISPR Guide"):
        matrix, genes = read_counts(stored)
    assert genes.tolist() == ["EPCAM", "COL1A1", "PTPRC"]
    np.testing.assert_array_equal(matrix.toarray(), counts(N)[:, [0, 2, 4]])
    assert stored.shape == (N, G)


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_an_antibody_may_have_the_name_of_its_gene() -> None:
    stored = table()
    stored.var_names = ["EPCAM", "CD3E", "CD3E", "ACTB", "EPCAM"]
    stored.var["feature_types"] = pd.Categorical(
        ["Gene Expression"] * 2 + ["Antibody Capture"] + ["Gene Expression"] * 2
    )
    with pytest.raises(ValueError, match=r"1 var_names occur more than once, e.g. \['EPCAM'\]"):  # noqa: SIM117
        with pytest.warns(UserWarning, match="1 'Antibody Capture'"):
            read_counts(stored)


def test_controls_are_told_by_their_names() -> None:
    stored = table()
    stored.var_names = ["EPCAM", "NegControlProbe_00042", "Blank-3", "ACTB", "Negative12"]
    with pytest.warns(UserWarning, match="3 of the table's 5 features are not genes.*NegControlProbe_00042"):
        assert read_counts(stored)[1].tolist() == ["EPCAM", "ACTB"]


def test_a_table_of_nothing_but_proteins_is_refused() -> None:
    stored = table()
    stored.var["feature_types"] = "Antibody Capture"
    with pytest.raises(ValueError, match=r"none of the table's 5 features is a gene.*5 'Antibody Capture'"):
        read_counts(stored)


# -------------------------------------------------------------------------------- other names of genes


def test_names_come_from_the_column_that_the_vocabulary_matches() -> None:
    vocabulary = Vocabulary(("EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC", "KRT8"))
    stored = table()
    stored.var["symbol"] = [*stored.var_names[:4], None]
    stored.var["note"] = "x"
    stored.var_names = [f"ENSG0000000000{k}" for k in range(G)]
    assert read_counts(stored)[1].tolist() == stored.var_names.tolist()
    assert read_counts(stored, vocabulary=vocabulary)[1].tolist() == [
        "EPCAM",
        "CD3E",
        "COL1A1",
        "ACTB",
        "ENSG00000000004",
    ]
    by_id = Vocabulary(("A", "B"), ("ENSG00000000000", "ENSG00000000003"))
    assert read_counts(stored, vocabulary=by_id)[1].tolist() == stored.var_names.tolist()


def test_checking_counts_needs_no_copy_of_them(monkeypatch):
    """A rounded copy of all values would be as large as the counts."""
    monkeypatch.setattr("storm._bridge.counts._BLOCK", 10_000)
    matrix = sparse.csr_matrix(np.ones((2000, 500), np.float32))
    adata = ad.AnnData(matrix, var=pd.DataFrame(index=[f"G{k}" for k in range(500)]))
    tracemalloc.start()
    read_counts(adata)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < matrix.data.nbytes / 2
    for wrong, text in ((np.nan, "1 of them"), (0.5, "for example 0.5"), (-1, "down to -1")):
        adata.X.data[777_777] = wrong
        with pytest.raises(ValueError, match=text):
            read_counts(adata)


def test_telling_logarithms_from_counts_needs_no_copy_of_them(monkeypatch):
    monkeypatch.setattr("storm._bridge.counts._BLOCK", 10_000)
    values = np.ones(1_000_000, np.float32)
    tracemalloc.start()
    assert first_fraction(values) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 10
    values[777_777] = 0.25
    assert first_fraction(values) == 0.25
    values[5] = np.nan
    assert np.isnan(first_fraction(values))
    assert first_fraction(np.arange(7)) is None
