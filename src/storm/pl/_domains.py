"""Spatial domains on the section."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from storm import _keys, _palette
from storm._bridge import Keys, read_view, select_table
from storm._checks import check_key
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_colours, check_style

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["domains"]

#: A column with more distinct values than this holds measurements, not domains.
_MOST = 100


def domains(
    data: SpatialData | AnnData,
    key: str = _keys.DOMAIN,
    *,
    table_key: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    ax: Axes | None = None,
    palette: Sequence[str] | Mapping[str, str] | None = None,
    size: float = 1.0,
    alpha: float = 1.0,
    image_alpha: float = 0.5,
    legend: bool = True,
    title: str | None = None,
    scale_bar: bool = True,
) -> Axes:
    """Draw the domains of a section (or any labels in ``obs``) over its H&E, in µm.

    Spots are drawn at their true size; spots without a domain are grey. Nothing is computed: run
    :func:`storm.tl.domains` first.

    Parameters
    ----------
    data
        The section.
    key
        Column of ``obs`` with the labels.
    table_key, image_key, shapes_key, coordinate_system, um_per_px
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.
    ax
        Axes to draw into; ``None`` makes a figure.
    palette
        Colours, as a list in the order of the categories or as a dictionary by category. ``None`` uses
        ``uns["<key>_colors"]``, which scanpy writes, or otherwise a palette whose colours remain distinct in all common
        forms of colour vision.
    size
        Factor on the size of the spots.
    alpha, image_alpha
        Opacity of the spots and of the H&E under them, from 0 to 1.
    legend
        Whether to draw a legend to the right of the axes.
    title
        Title of the axes; ``None`` is ``key``.
    scale_bar
        Whether to draw a scale bar; it needs a known scale.

    Returns
    -------
    Axes
        The axes, in µm with y down.

    Raises
    ------
    KeyError
        If ``key`` or another key does not exist.
    ValueError
        If the column holds measurements instead of labels, ``palette`` lacks colours, or a size or opacity is out of
        range.
    TypeError
        If ``ax`` is not a matplotlib axes, or a size or opacity is not a number.
    """
    check_style(size=size, alpha=alpha, image_alpha=image_alpha)
    check_axes(ax)
    _, table = select_table(data, table_key)
    check_key(key, list(table.obs.columns), name="key", where="obs (storm.tl.domains writes it)")
    labels = _categories(table.obs[key], key=key)
    names = list(labels.cat.categories)
    colours = _colours(palette, names=names, key=key, uns=table.uns)

    view = read_view(
        data,
        Keys(
            table_key=table_key,
            image_key=image_key,
            shapes_key=shapes_key,
            coordinate_system=coordinate_system,
            um_per_px=um_per_px,
        ),
    )
    ax = _draw.new_axes(view)[0, 0] if ax is None else ax
    _draw.histology(ax, view, alpha=image_alpha)
    code = labels.cat.codes.to_numpy()
    shown: list[str] = []
    entries: list[Any] = []
    placed = view.placed
    for number, (name, colour) in enumerate(zip([*names, "none"], [*colours, _draw.MISSING], strict=True)):
        rows = placed[code[placed] == (number if number < len(names) else -1)]
        if rows.size:
            _draw.spots(ax, view, rows, size=size, facecolors=colour, alpha=alpha)
            shown.append(str(name))
            entries.append(colour)
    if legend:
        _draw.legend(ax, shown, entries, title=key)
    _draw.frame(ax, view, title=key if title is None else title, scale_bar=scale_bar)
    return ax


def _categories(column: Any, *, key: str) -> pd.Series:
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
            f"domains; draw labels, or make them a category with obs[{key!r}].astype('category')"
        )
        raise ValueError(msg)
    return column.astype("category")


def _colours(given: Any, *, names: list[Any], key: str, uns: Mapping) -> list[Any]:
    """Return one colour per category."""
    from matplotlib.colors import is_color_like

    if given is None:
        stored = uns.get(f"{key}_colors")
        if isinstance(stored, list | tuple | np.ndarray) and len(stored) >= len(names):
            stored = list(stored)[: len(names)]
            if all(map(is_color_like, stored)):
                return stored
        return _palette.palette(len(names))
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
