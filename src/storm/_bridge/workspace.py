"""The object that a tool works on: the user's own, a copy of it, or a tile grid made for an image without a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.remembered import Told, remembering
from storm._bridge.select import check_container, is_spatialdata, records_of
from storm._bridge.selection import Selection, select
from storm._bridge.tiles import make_tile_table
from storm._bridge.write import add_elements, check_keys_added, check_writable, write_results
from storm._keys import TILES, TILES_TABLE

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._types import Wanted


@dataclass
class Workspace:
    """Where a tool reads from and writes to.

    Attributes
    ----------
    selection
        The elements that are read; its table gets the results.
    owner
        The user's object (or its copy).
    made
        Elements that were made for this call and must still be added to the user's object.
    store
        Path of the zarr store that the user's object lives in, or ``None``.
    told
        What the call was told of the object, which is remembered when results are written.
    scales
        Function that returns rows and their scale as the call was told; see
        :func:`~storm._bridge.remembered.remembering`.
    """

    selection: Selection
    owner: SpatialData | AnnData
    made: dict[str, Any] = field(default_factory=dict)
    store: Path | None = None
    told: Told = field(default_factory=Told)
    scales: Callable[[], list[tuple[np.ndarray | None, float]]] = list

    @property
    def table(self) -> AnnData:
        """The table that gets the results."""
        assert self.selection.table is not None  # open_workspace selects or makes one
        return self.selection.table

    def check_new_table(self, name: str) -> None:
        """Raise if a table of that name would replace something that STORM did not write.

        Raises
        ------
        ValueError
            If the object holds an element of that name which is not a table of predicted genes.
        """
        kinds = ("images", "labels", "points", "shapes", "tables")
        elements = {key: kind for kind in kinds for key in getattr(self.owner, kind)}
        if name in elements and not (elements[name] == "tables" and records_of(self.owner.tables[name])):
            msg = (
                f"the result would be stored as table {name!r}, and the object holds {elements[name]} of that name "
                f"which STORM did not write; choose another key_added"
            )
            raise ValueError(msg)

    def add_table(self, name: str, table: AnnData) -> None:
        """Add a table beside the one that was read, together with the elements that were made for this call."""
        take_back = write_results(self.table, **self.remembering())
        try:
            shapes, tables = self.made.get("shapes"), self.made.get("tables", {})
            add_elements(self.owner, shapes=shapes, tables={**tables, name: table})
        except BaseException:
            take_back()
            raise

    def remembering(self) -> dict[str, Any]:
        """What is written into the table, so that the next call finds what this one was told."""
        return remembering(self.owner, self.table, self.told, table_key=self.selection.table_key, scales=self.scales())

    def add_made(self) -> None:
        """Add the elements that were made for this call, such as a grid of tiles, if there are any."""
        if self.made:
            add_elements(self.owner, **self.made)


def write_all(results: Sequence[tuple[Workspace, Mapping[str, Any]]]) -> None:
    """Write results into the tables of some objects, all of them or none, and hand over what was made for them.

    Parameters
    ----------
    results
        For each object the arguments of :func:`~storm._bridge.write.write_results`.

    Raises
    ------
    ValueError, TypeError
        As :func:`~storm._bridge.write.write_results`; then nothing has been written.
    """
    undo: list[Callable[[], None]] = []
    try:
        for work, slots in results:
            remembered = {name: {**slots.get(name, {}), **own} for name, own in work.remembering().items()}
            undo.append(write_results(work.table, **{**slots, **remembered}))
        for work, _ in results:
            work.add_made()
    except BaseException:
        for step in reversed(undo):
            step()
        raise


def open_workspace(
    data: SpatialData | AnnData,
    keys: Keys,
    *,
    image: Wanted = "auto",
    table: Wanted = "auto",
    field_um: float | None = None,
    stride_um: float | None = None,
    copy: bool = False,
    keys_added: Mapping[str, Iterable[str]] | None = None,
    writable: bool = True,
) -> Workspace:
    """Decide where a tool works, and select what it reads there.

    Parameters
    ----------
    data
        The user's object.
    keys
        The user's choice of elements.
    image, table
        What is needed; see :func:`~storm._bridge.selection.select`.
    field_um, stride_um
        Tile grid of a SpatialData without a table; see :func:`~storm._bridge.tiles.make_tile_table`. Without
        ``field_um`` none is made.
    copy
        Work on a copy: tables are copied, images and shapes are shared.
    keys_added
        Keys that the results will have, by their slot (``"obs"``, ``"obsm"``, ``"layers"``); they are checked before
        anything is computed.
    writable
        Whether results are written into the table, which must then not be a view.

    Returns
    -------
    Workspace

    Raises
    ------
    KeyError
        If there is no element of a given name.
    ValueError
        If there is neither a table nor an image, something is ambiguous, or the table is a view.
    TypeError
        If ``data`` is neither a SpatialData nor an AnnData.
    """
    check_container(data)
    store = Path(data.path) if is_spatialdata(data) and data.is_backed() else None
    owner = copy_of(data) if copy else data
    if not is_spatialdata(owner) or owner.tables or keys.table_key is not None or field_um is None:
        selection = select(owner, keys, image=image, table=True)
        if writable:
            check_writable(selection.table, selection.table_key)
        _check_keys_added(selection.table, keys_added or {})
        return Workspace(selection, owner, store=store)
    import spatialdata

    whole = select(owner, keys, image=True, table=False)
    shapes, tiles = make_tile_table(whole, field_um=field_um, stride_um=stride_um)
    made = {"shapes": {TILES: shapes}, "tables": {TILES_TABLE: tiles}}
    grid = spatialdata.SpatialData(images={whole.image_key: whole.image}, shapes=made["shapes"], attrs=owner.attrs)
    grid.tables[TILES_TABLE] = tiles
    _check_keys_added(tiles, keys_added or {})
    return Workspace(select(grid, keys, image=image, table=True), owner, made, store)


def is_slide(data: SpatialData | AnnData) -> bool:
    """Whether an object holds images and nothing to read around, so that tiles are laid over them."""
    return is_spatialdata(data) and not data.tables and not data.shapes and bool(data.images)


def _check_keys_added(table: AnnData, keys: Mapping[str, Iterable[str]]) -> None:
    check_keys_added(table, obs=keys.get("obs", ()), obsm=keys.get("obsm", ()), layers=keys.get("layers", ()))


def copy_of(data: SpatialData | AnnData) -> SpatialData | AnnData:
    """A copy for results: tables are copied, images and shapes are shared."""
    if not is_spatialdata(data):
        return data.copy()
    import spatialdata

    elements = {kind: dict(getattr(data, kind)) for kind in ("images", "labels", "points", "shapes")}
    tables = {key: table.copy() for key, table in data.tables.items()}
    return spatialdata.SpatialData(**elements, tables=tables, attrs=dict(data.attrs))
