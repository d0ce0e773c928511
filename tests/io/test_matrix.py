"""10x matrices: which file is read, that it is checked before compiled code trusts it, and what is not a gene."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import io as scipy_io
from scipy.sparse import csr_matrix

import vendor_folders as vendor
from storm.io._matrix import read_matrix

NAME = "filtered_feature_bc_matrix"
GENE = "Gene Expression"
HEADER = b"%%MatrixMarket matrix coordinate integer general\n"


def write_market(folder: Path, values: np.ndarray, barcodes, features: list[tuple[str, str, str]]) -> None:
    folder.mkdir(parents=True)
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        scipy_io.mmwrite(file, csr_matrix(values.T))
    with gzip.open(folder / "barcodes.tsv.gz", "wt") as file:
        file.write("\n".join(barcodes) + "\n")
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.write("".join("\t".join(row) + "\n" for row in features))


def features() -> list[tuple[str, str, str]]:
    return [(f"ENSG{k:011d}", name, GENE) for k, name in enumerate(vendor.GENES)]


@pytest.fixture
def h5(tmp_path: Path) -> Path:
    """A folder with a matrix whose observation k has k + 1 counts of the first gene."""
    vendor.write_10x(tmp_path / f"{NAME}.h5", vendor.counts(6), vendor.barcodes(6))
    return tmp_path


def change(folder: Path, **arrays: np.ndarray) -> None:
    with h5py.File(folder / f"{NAME}.h5", "a") as file:
        for key, value in arrays.items():
            del file[f"matrix/{key}"]
            file[f"matrix/{key}"] = value


def stored(folder: Path, key: str) -> np.ndarray:
    with h5py.File(folder / f"{NAME}.h5") as file:
        return file[f"matrix/{key}"][:]


# ------------------------------------------------------------------------------------------------ damaged arrays


@pytest.mark.parametrize(
    ("key", "spoil", "words"),
    [
        ("indices", lambda a: np.where(np.arange(len(a)) == 3, 10**6, a), r"indices run from 0 to 1000000.*5 features"),
        ("indices", lambda a: np.where(np.arange(len(a)) == 3, -7, a), r"indices run from -7"),
        ("indices", lambda a: a.astype(float), "not whole numbers"),
        ("indices", lambda a: a[:-2], "sizes of its arrays do not fit"),
        ("indptr", lambda a: a[::-1], "row pointers do not run from 0"),
        ("indptr", lambda a: np.where(np.arange(len(a)) == 2, 10**9, a), "row pointers do not run from 0"),
        ("indptr", lambda a: a + 1, "row pointers do not run from 0"),
        ("indptr", lambda a: a[:-1], "sizes of its arrays do not fit"),
        ("data", lambda a: -a, "negative, NaN or infinite"),
        ("data", lambda a: np.where(np.arange(len(a)) == 1, np.nan, a.astype(float)), "negative, NaN or infinite"),
        ("data", lambda a: a.astype("S3"), "not numbers"),
        ("shape", lambda a: a[::-1], "declares 6 features × 5 barcodes"),
        ("shape", lambda a: np.array([10**12, 6]), "declares 1000000000000 features"),
        ("shape", lambda a: -a, "not two whole numbers"),
        ("barcodes", lambda a: a[:-1], "names 5 features and 5 barcodes"),
        ("barcodes", lambda a: np.concatenate([a[:-1], a[:1]]), "1 barcodes twice"),
    ],
)
def test_damaged_arrays(h5: Path, key: str, spoil, words: str) -> None:
    """scipy's compiled code reads and writes beyond its memory where such arrays reach it."""
    change(h5, **{key: spoil(stored(h5, key))})
    with pytest.raises(ValueError, match=rf"(?s){NAME}\.h5.*{words}"):
        read_matrix(h5, NAME)


def test_order_and_repeats_within_a_row_do_not_matter(h5: Path) -> None:
    indices, indptr, data = (stored(h5, key) for key in ("indices", "indptr", "data"))
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in pairwise(indptr)])
    twice = np.concatenate([order[: indptr[1]], order])
    counts = data.copy()
    change(h5, indices=indices[twice], data=counts[twice], indptr=indptr + np.where(np.arange(7) > 0, indptr[1], 0))
    expected = vendor.counts(6)
    expected[0] *= 2
    np.testing.assert_array_equal(read_matrix(h5, NAME)[0].X.toarray(), expected)


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_cut_short(h5: Path, keep: int) -> None:
    file = h5 / f"{NAME}.h5"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="cannot be read as a matrix of 10x Genomics"):
        read_matrix(h5, NAME)


def test_another_hdf5_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / f"{NAME}.h5", "w") as file:
        file["X"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"no group 'matrix', but \['X'\]"):
        read_matrix(tmp_path, NAME)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("matrix.mtx.gz", b"", "cannot be read"),
        ("matrix.mtx.gz", gzip.compress(HEADER + b"5 6 1\n9 9 1\n"), "cannot be read"),
        ("matrix.mtx.gz", gzip.compress(HEADER + b"5 6 1\n1 1 -1\n"), "negative"),
        ("matrix.mtx.gz", gzip.compress(HEADER + b"5 7 1\n1 1 1\n"), "7 barcodes"),
        ("barcodes.tsv.gz", gzip.compress(b"A-1\nB-1\n"), "2 barcodes are named"),
        ("features.tsv.gz", gzip.compress(b"only\none\n"), "not id and name"),
    ],
    ids=["empty", "outside", "negative", "other size", "barcodes", "features"],
)
def test_damaged_market(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    folder = tmp_path / NAME
    write_market(folder, vendor.counts(6), vendor.barcodes(6), features())
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{NAME} .*{words}"):
        read_matrix(tmp_path, NAME)


# ---------------------------------------------------------------------------------------------- which file is read


def test_the_vendor_s_name_comes_first(h5: Path) -> None:
    for name in ("A_", "cellbender-", "zz_"):
        vendor.write_10x(h5 / f"{name}{NAME}.h5", vendor.counts(6) * 7, vendor.barcodes(6))
        with pytest.warns(UserWarning, match=rf"{NAME}\.h5 and {name}{NAME}\.h5 differ \(in their counts\)"):
            table, facts = read_matrix(h5, NAME)
        np.testing.assert_array_equal(table.X.toarray(), vendor.counts(6))
        assert facts["counts"] == f"{NAME}.h5"
        (h5 / f"{name}{NAME}.h5").unlink()


def test_the_same_matrix_twice_is_no_news(h5: Path) -> None:
    """Space Ranger writes its matrix in two forms; another order of the barcodes is the same matrix."""
    (h5 / f"A_{NAME}.h5").write_bytes((h5 / f"{NAME}.h5").read_bytes())
    turned = np.arange(6)[::-1]
    write_market(h5 / NAME, vendor.counts(6)[turned], np.array(vendor.barcodes(6))[turned], features())
    np.testing.assert_array_equal(read_matrix(h5, NAME)[0].X.toarray(), vendor.counts(6))


@pytest.mark.parametrize(
    ("values", "barcodes", "names", "words"),
    [
        (vendor.counts(6) + 1, vendor.barcodes(6), features(), "in their counts"),
        (vendor.counts(6), [f"N{b}" for b in vendor.barcodes(6)], features(), "in their barcodes"),
        (vendor.counts(6), vendor.barcodes(6), [("X" + a, b, c) for a, b, c in features()], "in their features"),
    ],
)
def test_two_forms_that_differ_are_named(h5: Path, values, barcodes, names, words: str) -> None:
    write_market(h5 / NAME, values, barcodes, names)
    with pytest.warns(UserWarning, match=rf"{NAME}\.h5 and {NAME} differ \({words}\): the former is read"):
        table, _ = read_matrix(h5, NAME)
    np.testing.assert_array_equal(table.X.toarray(), vendor.counts(6))


def test_a_large_second_form_is_compared_by_its_header(h5: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from storm.io import _matrix

    monkeypatch.setattr(_matrix, "_COMPARED_IN_FULL", 0)
    values = vendor.counts(6)
    write_market(h5 / NAME, values, vendor.barcodes(6), features())
    read_matrix(h5, NAME)
    values[0, 1:] = 0
    (h5 / NAME / "matrix.mtx.gz").unlink()
    with gzip.open(h5 / NAME / "matrix.mtx.gz", "wb") as file:
        scipy_io.mmwrite(file, csr_matrix(values.T))
    with pytest.warns(UserWarning, match="in the number of their entries"):
        read_matrix(h5, NAME)


def test_a_damaged_second_form_stops_nothing(h5: Path, caplog: pytest.LogCaptureFixture) -> None:
    (h5 / f"old_{NAME}.h5").write_bytes(b"nothing")
    with caplog.at_level("WARNING", logger="storm"):
        assert read_matrix(h5, NAME)[0].n_obs == 6
    assert f"old_{NAME}.h5 lies beside" in caplog.text


def test_prefixed_only(h5: Path) -> None:
    (h5 / f"{NAME}.h5").rename(h5 / f"A_{NAME}.h5")
    assert read_matrix(h5, NAME)[1]["counts"] == f"A_{NAME}.h5"
    vendor.write_10x(h5 / f"B_{NAME}.h5", vendor.counts(6), vendor.barcodes(6))
    with pytest.raises(ValueError, match=rf"several matrices, \['A_{NAME}\.h5', 'B_{NAME}\.h5'\]"):
        read_matrix(h5, NAME)


# ------------------------------------------------------------------------------------------------- what is a gene


def with_kinds(folder: Path, kinds: list[str], names: list[str] | None = None) -> None:
    with h5py.File(folder / f"{NAME}.h5", "a") as file:
        file["matrix/features/feature_type"][...] = np.array(kinds, dtype=file["matrix/features/feature_type"].dtype)
        if names is not None:
            del file["matrix/features/name"]
            file["matrix/features/name"] = np.array(names, dtype="S")


def kinds_matrix(folder: Path, kinds: list[str], names: list[str]) -> None:
    vendor.write_10x(folder / f"{NAME}.h5", vendor.counts(6), vendor.barcodes(6), kind="x" * 40)
    with_kinds(folder, kinds, names)


@pytest.mark.parametrize("kind", ["Antibody Capture", "CRISPR Guide Capture", "Protein Expression", "Custom"])
def test_other_measurements_are_left_out_with_a_warning(tmp_path: Path, kind: str) -> None:
    kinds_matrix(tmp_path, [GENE, kind, GENE, kind, GENE], vendor.GENES)
    with pytest.warns(UserWarning, match=f"left out, because they are not genes: 2 {kind}"):
        table, facts = read_matrix(tmp_path, NAME)
    assert facts["features_left_out"] == {kind: 2}
    assert list(table.var_names) == [vendor.GENES[k] for k in (0, 2, 4)]
    np.testing.assert_array_equal(table.X.toarray(), vendor.counts(6)[:, ::2])


def test_controls_are_left_out_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the kind that the file gives them, or, where it calls everything a gene, by the vendor's names."""
    names = ["EPCAM", "NegControlProbe_00042", "antisense_PROKR2", "BLANK_0070", "NEGR1"]
    kinds_matrix(tmp_path, [GENE, "Negative Control Probe", GENE, GENE, GENE], names)
    with caplog.at_level("WARNING", logger="storm"):
        table, facts = read_matrix(tmp_path, NAME)
    assert list(table.var_names) == ["EPCAM", "NEGR1"]
    assert facts["features_left_out"] == {"Negative Control Probe": 1, "controls (by their names)": 2}
    assert "not genes: 1 Negative Control Probe, 2 controls (by their names)" in caplog.text


def test_no_gene_at_all(h5: Path) -> None:
    vendor.write_10x(h5 / f"{NAME}.h5", vendor.counts(6), vendor.barcodes(6), kind="Antibody Capture")
    with pytest.raises(ValueError, match=r"6 observations × 0 genes holds no counts; .*'Antibody Capture': 5"):
        read_matrix(h5, NAME)


def test_names_of_genes(tmp_path: Path) -> None:
    """A symbol that occurs twice gets a suffix; "NA" is a name, and a quotation mark is part of one."""
    names = ["TBCE", "NA", "TBCE", '3"UTR', "nan"]
    write_market(
        tmp_path / NAME, vendor.counts(6), vendor.barcodes(6), [(f"E{k}", n, GENE) for k, n in enumerate(names)]
    )
    table, _ = read_matrix(tmp_path, NAME)
    assert list(table.var_names) == ["TBCE", "NA", "TBCE-1", '3"UTR', "nan"]
    assert list(table.var["gene_ids"]) == [f"E{k}" for k in range(5)]
