"""Embeddings in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from storm._checks import check_key
from storm._keys import X_STORM

if TYPE_CHECKING:
    from anndata import AnnData


def read_embedding(table: AnnData, use_rep: str) -> Any:
    """Read an embedding that a table holds, shape (n_obs, d).

    Raises
    ------
    KeyError
        If it holds none of that name.
    ValueError
        If it is no matrix of real numbers.
    """
    if isinstance(use_rep, str) and use_rep == X_STORM and use_rep not in table.obsm:
        available = sorted(table.obsm) or "nothing"
        msg = f"use_rep={use_rep!r} is not in obsm, which holds {available}; run storm.tl.embed first"
        raise KeyError(msg)
    check_key(use_rep, sorted(table.obsm), name="use_rep", where="obsm")
    return _as_matrix(table.obsm[use_rep], name=f"obsm[{use_rep!r}]")


def stack_embeddings(embeddings: Sequence[Any], *, name: str) -> tuple[Any, np.ndarray]:
    """Embeddings of several tables below each other, and where one ends and the next begins.

    Parameters
    ----------
    embeddings
        What :func:`read_embedding` returns for each table.
    name
        Their key in ``obsm``, for the error.

    Raises
    ------
    ValueError
        If they have different numbers of columns.
    """
    if len(embeddings) == 1:
        return embeddings[0], np.empty(0, dtype=int)
    widths = [embedding.shape[1] for embedding in embeddings]
    if len(set(widths)) > 1:
        msg = (
            f"obsm[{name!r}] has {widths} columns in the {len(widths)} objects, so that they cannot be clustered "
            f"together; embed them together: storm.tl.embed([...])"
        )
        raise ValueError(msg)
    rows = [np.asarray(embedding, dtype=np.float32) for embedding in embeddings]
    return np.concatenate(rows), np.cumsum([len(part) for part in rows])[:-1]


def _as_matrix(values: Any, *, name: str) -> Any:
    """An embedding with rows and columns of real numbers; a sparse one as a dense array.

    Raises
    ------
    ValueError
        If it has another number of axes, no columns, or something else than real numbers.
    """
    if sparse.issparse(values):
        values = values.toarray()
    if values.ndim != 2 or values.shape[1] == 0:
        msg = f"{name} has shape {tuple(values.shape)}; an embedding has the shape (n_obs, d) with d of at least 1"
        raise ValueError(msg)
    kinds = values.dtypes if isinstance(values, pd.DataFrame) else [values.dtype]
    if any(np.dtype(kind).kind not in "biuf" for kind in kinds):
        msg = f"{name} holds {', '.join(sorted({str(kind) for kind in kinds}))}; an embedding holds real numbers"
        raise ValueError(msg)
    return values
