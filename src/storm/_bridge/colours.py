"""Colours of categories where scanpy, squidpy and spatialdata-plot keep them: ``uns["<column>_colors"]``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from storm._palette import stored_colours

if TYPE_CHECKING:
    from anndata import AnnData


def own_colours(tables: Iterable[AnnData], key: str, names: Sequence[str]) -> dict[str, str]:
    """Colours that some tables keep for a column, by category; of several tables, the first that has one decides.

    Parameters
    ----------
    tables
        The tables.
    key
        The column, which need not exist yet: then the colours are those of the first categories.
    names
        Categories that the column is to have.
    """
    colours: dict[str, str] = {}
    for table in tables:
        stored = table.uns.get(f"{key}_colors")
        column = table.obs.get(key)
        own = [str(name) for name in column.cat.categories] if _is_categorical(column) else list(names)
        # fewer colours than categories are of nobody: scanpy replaces them as well
        kept = stored_colours(stored, len(own)) or ([] if column is not None else _first(stored, len(own)))
        colours = dict(zip(own, kept, strict=False)) | colours
    return colours


def _is_categorical(column: pd.Series | None) -> bool:
    return column is not None and isinstance(column.dtype, pd.CategoricalDtype)


def _first(stored: object, most: int) -> list[str]:
    """The colours of the first categories, where there are fewer than categories."""
    n = min(len(stored), most) if hasattr(stored, "__len__") else 0
    return stored_colours(stored, n) or []
