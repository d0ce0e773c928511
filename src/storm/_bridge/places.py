"""Where the rows of a section lie: by the element that the table annotates, or by ``obsm["spatial"]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm._bridge.geometry import affine_of, centres_of, check_centres, has_outline, length_scale
from storm._bridge.image import levels_of
from storm._bridge.one_section import check_one_section
from storm._bridge.remembered import recalled_image_um, recalled_um
from storm._bridge.scale import ScaleSources
from storm._bridge.select import annotated_regions, match_instances

if TYPE_CHECKING:
    from anndata import AnnData

    from storm._bridge.selection import Region, Selection


def read_places(selection: Selection, *, recall: bool = True) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    """Read the ids and centres of a section.

    Parameters
    ----------
    selection
        The section.
    recall
        Whether a scale that a call was told is among the sources.

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
    return _by_obsm(selection, recall) if region is None else _by_shapes(selection, region, recall)


def array_positions(table: AnnData, rows: np.ndarray) -> np.ndarray | None:
    """Space Ranger's column and row of some rows in the array of spots, shape (rows, 2); ``None`` without them."""
    if not {"array_col", "array_row"} <= set(table.obs.columns):
        return None
    values = np.column_stack([_numbers(table, "array_col"), _numbers(table, "array_row")])[rows]
    return values if len(values) and np.isfinite(values).all() else None


def outside_tissue(table: AnnData | None) -> np.ndarray | None:
    """Rows that Space Ranger found outside the tissue (``obs["in_tissue"] == 0``), bool, shape (n_obs,).

    Parameters
    ----------
    table
        The table.

    Returns
    -------
    ndarray or None
        ``None`` where no row is outside the tissue, or the table has no such column of 0 and 1.
    """
    if table is None or "in_tissue" not in table.obs:
        return None
    values = _numbers(table, "in_tissue")
    if not np.isin(values, (0, 1)).all():
        return None
    outside = values == 0
    return outside if outside.any() else None


def _numbers(table: AnnData, column: str) -> np.ndarray:
    """A column of ``obs``, which may lie on disk, as float64, shape (n_obs,); NaN where it holds no number."""
    values = pd.Series(np.asarray(table.obs[column], dtype=object))
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)


def _by_obsm(selection: Selection, recall: bool) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    table = selection.table
    assert table is not None  # without a table there is a region
    centres = obsm_spatial(table)
    if np.isfinite(centres).all():
        check_one_section(table, centres)
    check_centres(centres, table.obs_names.to_numpy(), where="obsm['spatial']")
    annotated = annotated_regions(table)
    name = annotated[0][0] if annotated and len(annotated[0]) == 1 else None
    sources = ScaleSources(
        centres=centres,
        spatial=centres,
        array=array_positions(table, np.arange(table.n_obs)),
        uns=table.uns,
        attrs=selection.attrs,
        region=name,
        told=recalled_um(table, slice(None), name="the table") if recall else None,
    )
    return table.obs_names.to_numpy(dtype=str), centres, sources


def obsm_spatial(table: AnnData) -> np.ndarray:
    """``obsm["spatial"]`` as x and y, float64, shape (n_obs, 2).

    Raises
    ------
    ValueError
        If it is missing, has another shape, or holds no numbers.
    """
    if "spatial" not in table.obsm:
        msg = (
            f"the table has no coordinates in obsm['spatial'] (obsm holds {sorted(table.obsm) or 'nothing'}); store x "
            f"and y there, in µm or in pixels of the full-resolution image"
        )
        raise ValueError(msg)
    values = np.asarray(table.obsm["spatial"])
    if values.ndim != 2 or values.shape[1] < 2:
        msg = f"obsm['spatial'] has shape {values.shape}; it holds x and y, shape (n_obs, 2)"
        raise ValueError(msg)
    if values.dtype.kind in "cmMb":
        msg = f"obsm['spatial'] holds {values.dtype}, not coordinates"
        raise ValueError(msg)
    try:
        return values[:, :2].astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"obsm['spatial'] holds {values.dtype}, not numbers"
        raise ValueError(msg) from error


def _by_shapes(selection: Selection, region: Region, recall: bool) -> tuple[np.ndarray, np.ndarray, ScaleSources]:
    table, system = selection.table, selection.coordinate_system
    index, own = centres_of(region.element, system)
    outlined = has_outline(region.element) if hasattr(region.element, "geometry") else np.ones(len(own), dtype=bool)
    if table is None or region.rows is None or region.instances is None:
        ids, centres, spatial, used = index.to_numpy().astype(str), own, None, np.flatnonzero(outlined)
    else:
        ids = table.obs_names.to_numpy(dtype=str)
        at = match_instances(region.instances, index, table_key=selection.table_key, shapes_key=region.key)
        at = np.where(outlined[at], at, -1)  # -1 stays -1
        if (at < 0).all():
            msg = f"all outlines of shapes {region.key!r} are empty, so that no row has a place"
            raise ValueError(msg)
        centres = np.full((table.n_obs, 2), np.nan)
        used = np.flatnonzero(region.rows)[at >= 0]
        centres[used] = own[at[at >= 0]]
        spatial = obsm_spatial(table)[used] if "spatial" in table.obsm else None
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
        array=None if table is None else array_positions(table, used),
        region=region.key,
        told=_told_um(selection, region, used) if recall else None,
    )
    return ids, centres, sources


def _told_um(selection: Selection, region: Region, rows: np.ndarray) -> float | None:
    """µm per unit of the coordinate system as a call was told, of the rows of the table or of the image."""
    system = selection.coordinate_system
    own = None if selection.table is None else recalled_um(selection.table, rows, name=repr(region.key))
    if own is not None:
        return own / length_scale(affine_of(region.element, system))
    key = selection.image_key
    return None if key is None else recalled_image_um(selection.data, key, system)
