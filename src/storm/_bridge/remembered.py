"""What a call was told of an object: remembered in it when the call succeeds, and found by the next one.

In a table, ``obs["storm_um_per_unit"]`` holds the scale of each row, because columns of ``obs`` go where the rows go:
through subsets, files, and the concatenation of objects. Names of elements stand in ``uns["storm"]["remembered"]``. Of
a SpatialData without a table both stand in ``attrs["storm"]["remembered"]``. What is not there any more, such as an
image that was removed or renamed, counts as never told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.geometry import affine_of, common_system, length_scale, systems_of
from storm._bridge.image import levels_of
from storm._bridge.members import plain
from storm._bridge.select import CHOSEN, is_spatialdata, remembered_of
from storm._keys import REMEMBERED, UM_PER_UNIT, UNS

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a call was told of an object.

    Attributes
    ----------
    table_key, coordinate_system, library_key
        As the user named them; ``None`` where nothing was said.
    image_key
        The image, or that of each section by the section's name.
    """

    table_key: str | None = None
    image_key: str | Mapping[str, str] | None = None
    coordinate_system: str | None = None
    library_key: str | None = None


def recalled_library(table: AnnData, library_key: str | None) -> str | None:
    """The column that names the sections of a table: the one given, else the one that a call was told."""
    if library_key is not None:
        return library_key
    told = remembered_of(table).get("library_key")
    return told if told in table.obs else None


def recalled_image(data: SpatialData | AnnData, table: AnnData | None) -> str | None:
    """The image that a call was told for all sections, if the object holds it still."""
    told = _told_images(data, table)
    return told if isinstance(told, str) and told in data.images else None


def recalled_images(
    data: SpatialData | AnnData, table: AnnData, given: str | Mapping[str, str] | None
) -> str | dict[str, str] | None:
    """The image of each section, or one for all: what is given, else what a call was told and is still there."""
    if given is not None:
        return given if isinstance(given, str) else dict(given)
    told = _told_images(data, table)
    if isinstance(told, Mapping):
        return {name: image for name, image in told.items() if image in data.images} or None
    return recalled_image(data, table)


def _told_images(data: SpatialData | AnnData, table: AnnData | None) -> Any:
    return remembered_of(data if table is None else table).get("image_key") if is_spatialdata(data) else None


def meeting_system(elements: Mapping[str, Any], asked: str | None, *, source: SpatialData | AnnData | None) -> str:
    """Coordinate system in which elements meet: the one asked for, else one that a call was told and that all know.

    Parameters
    ----------
    elements
        Elements by the words that name them in errors.
    asked
        The system that the user asks for.
    source
        The table, or the SpatialData without one, that remembers what calls were told.

    Raises
    ------
    ValueError
        As :func:`~storm._bridge.geometry.common_system`.
    """
    told = None if source is None or asked is not None else remembered_of(source).get("coordinate_system")
    known = elements and all(told in systems_of(element) for element in elements.values())
    return common_system(elements, wanted=told if told is not None and known else asked)


def recalled_um(table: AnnData, rows: np.ndarray | slice, *, name: str) -> float | None:
    """µm per unit of the coordinates in which the places of some rows are stored, if a call was told.

    Raises
    ------
    ValueError
        If they have several scales, or the column holds something else than positive numbers.
    """
    if UM_PER_UNIT not in table.obs:
        return None
    column = np.asarray(table.obs[UM_PER_UNIT])[rows]
    try:
        values = np.unique(column.astype(np.float64))
    except (TypeError, ValueError):
        values = np.array([-1.0])
    values = values[~np.isnan(values)]
    if (values <= 0).any() or not np.isfinite(values).all():
        msg = (
            f"obs[{UM_PER_UNIT!r}] holds the µm per unit of a row's coordinates, and some are not positive numbers; "
            f"write it anew with storm.pp.set_scale, or remove that column"
        )
        raise ValueError(msg)
    if len(values) > 1 and values[-1] > values[0] * (1 + 1e-6):
        listed = ", ".join(f"{value:.4g}" for value in values[:5])
        msg = (
            f"obs[{UM_PER_UNIT!r}] gives the rows of {name} several scales ({listed} µm per unit of their "
            f"coordinates); if they are of several sections, name the column that tells them apart: library_key=; "
            f"else write the scale anew with storm.pp.set_scale"
        )
        raise ValueError(msg)
    return float(values[0]) if len(values) else None


def recalled_image_um(data: SpatialData, image_key: str, coordinate_system: str) -> float | None:
    """µm per unit of a coordinate system, if a call was told the scale of an image of an object without a table."""
    told = remembered_of(data).get("um_per_px")
    um = told.get(image_key) if isinstance(told, Mapping) else None
    if not isinstance(um, int | float) or not um > 0:
        return None
    return float(um) / length_scale(affine_of(levels_of(data.images[image_key])[0], coordinate_system))


def um_of_coordinates(
    um_per_px: float, *, shapes: Any | None, image: Any | None, table: AnnData | None, coordinate_system: str | None
) -> float:
    """µm per unit of the coordinates in which places are stored, of the µm per pixel that a call was told.

    Parameters
    ----------
    um_per_px
        µm per pixel of the full-resolution image; without an image, per unit of the coordinate system.
    shapes
        The element with the places; ``None`` where ``obsm["spatial"]`` holds them.
    image
        The image, if one is read.
    table, coordinate_system
        The table, and the system that the user asked for.
    """
    if shapes is None:
        return float(um_per_px)
    elements = {"shapes": shapes} | ({} if image is None else {"image": image})
    system = meeting_system(elements, coordinate_system, source=table)
    px = 1.0 if image is None else length_scale(affine_of(levels_of(image)[0], system))
    return float(um_per_px) / px * length_scale(affine_of(shapes, system))


def remembering(
    data: SpatialData | AnnData,
    table: AnnData,
    told: Told,
    *,
    table_key: str | None,
    scales: Iterable[tuple[np.ndarray | None, float]] = (),
) -> dict[str, Any]:
    """What is to be written into a table, so that the next call finds what this one was told.

    Parameters
    ----------
    data
        The object that holds the table.
    table, table_key
        The table.
    told
        What the call was told.
    scales
        Rows (``None`` for all) and their µm per unit of their coordinates.

    Returns
    -------
    dict
        ``obs`` and ``uns`` for :func:`~storm._bridge.write.write_results`; empty if the call was told nothing.
    """
    slots: dict[str, Any] = {}
    column = np.full(table.n_obs, np.nan)
    if UM_PER_UNIT in table.obs:
        stored = pd.Series(np.asarray(table.obs[UM_PER_UNIT], dtype=object))
        column = pd.to_numeric(stored, errors="coerce").to_numpy(dtype=np.float64, copy=True)
    scales = list(scales)
    for rows, um in scales:
        column[slice(None) if rows is None else rows] = um
    if scales:
        slots["obs"] = {UM_PER_UNIT: column}
    before, new = dict(remembered_of(table)), _names(data, told, table_key=table_key)
    if "library_key" in new and new["library_key"] != before.get("library_key"):
        before.pop("image_key", None)  # its sections are others
    if new and before | new != before:
        slots["uns"] = {REMEMBERED: before | new}
    return slots


def remembered_entries(table: AnnData) -> dict[str, list[str]]:
    """Keys of what a table remembers, by their slot, for those who store it."""
    return {
        "obs": [UM_PER_UNIT] if UM_PER_UNIT in table.obs else [],
        "uns": [REMEMBERED] if isinstance(table.uns.get(UNS), Mapping) and REMEMBERED in table.uns[UNS] else [],
    }


def _names(data: SpatialData | AnnData, told: Told, *, table_key: str | None) -> dict[str, Any]:
    new: dict[str, Any] = {}
    if told.library_key is not None:
        new["library_key"] = told.library_key
    if not is_spatialdata(data):
        return new
    if told.coordinate_system is not None:
        new["coordinate_system"] = told.coordinate_system
    if isinstance(told.image_key, str):
        new["image_key"] = told.image_key
    elif told.image_key:
        new["image_key"] = {plain(name): image for name, image in told.image_key.items()}
    if told.table_key is not None and len(data.tables) > 1:
        orders = {key: int(remembered_of(table).get(CHOSEN, 0)) for key, table in data.tables.items()}
        last = max(orders.values())
        new[CHOSEN] = last if last and orders.get(str(table_key)) == last else last + 1
    return new


def own_images(chosen: Mapping[str, str], sections: Sequence[tuple[str, set[str]]]) -> dict[str, str]:
    """Of the images that the user gave for the sections of several objects, those of one object's own sections.

    Parameters
    ----------
    chosen
        Images by the names of sections.
    sections
        Name of each section in its table, and all names by which the user may call it.
    """
    found = {}
    for name, called in sections:
        if (key := next((one for one in chosen if one in called), None)) is not None:
            found[name] = chosen[key]
    return found
