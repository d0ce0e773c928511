"""Rankings of genes in scanpy's shape, read as a data frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from anndata import AnnData

#: Entries of the ranking with a field per group, in the order of the columns.
_COLUMNS = (
    "names",
    "scores",
    "logfoldchanges",
    "pvals",
    "pvals_adj",
    "auc",
    "p_spatial",
    "p_spatial_adj",
    "share",
    "share_reference",
)


def ranked_genes(table: AnnData, key: str, group: str | None = None) -> pd.DataFrame:
    """Genes of one domain or all, as :func:`storm.tl.rank_domain_genes` stored them.

    Parameters
    ----------
    table
        The table.
    key
        Entry of ``uns``.
    group
        A domain; ``None`` for all of them.

    Returns
    -------
    DataFrame
        See :func:`storm.get.rank_domain_genes`.

    Raises
    ------
    KeyError
        If there is no such result or domain.
    """
    result = table.uns.get(key)
    if not isinstance(result, Mapping) or not {"names", "auc"} <= set(result):
        msg = f"uns[{key!r}] holds no ranking of genes; run storm.tl.rank_domain_genes first"
        raise KeyError(msg)
    groups = list(result["names"].dtype.names)
    group = None if group is None else str(group)
    if group is not None and group not in groups:
        msg = f"{group!r} is not among the domains that were tested: {groups}"
        raise KeyError(msg)
    frames = []
    for name in groups if group is None else [group]:
        frame = pd.DataFrame({column: np.asarray(result[column][name]) for column in _COLUMNS})
        frame.insert(0, "group", name)
        frames.append(frame.rename(columns={"share": "pts", "share_reference": "pts_reference"}))
    return pd.concat(frames, ignore_index=True)


def common_ranking(tables: Sequence[AnnData], key: str, group: str | None = None) -> pd.DataFrame:
    """The ranking of some tables, which is the same in all that hold one.

    Parameters
    ----------
    tables
        The tables.
    key, group
        As in :func:`ranked_genes`.

    Raises
    ------
    KeyError
        As :func:`ranked_genes`, if no table holds one.
    ValueError
        If they hold different rankings.
    """
    held = [ranked_genes(table, key, group) for table in tables if key in table.uns] or [
        ranked_genes(tables[0], key, group)
    ]
    if any(not held[0].equals(other) for other in held[1:]):
        msg = (
            f"the objects hold different rankings in uns[{key!r}]; rank them together, "
            f"storm.tl.rank_domain_genes([...]), or give one object at a time"
        )
        raise ValueError(msg)
    return held[0]
