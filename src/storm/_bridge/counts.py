"""Counts of a table as a matrix of their own, whatever they were stored as."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from storm._checks import check_key
from storm._logging import warn
from storm.data.genes import Vocabulary, best_names, is_gene

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Name under which the counts in ``table.raw`` are asked for, unless a layer has that name.
RAW = "raw"
#: Columns of ``var`` that state the kind of each feature: 10x and Xenium write the first.
_KIND_COLUMNS = ("feature_types", "feature_type")
#: Columns of ``var`` that may hold gene names where the index holds something else, in the order of preference.
_NAME_COLUMNS = (
    "symbol", "gene_name", "gene_names", "gene_symbol", "gene_symbols", "feature_name", "gene_ids", "gene_id",
    "ensembl_id", "feature_id",
)  # fmt: skip
#: The largest whole number up to which float16 holds every whole number.
_FLOAT16_WHOLE = 2048
#: Values of ``raw`` that are looked at to tell whether it holds counts.
_SAMPLE = 1_000_000
#: Values that are checked at a time.
_BLOCK = 2**22


def read_counts(
    table: AnnData, layer: str | None = None, *, vocabulary: Vocabulary | None = None
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Read raw counts.

    Dense, CSR, CSC and dask matrices, views and backed tables (read into memory as a whole) are accepted. The table is
    not changed: where the result shares memory with it, it is read-only. Features that are not genes (antibodies,
    guides, control probes) are left out and counted in a warning.

    Parameters
    ----------
    table
        The table.
    layer
        Layer that holds the counts; ``None`` for ``X``, ``"raw"`` for ``table.raw`` if no layer has that name.
    vocabulary
        Genes of the model that will read the counts. If they are given and ``var_names`` match hardly any of them, the
        names come from the column of ``var`` (``"symbol"``, ``"gene_name"``, ``"gene_ids"`` …) that matches most.

    Returns
    -------
    counts
        float32, shape (n_obs, g); one column for each gene of the table.
    genes
        Names of the genes, shape (g,), str.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If the table is empty or holds no genes, names of genes repeat, the matrix is damaged, or its values are not
        counts.
    """
    if 0 in table.shape:
        msg = f"the table is empty: it holds {table.n_obs} observations × {table.n_vars} genes"
        raise ValueError(msg)
    stored, var, where = stored_matrix(table, layer)
    gene = genes_of(var)
    names = var.index[gene]
    if not names.is_unique:
        twice = list(names[names.duplicated()].unique())
        fix = (
            "raw = table.raw.to_adata(); raw.var_names_make_unique(); table.raw = raw"
            if where == ".raw"
            else "table.var_names_make_unique()"
        )
        msg = (
            f"{len(twice)} var_names occur more than once, e.g. {twice[:5]}; sum or drop the duplicates, or call {fix}"
        )
        raise ValueError(msg)
    counts = as_csr(stored, where=where)
    if counts.shape != (table.n_obs, len(var)):
        msg = f"{where} has shape {counts.shape}, expected ({table.n_obs}, {len(var)}): one row per observation"
        raise ValueError(msg)
    if not gene.all():
        counts = counts[:, np.flatnonzero(gene)]
    _check_counts(counts.data, where=where, table=table)
    counts = counts.astype(np.float32, copy=False)
    if not counts.has_canonical_format:
        counts = counts.copy()
        counts.sum_duplicates()
    chosen = names.to_numpy(dtype=str) if vocabulary is None else _names(var.loc[gene], vocabulary)
    return _read_only(counts), chosen


def gene_names(table: AnnData, vocabulary: Vocabulary) -> np.ndarray:
    """Names of all columns of a table as a vocabulary knows them: ``var_names``, or another column of ``var``.

    Parameters
    ----------
    table
        The table.
    vocabulary
        Genes to look for.

    Returns
    -------
    ndarray
        Text, shape (n_vars,); see :func:`storm.data.genes.best_names`.
    """
    return _names(table.var.to_memory() if hasattr(table.var, "to_memory") else table.var, vocabulary)


def named_elsewhere(table: AnnData, genes: Iterable[str]) -> str:
    """Words to add to an error about unknown genes: the column of ``var`` that names them, and what to do.

    Parameters
    ----------
    table
        The table.
    genes
        Names that ``var_names`` lack.

    Returns
    -------
    str
        Empty if no column holds one of them.
    """
    wanted = {str(gene) for gene in genes}
    for name in _NAME_COLUMNS:
        if name in table.var and wanted.intersection(table.var[name].astype(str)):
            return (
                f". var[{name!r}] names them: first table.var_names = table.var[{name!r}].astype(str) and "
                f"table.var_names_make_unique()"
            )
    return ""


def _names(var: pd.DataFrame, vocabulary: Vocabulary) -> np.ndarray:
    columns = {name: var[name].to_numpy(dtype=object) for name in _NAME_COLUMNS if name in var}
    return best_names({"var_names": var.index.to_numpy(dtype=str), **columns}, vocabulary)[1]


def stored_matrix(table: AnnData, layer: str | None) -> tuple[Any, pd.DataFrame, str]:
    """The matrix as it is stored, the frame that describes its columns, and its place in words."""
    if layer == RAW and layer not in table.layers and table.raw is not None:
        return table.raw.X, table.raw.var, ".raw"
    if layer is not None:
        check_key(layer, layer_names(table), name="layer", where="layers of the table")
    where = "X" if layer is None else f"layers[{layer!r}]"
    if table.is_view:
        # A view cuts its rows and columns out of its parent, which kills the interpreter if the parent is damaged.
        parent = table._adata_ref
        _check_stored(parent.X if layer is None else parent.layers[layer], where=where)
    stored = table.X if layer is None else table.layers[layer]
    if stored is None:
        msg = f"the table has no X; choose the one with the counts, layer=; it has {_layers(table)}"
        raise ValueError(msg)
    # The frames of a lazily read table are not pandas' yet.
    return stored, table.var.to_memory() if hasattr(table.var, "to_memory") else table.var, where


def named_layers(table: AnnData) -> list[str]:
    """The layers of a table; since anndata 0.13 ``None`` among their keys is ``X``."""
    return [key for key in table.layers if key is not None]


def layer_names(table: AnnData) -> list[str]:
    """What ``layer=`` may be for a table: its layers, and ``"raw"`` where ``table.raw`` can be read."""
    names = named_layers(table)
    return [*names, *([RAW] if table.raw is not None and RAW not in names else [])]


def _layers(table: AnnData) -> str:
    """What a table offers as ``layer=``, in words."""
    return f"layers {sorted(layer_names(table))}" if layer_names(table) else "no layers"


def genes_of(var: pd.DataFrame) -> np.ndarray:
    """Which features are genes, bool, shape (n_vars,); the others are counted in a warning."""
    column = next((name for name in _KIND_COLUMNS if name in var), None)
    kinds = None if column is None else var[column].to_numpy(dtype=object)
    names = var.index.to_numpy(dtype=object)
    gene = is_gene(names, kinds)
    if gene.all():
        return gene
    listed = ", ".join(f"{n} {kind!r}" for kind, n in Counter(map(str, () if kinds is None else kinds[~gene])).items())
    by_name = f"{int((~gene).sum())} control probes, e.g. {names[~gene][0]!r}"
    kind_of = by_name if column is None else f"var[{column!r}] is {listed}"
    if not gene.any():
        msg = f"none of the table's {len(gene)} features is a gene ({kind_of}); give the table with the gene expression"
        raise ValueError(msg)
    msg = f"{int((~gene).sum())} of the table's {len(gene)} features are not genes and are left out ({kind_of})"
    warn(msg)
    return gene


def _read_only(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same matrix over the same memory, which may be the user's, and is large."""
    parts = [part.view() for part in (matrix.data, matrix.indices, matrix.indptr)]
    for part in parts:
        part.flags.writeable = False
    view = sparse.csr_matrix(tuple(parts), shape=matrix.shape, copy=False)
    view.has_canonical_format = True
    return view


def as_csr(stored: Any, *, where: str) -> sparse.csr_matrix:
    """Turn a matrix of numbers of any kind into CSR.

    Parameters
    ----------
    stored
        An array, a CSR or CSC matrix or array, a dask array of either, or a backed matrix.
    where
        Name of the matrix, for errors.

    Returns
    -------
    csr_matrix
        The same values; the memory may be that of ``stored``. Its structure has been checked, and its flags about the
        order of the indices are not those of ``stored``, which may be out of date.

    Raises
    ------
    ValueError
        If the values are not numbers, some are masked, they cannot be read, or the indices are out of range.
    """
    matrix = _in_memory(stored, where=where)
    values = matrix.data if sparse.issparse(matrix) else matrix
    if values.dtype.kind not in "biuf":
        msg = f"{where} holds {values.dtype}, not numbers; STORM reads raw counts: whole numbers of at least 0"
        raise ValueError(msg)
    if values.dtype == np.float16 and values.size and np.nanmax(values) > _FLOAT16_WHOLE:
        msg = (
            f"{where} holds float16, which does not hold whole numbers above {_FLOAT16_WHOLE} exactly, and values up "
            f"to {np.nanmax(values):.5g}; store the counts as float32 or as integers from their source"
        )
        raise ValueError(msg)
    if not sparse.issparse(matrix):
        return sparse.csr_matrix(_for_scipy(matrix))
    data = _for_scipy(matrix.data)
    kind = sparse.csc_matrix if matrix.format == "csc" else sparse.csr_matrix
    n = int(matrix.indptr[-1])
    return kind((data[:n], matrix.indices[:n], matrix.indptr), shape=matrix.shape, copy=False).tocsr()


def _for_scipy(values: np.ndarray) -> np.ndarray:
    """The same numbers in a type that scipy's matrices hold, which float16 and foreign byte orders are not."""
    wanted = np.dtype(np.float32) if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return values.astype(wanted, copy=False)


def _in_memory(stored: Any, *, where: str) -> Any:
    """A dense array, or a sparse matrix whose structure has been checked."""
    try:
        if hasattr(stored, "dask"):
            blocks = stored.map_blocks(_checked_block, dtype=stored.dtype, meta=stored._meta, where=where)
            matrix = blocks.compute(scheduler="synchronous")
        elif hasattr(stored, "to_memory"):
            matrix = stored.to_memory()
        else:
            matrix = stored if sparse.issparse(stored) else np.ma.asanyarray(stored[:])
    except (ValueError, OSError, RuntimeError, IndexError, KeyError, TypeError, zlib.error) as error:
        msg = f"{where} cannot be read, its storage may be damaged: {type(error).__name__}: {error}"
        raise ValueError(msg) from error
    if sparse.issparse(matrix):
        check_structure(matrix, where=where)
        return matrix
    if np.ma.is_masked(matrix):
        msg = f"{where} is a masked array with {int(matrix.mask.sum())} masked values; fill them in, or leave them out"
        raise ValueError(msg)
    return np.asarray(matrix)


def _check_stored(stored: Any, *, where: str) -> None:
    """Raise if a sparse matrix, in memory or backed, is damaged."""
    if sparse.issparse(stored):
        check_structure(stored, where=where)
    elif hasattr(stored, "to_memory") and hasattr(stored, "format"):
        _in_memory(stored, where=where)


def _checked_block(block: Any, where: str) -> Any:
    if sparse.issparse(block):
        check_structure(block, where=where)
    return block


def check_structure(matrix: Any, *, where: str) -> None:
    """Raise if the parts of a CSR or CSC matrix do not fit together; scipy itself reads beyond its memory then.

    Parameters
    ----------
    matrix
        CSR or CSC matrix or array.
    where
        Its name, for the error.

    Raises
    ------
    ValueError
        If ``indptr`` does not rise from 0 to the number of values, or an index is out of range.
    """
    if matrix.format not in ("csr", "csc"):
        msg = f"{where} is a sparse matrix of the format {matrix.format!r}; convert it with .tocsr()"
        raise ValueError(msg)
    data, indices, indptr = (np.asarray(getattr(matrix, name)) for name in ("data", "indices", "indptr"))
    major, minor = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    fault = ""
    if any(part.ndim != 1 for part in (data, indices, indptr)) or {indices.dtype.kind, indptr.dtype.kind} - {"i", "u"}:
        fault = "its parts are not lists of whole numbers"
    elif len(indptr) != major + 1:
        fault = f"indptr has {len(indptr)} entries, expected {major + 1}"
    elif indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
        fault = "indptr does not rise from 0"
    elif len(data) != len(indices) or indptr[-1] > len(indices):
        fault = f"indptr ends at {indptr[-1]}, with {len(indices)} indices and {len(data)} values"
    else:
        used = indices[: int(indptr[-1])]
        if used.size and (used.min() < 0 or used.max() >= minor):
            fault = f"indices run from {used.min()} to {used.max()}, expected 0 to {minor - 1}"
    if fault:
        msg = f"{where} is a damaged {matrix.format.upper()} matrix: {fault}; write it again from its source"
        raise ValueError(msg)


def _check_counts(values: np.ndarray, *, where: str, table: AnnData) -> None:
    advice = f"STORM reads raw counts: name the layer that holds them, layer= (the table has {_layers(table)})"
    if where != ".raw" and table.raw is not None and _looks_like_counts(table.raw.X):
        advice = "STORM reads raw counts, and .raw of the table holds whole numbers: read them with layer='raw'"
    if np.issubdtype(values.dtype, np.inexact):
        if (n := sum(int(np.count_nonzero(~np.isfinite(block))) for block in _blocks(values))) > 0:
            msg = f"{where} holds NaN or infinite values ({n} of them); {advice}"
            raise ValueError(msg)
        if (fraction := first_fraction(values)) is not None:
            msg = f"{where} holds non-count values (for example {fraction:.4g}); {advice}"
            raise ValueError(msg)
    if values.size and values.min() < 0:
        msg = f"{where} holds negative values, down to {values.min():.4g}; {advice}"
        raise ValueError(msg)


def first_fraction(values: np.ndarray) -> float | None:
    """The first of many values that is not a whole number (NaN is none either); ``None`` if all are.

    Parameters
    ----------
    values
        Numbers, shape (n,).
    """
    for block in _blocks(values):
        broken = block != np.rint(block)
        if broken.any():
            return float(block[broken][0])
    return None


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Views of values, some at a time: what is made of all at once would be as large as they are."""
    return (values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK))


def _looks_like_counts(matrix: Any) -> bool:
    values = matrix.data if sparse.issparse(matrix) else matrix
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        return False
    some = values.ravel()[:_SAMPLE]
    return bool(some.size and (some >= 0).all() and (some == np.rint(some)).all())
