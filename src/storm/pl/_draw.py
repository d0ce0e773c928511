"""What all plots share: the µm frame, the H&E under it, spots at their true size, a scale bar, colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import Collection

    from storm._bridge import SectionView

#: Colours that all common forms of colour vision tell apart (Okabe and Ito 2008), those that H&E itself has last.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#F0E442", "#56B4E9", "#D55E00", "#000000", "#CC79A7")

#: Spots without a value.
MISSING = "#BDBDBD"

#: Beyond this many spots a vector file holds them as a picture.
_RASTERIZE = 5_000


def palette(n: int) -> list[str]:
    """As many colours: Okabe and Ito's eight, then the same darker, then lighter (lightness is what everyone sees)."""
    from matplotlib.colors import to_hex, to_rgb

    colours = []
    for i in range(n):
        base = np.array(to_rgb(OKABE_ITO[i % 8]))
        step = (i // 8) % 3
        # The darker black would be black again: it is the grey between.
        shade = (base * 0.55 if base.any() else base + 0.33) if step == 1 else base + (1 - base) * 0.6
        colours.append(to_hex(base if step == 0 else shade))
    return colours


def new_axes(view: SectionView, *, rows: int = 1, columns: int = 1, width: float = 4.2) -> np.ndarray:
    """Axes of a new figure, shape (rows, columns), each about ``width`` inches wide and as high as the section asks."""
    import matplotlib.pyplot as plt

    x0, x1, y1, y0 = view.extent
    height = width * float(np.clip((y1 - y0) / (x1 - x0), 0.3, 2.5))
    _, axes = plt.subplots(
        rows, columns, figsize=(columns * (width + 0.7), rows * (height + 0.35)), squeeze=False, layout="constrained"
    )
    return axes


def frame(ax: Axes, view: SectionView, *, title: str | None, scale_bar: bool) -> None:
    """Make ``ax`` the section's µm frame: equal aspect, y down as in images, a scale bar instead of ticks."""
    x0, x1, y1, y0 = view.extent
    ax.set(xlim=(x0, x1), ylim=(y1, y0), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, color="0.6")
    if title:
        ax.set_title(title, fontsize=10)
    if scale_bar and view.um_known:
        _scale_bar(ax, length=_round_length((x1 - x0) / 4), corner=_emptiest_corner(view))


def _round_length(limit: float) -> float:
    """The largest of 1, 2, 5 × 10^n µm that is not longer than ``limit``."""
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit))


def _emptiest_corner(view: SectionView) -> str:
    """The corner with the fewest spots, the lower ones first: there the scale bar hides least."""
    left, right, bottom, top = view.extent
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
    # White around black: seen on tissue and on white alike.
    rim = [withStroke(linewidth=2.5, foreground="white")]
    bar.txt_label.get_children()[0].set(path_effects=rim, fontsize=8)
    for rectangle in bar.size_bar.get_children():
        rectangle.set(path_effects=rim, linewidth=0)
    bar.set_zorder(10)
    ax.add_artist(bar)


def histology(ax: Axes, view: SectionView, *, alpha: float = 1.0) -> None:
    """Put the H&E under everything else; nothing where there is no image."""
    if view.image is not None and alpha > 0:
        ax.imshow(view.image, extent=view.extent, alpha=alpha, zorder=0, interpolation="antialiased")


def spots(ax: Axes, view: SectionView, rows: np.ndarray, *, size: float, **style: Any) -> Collection:
    """Draw some spots in data units: the outlines of bins and cells, else circles of their diameter.

    Parameters
    ----------
    ax
        Axes in the frame of ``view``.
    view
        The section.
    rows
        Which spots, integers.
    size
        Factor on the true size.
    style
        Properties of the collection, such as ``facecolors``, or ``array``, ``cmap`` and ``norm``.
    """
    from matplotlib.collections import EllipseCollection, PolyCollection

    style = {"linewidths": 0, "zorder": 2, "rasterized": len(view.centres) > _RASTERIZE} | style
    centres = view.centres[rows]
    if isinstance(view.outlines, np.ndarray):  # all of one number of corners, such as bins
        drawn: Collection = PolyCollection(centres[:, None] + size * (view.outlines[rows] - centres[:, None]), **style)
    elif view.outlines is not None:
        drawn = PolyCollection([c + size * (view.outlines[i] - c) for i, c in zip(rows, centres, strict=True)], **style)
    else:
        diameter = size * np.broadcast_to(view.diameters, len(view.centres))[rows]
        drawn = EllipseCollection(
            diameter, diameter, np.zeros(len(rows)), units="xy", offsets=centres, offset_transform=ax.transData, **style
        )
    ax.add_collection(drawn, autolim=False)
    return drawn


def legend(ax: Axes, labels: Sequence[str], colours: Sequence[str], *, title: str) -> None:
    """Legend outside the axes, to the right."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=7, markeredgewidth=0, color=colour, label=label)
        for label, colour in zip(labels, colours, strict=True)
    ]
    ax.legend(
        handles=handles,
        title=title,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        ncols=1 + (len(handles) - 1) // 16,
        fontsize=8,
        title_fontsize=8,
        alignment="left",
        handletextpad=0.2,
        borderaxespad=0.2,
    )
