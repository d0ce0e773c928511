"""Spatial domains on the section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm import _keys
from storm._bridge import Keys, read_view, select_table
from storm._checks import check_key
from storm.pl import _draw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["domains"]

#: More labels than this are numbers rather than domains.
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
        What to read, and the scale, as in :func:`storm.tl.embed`; needed only where there are several.
    ax
        Axes to draw into; ``None`` makes a figure.
    palette
        Colours, one per category in their order or by category. ``None`` takes ``uns["<key>_colors"]`` where scanpy
        has left them, else a palette that all common forms of colour vision tell apart.
    size
        Factor on the size of the spots.
    alpha, image_alpha
        Opacity of the spots and of the H&E under them.
    legend
        Whether to draw a legend, to the right of the axes.
    title
        Title of the axes; ``None`` is ``key``.
    scale_bar
        Whether to draw a scale bar (where µm are known).

    Returns
    -------
    The axes, in µm with y down.

    Raises
    ------
    KeyError
        If ``key`` or another key does not exist.
    ValueError
        If the column holds numbers rather than labels, or ``palette`` lacks colours.
    """
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
    shown, entries = [], []
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


def _categories(column: pd.Series, *, key: str) -> pd.Series:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return column
    if pd.api.types.is_float_dtype(column) or column.nunique() > _MOST:
        msg = f"obs[{key!r}] holds {column.nunique()} different values of type {column.dtype}: numbers, not domains"
        raise ValueError(msg)
    return column.astype("category")


def _colours(given: Sequence[str] | Mapping[str, str] | None, *, names: list[str], key: str, uns: Mapping) -> list[str]:
    if given is None:
        stored = uns.get(f"{key}_colors")
        return list(stored) if stored is not None and len(stored) >= len(names) else _draw.palette(len(names))
    if hasattr(given, "keys"):
        lacking = [name for name in names if name not in given]
        if lacking:
            msg = f"palette has no colour for {lacking}; it has colours for {list(given)}"
            raise ValueError(msg)
        return [given[name] for name in names]
    if len(given) < len(names):
        msg = f"palette has {len(given)} colours for {len(names)} domains: {names}"
        raise ValueError(msg)
    return [np.asarray(colour).tolist() for colour in given][: len(names)]
