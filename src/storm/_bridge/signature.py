"""Signatures of cell types in the forms that users have them in, as a data frame of genes × types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.counts import read_counts
from storm._checks import check_gene_lists, check_key

if TYPE_CHECKING:
    from anndata import AnnData

#: Counts per cell on which profiles of single cells are put.
_PER_CELL = 1e4


def signature_frame(given: Any, *, label_key: str | None = None) -> pd.DataFrame:
    """Read a signature.

    Parameters
    ----------
    given
        A data frame (genes × types), the path of a table of that shape (tabs, or commas for ``.csv``), markers by type,
        or an AnnData of single cells.
    label_key
        Column of the AnnData's ``obs`` with the types.

    Returns
    -------
    DataFrame
        A row per gene, a column per type, finite and not negative; of markers, 1 and elsewhere 0.

    Raises
    ------
    TypeError
        If it is something else, or markers are no list.
    KeyError
        If the AnnData has no such column.
    ValueError
        If genes repeat, or values are missing, negative or no numbers.
    FileNotFoundError
        If there is no such file.
    """
    from anndata import AnnData

    if isinstance(given, AnnData):
        frame = _of_cells(given, label_key)
    elif isinstance(given, pd.DataFrame):
        frame = given
    elif isinstance(given, Mapping):
        markers = check_gene_lists(given, name="signature")
        genes = list(dict.fromkeys(gene for own in markers.values() for gene in own))
        frame = pd.DataFrame({name: np.isin(genes, own) for name, own in markers.items()}, index=genes)
        frame = frame.astype(float)
    elif isinstance(given, str | Path):
        path = Path(given)
        if not path.is_file():
            msg = (
                f"signature={str(given)!r} is not a file; give the path of a table of genes × types, or a public "
                f"signature: storm.datasets.signatures('til10')"
            )
            raise FileNotFoundError(msg)
        frame = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", index_col=0)
    else:
        msg = f"signature is a {type(given).__name__}; give a path, a data frame, markers by type, or an AnnData"
        raise TypeError(msg)
    frame = frame.rename(index=str, columns=str)
    if frame.index.has_duplicates:
        twice = list(frame.index[frame.index.duplicated()].unique()[:5])
        msg = f"the signature names genes more than once, e.g. {twice}; keep one row of each"
        raise ValueError(msg)
    numbers = frame.select_dtypes("number")
    if numbers.shape[1] < frame.shape[1] or frame.empty:
        others = [column for column in frame.columns if column not in numbers.columns]
        msg = f"the signature has {frame.shape[0]} genes and the columns {others} without numbers; a column is a type"
        raise ValueError(msg)
    values = numbers.to_numpy(dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        msg = "the signature holds missing or negative values; it is expression on a linear scale, not of logarithms"
        raise ValueError(msg)
    return numbers.astype(np.float64)


def _of_cells(cells: AnnData, label_key: str | None) -> pd.DataFrame:
    """Mean profile of the cells of each type, each cell with the same number of counts."""
    if label_key is None:
        msg = f"signature is an AnnData; name the column of its types with label_key= (obs holds {list(cells.obs)})"
        raise KeyError(msg)
    check_key(label_key, list(cells.obs.columns), name="label_key", where="obs of the signature")
    counts, genes = read_counts(cells)
    total = np.asarray(counts.sum(axis=1)).ravel()
    weight = np.divide(_PER_CELL, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)
    labels = cells.obs[label_key].astype("category")
    profiles = {}
    for name in labels.cat.categories:
        rows = np.flatnonzero((labels == name).to_numpy() & (total > 0))
        if len(rows):
            profiles[str(name)] = weight[rows] @ counts[rows] / len(rows)
    return pd.DataFrame(profiles, index=genes)
