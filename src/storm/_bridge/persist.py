"""Storing only what was written, in the zarr store that an object was read from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.select import select_table
from storm._checks import check_key
from storm._keys import UNS

if TYPE_CHECKING:
    import zarr
    from spatialdata import SpatialData

#: Rows per chunk of a stored embedding: readers take rows, AnnData's default cuts columns as well.
ROW_CHUNK = 4096


def persist(
    sdata: SpatialData,
    table_key: str | None = None,
    *,
    obs: Iterable[str] = (),
    obsm: Iterable[str] = (),
    layers: Iterable[str] = (),
    var: Iterable[str] = (),
    uns: Iterable[str] = (),
    tables: Iterable[str] = (),
    shapes: Iterable[str] = (),
) -> Path:
    """Store the named entries of a table in the store that the object lives in; nothing else is rewritten.

    Parameters
    ----------
    sdata
        Object that was read from, or written to, a zarr store.
    table_key
        The table; not needed if there is only one.
    obs, obsm, layers, var
        Keys of the entries to store.
    uns
        Keys of ``table.uns["storm"]`` to store.
    tables, shapes
        Whole elements to store, which are not in the store yet or are replaced.

    Returns
    -------
    Path of the store.

    Raises
    ------
    ValueError
        If the object has no store.
    KeyError
        If the table or an entry does not exist, or the store does not hold the table.
    """
    import zarr

    if not sdata.is_backed():
        msg = "the object was neither read from nor written to a store; call sdata.write(path) first"
        raise ValueError(msg)
    path = Path(sdata.path)
    wanted = {"obs": list(obs), "obsm": list(obsm), "layers": list(layers), "var": list(var)}
    provenance = list(uns)
    if provenance or any(wanted.values()):
        key, table = select_table(sdata, table_key)
        for slot, names in wanted.items():
            for name in names:
                check_key(name, list(getattr(table, slot).keys()), name="key", where=f"{slot} of table {key!r}")
        for name in provenance:
            check_key(name, list(table.uns.get(UNS, {})), name="key", where=f"uns[{UNS!r}] of table {key!r}")
        root = zarr.open_group(path, mode="r+", use_consolidated=False)
        stored = f"tables/{key}"
        if stored not in root:
            msg = f"the store {path} does not hold table {key!r} yet; call sdata.write_element({key!r}) first"
            raise KeyError(msg)
        group = root[stored]
        for slot in ("obs", "var"):
            _write_columns(group, slot, getattr(table, slot), wanted[slot])
        for slot in ("obsm", "layers"):
            for name in wanted[slot]:
                _write(group.require_group(slot), name, getattr(table, slot)[name])
        for name in provenance:
            _write(_mapping(_mapping(group, "uns"), UNS), name, table.uns[UNS][name])
    for name in (*shapes, *tables):
        if any(p.endswith(f"/{name}") for p in sdata.elements_paths_on_disk()):
            sdata.delete_element_from_disk(name)
        sdata.write_element(name)
    if sdata.has_consolidated_metadata():
        sdata.write_consolidated_metadata()
    return path


def _write(group: zarr.Group, name: str, value: Any) -> None:
    from anndata.io import write_elem

    chunks: dict[str, Any] = {}
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.size:
        chunks = {"chunks": (min(ROW_CHUNK, value.shape[0]), value.shape[1])}
    write_elem(group, name, value, dataset_kwargs=chunks)


def _mapping(group: zarr.Group, name: str) -> zarr.Group:
    """A dictionary in AnnData's encoding, made if it is missing."""
    if name not in group:
        _write(group, name, {})
    return group[name]


def _write_columns(group: zarr.Group, slot: str, frame: Any, names: list[str]) -> None:
    """Add columns to a stored data frame, which lists them by name in its attributes."""
    stored = group[slot]
    for name in names:
        column = frame[name]
        _write(stored, name, column.array if hasattr(column, "cat") else column.to_numpy())
    order = [str(c) for c in stored.attrs["column-order"]]
    stored.attrs["column-order"] = order + [n for n in names if n not in order]
