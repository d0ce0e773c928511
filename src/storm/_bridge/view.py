"""What a plot needs of a section: a coarse picture of its H&E, and spots as they lie on it, all in µm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.geometry import affine_of, apply, has_outline, length_scale
from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.select import match_instances
from storm._bridge.selection import Selection, select
from storm._logging import warn
from storm.data.spots import Spots

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from storm._types import Wanted
    from storm.data.patches import PatchReader

#: Longer edge of the picture, in pixels.
_MAX_PX = 1600
#: An image without a pyramid that would have to be read at more than this many pixels along an edge is read in pieces.
_WHOLE_PX = 12_000
#: Number of pieces along an edge.
_PIECES = 32


@dataclass(frozen=True, eq=False)
class SectionView:
    """A section as it is drawn.

    Attributes
    ----------
    centres
        x and y of each spot, shape (n, 2), in µm if ``um_known``; NaN without a geometry. Rows follow the table.
    um_known
        Whether lengths are in µm.
    diameters
        Diameter of a spot, or of each, shape (n,).
    outlines
        Corners of bins or cells, shape (n, corners, 2), or a list of n arrays (corners, 2) where they differ in
        number; ``None`` for circles.
    image
        The H&E over ``extent``, uint8 (height, width, 3), or ``None``.
    extent
        Left, right, bottom, top (y down, so bottom > top): the ``extent`` of matplotlib's ``imshow``.
    """

    centres: np.ndarray
    um_known: bool
    diameters: float | np.ndarray
    outlines: np.ndarray | list[np.ndarray] | None
    image: np.ndarray | None
    extent: tuple[float, float, float, float]

    @property
    def placed(self) -> np.ndarray:
        """Rows that have a geometry."""
        return np.flatnonzero(np.isfinite(self.centres).all(axis=1))


def read_view(
    data: SpatialData | AnnData,
    keys: Keys | None = None,
    *,
    image: Wanted = "auto",
    max_px: int = _MAX_PX,
    overlap: bool = True,
    whole: bool = False,
    optional: bool = False,
) -> SectionView:
    """Read the H&E around the spots at a coarse level of its pyramid, and the outlines of the spots.

    Parameters
    ----------
    data, keys, image, overlap
        As in :func:`~storm._bridge.read.read_spots`.
    max_px
        Longer edge of the picture, in pixels.
    whole
        Show the whole image, not only what lies around the spots.
    optional
        Draw the spots alone, with a warning, where the image cannot be placed under them: its scale is not known, there
        are several, or it is no H&E. What was computed from expression alone did not need it either.

    Returns
    -------
    SectionView

    Raises
    ------
    KeyError, ValueError, TypeError
        As :func:`~storm._bridge.read.read_spots`; and a ValueError if no spot has a geometry.
    """
    try:
        selection = select(data, keys, image=image, table=False)
        spots = spots_of(selection, counts=False, overlap=overlap)
    except (ValueError, TypeError) as error:
        if not optional or not getattr(data, "images", None):
            raise
        keys = replace(keys or Keys(), image_key=None)
        selection = select(data, keys, image=False, table=False)
        spots = spots_of(selection, counts=False, overlap=overlap)
        warn(f"the H&E is not drawn: {error}")
    return view_of(selection, spots, max_px=max_px, whole=whole)


def view_of(selection: Selection, spots: Spots, *, max_px: int = _MAX_PX, whole: bool = False) -> SectionView:
    """Draw a section that has been read.

    Parameters
    ----------
    selection
        The section.
    spots
        What was read of it.
    max_px, whole
        As in :func:`read_view`.

    Returns
    -------
    SectionView

    Raises
    ------
    ValueError
        If no spot has a geometry.
    """
    centres = spots.centres[spots.placed]
    if not len(centres):
        msg = f"none of the {len(spots)} spots has a geometry: there is nothing to draw"
        raise ValueError(msg)
    outlines, own = read_outlines(selection, um_per_unit=1.0 if spots.scale is None else spots.scale.um_per_unit)
    # Without a size of its own, or of one that cannot be drawn, a spot is as wide as the spacing.
    drawable = own is not None and np.isfinite(own).any()
    diameters = own if own is not None and drawable else _spacing(centres)
    margin = max(0.6 * float(np.nanmax(diameters)), 0.04 * float(np.ptp(centres, axis=0).max()))
    low, high = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    if whole and spots.patches is not None:
        box = np.reshape(spots.patches.extent_um, (2, 2))
        low, high = np.minimum(low, box[0]), np.maximum(high, box[1])
    return SectionView(
        centres=spots.centres,
        um_known=spots.um_known,
        diameters=diameters,
        outlines=outlines,
        image=None if spots.patches is None else _picture(spots.patches, low, high, max_px=max_px),
        extent=(float(low[0]), float(high[0]), float(high[1]), float(low[1])),
    )


def _picture(patches: PatchReader, low: np.ndarray, high: np.ndarray, *, max_px: int) -> np.ndarray:
    """The H&E between two corners in µm: one large patch, cut to the box."""
    x0, y0, x1, y1 = patches.extent_um
    middle = (low + high) / 2
    if not patches.inside(middle[None])[0]:
        # Spots that reach far beyond the image: the patch is centred on the image and made to cover them all the same.
        middle = np.array([x0 + x1, y0 + y1]) / 2
    field = 2 * float(np.maximum(high - middle, middle - low).max())
    side = max(1, round(max_px * field / float((high - low).max())))
    level = patches.levels[patches.level_for(field, side)]
    if field / level.um_per_px <= _WHOLE_PX:
        whole = patches.read(middle[None], field_um=field, out_px=side)[0]
    else:
        whole = _in_pieces(patches, middle, field=field, side=side)
    per_um = len(whole) / field
    left, top = np.round((low - middle + field / 2) * per_um).astype(int)
    right, bottom = np.round((high - middle + field / 2) * per_um).astype(int)
    return whole[max(top, 0) : bottom, max(left, 0) : right]


def _in_pieces(patches: PatchReader, middle: np.ndarray, *, field: float, side: int) -> np.ndarray:
    """As one patch, but put together from many, so that a huge image without a pyramid is never held as a whole."""
    piece = -(-side // _PIECES)
    step = field / _PIECES
    offset = (np.arange(_PIECES) + 0.5) * step - field / 2
    centres = middle + np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)
    tiles = patches.read(centres, field_um=step, out_px=piece).reshape(_PIECES, _PIECES, piece, piece, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(_PIECES * piece, _PIECES * piece, 3)


def read_outlines(
    selection: Selection, *, um_per_unit: float
) -> tuple[np.ndarray | list[np.ndarray] | None, np.ndarray | None]:
    """Read the outlines and the sizes of the spots, in the order of the table.

    Parameters
    ----------
    selection
        The section.
    um_per_unit
        µm per unit of the coordinate system in which its elements meet.

    Returns
    -------
    outlines
        Corners in µm, shape (n, corners, 2), or a list of n arrays (corners, 2); ``None`` for circles, and where there
        are no shapes.
    diameters
        Diameter of each spot in µm, shape (n,), NaN without a geometry; ``None`` where there are no shapes.
    """
    from geopandas import GeoDataFrame

    region = selection.region
    if region is None or not isinstance(region.element, GeoDataFrame):
        return None, None
    element = region.element
    affine = affine_of(element, selection.coordinate_system) * um_per_unit

    at = np.arange(len(element))
    if region.rows is not None and region.instances is not None:
        at = np.full(len(region.rows), -1)
        at[region.rows] = match_instances(
            region.instances, element.index, table_key=selection.table_key, shapes_key=region.key
        )
    at = np.where(has_outline(element)[at], at, -1)
    if (element.geom_type == "Point").all():
        if "radius" not in element:
            return None, None
        radius = element["radius"].to_numpy(dtype=np.float64) * length_scale(affine)
        return None, np.where(at >= 0, 2 * radius[at], np.nan)
    corners, areas = _corners(element, affine)
    outlines = corners[at] if isinstance(corners, np.ndarray) else [corners[i] for i in at]
    return outlines, np.where(at >= 0, np.sqrt(areas)[at] * length_scale(affine), np.nan)


def _corners(polygons: GeoDataFrame, affine: np.ndarray) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Outer corners of each polygon (its largest part), mapped, and the areas, not mapped."""
    import shapely

    # An empty outline has no part: a triangle stands in for it, which is not drawn.
    stand_in = shapely.Polygon([(0, 0), (1, 0), (0, 1)])
    geometry = np.where(has_outline(polygons), polygons.geometry.to_numpy(), stand_in)
    parts, owner = shapely.get_parts(geometry, return_index=True)
    areas = shapely.area(parts)
    order = np.lexsort((-areas, owner))
    largest = order[np.unique(owner[order], return_index=True)[1]]
    points, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts[largest]), return_index=True)
    points = apply(affine, points)
    counts = np.bincount(ring, minlength=len(largest))
    if (counts == counts[0]).all():
        return points.reshape(len(largest), counts[0], 2), areas[largest]
    return np.split(points, np.cumsum(counts)[:-1]), areas[largest]


def _spacing(centres: np.ndarray) -> float:
    """Typical distance to the next spot: the size of spots that have none."""
    from scipy.spatial import cKDTree

    if len(centres) < 2:
        return 1.0
    distance, _ = cKDTree(centres).query(centres[:: max(1, len(centres) // 5000)], k=2)
    return 0.9 * float(np.median(distance[:, 1]))
