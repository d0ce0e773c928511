"""The H&E image of a section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm._bridge import Keys, read_view
from storm.pl import _draw
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["he"]


def he(
    data: SpatialData | AnnData,
    *,
    table_key: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    ax: Axes | None = None,
    outlines: bool = False,
    title: str | None = "H&E",
    scale_bar: bool = True,
) -> Axes:
    """Draw the H&E image around the spots, in µm.

    Parameters
    ----------
    data
        The section.
    table_key, image_key, shapes_key, coordinate_system, um_per_px
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.
    ax
        Axes to draw into; ``None`` makes a figure.
    outlines
        Whether to draw the outlines of spots, bins or cells.
    title
        Title of the axes; ``None`` draws none.
    scale_bar
        Whether to draw a scale bar; it needs a known scale.

    Returns
    -------
    Axes
        The axes, in µm with y down.

    Raises
    ------
    ValueError
        If there is no image, or there are several and no ``image_key``.
    KeyError
        If a key does not exist.
    TypeError
        If ``ax`` is not a matplotlib axes.
    """
    check_axes(ax)
    view = read_view(
        data,
        Keys(
            table_key=table_key,
            image_key=image_key,
            shapes_key=shapes_key,
            coordinate_system=coordinate_system,
            um_per_px=um_per_px,
        ),
        image=True,
    )
    ax = _draw.new_axes(view)[0, 0] if ax is None else ax
    _draw.histology(ax, view)
    if outlines:
        _draw.spots(ax, view, view.placed, size=1.0, facecolors="none", edgecolors="black", linewidths=0.4)
    _draw.frame(ax, view, title=title, scale_bar=scale_bar)
    return ax
