"""A look at the section before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge import Keys, select, spots_of, view_of
from storm._checks import check_positive
from storm.data.order import spatial_order
from storm.pl import _draw

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

    from storm._bridge import SectionView
    from storm.data.spots import Spots

__all__ = ["check"]

#: Pixels along the edge of a patch, inches of a patch and of the section, and patches side by side.
_PATCH_PX, _PATCH_IN, _SECTION_IN, _COLUMNS = 320, 1.75, 5.6, 4
#: Centres over the section, at most: more would hide the tissue.
_SHOWN = 5_000
#: Colours of the spot that a patch belongs to, of all others, and of the fields.
_OWN, _OTHER, _FIELD = "#0072B2", "#000000", "#0072B2"


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
    """Draw the whole image with all spots, and patches with their spots, so that a flip or a wrong scale is seen.

    Of more than 5,000 spots, as many are drawn at random over the whole image. The patches are spread over the section
    and over the range of its counts, which stand in their titles: nuclei should be dense where counts are high, spots
    should lie on tissue, and the outlines of cells on nuclei. Numbers tell which patch lies where.

    Parameters
    ----------
    data
        The section.
    n
        Number of patches.
    field_um
        Edge of the patches in µm; what ``"storm-mini"`` sees by default.
    table_key, image_key, shapes_key, coordinate_system, um_per_px, layer
        What to read, and the scale, as in :func:`storm.tl.embed`; needed only where there are several.

    Returns
    -------
    ndarray
        Axes of a new figure, shape (n + 1,): the section, then the patches by rising counts; in µm with y down.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If there is no image, no scale, or a number is not positive.
    """
    check_positive(n, name="n", unit="patches")
    if n != int(n):
        msg = f"n={n!r} must be a whole number of patches"
        raise ValueError(msg)
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
    chosen = _choose(spots, total, n=int(n))
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


def _choose(spots: Spots, total: np.ndarray | None, *, n: int) -> np.ndarray:
    """Rows of n spots on the image: one from each of n ranges of counts, as far as can be from those before it."""
    rows = np.flatnonzero(spots.patches.inside(spots.centres))
    rows = rows if len(rows) else np.flatnonzero(spots.placed)
    centres = spots.centres[rows]
    order = spatial_order(centres) if total is None else np.argsort(total[rows], kind="stable")
    distance = -np.square(centres - np.median(centres, axis=0)).sum(axis=1)
    chosen: list[int] = []
    for part in np.array_split(order, min(n, len(rows))):
        chosen.append(part[np.argmax(distance[part])])
        from_it = np.square(centres - centres[chosen[-1]]).sum(axis=1)
        distance = from_it if len(chosen) == 1 else np.minimum(distance, from_it)
    return rows[chosen]


def _axes(view: SectionView, n: int) -> np.ndarray:
    """Axes of a new figure: a large one to the left, n small ones in rows of four."""
    import matplotlib.pyplot as plt

    x0, x1, y1, y0 = view.extent
    rows = max(1, -(-n // _COLUMNS))
    height = max(rows * (_PATCH_IN + 0.25), _SECTION_IN * float(np.clip((y1 - y0) / (x1 - x0), 0.3, 1.6)))
    width = _SECTION_IN + _COLUMNS * _PATCH_IN
    figure: Figure = plt.figure(figsize=(width, height), layout="constrained")
    left, right = figure.add_gridspec(1, 2, width_ratios=(_SECTION_IN, _COLUMNS * _PATCH_IN))
    small = right.subgridspec(rows, _COLUMNS)
    axes = [figure.add_subplot(left)] + [figure.add_subplot(small[k // _COLUMNS, k % _COLUMNS]) for k in range(n)]
    return np.array(axes, dtype=object)


def _section(ax: Axes, view: SectionView, centres: np.ndarray, *, field_um: float) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    _draw.histology(ax, view)
    rows, title = view.placed, f"{len(view.placed):,} centres on the whole image"
    if len(rows) > _SHOWN:
        title = f"{_SHOWN:,} of {len(rows):,} centres on the whole image"
        rows = np.random.default_rng(0).choice(rows, _SHOWN, replace=False)
    x, y = view.centres[rows].T
    # Small enough that the tissue is seen between them.
    size = float(np.clip(1e4 / max(len(x), 1), 1.0, 5.0))
    ax.scatter(x, y, s=size, color=_OTHER, linewidths=0, alpha=0.7, zorder=2)
    rim = [withStroke(linewidth=2.5, foreground="white")]
    for k, (cx, cy) in enumerate(centres):
        corner = (cx - field_um / 2, cy - field_um / 2)
        ax.add_patch(Rectangle(corner, field_um, field_um, fill=False, edgecolor=_FIELD, linewidth=1.2, zorder=3))
        ax.annotate(
            str(k + 1), (cx + field_um / 2, cy - field_um / 2), xytext=(1.5, 1.5), textcoords="offset points",
            fontsize=8, color=_FIELD, fontweight="bold", path_effects=rim, zorder=4,
        )  # fmt: skip
    _draw.frame(ax, view, title=title, scale_bar=True)


def _outlines(ax: Axes, field: SectionView, row: int) -> None:
    """Outlines of all spots that reach into a field, and of the one in its middle."""
    left, right, bottom, top = field.extent
    reach = np.nan_to_num(np.broadcast_to(field.diameters, len(field.centres)))
    x, y = np.nan_to_num(field.centres, nan=np.inf).T
    near = (x > left - reach) & (x < right + reach) & (y > top - reach) & (y < bottom + reach)
    near[row] = False
    style = {"facecolors": "none", "rasterized": False}
    others = {"edgecolors": _OTHER, "linewidths": 0.3 if near.sum() > 50 else 0.7, "alpha": 0.6}
    _draw.spots(ax, field, np.flatnonzero(near), size=1.0, **others, **style)
    _draw.spots(ax, field, np.array([row]), size=1.0, edgecolors=_OWN, linewidths=1.8, **style, zorder=3)
