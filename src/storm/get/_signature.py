"""``storm.get.signature``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm import _keys
from storm._bridge.results import stored_result
from storm._bridge.select import select_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def signature(
    data: SpatialData | AnnData, *, table_key: str | None = None, key_added: str = _keys.SIGNATURE
) -> list[str]:
    """Genes of a signature, as :func:`storm.tl.signature` stored them.

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
    list of str
        The genes that were found in the table, those of a domain by falling score.

    Raises
    ------
    KeyError
        If there is no such result.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.signature(sdata, ["MS4A1", "CD79A", "not a gene"], method="zscore")
    >>> storm.get.signature(sdata)
    ['MS4A1', 'CD79A']
    """
    _, table = select_table(data, table_key)
    return [str(gene) for gene in stored_result(table, key_added, made_by="storm.tl.signature")["genes"]]
