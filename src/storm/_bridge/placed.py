"""The rows of a table with their places, sections and domains: what the biology of domains is computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm._bridge.keys import Keys
from storm._bridge.members import members_of
from storm._bridge.places import read_places
from storm._bridge.remembered import recalled_library
from storm._bridge.select import select_table
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
    _, table = select_table(data, keys.table_key)
    library_key = recalled_library(table, library_key)
    members = members_of(data, table, library_key=library_key, shapes_key=keys.shapes_key)
    if members is None:
        centres = read_places(select(data, keys, image=False))[1]
        return Places(centres, np.zeros(table.n_obs, dtype=int), [])
    centres, sections = np.full((table.n_obs, 2), np.nan), np.full(table.n_obs, -1)
    for number, member in enumerate(members):
        if member.region is None:
            own = read_places(select(_bare(table, member.rows), image=False))[1]
        else:
            own = read_places(select(data, replace(keys, shapes_key=member.region), image=False))[1][member.rows]
        centres[member.rows], sections[member.rows] = own, number
    return Places(centres, sections, [member.name for member in members])


def _bare(table: AnnData, rows: np.ndarray) -> AnnData:
    """Some rows with nothing but their places."""
    from anndata import AnnData

    own = {"spatial": table.obsm["spatial"][rows]} if "spatial" in table.obsm else {}
    return AnnData(obs=table.obs.iloc[rows, :0], obsm=own)


def read_labels(table: AnnData, key: str, *, least: int = 1, option: str = "key") -> Labels:
    """Read a column of domains.

    Parameters
    ----------
    table
        The table.
    key
        Column of ``obs``, of categories, text or whole numbers; missing values are rows without a domain.
    least
        Number of domains that are needed.
    option
        Name of the argument that named the column, for errors.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the column holds measurements, or fewer domains than needed.
    """
    where = "obs (storm.tl.domains writes it)" if option == "key" else "obs"
    check_key(key, list(table.obs.columns), name=option, where=where)
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
