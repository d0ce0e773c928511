"""Storing only what was written, in the zarr store that an object was read from.

A table is replaced as a whole, in one step: what is new in it is written first, into a copy that shares all other
chunks with the table. So results, their provenance and the list of columns can never be of different calls, whenever
the process is killed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.select import select_table
from storm._bridge.staging import clone, consolidate, is_consolidated, place, staging
from storm._checks import check_key
from storm._files import full_disk_explained, remove, without_format_news
from storm._keys import UNS

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData
    from spatialdata import SpatialData

#: Rows per chunk of a stored embedding: readers take rows, AnnData's default cuts columns as well.
ROW_CHUNK = 4096


@dataclass(frozen=True)
class _Entry:
    """One value to store in a table.

    Attributes
    ----------
    slot
        Groups that lead to it, such as ``("uns", "storm")``.
    name
        Its key.
    value
        What AnnData is to write.
    """

    slot: tuple[str, ...]
    name: str
    value: Any


def persist(
    sdata: SpatialData,
    table_key: str | None = None,
    *,
    obs: Iterable[str] = (),
    obsm: Iterable[str] = (),
    layers: Iterable[str] = (),
    var: Iterable[str] = (),
    uns: Iterable[str] = (),
    colours: Iterable[str] = (),
    tables: Iterable[str] = (),
    shapes: Iterable[str] = (),
) -> Path:
    """Store the named entries of a table in the store that the object lives in; nothing else is rewritten.

    A process that is killed meanwhile leaves the table, and each element, as it was before or as it is afterwards. If
    several elements are replaced by one call, each is whole, but some may be old and others new.

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
    colours
        Columns of ``obs`` whose colours, in ``table.uns["<column>_colors"]``, are stored.
    tables, shapes
        Whole elements to store, which are not in the store yet or are replaced.

    Returns
    -------
    Path
        The store.

    Raises
    ------
    ValueError
        If the object has no store.
    KeyError
        If the table or an entry does not exist, or the store does not hold the table.
    RuntimeError
        If another process of STORM works on the store.
    OSError
        If the disk is full, or the store cannot be written. The store is then as it was.
    """
    if not sdata.is_backed():
        msg = "the object was neither read from nor written to a store; call sdata.write(path) first"
        raise ValueError(msg)
    path = Path(sdata.path)
    if not path.is_dir():
        msg = f"the object's store {path} does not exist any more; call sdata.write(path) to make a new one"
        raise ValueError(msg)
    elements = {"shapes": _elements(sdata, "shapes", shapes), "tables": _elements(sdata, "tables", tables)}
    columns = {"obs": list(obs), "obsm": list(obsm), "layers": list(layers), "var": list(var)}
    provenance = list(uns)
    entries: list[_Entry] = []
    key = None
    if provenance or any(columns.values()):
        key, table = select_table(sdata, table_key)
        entries = _entries(key, table, columns, provenance)
        for name in (f"{column}_colors" for column in colours):
            check_key(name, list(table.uns), name="key", where=f"uns of table {key!r}")
            entries.append(_Entry(("uns",), name, table.uns[name]))
    with staging(path) as scratch, full_disk_explained(path, needed=_size(entries)):
        parts = _write_elements(path, elements, scratch)
        if entries and key not in elements["tables"]:
            parts.append((_new_table(path, str(key), entries, scratch), f"tables/{key}"))
        place(path, scratch, parts)
    return path


def _elements(sdata: SpatialData, kind: str, names: Iterable[str]) -> dict[str, Any]:
    available = getattr(sdata, kind)
    wanted = list(names)
    for name in wanted:
        check_key(name, list(available), name="key", where=f"the object's {kind}")
    return {name: available[name] for name in wanted}


def _entries(key: str | None, table: AnnData, columns: Mapping[str, list[str]], provenance: list[str]) -> list[_Entry]:
    """List what is to be stored in a table; raise if it does not exist."""
    entries = []
    for slot, names in columns.items():
        values = getattr(table, slot)
        for name in names:
            check_key(name, list(values.keys()), name="key", where=f"{slot} of table {key!r}")
            entries.append(_Entry((slot,), name, _array(values[name]) if slot in ("obs", "var") else values[name]))
    records = table.uns.get(UNS, {})
    for name in provenance:
        check_key(name, list(records), name="key", where=f"uns[{UNS!r}] of table {key!r}")
        entries.append(_Entry(("uns", UNS), name, records[name]))
    return entries


def _array(column: pd.Series) -> Any:
    """Return the values of a column in a type that AnnData writes as it is."""
    return column.array if pd.api.types.is_extension_array_dtype(column.dtype) else column.to_numpy()


def _size(entries: list[_Entry]) -> int:
    """Bytes of the values before compression."""
    return sum(int(getattr(entry.value, "nbytes", 0) or 0) for entry in entries)


def _write_elements(path: Path, elements: dict[str, dict[str, Any]], scratch: Path) -> list[tuple[Path, str]]:
    """Write whole elements into a store of their own; return where they lie and where they belong."""
    import spatialdata

    if not any(elements.values()):
        return []
    new = scratch / "elements.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the elements that a table annotates are not in this store
        spatialdata.SpatialData(**elements).write(new)
    parts = []
    for kind, named in elements.items():
        if named and not (path / kind).exists():
            parts.append((_moved(new / kind, scratch), kind))
            continue
        parts += [(_moved(new / kind / name, scratch), f"{kind}/{name}") for name in named]
    return parts


def _new_table(path: Path, key: str, entries: list[_Entry], scratch: Path) -> Path:
    """Make the table as it is to be: the stored one with new entries."""
    import zarr

    stored = path / "tables" / key
    if not stored.exists():
        msg = f"the store {path} does not hold table {key!r} yet; call sdata.write_element({key!r}) first"
        raise KeyError(msg)
    zarr_format = zarr.open_group(stored, mode="r", use_consolidated=False).metadata.zarr_format
    values = zarr.open_group(scratch / "values", mode="w", zarr_format=zarr_format)
    for k, entry in enumerate(entries):
        _write(values, str(k), entry.value)

    new = scratch / "values.table"
    clone(stored, new)
    table = zarr.open_group(new, mode="r+", use_consolidated=False)
    for k, entry in enumerate(entries):
        group = table
        for name in entry.slot:
            if name not in group:
                _write(group, name, {})
            below = group[name]
            if not isinstance(below, zarr.Group):
                place = f"{'/'.join(entry.slot)} of table {key!r} in {path}"
                msg = f"{place} is a single array, so that nothing can be added to it; write the object to a new store"
                raise ValueError(msg)
            group = below
        target = new.joinpath(*entry.slot, entry.name)
        remove(target)
        (scratch / "values" / str(k)).replace(target)
        if entry.slot[0] in ("obs", "var"):
            listed: Any = group.attrs["column-order"]
            order = [str(column) for column in listed]
            if entry.name not in order:
                group.attrs["column-order"] = [*order, entry.name]
    if is_consolidated(new):
        consolidate(new, scratch)
    return _moved(new, scratch)


def _moved(new: Path, scratch: Path) -> Path:
    """Give a part that is complete a name of its own, directly in the scratch folder."""
    target = scratch / f"new-{sum(1 for path in scratch.iterdir() if path.name.startswith('new-'))}"
    new.replace(target)
    return target


def _write(group: zarr.Group, name: str, value: Any) -> None:
    import anndata
    from anndata.io import write_elem

    chunks: dict[str, Any] = {}
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.size:
        chunks = {"chunks": (min(ROW_CHUNK, value.shape[0]), value.shape[1])}
    # Missing strings have an encoding that AnnData writes only where that is allowed: there is no other for them.
    with anndata.settings.override(allow_write_nullable_strings=True), without_format_news():
        write_elem(group, name, value, dataset_kwargs=chunks)
