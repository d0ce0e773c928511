"""Parts of all plots: the frame in µm, the H&E under it, spots at their true size, a scale bar, colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import Collection
    from matplotlib.colors import Normalize

    from storm._bridge import SectionView

#: Colour of spots without a value.
MISSING = "#BDBDBD"

#: Width of a panel in inches, of a single section and of each of several.
_WIDTH, _PANEL_WIDTH = 4.2, 3.2

#: Above this number of spots, a vector file stores them as pixels, so that it opens quickly.
_RASTERIZE = 5_000


#: Left, right, bottom, top of an axes: the ``extent`` of matplotlib's ``imshow``.
Frame = tuple[float, float, float, float]


def longest_px(n_sections: int) -> int:
    """Longer edge of the H&E in pixels, for a single section and for each of several."""
    return 1600 if n_sections == 1 else 800


def new_axes(frames: Sequence[Frame], *, rows: int, columns: int, width: float) -> np.ndarray:
    """Make a figure and return its axes, shape (rows, columns), each about ``width`` inches wide, in proportion."""
    import matplotlib.pyplot as plt

    shape = max((y1 - y0) / (x1 - x0) for x0, x1, y1, y0 in frames)
    height = width * float(np.clip(shape, 0.3, 2.5))
    _, axes = plt.subplots(
        rows, columns, figsize=(columns * (width + 0.7), rows * (height + 0.35)), squeeze=False, layout="constrained"
    )
    return axes


def panels(views: Sequence[SectionView], *, ax: Axes | None, columns: int) -> tuple[np.ndarray, list[Frame]]:
    """Axes for one section or several, and the frame of each.

    Parameters
    ----------
    views
        The sections.
    ax
        Axes of a single section; ``None`` makes a figure.
    columns
        Number of panels side by side.

    Returns
    -------
    axes : ndarray
        Shape (sections,).
    frames : list of tuple
        Left, right, bottom, top of each, of one size where all scales are known.
    """
    frames = same_scale(views)
    if ax is not None:
        return np.array([ax], dtype=object), frames
    columns = min(columns, len(frames))
    width = _WIDTH if len(frames) == 1 else _PANEL_WIDTH
    axes = new_axes(frames, rows=-(-len(frames) // columns), columns=columns, width=width)
    for spare in axes.flat[len(frames) :]:
        spare.set_axis_off()
    return axes.ravel()[: len(frames)], frames


def same_scale(views: Sequence[SectionView]) -> list[Frame]:
    """Frames (left, right, bottom, top) of one size around several sections; their own if a scale is unknown."""
    frames = [view.extent for view in views]
    if len(views) == 1 or not all(view.um_known for view in views):
        return frames
    width, height = (max(abs(frame[k + 1] - frame[k]) for frame in frames) for k in (0, 2))
    middles = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, x1, y1, y0 in frames]
    return [(x - width / 2, x + width / 2, y + height / 2, y - height / 2) for x, y in middles]


def frame(
    ax: Axes,
    view: SectionView,
    *,
    title: str | None,
    scale_bar: bool,
    extent: Frame | None = None,
) -> None:
    """Set up ``ax`` in the section's µm: equal aspect, y down as in images, a scale bar instead of ticks.

    Around ``extent`` if it is given, else around that of ``view``.
    """
    x0, x1, y1, y0 = view.extent if extent is None else extent
    ax.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")
    if title:
        ax.set_title(title, fontsize=10)
    if scale_bar and view.um_known:
        corner = _emptiest_corner(view, (x0, x1, y1, y0))
        _scale_bar(ax, length=_round_length((x1 - x0) / 4), corner=corner)


def _round_length(limit: float) -> float:
    """Return the largest of 1, 2, 5 × 10^n that does not exceed ``limit``, both in µm."""
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def _emptiest_corner(view: SectionView, extent: Frame) -> str:
    """Return the corner with the fewest spots, where a scale bar hides least; lower corners win a tie."""
    left, right, bottom, top = extent
    x, y = ((view.centres[view.placed] - (left, top)) / (right - left, bottom - top)).T
    corners = {
        "lower left": (x < 0.32) & (y > 0.86),
        "lower right": (x > 0.68) & (y > 0.86),
        "upper left": (x < 0.32) & (y < 0.14),
        "upper right": (x > 0.68) & (y < 0.14),
    }
    return min(corners, key=lambda name: int(corners[name].sum()))


def _scale_bar(ax: Axes, *, length: float, corner: str) -> None:
    from matplotlib.patheffects import withStroke
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    y1, y0 = ax.get_ylim()
    bar = AnchoredSizeBar(
        ax.transData,
        length,
        label,
        loc=corner,
        pad=0.3,
        borderpad=0.4,
        sep=3,
        frameon=False,
        color="black",
        size_vertical=abs(y1 - y0) / 120,
    )
    # Black with a white rim is visible on tissue and on white.
    rim = [withStroke(linewidth=2.5, foreground="white")]
    bar.txt_label.get_children()[0].set(path_effects=rim, fontsize=8)
    for rectangle in bar.size_bar.get_children():
        rectangle.set(path_effects=rim, linewidth=0)
    bar.set_zorder(10)
    ax.add_artist(bar)


def histology(ax: Axes, view: SectionView, *, alpha: float = 1.0) -> None:
    """Draw the H&E under everything else, if there is an image."""
    if view.image is not None and alpha > 0:
        ax.imshow(view.image, extent=view.extent, alpha=alpha, zorder=0, interpolation="antialiased")


def spots(
    ax: Axes,
    view: SectionView,
    rows: np.ndarray,
    *,
    size: float,
    facecolors: str | None = None,
    edgecolors: str | None = None,
    linewidths: float = 0.0,
    alpha: float | None = None,
    values: np.ndarray | None = None,
    cmap: Any = None,
    norm: Normalize | None = None,
    zorder: float = 2,
    rasterized: bool | None = None,
) -> Collection:
    """Draw some spots in data units: the outlines of bins and cells, otherwise circles of their diameter.

    Parameters
    ----------
    ax
        Axes in the frame of ``view``.
    view
        The section.
    rows
        Row numbers of the spots.
    size
        Factor on the true size.
    facecolors, edgecolors, linewidths, alpha, zorder
        As in :class:`matplotlib.collections.Collection`.
    values, cmap, norm
        Number of each spot in ``rows``, shape (len(rows),), which ``norm`` and ``cmap`` turn into its colour.
    rasterized
        Whether a vector file stores the spots as pixels; ``None`` decides by their number.

    Returns
    -------
    Collection
        The spots, as they were added to ``ax``.
    """
    from matplotlib.collections import EllipseCollection, PolyCollection

    centres = view.centres[rows]
    if isinstance(view.outlines, np.ndarray):  # all with the same number of corners, such as bins
        drawn: Collection = PolyCollection(centres[:, None] + size * (view.outlines[rows] - centres[:, None]))
    elif view.outlines is not None:
        drawn = PolyCollection([c + size * (view.outlines[i] - c) for i, c in zip(rows, centres, strict=True)])
    else:
        diameter = size * np.broadcast_to(view.diameters, len(view.centres))[rows]
        drawn = EllipseCollection(
            diameter, diameter, np.zeros(len(rows)), units="xy", offsets=centres, offset_transform=ax.transData
        )
    drawn.set(linewidth=linewidths, alpha=alpha, zorder=zorder)
    if facecolors is not None:
        drawn.set_facecolor(facecolors)
    if edgecolors is not None:
        drawn.set_edgecolor(edgecolors)
    if values is not None:
        drawn.set(array=values, cmap=cmap, norm=norm)
    drawn.set_rasterized(len(view.centres) > _RASTERIZE if rasterized is None else rasterized)
    ax.add_collection(drawn, autolim=False)
    return drawn


def legend(ax: Axes, labels: Sequence[str], colours: Sequence[str], *, title: str, offset: float = 0.01) -> None:
    """Draw a legend outside the axes, to the right by ``offset`` of their width."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=7, markeredgewidth=0, color=colour, label=label)
        for label, colour in zip(labels, colours, strict=True)
    ]
    ax.legend(
        handles=handles,
        title=title,
        loc="center left",
        bbox_to_anchor=(1 + offset, 0.5),
        frameon=False,
        ncols=1 + (len(handles) - 1) // 16,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
        handletextpad=0.2,
        borderaxespad=0.2,
    )
