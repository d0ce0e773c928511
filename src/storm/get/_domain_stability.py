"""``storm.get.domain_stability``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm import _keys
from storm._bridge.results import result_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def domain_stability(
    data: SpatialData | AnnData, *, table_key: str | None = None, key_added: str = _keys.STABILITY
) -> pd.DataFrame:
    """Agreement of repeated runs, as :func:`storm.tl.domain_stability` stored it.

    Parameters
    ----------
    data
        The object.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.

    Returns
    -------
    DataFrame
        A copy of the table, with a row per number of domains and run.

    Raises
    ------
    KeyError
        If there is no such result.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.embed(sdata, modality="st")
    >>> storm.tl.domain_stability(sdata, [3, 4], runs=2)
    >>> storm.get.domain_stability(sdata).columns.tolist()
    ['n_domains', 'run', 'ari', 'ari_next']
    """
    return result_table(data, key_added, table_key=table_key, made_by="storm.tl.domain_stability")
