"""Signs that the rows of a table are of several sections, whose spots would be taken for each other's neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm.data.lattice import find_lattice
from storm.data.overlay import overlaid

if TYPE_CHECKING:
    from anndata import AnnData

#: The column that names sections by convention of scanpy, squidpy and scvi.
_CONVENTION = "library_id"
#: Columns with more values than this do not name sections.
_MOST = 200
#: Share of the rows whose sections must be lattices for a column to explain why the rows together are none.
_NEARLY_ALL = 0.9


def check_one_section(table: AnnData, centres: np.ndarray) -> None:
    """Raise if a table without regions holds several sections: the neighbours of a spot could lie in another one.

    Parameters
    ----------
    table
        The table.
    centres
        x and y of its rows, shape (n_obs, 2).

    Raises
    ------
    ValueError
        If ``uns["spatial"]`` holds several libraries and no column of ``obs`` names one of them only,
        ``obs["library_id"]`` names several, ``obsm["spatial"]`` has a third coordinate that varies, or the places are
        several lattices on top of each other. The text names the columns that may tell the sections apart.
    """
    spatial = table.uns.get("spatial")
    libraries = [str(name) for name in spatial] if isinstance(spatial, Mapping) else []
    if len(libraries) > 1:
        named = library_columns(table, libraries)
        if any(len(values) == 1 for values in named.values()):
            return  # the rows of one section, which kept the pictures of all
        _refuse(f"uns['spatial'] holds several libraries, {libraries}", list(named))
    columns = dict(_columns(table))
    if len(set(columns.get(_CONVENTION, ()))) > 1:
        _refuse(f"obs[{_CONVENTION!r}] names {len(set(columns[_CONVENTION]))} sections", [_CONVENTION])
    several = {name: values for name, values in columns.items() if len(set(values)) > 1}
    third = _third(table)
    if third is not None:
        alike = [name for name, values in several.items() if pd.Series(third).groupby(values).nunique().eq(1).all()]
        _refuse(f"obsm['spatial'] has a third coordinate that takes {len(np.unique(third))} values", alike)
    if overlaid(centres):
        _refuse(
            "the places in obsm['spatial'] are several lattices on top of each other",
            [name for name, values in several.items() if _lattices(centres, values)],
        )


def library_columns(table: AnnData, libraries: Iterable[str]) -> dict[str, set[str]]:
    """Columns of ``obs`` that tell libraries apart, in which all values are names of libraries, and these values."""
    columns = {}
    for name in table.obs.columns:
        column = pd.Series(np.asarray(table.obs[name]))
        values = {str(value) for value in column.dropna().unique()} if _is_text(table, name, column) else set()
        if values and values <= set(libraries):
            columns[name] = values
    return columns


def _is_text(table: AnnData, name: str, column: pd.Series) -> bool:
    """Whether a column holds text or categories, the latter by its type before it was made an array."""
    stored = getattr(table.obs[name], "dtype", None)
    return isinstance(stored, pd.CategoricalDtype) or pd.api.types.is_string_dtype(column.dtype)


def _refuse(what: str, columns: list[str]) -> None:
    advice = "No column of obs seems to tell the sections apart; make one, or give one section at a time"
    if columns:
        advice = f"Columns of obs that tell them apart: {columns}; name it: library_key={columns[0]!r}"
    msg = f"{what}, and the neighbours of a spot must be of its own section. {advice}"
    raise ValueError(msg)


def _columns(table: AnnData) -> Iterator[tuple[str, np.ndarray]]:
    """Columns that may name sections: text, categories and whole numbers of few values, without gaps."""
    for name in table.obs.columns:
        column = pd.Series(np.asarray(table.obs[name]))
        may_name = _is_text(table, name, column) or pd.api.types.is_integer_dtype(column.dtype)
        if not may_name or column.isna().any():
            continue
        if column.nunique() <= _MOST:
            yield str(name), column.astype(str).to_numpy(dtype=str)


def _third(table: AnnData) -> np.ndarray | None:
    """The third coordinate of the rows, if there is one and it varies."""
    values = np.asarray(table.obsm["spatial"])
    if values.shape[1] < 3 or values.dtype.kind not in "biuf":
        return None
    third = values[:, 2].astype(np.float64)
    known = third[np.isfinite(third)]
    return third if len(known) and np.ptp(known) > 0 else None


def _lattices(centres: np.ndarray, values: np.ndarray) -> bool:
    """Whether a column divides places that are no lattice into some that are."""
    _, group = np.unique(values, return_inverse=True)
    sizes = np.bincount(group)
    on = sum(int(sizes[k]) for k in range(len(sizes)) if find_lattice(centres[group == k]) is not None)
    return on >= _NEARLY_ALL * len(centres)
