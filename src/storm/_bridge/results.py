"""Results that tools stored in ``uns["storm"]``, for the functions that return or draw them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from storm._bridge.select import records_of, select_table
from storm._keys import TABLE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def stored_result(table: AnnData, key: str, *, made_by: str) -> Mapping[str, Any]:
    """Entry of ``uns["storm"]`` with a result.

    Raises
    ------
    KeyError
        If there is none, naming the function that writes it.
    """
    records = records_of(table)
    if key not in records:
        listed = ", ".join(map(repr, records)) or "nothing"
        msg = f"uns['storm'][{key!r}] does not exist; run {made_by} first (uns['storm'] holds: {listed})"
        raise KeyError(msg)
    return records[key]


def result_table(
    data: SpatialData | AnnData, key: str, *, table_key: str | None, made_by: str, group: str | None = None
) -> pd.DataFrame:
    """A copy of the data frame that is a result, or of its rows of one domain.

    Parameters
    ----------
    data
        The object.
    key
        Entry of ``uns["storm"]``.
    table_key
        The table; needed only where there are several.
    made_by
        The function that writes it, for errors.
    group
        A domain in the column ``group``; ``None`` for all rows.

    Raises
    ------
    KeyError
        If there is no such result or domain, or it is not a data frame.
    """
    _, table = select_table(data, table_key)
    facts = stored_result(table, key, made_by=made_by)
    if TABLE not in facts:
        msg = f"uns['storm'][{key!r}] holds no data frame: {made_by} did not write it, or was run without domains"
        raise KeyError(msg)
    frame: pd.DataFrame = facts[TABLE]
    if group is None:
        return frame.copy()
    groups = list(dict.fromkeys(frame["group"]))
    group = str(group)
    if group not in groups:
        msg = f"group={group!r} is not among the domains that were tested: {groups}"
        raise KeyError(msg)
    return frame[frame["group"] == group].reset_index(drop=True)


def default_p(frame: pd.DataFrame) -> Literal["p_spatial_adj", "pvals_adj"]:
    """Adjusted p-values that count where none were asked for: those of the spatial test, if it was computed."""
    return "p_spatial_adj" if frame["p_spatial_adj"].notna().any() else "pvals_adj"
