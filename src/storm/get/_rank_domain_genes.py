"""``storm.get.rank_domain_genes``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm import _keys
from storm._bridge.ranked import ranked_genes
from storm._bridge.select import select_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData


def rank_domain_genes(
    data: SpatialData | AnnData,
    group: str | None = None,
    *,
    table_key: str | None = None,
    key_added: str = _keys.RANKED_GENES,
) -> pd.DataFrame:
    """Genes of domains, as :func:`storm.tl.rank_domain_genes` stored them.

    Parameters
    ----------
    data
        The object.
    group
        A domain; ``None`` for all of them.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result in ``uns``.

    Returns
    -------
    DataFrame
        A row per domain and gene, by falling score: ``group``, ``names``, ``scores``, ``logfoldchanges``, ``pvals``,
        ``pvals_adj``, ``auc``, ``p_spatial``, ``p_spatial_adj``, ``pts`` and ``pts_reference`` (shares of the spots
        with the gene).

    Raises
    ------
    KeyError
        If there is no such result or domain.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.rank_domain_genes(sdata, "domain")
    >>> genes = storm.get.rank_domain_genes(sdata, "adipose tissue")
    >>> first = genes.loc[genes["p_spatial_adj"] < 0.05, "names"].head(10)
    >>> len(first)
    10
    """
    _, table = select_table(data, table_key)
    return ranked_genes(table, key_added, group)
