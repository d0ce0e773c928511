"""From a SpatialData or an AnnData to :class:`~storm.data.spots.Spots`. Nothing in the object is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.counts import read_counts
from storm._bridge.image import check_image, make_reader
from storm._bridge.keys import Keys
from storm._bridge.places import outside_tissue, read_places
from storm._bridge.scale import resolve_scale
from storm._bridge.selection import Selection, select
from storm.data.spots import Spots

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._types import Wanted
    from storm.data.genes import Vocabulary


def read_spots(
    data: SpatialData | AnnData,
    *,
    image_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    image: Wanted = "auto",
    table: Wanted = "auto",
    overlap: bool = True,
) -> Spots:
    """Select the elements of an object and read its spots, in one step.

    Parameters
    ----------
    data
        A SpatialData with an image, a table or both; or an AnnData with ``obsm["spatial"]``, which has no image.
    image_key, table_key, shapes_key, coordinate_system, um_per_px, layer
        Which elements, and their scale; see :class:`~storm._bridge.keys.Keys`.
    image
        ``True``: an image is needed; ``False``: none is read; ``"auto"``: it is read if there is one.
    table
        ``True``: counts are needed; ``False``: none are read (ids and places still come from the table, if there is
        one); ``"auto"``: they are read if there is a table with genes.
    overlap
        Whether it is an error that not a single centre lies on the image.

    Returns
    -------
    Spots
        Plain arrays and a picklable patch reader, detached from ``data``.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If something needed is missing, ambiguous, contradictory or not what it should be; the text tells what to do.
    TypeError
        If ``data`` is neither a SpatialData nor an AnnData, or the image is not uint8.
    """
    keys = Keys(
        image_key=image_key,
        table_key=table_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        layer=layer,
    )
    return spots_of(select(data, keys, image=image, table=table), counts=table, overlap=overlap)


def spots_of(
    selection: Selection, *, counts: Wanted = "auto", vocabulary: Vocabulary | None = None, overlap: bool = True
) -> Spots:
    """Read spots, bins, cells or tiles: centres in µm, counts, and a reader for the H&E around them.

    Rows follow the table, and its order; rows whose instance has no geometry (or belongs to another element than
    ``shapes_key``) have NaN centres. Without a table the rows are the instances of the shapes.

    Parameters
    ----------
    selection
        What to read.
    counts
        ``True``: they are needed; ``False``: they are not read; ``"auto"``: they are read if the table has genes.
    vocabulary
        Genes of the model that will read the counts. If ``var_names`` hardly match them, another column of ``var`` may
        give the names, see :func:`~storm._bridge.counts.read_counts`.
    overlap
        Whether it is an error that not a single centre lies on the image.

    Returns
    -------
    Spots

    Raises
    ------
    KeyError, ValueError, TypeError
        As :func:`read_spots`.
    """
    image, image_key, table = selection.image, selection.image_key, selection.table
    if image_key is not None:
        check_image(image, image_key)
    if table is not None and table.n_obs == 0:
        msg = f"the table is empty: it holds 0 observations × {table.n_vars} genes"
        raise ValueError(msg)
    # Tables of tiles have no genes.
    if table is not None and (counts is True or (counts == "auto" and table.n_vars > 0)):
        matrix, genes = read_counts(table, selection.keys.layer, vocabulary=vocabulary)
    else:
        matrix, genes = None, None
    ids, centres, sources = read_places(selection)
    off_tissue = outside_tissue(table)
    if off_tissue is not None:
        if off_tissue.all():
            msg = "all rows of the table lie outside the tissue (obs['in_tissue'] == 0); there is nothing to read"
            raise ValueError(msg)
        centres = np.where(off_tissue[:, None], np.nan, centres)
    scale = resolve_scale(
        sources,
        um_per_px=selection.keys.um_per_px,
        required=image_key is not None,
        name="the coordinates" if image_key is None else f"image {image_key!r}",
    )
    um_per_unit = 1.0 if scale is None else scale.um_per_unit
    patches = None
    if image_key is not None:
        patches = make_reader(
            image,
            image_key=image_key,
            coordinate_system=selection.coordinate_system,
            um_per_unit=um_per_unit,
        )
    spots = Spots(
        ids=ids,
        centres=centres * um_per_unit,
        um_known=scale is not None,
        counts=matrix,
        genes=genes,
        patches=patches,
        scale=scale,
        off_tissue=off_tissue,
    )
    if overlap:
        _check_overlap(spots, image_key)
    return spots


def _check_overlap(spots: Spots, image_key: str | None) -> None:
    """Raise if not a single centre lies on the image: then the two are not in one frame."""
    if spots.patches is None or spots.patches.inside(spots.centres).any():
        return
    low, high = np.nanmin(spots.centres, axis=0), np.nanmax(spots.centres, axis=0)
    x0, y0, x1, y1 = spots.patches.extent_um
    msg = (
        f"no centre lies on image {image_key!r}: in µm the centres span x {low[0]:.0f} to {high[0]:.0f}, "
        f"y {low[1]:.0f} to {high[1]:.0f}, the image x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}; check the "
        f"transformations of image and shapes (and that x and y are not swapped), or choose another coordinate_system="
    )
    raise ValueError(msg)
