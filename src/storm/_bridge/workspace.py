"""The object that a tool works on: the user's own, a copy of it, or a tile grid made for an image without a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm._bridge.select import check_container, is_spatialdata, select_image
from storm._bridge.tiles import make_tile_table
from storm._bridge.write import add_elements, check_writable
from storm._keys import TILES, TILES_TABLE

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass
class Workspace:
    """Where a tool reads from and writes to.

    Attributes
    ----------
    data
        Object that holds the table; results are written here.
    table_key
        The table.
    image_key
        The image, or the user's choice of it.
    made
        Elements that were made for this call and must still be added to the user's object.
    owner
        The user's object (or its copy).
    store
        Path of the zarr store that the user's object lives in, or ``None``.
    """

    data: SpatialData | AnnData
    table_key: str | None
    image_key: str | None
    owner: SpatialData | AnnData
    made: dict[str, Any] = field(default_factory=dict)
    store: Path | None = None

    def finish(self) -> None:
        """Hand newly made elements over to the user's object: the last step, after everything was computed."""
        if self.made:
            add_elements(self.owner, **self.made)


def open_workspace(
    data: SpatialData | AnnData,
    *,
    table_key: str | None = None,
    image_key: str | None = None,
    field_um: float | None = None,
    stride_um: float | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    copy: bool = False,
) -> Workspace:
    """Decide where a tool works.

    Parameters
    ----------
    data
        The user's object.
    table_key, image_key
        The user's choice.
    field_um, stride_um, coordinate_system, um_per_px
        Tile grid of a SpatialData without a table; see :func:`~storm._bridge.tiles.make_tile_table`.
    copy
        Work on a copy: tables are copied, images and shapes are shared.

    Returns
    -------
    Workspace

    Raises
    ------
    ValueError
        If there is neither a table nor an image, or the table is a view.
    """
    check_container(data)
    store = Path(data.path) if is_spatialdata(data) and data.is_backed() else None
    if copy:
        data = _copy(data)
    if not is_spatialdata(data) or data.tables or table_key is not None or field_um is None:
        check_writable(data, table_key)
        return Workspace(data, table_key, image_key, data, store=store)
    import spatialdata

    image_key = select_image(data, image_key, image=True)
    shapes, table = make_tile_table(
        data, image_key=image_key, field_um=field_um, stride_um=stride_um,
        coordinate_system=coordinate_system, um_per_px=um_per_px,
    )  # fmt: skip
    made = {"shapes": {TILES: shapes}, "tables": {TILES_TABLE: table}}
    grid = spatialdata.SpatialData(images={image_key: data.images[image_key]}, shapes=made["shapes"], attrs=data.attrs)
    grid.tables[TILES_TABLE] = table
    return Workspace(grid, TILES_TABLE, image_key, data, made, store)


def _copy(data: SpatialData | AnnData) -> SpatialData | AnnData:
    if not is_spatialdata(data):
        return data.copy()
    import spatialdata

    elements = {kind: dict(getattr(data, kind)) for kind in ("images", "labels", "points", "shapes")}
    tables = {key: table.copy() for key, table in data.tables.items()}
    return spatialdata.SpatialData(**elements, tables=tables, attrs=dict(data.attrs))
