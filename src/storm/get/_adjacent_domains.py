"""``storm.get.adjacent_domains``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm import _keys
from storm._bridge.results import result_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def adjacent_domains(
    data: SpatialData | AnnData,
    key: str = _keys.DOMAIN,
    *,
    table_key: str | None = None,
    key_added: str | None = None,
) -> pd.DataFrame:
    """Contacts between domains, as :func:`storm.tl.adjacent_domains` stored them.

    Parameters
    ----------
    data
        The object.
    key
        The domains' column of ``obs``.
    table_key
        The table; needed only where there are several.
    key_added
        Key under which the result was stored, if one was given.

    Returns
    -------
    DataFrame
        A copy of the table, with a row for each ordered pair of domains.

    Raises
    ------
    KeyError
        If there is no such result.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.adjacent_domains(sdata, "domain")
    >>> storm.get.adjacent_domains(sdata, "domain").columns.tolist()
    ['i', 'j', 'edges', 'share', 'log2_enrichment', 'z', 'adjacent']
    """
    name = _keys.adjacency(key) if key_added is None else key_added
    return result_table(data, name, table_key=table_key, made_by="storm.tl.adjacent_domains")
