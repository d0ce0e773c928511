"""Counts of a table as a matrix of their own, whatever they were stored as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from storm._checks import check_key

if TYPE_CHECKING:
    from anndata import AnnData


def read_counts(table: AnnData, layer: str | None = None) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Read raw counts.

    Dense, CSR, CSC and dask matrices, views and backed tables (read into memory as a whole) are all understood. The
    table is not touched: where the result shares memory with it, it cannot be written to.

    Parameters
    ----------
    table
        The table.
    layer
        Layer that holds the counts; ``None`` for ``X``.

    Returns
    -------
    counts
        float32, shape (n_obs, n_vars).
    genes
        Names of the variables, shape (n_vars,), str.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If the table is empty, names of variables repeat, or values are not counts.
    """
    where = "X" if layer is None else f"layers[{layer!r}]"
    if 0 in table.shape:
        msg = f"the table is empty: it holds {table.n_obs} observations × {table.n_vars} genes"
        raise ValueError(msg)
    if not table.var_names.is_unique:
        twice = list(table.var_names[table.var_names.duplicated()].unique())
        msg = (
            f"{len(twice)} var_names occur more than once, e.g. {twice[:5]}; sum or drop the duplicates, or call "
            f"table.var_names_make_unique()"
        )
        raise ValueError(msg)
    if layer is not None:
        check_key(layer, table.layers, name="layer", where="layers of the table")
    stored = table.X if layer is None else table.layers[layer]
    if stored is None:
        msg = f"the table has no X; name the layer with the counts: layer= out of {sorted(table.layers)}"
        raise ValueError(msg)
    matrix = _as_csr(stored)
    _check_counts(matrix.data, where=where, layers=sorted(table.layers))
    counts = matrix.astype(np.float32, copy=False)
    if not counts.has_canonical_format:
        counts = counts.copy()
        counts.sum_duplicates()
    return _read_only(counts), table.var_names.to_numpy(dtype=str)


def _read_only(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same matrix over the same memory, which may be the user's, and is large."""
    parts = [part.view() for part in (matrix.data, matrix.indices, matrix.indptr)]
    for part in parts:
        part.flags.writeable = False
    view = sparse.csr_matrix(tuple(parts), shape=matrix.shape, copy=False)
    view.has_canonical_format = True
    return view


def _as_csr(stored: Any) -> sparse.csr_matrix:
    """A matrix of any kind as CSR of the same values; may share their memory."""
    if hasattr(stored, "dask"):
        stored = stored.compute(scheduler="synchronous")
    elif hasattr(stored, "to_memory"):
        stored = stored.to_memory()
    elif not sparse.issparse(stored):
        stored = np.asarray(stored[:])
    return sparse.csr_matrix(stored)


def _check_counts(values: np.ndarray, *, where: str, layers: list[str]) -> None:
    advice = f"STORM reads raw counts: name the layer that holds them with layer= (there are: {layers or 'none'})"
    if not (np.issubdtype(values.dtype, np.number) or values.dtype == bool):
        msg = f"{where} holds {values.dtype}, not numbers; {advice}"
        raise ValueError(msg)
    if np.issubdtype(values.dtype, np.inexact):
        if not np.isfinite(values).all():
            msg = f"{where} holds NaN or infinite values ({int((~np.isfinite(values)).sum())} of them); {advice}"
            raise ValueError(msg)
        broken = values != np.rint(values)
        if broken.any():
            msg = f"{where} holds values that are no counts, e.g. {values[broken][0]:.4g}; {advice}"
            raise ValueError(msg)
    if values.size and values.min() < 0:
        msg = f"{where} holds negative values, down to {values.min():.4g}; {advice}"
        raise ValueError(msg)
