"""What a call is about, selected once: the table, the image, and the element whose instances the rows are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.geometry import find_element
from storm._bridge.keys import Keys
from storm._bridge.remembered import meeting_system, recalled_image
from storm._bridge.select import (
    annotated_regions,
    check_container,
    is_spatialdata,
    only_shapes,
    select_image,
    select_region,
    select_table,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._types import Wanted


@dataclass(frozen=True, eq=False)
class Region:
    """An element whose instances are spots, and the rows of the table that belong to it.

    Attributes
    ----------
    key
        Name of the element.
    element
        The shapes, points or labels.
    rows
        Rows of the table that annotate it, bool, shape (n_obs,); ``None`` without a table.
    instances
        Instance of each of these rows, shape (rows,); ``None`` without a table.
    """

    key: str
    element: Any
    rows: np.ndarray | None
    instances: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Selection:
    """The elements of an object that a call works on.

    Attributes
    ----------
    data
        The object.
    keys
        What the user asked for.
    image_key
        The image; ``None`` if none is read.
    table_key
        The table; ``None`` for an AnnData, or without a table.
    table
        The table itself, not a copy; ``None`` if the object has none.
    """

    data: SpatialData | AnnData
    keys: Keys
    image_key: str | None
    table_key: str | None
    table: AnnData | None

    @property
    def image(self) -> Any:
        """The image element, or ``None``."""
        return None if self.image_key is None else self.data.images[self.image_key]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of a SpatialData; empty for an AnnData."""
        return getattr(self.data, "attrs", {})

    @cached_property
    def region(self) -> Region | None:
        """The element whose instances the rows are; ``None`` where ``obsm["spatial"]`` holds their coordinates.

        Raises
        ------
        KeyError, ValueError
            If there is no such element, or several and no ``shapes_key``.
        """
        if not is_spatialdata(self.data):
            return None
        if self.table is None:
            key = only_shapes(self.data, self.keys.shapes_key)
            return Region(key, find_element(self.data, key), None, None)
        if self.image_key is None and _has_own_places(self.data, self.table):
            return None
        key, rows, instances = select_region(
            self.data, self.table, table_key=self.table_key, shapes_key=self.keys.shapes_key
        )
        return Region(key, find_element(self.data, key), rows, instances)

    @cached_property
    def coordinate_system(self) -> str:
        """System in which image and shapes meet.

        Raises
        ------
        ValueError
            If there is none, or several in which they lie differently.
        """
        elements = {} if self.region is None else {f"shapes {self.region.key!r}": self.region.element}
        if self.image_key is not None:
            elements[f"image {self.image_key!r}"] = self.image
        source = self.data if self.table is None else self.table
        return meeting_system(elements, self.keys.coordinate_system, source=source)

    def without_image(self) -> Selection:
        """The same without its image, and without the scale, which is that of the image."""
        return replace(self, image_key=None, keys=replace(self.keys, image_key=None, um_per_px=None))


def select(
    data: SpatialData | AnnData, keys: Keys | None = None, *, image: Wanted = "auto", table: Wanted = "auto"
) -> Selection:
    """Select the table and the image of a call.

    Parameters
    ----------
    data
        The user's object.
    keys
        What the user asked for; everything by default is the only one of its kind.
    image
        ``True``: there must be an image; ``False``: none is read; ``"auto"``: the image if there is one.
    table
        ``True``: there must be a table; otherwise the table if there is one, which holds the ids and places.

    Returns
    -------
    Selection

    Raises
    ------
    TypeError
        If ``data`` is neither a SpatialData nor an AnnData.
    KeyError
        If there is no element of a given name.
    ValueError
        If something needed is missing, or there are several and none is chosen.
    """
    keys = Keys() if keys is None else keys
    check_container(data)
    if not is_spatialdata(data) or data.tables or table is True or keys.table_key is not None:
        table_key, chosen = select_table(data, keys.table_key)
    else:
        table_key, chosen = None, None
    asked = keys.image_key or recalled_image(data, chosen)
    image_key = select_image(
        data, asked, image=image, places=_places(data, chosen, keys), coordinate_system=keys.coordinate_system
    )
    return Selection(data=data, keys=keys, image_key=image_key, table_key=table_key, table=chosen)


def _places(data: SpatialData | AnnData, table: AnnData | None, keys: Keys) -> Any | None:
    """The element with the spots; ``None`` where there is none, or which it is must still be asked for."""
    if not is_spatialdata(data):
        return None
    elements = {**data.shapes, **data.points, **data.labels}
    annotated = None if table is None else annotated_regions(table)
    candidates = list(data.shapes) if table is None else [] if annotated is None else annotated[0]
    key = keys.shapes_key if keys.shapes_key is not None else candidates[0] if len(candidates) == 1 else None
    return None if key is None else elements.get(key)


def _has_own_places(sdata: SpatialData, table: AnnData) -> bool:
    """Whether a table must be placed by its ``obsm``, because it annotates nothing that the object holds."""
    annotated = annotated_regions(table)
    elements = {*sdata.shapes, *sdata.points, *sdata.labels}
    return (annotated is None or not elements.intersection(annotated[0])) and "spatial" in table.obsm
