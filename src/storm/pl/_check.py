"""A picture of the section, to check it before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge import Keys, select, spots_of, view_of
from storm._bridge.standalone import standalone
from storm._bridge.workspace import is_slide, open_workspace
from storm._checks import check_positive, check_whole
from storm.data.order import spatial_order
from storm.pl import _draw

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
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
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    n: int = 12,
    field_um: float = 112.0,
    table_key: str | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Draw the whole image with all spots, and patches with their spots, to reveal a flip or a wrong scale.

    Of more than 5,000 spots, a random 5,000 are drawn over the whole image. The patches are spread over the section and
    over the range of its counts, which their titles give: nuclei should be dense where counts are high, spots should
    lie on tissue, and the outlines of cells on nuclei. Numbers mark the place of each patch on the section.

    Of several sections, one is drawn below the other. A slide without spots is drawn with the tiles that would be laid
    over its tissue.

    Parameters
    ----------
    data
        A section, a table of several, or a list.
    n
        Number of patches of each section.
    field_um
        Edge of the patches in µm; by default that of ``"storm-mini"``.
    library_key
        Column of ``obs`` that names the section of each row; see :func:`storm.pl.domains`.
    image_key
        The H&E image, or that of each section by its name.
    table_key, shapes_key, coordinate_system, um_per_px, layer
        Elements to read and the scale, as in :func:`storm.tl.embed`; needed only if there are several.

    Returns
    -------
    ndarray
        Axes of a new figure, shape (n + 1,), in µm with y down: the section, then the patches by rising counts. Those
        of the next section follow.

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
    n = check_whole(n, name="n")
    check_positive(field_um, name="field_um", unit="µm")
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px,
        layer=layer,
    )  # fmt: skip
    sections = standalone(data, keys, library_key=library_key, image_key=image_key)
    looks = [_look(section.make(), section.keys, n=n, field_um=field_um) for section in sections]
    names = [f"{section.name}: " if len(sections) > 1 else "" for section in sections]
    return np.concatenate([_drawn(*one, field_um=field_um) for one in zip(looks, _axes(looks), names, strict=True)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Look:
    """What is drawn of a section: its image with all spots, rows that were chosen, their patches and counts."""

    view: SectionView
    centres: np.ndarray
    chosen: np.ndarray
    patches: np.ndarray
    total: np.ndarray | None


def _look(data: SpatialData | AnnData, keys: Keys, *, n: int, field_um: float) -> _Look:
    if is_slide(data):
        selection = open_workspace(data, keys, image=True, field_um=field_um).selection
    else:
        selection = select(data, keys, image=True)
    spots = spots_of(selection, overlap=False)
    if spots.patches is None:
        msg = "the section has no H&E image to draw patches from; add one to sdata.images"
        raise ValueError(msg)
    total = None if spots.counts is None else np.asarray(spots.counts.sum(axis=1)).ravel()
    chosen = _choose(spots.centres, spots.patches.inside(spots.centres), total, n=n)
    return _Look(
        view=view_of(selection, spots, whole=True, max_px=900),
        centres=spots.centres,
        chosen=chosen,
        patches=spots.patches.read(spots.centres[chosen], field_um=field_um, out_px=_PATCH_PX),
        total=total,
    )


def _drawn(look: _Look, axes: np.ndarray, name: str, *, field_um: float) -> np.ndarray:
    """Draw a section and its patches into its axes, and return these."""
    _section(axes[0], look.view, look.centres[look.chosen], field_um=field_um, name=name)
    for k, (ax, row, patch) in enumerate(zip(axes[1:], look.chosen, look.patches, strict=True)):
        x, y = look.centres[row]
        half = field_um / 2
        field = replace(look.view, image=patch, extent=(x - half, x + half, y + half, y - half))
        _draw.histology(ax, field)
        _outlines(ax, field, row)
        counts = "" if look.total is None else f": {look.total[row]:,.0f} counts"
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


def _axes(looks: Sequence[_Look]) -> list[np.ndarray]:
    """A figure, and the axes of each section in it, shape (n + 1,): a large one, n small ones in rows of four."""
    import matplotlib.pyplot as plt

    heights = [_height(look) for look in looks]
    widths = (_SECTION_IN, _COLUMNS * _PATCH_IN)
    figure = plt.figure(figsize=(sum(widths), sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(looks), 2, width_ratios=widths, height_ratios=heights)
    axes = []
    for number, look in enumerate(looks):
        small = grid[number, 1].subgridspec(_rows(look), _COLUMNS)
        places = [grid[number, 0], *(small[k // _COLUMNS, k % _COLUMNS] for k in range(len(look.chosen)))]
        axes.append(np.array([figure.add_subplot(place) for place in places], dtype=object))
    return axes


def _rows(look: _Look) -> int:
    return max(1, -(-len(look.chosen) // _COLUMNS))


def _height(look: _Look) -> float:
    """Height of a section and its patches in inches."""
    x0, x1, y1, y0 = look.view.extent
    return max(_rows(look) * (_PATCH_IN + 0.25), _SECTION_IN * float(np.clip((y1 - y0) / (x1 - x0), 0.3, 1.6)))


def _section(ax: Axes, view: SectionView, centres: np.ndarray, *, field_um: float, name: str) -> None:
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
    _draw.frame(ax, view, title=f"{name}{title}", scale_bar=True)


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
