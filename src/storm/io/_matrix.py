"""The matrix of counts that the software of 10x Genomics writes: one file is chosen, checked in full, and read once."""

from __future__ import annotations

import filecmp
import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._logging import logger, warn
from storm.io._genes import gene_mask
from storm.io._vendor import listed

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

#: A second matrix up to this size in bytes is compared number by number; parsing more text than that takes minutes.
_COMPARED_IN_FULL = 64_000_000
#: Attributes of a matrix that are kept.
_METADATA = ("chemistry_description", "software_version")


@dataclass(frozen=True)
class Matrix:
    """Counts of one file.

    Attributes
    ----------
    path
        The .h5 file, or the folder that holds ``matrix.mtx.gz``.
    barcodes
        Names of the observations, shape (n,).
    features
        One row per feature: ``id``, ``name``, and, where the file gives them, ``type`` and ``genome``.
    counts
        Shape (n, number of features), CSR float32.
    metadata
        Chemistry and software, where the file names them.
    """

    path: Path
    barcodes: np.ndarray
    features: pd.DataFrame
    counts: csr_matrix
    metadata: dict[str, str] = field(default_factory=dict)


def read_matrix(folder: Path, name: str) -> tuple[AnnData, dict[str, Any]]:
    """Genes of the matrix ``name`` in a folder, and facts about what was read and left out.

    Parameters
    ----------
    folder
        The vendor's folder.
    name
        Name of the matrix without ending, for example ``"filtered_feature_bc_matrix"``.

    Returns
    -------
    table
        Observations × genes, raw counts, CSR float32; ``obs`` is indexed by barcode. ``uns["metadata"]`` names
        chemistry and software, where the file does.
    facts
        Name of the file, and how many features of which kind were left out.

    Raises
    ------
    FileNotFoundError
        If there is no such matrix.
    ValueError
        If it cannot be told which of several files is meant, or the file is damaged or holds no observation, no gene
        or no count.

    Warns
    -----
    UserWarning
        If another matrix beside the one that is read differs from it, or features that are not genes are left out.
    """
    from anndata import AnnData

    path, others = _choose(folder, name)
    matrix = _read(path)
    if not len(matrix.barcodes):
        msg = (
            f"{path} holds no barcodes: no spot of the capture area was called tissue. Check the tissue detection "
            f"of Space Ranger, or read all spots with filtered=False"
        )
        raise ValueError(msg)
    _check_unique(matrix.barcodes, path)
    for other in others:
        _compare(matrix, other)
    genes, left_out = gene_mask(matrix.features, path)
    counts = matrix.counts if genes.all() else matrix.counts[:, np.flatnonzero(genes)]
    kept = matrix.features[genes]
    if not kept.size or not counts.sum():
        what = f"; it holds {left_out} instead of genes" if left_out and not len(kept) else ""
        msg = f"{path}: the table of {counts.shape[0]} observations × {len(kept)} genes holds no counts{what}"
        raise ValueError(msg)
    names = {"id": "gene_ids", "type": "feature_types", "genome": "genome"}
    var = pd.DataFrame(
        {new: kept[old].to_numpy() for old, new in names.items() if old in kept},
        index=pd.Index(kept["name"].to_numpy()),
    )
    obs = pd.DataFrame(index=pd.Index(matrix.barcodes))
    with warnings.catch_warnings():
        # 10x's lists name some symbols twice; the second becomes NAME-1, as in scanpy and spatialdata-io
        warnings.filterwarnings("ignore", message="Suffix used|Variable names are not unique")
        table = AnnData(counts, obs=obs, var=var, uns={"metadata": matrix.metadata})
        table.var_names_make_unique()
    facts: dict[str, Any] = {"counts": path.relative_to(folder).as_posix()}
    if left_out:
        facts["features_left_out"] = left_out
    return table, facts


def _choose(folder: Path, name: str) -> tuple[Path, list[Path]]:
    """The matrix to read, and other files that claim to hold the same."""
    own = [p for p in (folder / f"{name}.h5", folder / name) if p.is_file() or _market(p) is not None]
    prefixed = sorted(p for p in folder.glob(f"?*{name}.h5") if p.is_file())
    if own:
        return own[0], [*own[1:], *prefixed]
    if len(prefixed) == 1:
        return prefixed[0], []
    if prefixed:
        msg = (
            f"{folder} holds several matrices, {[p.name for p in prefixed]}, and none under the name {name}.h5; give "
            f"the one that is meant this name"
        )
        raise ValueError(msg)
    msg = f"the matrix of counts is missing: {folder} holds no {name}.h5 or {name}/matrix.mtx.gz, but {listed(folder)}"
    raise FileNotFoundError(msg)


def _market(folder: Path) -> Path | None:
    """The file in MatrixMarket format in a folder, if there is one."""
    return next((p for p in (folder / "matrix.mtx.gz", folder / "matrix.mtx") if p.is_file()), None)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of the libraries that decode a matrix, as one that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError, EOFError, OverflowError,
        MemoryError, zlib.error,
    ) as error:  # fmt: skip
        reason = str(error)
        if reason.startswith(str(path)):  # it names the file already
            raise
        msg = f"{path} cannot be read as a matrix of 10x Genomics: {reason or type(error).__name__}; is it complete?"
        raise ValueError(msg) from error


def _read(path: Path) -> Matrix:
    with _reading(path):
        return _read_market(path) if path.is_dir() else _read_h5(path)


def _read_h5(path: Path) -> Matrix:
    import h5py
    from scipy.sparse import csr_matrix

    with h5py.File(path, "r") as file:
        metadata = {key: _attribute(file.attrs[key]) for key in _METADATA if key in file.attrs}
        if "matrix" not in file:
            msg = f"it has no group 'matrix', but {sorted(file)}"
            raise ValueError(msg)
        group = file["matrix"]
        shape = np.asarray(group["shape"][:]).ravel()
        if shape.shape != (2,) or shape.dtype.kind not in "iu" or (shape < 0).any():
            msg = f"its shape is {shape.tolist()}, not two whole numbers"
            raise ValueError(msg)
        n_features, n = (int(side) for side in shape)
        barcodes = _text(group["barcodes"])
        columns = {"id": "id", "name": "name", "feature_type": "type", "genome": "genome"}
        features = pd.DataFrame(
            {new: _text(group["features"][old]) for old, new in columns.items() if old in group["features"]}
        )
        if "id" not in features or "name" not in features:
            msg = f"its features have no id and name, but {sorted(group['features'])}"
            raise ValueError(msg)
        if (len(features), len(barcodes)) != (n_features, n):
            msg = (
                f"it declares {n_features} features × {n} barcodes, but names {len(features)} features and "
                f"{len(barcodes)} barcodes"
            )
            raise ValueError(msg)
        sizes = {key: group[key].shape for key in ("data", "indices", "indptr")}
        if sizes["indptr"] != (n + 1,) or sizes["data"] != sizes["indices"] or len(sizes["data"]) != 1:
            msg = f"the sizes of its arrays do not fit together: {sizes} for {n} barcodes"
            raise ValueError(msg)
        data, indices, indptr = (np.asarray(group[key][:]) for key in ("data", "indices", "indptr"))
    check_compressed(data, indices, indptr, n_columns=n_features)
    # stored as CSC, features × barcodes: the same three arrays are the CSR of barcodes × features
    counts = csr_matrix((data.astype(np.float32), indices, indptr), shape=(n, n_features))
    counts.sum_duplicates()
    return Matrix(path, barcodes, features, counts, metadata)


def _attribute(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def check_compressed(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, *, n_columns: int) -> None:
    """Raise unless three arrays are a compressed sparse matrix of counts; compiled code trusts them blindly.

    Parameters
    ----------
    data, indices
        Values and their columns, shape (number of entries,).
    indptr
        Where each row begins, and the end of the last, shape (rows + 1,).
    n_columns
        Number of columns.
    """
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        msg = f"its indices are {indices.dtype} and {indptr.dtype}, not whole numbers"
        raise ValueError(msg)
    begins = indptr.astype(np.int64)
    if begins[0] != 0 or begins[-1] != len(indices) or (np.diff(begins) < 0).any():
        msg = f"its row pointers do not run from 0 to the number of entries ({len(indices)}): the file is damaged"
        raise ValueError(msg)
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= n_columns):
        msg = (
            f"its indices run from {int(indices.min())} to {int(indices.max())}, but there are {n_columns} features: "
            f"the file is damaged"
        )
        raise ValueError(msg)
    _check_values(data)


def _check_values(data: np.ndarray) -> None:
    if data.dtype.kind not in "iuf":
        msg = f"its counts are {data.dtype}, not numbers"
        raise ValueError(msg)
    if len(data) and not (np.isfinite(data).all() and data.min() >= 0):
        msg = "it holds counts that are negative, NaN or infinite"
        raise ValueError(msg)


def _text(dataset: Any) -> np.ndarray:
    """A one-dimensional dataset of text."""
    return np.asarray(dataset[:]).astype(str).reshape(-1)


def _read_market(folder: Path) -> Matrix:
    from scipy.io import mmread
    from scipy.sparse import csr_matrix

    file = _market(folder)
    if file is None:
        msg = f"the matrix of counts is missing: {folder} holds no matrix.mtx.gz, but {listed(folder)}"
        raise FileNotFoundError(msg)
    barcodes, features = _market_names(folder)
    counts = csr_matrix(mmread(file, spmatrix=False).T)
    if counts.shape != (len(barcodes), len(features)):
        msg = (
            f"matrix.mtx is of {counts.shape[1]} features × {counts.shape[0]} barcodes, but {len(features)} features "
            f"and {len(barcodes)} barcodes are named beside it"
        )
        raise ValueError(msg)
    _check_values(counts.data)
    counts = csr_matrix(counts, dtype=np.float32)
    counts.sum_duplicates()
    return Matrix(folder, barcodes, features, counts)


def _market_names(folder: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Barcodes and features beside a matrix in MatrixMarket format."""
    barcodes = _lines(folder, "barcodes.tsv")
    features = _lines(folder, "features.tsv", "genes.tsv")
    if features.shape[1] < 2 and len(features):
        msg = f"its list of features has {features.shape[1]} column, not id and name"
        raise ValueError(msg)
    features = features.iloc[:, :3]
    features.columns = pd.Index(["id", "name", "type"][: features.shape[1]])
    return _first_column(barcodes), features.astype(str)


def _first_column(frame: pd.DataFrame) -> np.ndarray:
    """First column of a table as text, shape (n,); nothing of an empty one."""
    return frame[0].to_numpy(dtype=str) if frame.shape[1] else np.array([], dtype=str)


def _lines(folder: Path, *names: str) -> pd.DataFrame:
    """A tab-separated list without header; every cell is text ("NA" is a name, too)."""
    files = [folder / (name + ending) for name in names for ending in (".gz", "")]
    file = next((p for p in files if p.is_file()), None)
    if file is None:
        msg = f"{folder} holds no {names[0]}.gz, but {listed(folder)}"
        raise FileNotFoundError(msg)
    try:
        return pd.read_csv(file, header=None, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()


def _check_unique(barcodes: np.ndarray, path: Path) -> None:
    index = pd.Index(barcodes)
    if not index.is_unique:
        twice = index[index.duplicated()].unique()
        msg = f"{path} names {len(twice)} barcodes twice, e.g. {str(twice[0])!r}: which counts are theirs is unknown"
        raise ValueError(msg)


def _compare(matrix: Matrix, other: Path) -> None:
    """Warn if another file that claims to hold the same matrix differs from the one that is read."""
    if matrix.path.is_file() and other.is_file() and filecmp.cmp(matrix.path, other, shallow=False):
        return
    try:
        difference = _difference(matrix, other)
    except (ValueError, FileNotFoundError) as error:
        logger.warning("%s lies beside %s and is not read (%s)", other.name, matrix.path.name, error)
        return
    if difference:
        msg = (
            f"{matrix.path} and {other.name} differ ({difference}): the former is read. Remove the one that is not "
            f"meant, or give it another name"
        )
        warn(msg)


def _difference(matrix: Matrix, path: Path) -> str | None:
    """In what another file differs from a matrix, in words, or ``None``."""
    file = path if path.is_file() else _market(path)
    assert file is not None
    if path.is_dir() and file.stat().st_size > _COMPARED_IN_FULL:
        with _reading(path):
            barcodes, features = _market_names(path)
            entries = _declared_entries(file)
        other = None
    else:
        other = _read(path)
        barcodes, features, entries = other.barcodes, other.features, other.counts.nnz
    if not pd.Index(barcodes).sort_values().equals(pd.Index(matrix.barcodes).sort_values()):
        return "in their barcodes"
    if not np.array_equal(np.sort(features["id"]), np.sort(matrix.features["id"])):
        return "in their features"
    if other is None:
        return "in the number of their entries" if entries != matrix.counts.nnz else None
    rows = pd.Index(other.barcodes).get_indexer(pd.Index(matrix.barcodes))
    columns = _positions(other.features, matrix.features)
    return "in their counts" if (other.counts[rows][:, columns] != matrix.counts).nnz else None


def _positions(features: pd.DataFrame, wanted: pd.DataFrame) -> np.ndarray:
    """Where the wanted features are; repeated ids keep their order."""
    keys = [pd.MultiIndex.from_arrays([f["id"], f.groupby("id").cumcount()]) for f in (features, wanted)]
    return keys[0].get_indexer(keys[1])


def _declared_entries(file: Path) -> int:
    """Number of entries in the header of a file in MatrixMarket format."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        for line in lines:
            if not line.startswith("%"):
                return int(line.split()[2])
    msg = "it has no header"
    raise ValueError(msg)
