"""The rows of a table with their places, sections and domains: what the biology of domains is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.keys import Keys
from storm._bridge.places import read_places
from storm._bridge.select import annotated_regions, is_spatialdata, select_table
from storm._bridge.selection import select
from storm._checks import check_key

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: A column with more distinct values than this holds measurements, not domains.
_MOST = 1000


@dataclass(frozen=True, eq=False)
class Places:
    """Where the rows of a table lie.

    Attributes
    ----------
    centres
        x and y in the units of their coordinate system, shape (n_obs, 2); NaN where a row has no place.
    sections
        Section of each row, shape (n_obs,), whole numbers; -1 for rows of no region.
    names
        Names of the sections, in the order of their numbers; empty where all rows are of one.
    """

    centres: np.ndarray
    sections: np.ndarray
    names: list[str]


@dataclass(frozen=True, eq=False)
class Labels:
    """Domains of the rows of a table.

    Attributes
    ----------
    codes
        Domain of each row, shape (n_obs,), int; -1 for rows without one.
    names
        Their names, those of the column's categories that occur.
    """

    codes: np.ndarray
    names: list[str]


def read_sections(data: SpatialData | AnnData, keys: Keys, *, library_key: str | None = None) -> Places:
    """Read where the rows of a table lie, and of which section they are.

    In a SpatialData whose table annotates several elements, each is a section; ``library_key`` divides them further.

    Parameters
    ----------
    data
        The object.
    keys
        The user's choice of elements; no image is read.
    library_key
        Column of ``obs`` that names the section of each row.

    Raises
    ------
    KeyError
        If there is no such column, or an element is missing.
    ValueError
        If a row has no value there, or something is ambiguous.
    """
    table_key, table = select_table(data, keys.table_key)
    keys = replace(keys, table_key=table_key)
    libraries, names = _libraries(table, library_key)
    annotated = annotated_regions(table) if is_spatialdata(data) else None
    if annotated is None or len(annotated[0]) < 2 or keys.shapes_key is not None:
        if names and not is_spatialdata(data):
            return Places(_by_library(table, libraries, len(names)), libraries, names)
        return Places(read_places(select(data, keys, image=False))[1], libraries, names)
    centres = np.full((table.n_obs, 2), np.nan)
    regions = np.full(table.n_obs, -1)
    for number, region in enumerate(annotated[0]):
        selection = select(data, replace(keys, shapes_key=region), image=False)
        if selection.region is None:
            msg = (
                f"table {table_key!r} annotates {annotated[0]}, none of which is in the object, so that its sections "
                f"have no places of their own; add these elements, or choose the sections with library_key="
            )
            raise ValueError(msg)
        _, places, _ = read_places(selection)
        rows = selection.region.rows
        centres[rows], regions[rows] = places[rows], number
    if library_key is None:
        return Places(centres, regions, [str(region) for region in annotated[0]])
    pairs, sections = np.unique(np.column_stack([regions, libraries]), axis=0, return_inverse=True)
    both = [f"{annotated[0][region]}, {names[library]}" for region, library in pairs]
    return Places(centres, sections.ravel(), both)


def _by_library(table: AnnData, libraries: np.ndarray, number: int) -> np.ndarray:
    """Places of an AnnData's rows, read section by section: those of two sections may coincide."""
    from anndata import AnnData

    centres = np.full((table.n_obs, 2), np.nan)
    for library in range(number):
        rows = libraries == library
        own = {"spatial": table.obsm["spatial"][rows]} if "spatial" in table.obsm else {}
        part = AnnData(obs=table.obs.loc[rows, []], obsm=own)
        centres[rows] = read_places(select(part, Keys(), image=False))[1]
    return centres


def _libraries(table: AnnData, library_key: str | None) -> tuple[np.ndarray, list[str]]:
    if library_key is None:
        return np.zeros(table.n_obs, dtype=int), []
    check_key(library_key, list(table.obs.columns), name="library_key", where="obs")
    column = pd.Series(np.asarray(table.obs[library_key], dtype=object))
    missing = column.isna().to_numpy()
    if missing.any():
        rows = ", ".join(map(repr, table.obs_names[missing][:3]))
        msg = (
            f"library_key={library_key!r}: {int(missing.sum())} of {len(column)} rows have no value there, e.g. {rows}; "
            f"give each row its section, or remove these rows"
        )
        raise ValueError(msg)
    names, codes = np.unique(column.map(str).to_numpy(dtype=str), return_inverse=True)
    return codes.ravel(), names.tolist()


def read_labels(table: AnnData, key: str, *, least: int = 1) -> Labels:
    """Read a column of domains.

    Parameters
    ----------
    table
        The table.
    key
        Column of ``obs``, of categories, text or whole numbers; missing values are rows without a domain.
    least
        Number of domains that are needed.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the column holds measurements, or fewer domains than needed.
    """
    check_key(key, list(table.obs.columns), name="key", where="obs (storm.tl.domains writes it)")
    column = table.obs[key]
    if not isinstance(column.dtype, pd.CategoricalDtype):
        if pd.api.types.is_float_dtype(column):
            known = column.dropna().to_numpy(dtype=np.float64)
            if not np.array_equal(known, np.round(known)):
                msg = f"obs[{key!r}] holds {column.dtype}: measurements, not domains; give a column of labels"
                raise ValueError(msg)
            column = column.astype("Int64")
        column = pd.Series(column.to_numpy(dtype=object, na_value=None)).map(str, na_action="ignore").astype("category")
    column = column.cat.remove_unused_categories()
    names = [str(name) for name in column.cat.categories]
    if len(names) > _MOST:
        msg = f"obs[{key!r}] holds {len(names)} different values: measurements, not domains; give a column of labels"
        raise ValueError(msg)
    if len(names) < least:
        listed = ", ".join(map(repr, names)) or "none"
        msg = f"obs[{key!r}] holds {len(names)} domain(s) ({listed}), and at least {least} are needed"
        raise ValueError(msg)
    return Labels(column.cat.codes.to_numpy(dtype=np.int64), names)


def stored_result(table: AnnData, key: str, *, made_by: str) -> Mapping[str, Any]:
    """Entry of ``uns["storm"]`` with a result.

    Raises
    ------
    KeyError
        If there is none, naming the function that writes it.
    """
    from storm._bridge.select import records_of

    records = records_of(table)
    if key not in records:
        listed = ", ".join(map(repr, records)) or "nothing"
        msg = f"uns['storm'][{key!r}] does not exist; run {made_by} first (uns['storm'] holds: {listed})"
        raise KeyError(msg)
    return records[key]
