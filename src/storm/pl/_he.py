"""The H&E image of a section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge import Keys, read_view
from storm._bridge.standalone import standalone
from storm._checks import check_whole
from storm.pl import _draw
from storm.pl._arguments import check_axes, check_one_section

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["he"]


def he(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    ax: Axes | None = None,
    columns: int = 4,
    outlines: bool = False,
    title: str | None = "H&E",
    scale_bar: bool = True,
) -> Axes | np.ndarray:
    """Draw the H&E image around the spots, in µm; of several sections, one panel for each, at one scale.

    Parameters
    ----------
    data
        A section, a table of several, or a list.
    library_key
        Column of ``obs`` that names the section of each row; see :func:`storm.pl.domains`.
    image_key
        The H&E image, or that of each section by its name.
    table_key, shapes_key, coordinate_system, um_per_px
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.
    ax
        Axes to draw a single section into; ``None`` makes a figure.
    columns
        Number of panels side by side.
    outlines
        Whether to draw the outlines of spots, bins or cells.
    title
        Title of the axes, or of the figure; ``None`` draws none. Panels have the names of their sections.
    scale_bar
        Whether to draw a scale bar; it needs a known scale.

    Returns
    -------
    Axes or ndarray
        The axes, in µm with y down; of several sections an array of them.

    Raises
    ------
    ValueError
        If there is no image, there are several and no ``image_key``, or one ``ax`` is given for several sections.
    KeyError
        If a key does not exist.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> ax = storm.pl.he(sdata, outlines=True)
    """
    check_axes(ax)
    check_whole(columns, name="columns")
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    sections = standalone(data, keys, library_key=library_key, image_key=image_key, counts=False)
    check_one_section(ax, [section.name for section in sections])
    max_px = _draw.longest_px(len(sections))
    views = [read_view(section.make(), section.keys, image=True, max_px=max_px) for section in sections]
    axes, frames = _draw.panels(views, ax=ax, columns=columns)
    for section, view, axis, frame in zip(sections, views, axes, frames, strict=True):
        _draw.histology(axis, view)
        if outlines:
            _draw.spots(axis, view, view.placed, size=1.0, facecolors="none", edgecolors="black", linewidths=0.4)
        own_title = title if len(sections) == 1 else section.name
        _draw.frame(axis, view, title=own_title, scale_bar=scale_bar and axis is axes[0], extent=frame)
    if len(sections) == 1:
        return axes[0]
    if title:
        axes[0].figure.suptitle(title, fontsize=10)
    return axes
