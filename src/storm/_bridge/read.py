"""From a SpatialData or an AnnData to :class:`~storm.data.spots.Spots`. Nothing in the object is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.counts import read_counts
from storm._bridge.geometry import centres_of, check_centres, common_system, find_element
from storm._bridge.image import check_image, levels_of, make_reader
from storm._bridge.scale import ScaleSources, resolve_scale
from storm._bridge.select import (
    annotated_regions,
    check_container,
    is_spatialdata,
    match_instances,
    select_image,
    select_region,
    select_table,
)
from storm._keys import UNS
from storm.data.spots import Spots

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def held_result(
    data: SpatialData | AnnData, table_key: str | None, key: str
) -> tuple[np.ndarray, dict[str, Any]] | None:
    """What an earlier call left under ``obsm[key]``, with its provenance; ``None`` if there is nothing of STORM."""
    _, table = select_table(data, table_key)
    facts = table.uns.get(UNS, {}).get(key)
    return None if facts is None or key not in table.obsm else (table.obsm[key], facts)


def read_spots(
    data: SpatialData | AnnData,
    *,
    image_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    layer: str | None = None,
    image: bool | str = "auto",
    table: bool | str = "auto",
    overlap: bool = True,
) -> Spots:
    """Read spots, bins, cells or tiles: centres in µm, counts, and a reader for the H&E around them.

    Rows follow the table, and its order; rows whose instance has no geometry (or belongs to another element than
    ``shapes_key``) have NaN centres. Without a table the rows are the instances of the shapes.

    Parameters
    ----------
    data
        A SpatialData with an image, a table or both; or an AnnData with ``obsm["spatial"]``, which has no image.
    image_key
        The H&E image; not needed if there is only one.
    table_key
        The table; not needed if there is only one.
    shapes_key
        The shapes (circles, polygons), points or labels that the table annotates; needed if it annotates several.
    coordinate_system
        Where image and shapes meet. By default the one in µm, else ``"global"``, else the one they have in common.
    um_per_px
        µm per pixel of the full-resolution image; without an image, per unit of the coordinates. See
        :func:`~storm._bridge.scale.resolve_scale` for what is asked if it is not given.
    layer
        Layer with the raw counts; ``None`` for ``X``.
    image
        ``True``: an image is needed; ``False``: none is read; ``"auto"``: it is read if there is one.
    table
        ``True``: counts are needed; ``False``: none are read (ids and places still come from the table, if there is
        one); ``"auto"``: they are read if there is a table with genes.
    overlap
        Whether it is an error that not a single centre lies on the image.

    Returns
    -------
    Plain arrays and a picklable patch reader, detached from ``data``.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If something needed is missing, ambiguous, contradictory or not what it should be; the text says what to do.
    TypeError
        If ``data`` is no such object, or the image is not uint8.
    """
    check_container(data)
    image_key = select_image(data, image_key, image=image)
    rows: AnnData | None = None
    if not is_spatialdata(data) or data.tables or table is True or table_key is not None:
        table_key, rows = select_table(data, table_key)
    element = None if image_key is None else data.images[image_key]
    if element is not None:
        check_image(element, image_key)
    if rows is not None and rows.n_obs == 0:
        msg = f"the table is empty: it holds 0 observations × {rows.n_vars} genes"
        raise ValueError(msg)
    # tables of tiles have no genes
    counted = rows is not None and (table is True or (table == "auto" and rows.n_vars > 0))
    counts, genes = read_counts(rows, layer) if counted else (None, None)

    if element is None and rows is not None and (not is_spatialdata(data) or _has_own_places(data, rows)):
        ids, centres, sources = _place_by_obsm(rows, getattr(data, "attrs", {}))
    else:
        ids, centres, sources = _place_by_shapes(
            data, rows, image=element, keys=(image_key, table_key, shapes_key), wanted=coordinate_system
        )
    scale = resolve_scale(
        sources,
        um_per_px=um_per_px,
        required=element is not None,
        name="the coordinates" if image_key is None else f"image {image_key!r}",
    )
    um_per_unit = 1.0 if scale is None else scale.um_per_unit
    spots = Spots(
        ids=ids,
        centres=centres * um_per_unit,
        um_known=scale is not None,
        counts=counts,
        genes=genes,
        patches=None
        if element is None
        else make_reader(
            element, image_key=image_key, coordinate_system=sources.coordinate_system, um_per_unit=um_per_unit
        ),
        scale=scale,
    )
    if overlap:
        _check_overlap(spots, image_key)
    return spots


def _has_own_places(sdata: SpatialData, table: AnnData) -> bool:
    """Whether a table of a SpatialData must be placed by its ``obsm``, because it annotates nothing that is there."""
    annotated = annotated_regions(table)
    elements = {*sdata.shapes, *sdata.points, *sdata.labels}
    return (annotated is None or not elements.intersection(annotated[0])) and "spatial" in table.obsm


def _place_by_obsm(table: AnnData, attrs: Any) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    if "spatial" not in table.obsm:
        msg = (
            f"the table has no coordinates in obsm['spatial'] (obsm holds {sorted(table.obsm) or 'nothing'}); store x "
            f"and y there, in µm or in pixels of the full-resolution image"
        )
        raise ValueError(msg)
    centres = _obsm_spatial(table)
    check_centres(centres, table.obs_names.to_numpy(), where="obsm['spatial']")
    annotated = annotated_regions(table)
    region = annotated[0][0] if annotated and len(annotated[0]) == 1 else None
    sources = ScaleSources(centres=centres, spatial=centres, uns=table.uns, attrs=attrs, region=region)
    return table.obs_names.to_numpy(dtype=str), centres, sources


def _obsm_spatial(table: AnnData) -> np.ndarray:
    values = np.asarray(table.obsm["spatial"])
    if values.ndim != 2 or values.shape[1] < 2:
        msg = f"obsm['spatial'] has shape {values.shape}; it holds x and y, shape (n_obs, 2)"
        raise ValueError(msg)
    try:
        return values[:, :2].astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"obsm['spatial'] holds {values.dtype}, not numbers"
        raise ValueError(msg) from error


def _place_by_shapes(
    sdata: SpatialData,
    table: AnnData | None,
    *,
    image: Any,
    keys: tuple[str | None, str | None, str | None],
    wanted: str | None,
) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    image_key, table_key, shapes_key = keys
    if table is None:
        shapes_key, rows, instances = _only_shapes(sdata, shapes_key), None, None
    else:
        shapes_key, rows, instances = select_region(sdata, table, table_key=table_key, shapes_key=shapes_key)
    shapes = find_element(sdata, shapes_key)
    elements = {f"shapes {shapes_key!r}": shapes}
    if image is not None:
        elements[f"image {image_key!r}"] = image
    system = common_system(elements, wanted=wanted)
    index, found = centres_of(shapes, system)

    if table is None:
        ids, centres, spatial = index.to_numpy().astype(str), found, None
    else:
        ids = table.obs_names.to_numpy(dtype=str)
        at = match_instances(instances, index, table_key=table_key, shapes_key=shapes_key)
        centres = np.full((table.n_obs, 2), np.nan)
        placed = np.flatnonzero(rows)[at >= 0]
        centres[placed] = found[at[at >= 0]]
        rows = placed
        spatial = _obsm_spatial(table)[placed] if "spatial" in table.obsm else None
        if spatial is not None and not np.isfinite(spatial).all():
            spatial = None
    used = slice(None) if table is None else rows
    check_centres(centres[used], ids[used], where=f"shapes {shapes_key!r}")
    sources = ScaleSources(
        coordinate_system=system,
        image=None if image is None else levels_of(image)[0],
        shapes=shapes,
        centres=centres[used],
        uns={} if table is None else table.uns,
        attrs=sdata.attrs,
        spatial=spatial,
        region=shapes_key,
    )
    return ids, centres, sources


def _only_shapes(sdata: SpatialData, shapes_key: str | None) -> str:
    if shapes_key is not None:
        return shapes_key
    if len(sdata.shapes) != 1:
        there = sorted(sdata.shapes)
        msg = (
            "the object holds neither a table nor shapes to read around"
            if not there
            else f"the object holds no table and several shapes; choose one with shapes_key= out of {there}"
        )
        raise ValueError(msg)
    return next(iter(sdata.shapes))


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
