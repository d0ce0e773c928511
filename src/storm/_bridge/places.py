"""Where the rows of a section lie: by the element that the table annotates, or by ``obsm["spatial"]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.geometry import centres_of, check_centres
from storm._bridge.image import levels_of
from storm._bridge.scale import ScaleSources
from storm._bridge.select import annotated_regions, match_instances

if TYPE_CHECKING:
    from anndata import AnnData

    from storm._bridge.selection import Region, Selection


def read_places(selection: Selection) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    """Read the ids and centres of a section.

    Parameters
    ----------
    selection
        The section.

    Returns
    -------
    ids
        Names of the rows, str, shape (n,).
    centres
        x and y in the coordinate system in which the elements meet, float64, shape (n, 2); NaN without a geometry.
    sources
        Everything that tells the µm per unit of that system.

    Raises
    ------
    KeyError, ValueError
        If an element is missing or ambiguous, or coordinates are not finite.
    """
    region = selection.region
    return _by_obsm(selection) if region is None else _by_shapes(selection, region)


def _by_obsm(selection: Selection) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    table = selection.table
    assert table is not None  # without a table there is a region
    if "spatial" not in table.obsm:
        msg = (
            f"the table has no coordinates in obsm['spatial'] (obsm holds {sorted(table.obsm) or 'nothing'}); store x "
            f"and y there, in µm or in pixels of the full-resolution image"
        )
        raise ValueError(msg)
    centres = _obsm_spatial(table)
    check_centres(centres, table.obs_names.to_numpy(), where="obsm['spatial']")
    annotated = annotated_regions(table)
    name = annotated[0][0] if annotated and len(annotated[0]) == 1 else None
    sources = ScaleSources(centres=centres, spatial=centres, uns=table.uns, attrs=selection.attrs, region=name)
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


def _by_shapes(selection: Selection, region: Region) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    table, system = selection.table, selection.coordinate_system
    index, own = centres_of(region.element, system)
    if table is None or region.rows is None or region.instances is None:
        ids, centres, spatial, used = index.to_numpy().astype(str), own, None, np.arange(len(own))
    else:
        ids = table.obs_names.to_numpy(dtype=str)
        at = match_instances(region.instances, index, table_key=selection.table_key, shapes_key=region.key)
        centres = np.full((table.n_obs, 2), np.nan)
        used = np.flatnonzero(region.rows)[at >= 0]
        centres[used] = own[at[at >= 0]]
        spatial = _obsm_spatial(table)[used] if "spatial" in table.obsm else None
        if spatial is not None and not np.isfinite(spatial).all():
            spatial = None
    check_centres(centres[used], ids[used], where=f"shapes {region.key!r}")
    sources = ScaleSources(
        coordinate_system=system,
        image=None if selection.image is None else levels_of(selection.image)[0],
        shapes=region.element,
        centres=centres[used],
        uns={} if table is None else table.uns,
        attrs=selection.attrs,
        spatial=spatial,
        region=region.key,
    )
    return ids, centres, sources
