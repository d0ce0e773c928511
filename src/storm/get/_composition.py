"""``storm.get.composition`` and ``storm.get.composition_tests``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm import _keys
from storm._bridge.results import result_table, stored_result
from storm._bridge.select import select_table

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def composition(
    data: SpatialData | AnnData, *, table_key: str | None = None, key_added: str = _keys.X_COMPOSITION
) -> pd.DataFrame:
    """Cell types of spots, as :func:`storm.tl.composition` stored them.

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
        A row per observation, a column per type.

    Raises
    ------
    KeyError
        If there is no such result.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> markers = {"B cells": ["MS4A1", "CD79A", "CD19"], "adipocytes": ["ADIPOQ", "PLIN1", "FABP4"]}
    >>> storm.tl.composition(sdata, markers, method="markers")
    >>> storm.get.composition(sdata).shape
    (150, 2)
    """
    _, table = select_table(data, table_key)
    facts = stored_result(table, key_added, made_by="storm.tl.composition")
    if key_added not in table.obsm:
        msg = f"obsm[{key_added!r}] does not exist; domains as a whole are in storm.get.composition_tests"
        raise KeyError(msg)
    return pd.DataFrame(np.asarray(table.obsm[key_added]), index=table.obs_names, columns=list(facts["types"]))


def composition_tests(
    data: SpatialData | AnnData, *, table_key: str | None = None, key_added: str = _keys.X_COMPOSITION
) -> pd.DataFrame:
    """Cell types of domains, and their tests, as :func:`storm.tl.composition` stored them.

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
        A row per domain and type.

    Raises
    ------
    KeyError
        If there is no such result, or it was made without domains.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> markers = {"B cells": ["MS4A1", "CD79A", "CD19"], "adipocytes": ["ADIPOQ", "PLIN1", "FABP4"]}
    >>> storm.tl.composition(sdata, markers, method="markers", key="domain")
    >>> storm.get.composition_tests(sdata).columns.tolist()
    ['group', 'type', 'mean', 'mean_rest', 'rank_biserial', 'pvals', 'pvals_adj', 'p_spatial', 'p_spatial_adj']
    """
    return result_table(data, key_added, table_key=table_key, made_by="storm.tl.composition")
