"""A picture of the section, to check it before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge import Keys, select, spots_of, view_of
from storm._checks import check_positive, check_whole
from storm.data.order import spatial_order
from storm.pl import _draw

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from storm._bridge import SectionView

__all__ = ["check"]

#: Edge of a patch in pixels: twice the resolution of its place in the figure at 100 dots per inch.
_PATCH_PX = 320
#: Edge of a patch in inches, so that nuclei can be told apart.
_PATCH_IN = 1.75
#: Width of the section in inches.
_SECTION_IN = 5.6
#: Number of patches side by side.
_COLUMNS = 4
#: Largest number of centres drawn over the section: more would hide the tissue.
_SHOWN = 5_000
#: Colour of the spot in the middle of a patch, and of the fields on the section.
_OWN = "#0072B2"
#: Colour of all other spots.
_OTHER = "#000000"


def check(
    data: SpatialData | AnnData,
    *,
    n: int = 12,
    field_um: float = 112.0,
    table_key: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Draw the whole image with all spots, and patches with their spots, to reveal a flip or a wrong scale.

    Of more than 5,000 spots, a random 5,000 are drawn over the whole image. The patches are spread over the section and
    over the range of its counts, which their titles give: nuclei should be dense where counts are high, spots should
    lie on tissue, and the outlines of cells on nuclei. Numbers mark the place of each patch on the section.

    Parameters
    ----------
    data
        The section.
    n
        Number of patches.
    field_um
        Edge of the patches in µm; by default that of ``"storm-mini"``.
    table_key, image_key, shapes_key, coordinate_system, um_per_px, layer
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.

    Returns
    -------
    ndarray
        Axes of a new figure, shape (n + 1,), in µm with y down: the section, then the patches by rising counts.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If there is no image, no scale or no spot with a geometry, ``n`` is not a whole number of at least 1, or
        ``field_um`` is not positive.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> axes = storm.pl.check(sdata, n=4)
    """
    if isinstance(data, list | tuple):
        msg = f"data is a list of {len(data)} objects, and one section is drawn; give them one by one"
        raise TypeError(msg)
    n = check_whole(n, name="n")
    check_positive(field_um, name="field_um", unit="µm")
    keys = Keys(
        table_key=table_key,
        image_key=image_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    selection = select(data, keys, image=True)
    spots = spots_of(selection, overlap=False)
    view = view_of(selection, spots, whole=True, max_px=900)
    total = None if spots.counts is None else np.asarray(spots.counts.sum(axis=1)).ravel()
    if spots.patches is None:
        msg = "the section has no H&E image to draw patches from; add one to sdata.images"
        raise ValueError(msg)
    chosen = _choose(spots.centres, spots.patches.inside(spots.centres), total, n=n)
    patches = spots.patches.read(spots.centres[chosen], field_um=field_um, out_px=_PATCH_PX)

    axes = _axes(view, len(chosen))
    _section(axes[0], view, spots.centres[chosen], field_um=field_um)
    for k, (ax, row, patch) in enumerate(zip(axes[1:], chosen, patches, strict=True)):
        x, y = spots.centres[row]
        half = field_um / 2
        field = replace(view, image=patch, extent=(x - half, x + half, y + half, y - half))
        _draw.histology(ax, field)
        _outlines(ax, field, row)
        counts = "" if total is None else f": {total[row]:,.0f} counts"
        _draw.frame(ax, field, title=None, scale_bar=k == 0)
        ax.set_title(f"{k + 1}{counts}", fontsize=8, pad=3)
    return axes


def _choose(centres: np.ndarray, inside: np.ndarray, total: np.ndarray | None, *, n: int) -> np.ndarray:
    """Choose n spots on the image: one from each of n ranges of counts, each far from those chosen before it.

    Parameters
    ----------
    centres
        x and y in µm, shape (spots, 2); NaN without a geometry.
    inside
        Whether a spot lies on the image, bool, shape (spots,).
    total
        Counts of each spot, shape (spots,), or ``None`` without expression.
    n
        Number of spots to choose.

    Returns
    -------
    ndarray
        Row numbers, at most n, by rising counts. If no spot lies on the image, they are chosen among all.
    """
    rows = np.flatnonzero(inside)
    rows = rows if len(rows) else np.flatnonzero(np.isfinite(centres).all(axis=1))
    centres = centres[rows]
    order = spatial_order(centres) if total is None else np.argsort(total[rows], kind="stable")
    # The first spot is chosen near the middle, every other one where the nearest chosen spot is farthest away.
    distance = -np.square(centres - np.median(centres, axis=0)).sum(axis=1)
    chosen: list[int] = []
    for part in np.array_split(order, min(n, len(rows))):
        chosen.append(part[np.argmax(distance[part])])
        to_newest = np.square(centres - centres[chosen[-1]]).sum(axis=1)
        distance = to_newest if len(chosen) == 1 else np.minimum(distance, to_newest)
    return rows[chosen]


def _axes(view: SectionView, n: int) -> np.ndarray:
    """Make a figure and return its axes, shape (n + 1,): a large one to the left, n small ones in rows of four."""
    import matplotlib.pyplot as plt

    x0, x1, y1, y0 = view.extent
    rows = max(1, -(-n // _COLUMNS))
    height = max(rows * (_PATCH_IN + 0.25), _SECTION_IN * float(np.clip((y1 - y0) / (x1 - x0), 0.3, 1.6)))
    width = _SECTION_IN + _COLUMNS * _PATCH_IN
    figure: Figure = plt.figure(figsize=(width, height), layout="constrained")
    halves = figure.add_gridspec(1, 2, width_ratios=(_SECTION_IN, _COLUMNS * _PATCH_IN))
    small = halves[1].subgridspec(rows, _COLUMNS)
    axes = [figure.add_subplot(halves[0])] + [figure.add_subplot(small[k // _COLUMNS, k % _COLUMNS]) for k in range(n)]
    return np.array(axes, dtype=object)


def _section(ax: Axes, view: SectionView, centres: np.ndarray, *, field_um: float) -> None:
    """Draw the whole image, the spots, and the numbered fields around ``centres``."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    _draw.histology(ax, view)
    rows, title = view.placed, f"{len(view.placed):,} centres on the whole image"
    if len(rows) > _SHOWN:
        title = f"{_SHOWN:,} of {len(rows):,} centres on the whole image"
        rows = np.random.default_rng(0).choice(rows, _SHOWN, replace=False)
    x, y = view.centres[rows].T
    # Small enough to leave the tissue between them visible.
    size = float(np.clip(1e4 / max(len(x), 1), 1.0, 5.0))
    ax.scatter(x, y, s=size, color=_OTHER, linewidths=0, alpha=0.7, zorder=2)
    rim = [withStroke(linewidth=2.5, foreground="white")]
    for k, (cx, cy) in enumerate(centres):
        corner = (cx - field_um / 2, cy - field_um / 2)
        ax.add_patch(Rectangle(corner, field_um, field_um, fill=False, edgecolor=_OWN, linewidth=1.2, zorder=3))
        ax.annotate(
            str(k + 1),
            (cx + field_um / 2, cy - field_um / 2),
            xytext=(1.5, 1.5),
            textcoords="offset points",
            fontsize=8,
            color=_OWN,
            fontweight="bold",
            path_effects=rim,
            zorder=4,
        )
    _draw.frame(ax, view, title=title, scale_bar=True)


def _outlines(ax: Axes, field: SectionView, row: int) -> None:
    """Draw the outlines of all spots that reach into a field, and of the one in its middle."""
    left, right, bottom, top = field.extent
    reach = np.nan_to_num(np.broadcast_to(field.diameters, len(field.centres)))
    x, y = np.nan_to_num(field.centres, nan=np.inf).T
    near = (x > left - reach) & (x < right + reach) & (y > top - reach) & (y < bottom + reach)
    near[row] = False
    _draw.spots(
        ax,
        field,
        np.flatnonzero(near),
        size=1.0,
        facecolors="none",
        edgecolors=_OTHER,
        linewidths=0.3 if near.sum() > 50 else 0.7,
        alpha=0.6,
        rasterized=False,
    )
    _draw.spots(
        ax,
        field,
        np.array([row]),
        size=1.0,
        facecolors="none",
        edgecolors=_OWN,
        linewidths=1.8,
        zorder=3,
        rasterized=False,
    )
