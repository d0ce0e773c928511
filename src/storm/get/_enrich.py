"""``storm.get.enrich``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm import _keys
from storm._bridge.results import result_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def enrich(
    data: SpatialData | AnnData,
    group: str | None = None,
    *,
    table_key: str | None = None,
    key_added: str = _keys.ENRICHMENT,
) -> pd.DataFrame:
    """Gene sets of domains, as :func:`storm.tl.enrich` stored them.

    Parameters
    ----------
    data
        The object.
    group
        A domain; ``None`` for all of them.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.

    Returns
    -------
    DataFrame
        A copy of the table, with a row per domain and set.

    Raises
    ------
    KeyError
        If there is no such result or domain.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.rank_domain_genes(sdata, "domain")
    >>> storm.tl.enrich(sdata, {"B cells": ["MS4A1", "CD79A", "CD19", "CD79B"]}, min_genes=2)
    >>> storm.get.enrich(sdata, "immune infiltrate").columns.tolist()[:6]
    ['group', 'set', 'n_genes', 'n_selected', 'n_overlap', 'expected']
    """
    return result_table(data, key_added, table_key=table_key, made_by="storm.tl.enrich", group=group)
