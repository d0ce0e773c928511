"""Spatial domains on the section, or on each of several sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm import _keys
from storm._bridge import Keys, SectionView, read_view, select_table
from storm._bridge.standalone import Standalone, standalone
from storm._bridge.study import given_once
from storm._checks import check_key, check_whole
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_one_section, check_style
from storm.pl._categories import categories, colours_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["domains"]


@dataclass(frozen=True, eq=False)
class _Panel:
    """A section as it is drawn: its name, its picture, and the category of each spot (-1 for none)."""

    name: str
    view: SectionView
    codes: np.ndarray


def domains(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    key: str = _keys.DOMAIN,
    *,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    ax: Axes | None = None,
    columns: int = 4,
    palette: Sequence[str] | Mapping[str, str] | None = None,
    size: float = 1.0,
    alpha: float = 1.0,
    image_alpha: float = 0.5,
    legend: bool = True,
    title: str | None = None,
    scale_bar: bool = True,
) -> Axes | np.ndarray:
    """Draw the domains of a section (or any labels in ``obs``) over its H&E, in µm; of several, one panel for each.

    Spots are drawn at their true size; spots without a domain are grey. Panels have the same colours, and the same
    scale where that of all sections is known. An image that cannot be placed under the spots, because its scale is not
    known or there are several, is left out with a warning. Nothing is computed: run :func:`storm.tl.domains` first.

    Parameters
    ----------
    data
        A section, a table of several, or a list.
    key
        Column of ``obs`` with the labels.
    library_key
        Column of ``obs`` that names the section of each row. A table that annotates several elements is divided into
        these without it.
    image_key
        The H&E image, or that of each section by its name.
    table_key, shapes_key, coordinate_system, um_per_px
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.
    ax
        Axes to draw a single section into; ``None`` makes a figure.
    columns
        Number of panels side by side.
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
        Title of the axes, or of the figure; ``None`` is ``key``. Panels have the names of their sections.
    scale_bar
        Whether to draw a scale bar; it needs a known scale.

    Returns
    -------
    Axes or ndarray
        The axes, in µm with y down; of several sections an array of them, in the order of their names (of a list: in
        its order).

    Raises
    ------
    KeyError
        If ``key`` or another key does not exist.
    ValueError
        If the column holds measurements instead of labels, ``palette`` lacks colours, a size or opacity is out of
        range, or one ``ax`` is given for several sections.
    TypeError
        If ``ax`` is not a matplotlib axes, or a size or opacity is not a number.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> storm.tl.embed(sdata, modality="st")
        >>> storm.tl.domains(sdata, 5)
        >>> ax = storm.pl.domains(sdata)
    """
    check_style(size=size, alpha=alpha, image_alpha=image_alpha)
    check_axes(ax)
    check_whole(columns, name="columns")
    tables = [select_table(one, table_key)[1] for one in given_once(data)]
    names, colours = _names_and_colours(tables, key, palette)
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    sections = standalone(data, keys, library_key=library_key, image_key=image_key, counts=False)
    check_one_section(ax, [section.name for section in sections])
    max_px = _draw.longest_px(len(sections))
    optional = image_key is None and um_per_px is None  # what was asked for is drawn, or its absence is an error
    panels = [_panel(section, key, names, table_key, max_px=max_px, optional=optional) for section in sections]
    axes, frames = _draw.panels([panel.view for panel in panels], ax=ax, columns=columns)
    drawn = set()
    for panel, axis, frame in zip(panels, axes, frames, strict=True):
        drawn |= _draw_panel(axis, panel, colours, size=size, alpha=alpha, image_alpha=image_alpha)
        own_title = panel.name if len(panels) > 1 else key if title is None else title
        _draw.frame(axis, panel.view, title=own_title, scale_bar=scale_bar and axis is axes[0], extent=frame)
    if len(panels) > 1 and title != "":
        axes[0].figure.suptitle(key if title is None else title, fontsize=10)
    if legend:
        shown = [number for number in range(len(names) + 1) if number in drawn]
        last = axes[min(columns, len(axes)) - 1]  # at the end of the first row
        _draw.legend(last, [[*map(str, names), "none"][k] for k in shown], [colours[k] for k in shown], title=key)
    return axes if len(panels) > 1 else axes[0]


def _names_and_colours(tables: Sequence[AnnData], key: str, palette: Any) -> tuple[list[Any], list[Any]]:
    """The categories of all tables, and their colours, followed by that of spots without a label."""
    names: dict[Any, None] = {}
    stored = tables[0].uns
    for table in tables:
        check_key(key, list(table.obs.columns), name="key", where="obs (storm.tl.domains writes it)")
        own = list(categories(table.obs[key], key=key).cat.categories)
        # colours that are kept with one of the tables are those of all, if it has all categories in their order
        stored = table.uns if len(own) > len(names) and own[: len(names)] == list(names) else stored
        names |= dict.fromkeys(own)
    colours = colours_of(palette, names=list(names), key=key, uns=stored)
    return list(names), [*colours, _draw.MISSING]


def _panel(
    section: Standalone, key: str, names: list[Any], table_key: str | None, *, max_px: int, optional: bool
) -> _Panel:
    one = section.make()
    labels = categories(select_table(one, table_key)[1].obs[key], key=key)
    view = read_view(one, section.keys, max_px=max_px, optional=optional)
    return _Panel(section.name, view, pd.Index(names).get_indexer(labels.astype(object)))


def _draw_panel(
    ax: Axes, panel: _Panel, colours: list[Any], *, size: float, alpha: float, image_alpha: float
) -> set[int]:
    """Draw a section without its frame, and return which categories it shows; the last of ``colours`` is for none."""
    _draw.histology(ax, panel.view, alpha=image_alpha)
    placed = panel.view.placed
    code = np.where(panel.codes < 0, len(colours) - 1, panel.codes)[placed]
    shown = {int(number) for number in np.unique(code)}
    for number in sorted(shown):
        rows = placed[code == number]
        _draw.spots(ax, panel.view, rows, size=size, facecolors=colours[number], alpha=alpha)
    return shown
