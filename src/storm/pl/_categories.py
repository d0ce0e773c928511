"""Labels of spots as categories, and one colour for each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._palette import palette, stored_colours
from storm.pl._arguments import check_colours

if TYPE_CHECKING:
    import pandas as pd

#: A column with more distinct values than this holds measurements, not domains.
_MOST = 100


def categories(column: Any, *, key: str) -> pd.Series:
    """Return labels as a categorical column, whatever their type; missing ones of any spelling have no category."""
    import pandas as pd

    if isinstance(column, pd.DataFrame):
        msg = f"obs has {column.shape[1]} columns called {key!r}; rename all but one of them"
        raise ValueError(msg)
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column
    if not all(isinstance(value, Hashable) for value in column):
        msg = f"obs[{key!r}] holds lists or other containers, not labels; give one label per spot"
        raise TypeError(msg)
    if pd.api.types.is_float_dtype(column):
        known = column.dropna().to_numpy(dtype=np.float64)
        if np.array_equal(known, np.round(known)):
            # Whole numbers with gaps: pandas stores them as floats.
            column = column.astype("Int64")
    if pd.api.types.is_float_dtype(column) or column.nunique() > _MOST:
        msg = (
            f"obs[{key!r}] holds {column.nunique()} different values of type {column.dtype}: measurements, not "
            f"domains; draw these with scanpy.pl.embedding(adata, 'spatial', color={key!r}), or make labels of them "
            f"with pandas.cut"
        )
        raise ValueError(msg)
    return column.astype("category")


def colours_of(given: Any, *, names: list[Any], key: str, uns: Mapping) -> list[Any]:
    """Return one colour per category.

    Parameters
    ----------
    given
        The user's colours: a list, a mapping by category, or ``None``.
    names
        The categories.
    key
        Name of their column.
    uns
        Where scanpy keeps colours, as ``"<key>_colors"``.
    """
    if given is None:
        return stored_colours(uns.get(f"{key}_colors"), len(names)) or palette(len(names))
    if isinstance(given, str):
        msg = f"palette={given!r} is text; give a list of {len(names)} colours, or a dictionary of colours by category"
        raise ValueError(msg)
    if isinstance(given, Mapping):
        if lacking := [name for name in names if name not in given]:
            msg = f"palette has no colour for {lacking}; it has colours for {list(given)}"
            raise ValueError(msg)
        colours = [given[name] for name in names]
    else:
        colours = [colour if isinstance(colour, str) else np.asarray(colour).tolist() for colour in given]
        if len(colours) < len(names):
            msg = f"palette has {len(colours)} colours for {len(names)} domains: {names}"
            raise ValueError(msg)
        colours = colours[: len(names)]
    check_colours(colours, name="palette")
    return colours
