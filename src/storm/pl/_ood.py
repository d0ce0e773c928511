"""Tiles that are unlike those of a head's training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from storm import _keys
from storm._bridge import Keys, read_view
from storm._bridge.standalone import standalone
from storm._bridge.study import given_once
from storm._checks import check_key, check_whole
from storm.data.novelty import UNUSUAL
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_cmap, check_one_section, check_style
from storm.pl._genes import prediction_table

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["ood"]

#: Least p that a colour tells apart.
_LEAST = 1e-3


def ood(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    key: str = _keys.EXPRESSION,
    *,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    ax: Axes | None = None,
    columns: int = 4,
    cmap: str = "inferno",
    size: float = 1.0,
    image_alpha: float = 0.5,
    scale_bar: bool = True,
) -> Axes | np.ndarray:
    """Draw how usual the tiles of a slide are among those that a head was trained on; of several, one panel for each.

    The title counts the tiles with a p of 0.05 and less, which are 5 % of a slide that is like the training. Unusual
    tiles tell of another tissue, stain or scanner; they do not tell which spots are predicted wrongly. Nothing is
    computed: run :func:`storm.tl.predict_expression` first.

    Parameters
    ----------
    data
        A section with a prediction, a table of several, or a list.
    key
        Key of the prediction.
    table_key, library_key, image_key, shapes_key, coordinate_system, um_per_px
        As in :func:`storm.pl.domains`.
    ax
        Axes to draw a single section into; ``None`` makes a figure.
    columns
        Number of panels side by side.
    cmap
        Colour map of matplotlib, or its name.
    size
        Factor on the size of the spots.
    image_alpha
        Opacity of the H&E under the spots, from 0 to 1.
    scale_bar
        Whether to draw a scale bar; it needs a known scale.

    Returns
    -------
    Axes or ndarray
        The axes, in µm with y down; of several sections an array of them.

    Raises
    ------
    KeyError
        If there is no such prediction, or a key does not exist.
    ValueError
        If its head knew no tiles to compare with, an option is invalid, or one ``ax`` is given for several sections.
    TypeError
        If ``ax`` is not a matplotlib axes, or a size or opacity is not a number.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=200)
        >>> storm.tl.predict_expression(sdata, ["EPCAM"])
        >>> ax = storm.pl.ood(sdata)
    """
    from matplotlib.colors import LogNorm

    check_style(size=size, image_alpha=image_alpha)
    check_axes(ax)
    check_cmap(cmap)
    check_whole(columns, name="columns")
    values = {id(one): _values(one, key, table_key) for one in given_once(data)}
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    sections = standalone(data, keys, library_key=library_key, image_key=image_key, counts=False)
    check_one_section(ax, [section.name for section in sections])
    max_px = _draw.longest_px(len(sections))
    views = [read_view(section.make(), section.keys, max_px=max_px) for section in sections]
    axes, frames = _draw.panels(views, ax=ax, columns=columns)
    for section, view, axis, frame in zip(sections, views, axes, frames, strict=True):
        p = values[id(section.source)] if section.rows is None else values[id(section.source)][section.rows]
        rows = view.placed[np.isfinite(p[view.placed])]
        _draw.histology(axis, view, alpha=image_alpha)
        drawn = _draw.spots(axis, view, rows, size=size, values=p[rows], cmap=cmap, norm=LogNorm(_LEAST, 1, clip=True))
        counted = f"{(p[rows] <= UNUSUAL).mean():.0%} of {len(rows):,} tiles are unusual" if len(rows) else "no tiles"
        title = f"{section.name}: {counted}" if len(sections) > 1 else f"{counted} (5 % expected)"
        _draw.frame(axis, view, title=title, scale_bar=scale_bar and axis is axes[0], extent=frame)
        if len(rows):
            bar = axis.figure.colorbar(drawn, ax=axis, shrink=0.7, aspect=18, pad=0.02)
            bar.ax.axhline(UNUSUAL, color="white", linewidth=1.5)
            bar.ax.tick_params(labelsize=7)
            bar.outline.set_visible(False)
            bar.set_label("p of the tile among those of the training", fontsize=7)
    return axes if len(sections) > 1 else axes[0]


def _values(data: SpatialData | AnnData, key: str, table_key: str | None) -> np.ndarray:
    table = prediction_table(data, table_key=table_key, key=key)
    column = _keys.unusual(key)
    check_key(column, list(table.obs.columns), name="key", where="obs (storm.tl.predict_expression writes it)")
    values = np.asarray(table.obs[column], dtype=np.float64)
    if not np.isfinite(values).any():
        msg = (
            f"obs[{column!r}] holds no number: the head had no tiles to compare with (conformal=False, or made by "
            f"version 0.1.0); train one with storm.tl.fit_expression"
        )
        raise ValueError(msg)
    return values
