"""Storing only what was written, in the zarr store that an object was read from.

Everything is written beside the store first and then takes its place by a renaming: a store that was being written when
the process was killed holds each entry as it was, or as it is now, or not at all, but never half of it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.select import select_table
from storm._checks import check_key
from storm._keys import UNS
from storm.data.journal import locked

if TYPE_CHECKING:
    import zarr
    from spatialdata import SpatialData

#: Rows per chunk of a stored embedding: readers take rows, AnnData's default cuts columns as well.
ROW_CHUNK = 4096
_SCRATCH = "writing"


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
    RuntimeError
        If another process of STORM works on the store.
    """
    import zarr

    if not sdata.is_backed():
        msg = "the object was neither read from nor written to a store; call sdata.write(path) first"
        raise ValueError(msg)
    path = Path(sdata.path)
    wanted = {"obs": list(obs), "obsm": list(obsm), "layers": list(layers), "var": list(var)}
    provenance = list(uns)
    root = zarr.open_group(path, mode="r+", use_consolidated=False)
    if provenance or any(wanted.values()):
        key, table = select_table(sdata, table_key)
        for slot, names in wanted.items():
            for name in names:
                check_key(name, list(getattr(table, slot).keys()), name="key", where=f"{slot} of table {key!r}")
        for name in provenance:
            check_key(name, list(table.uns.get(UNS, {})), name="key", where=f"uns[{UNS!r}] of table {key!r}")
        stored = f"tables/{key}"
        if stored not in root:
            msg = f"the store {path} does not hold table {key!r} yet; call sdata.write_element({key!r}) first"
            raise KeyError(msg)
    with locked(path) as beside:
        scratch = (path if beside is None else beside) / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir()
            if provenance or any(wanted.values()):
                group = root[stored]
                for slot in ("obs", "var"):
                    _write_columns(group, slot, getattr(table, slot), wanted[slot], scratch)
                for slot in ("obsm", "layers"):
                    for name in wanted[slot]:
                        _write(group.require_group(slot), name, getattr(table, slot)[name], scratch)
                for name in provenance:
                    mapping = _mapping(_mapping(group, "uns", scratch), UNS, scratch)
                    _write(mapping, name, table.uns[UNS][name], scratch)
            for kind, names in (("shapes", shapes), ("tables", tables)):
                for name in names:
                    target = path / root.require_group(kind).path / name
                    _write_element(target, kind, getattr(sdata, kind)[name], scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if sdata.has_consolidated_metadata():
            sdata.write_consolidated_metadata()
    return path


def _place(new: Path, target: Path, scratch: Path) -> None:
    """Put what is whole where it belongs; what was there makes room."""
    old = scratch / "old"
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _write_element(target: Path, kind: str, element: Any, scratch: Path) -> None:
    """Write a whole element by way of a store of its own."""
    import spatialdata

    part = scratch / "element.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the elements that a table annotates are not in this store
        spatialdata.SpatialData(**{kind: {target.name: element}}).write(part, overwrite=True)
    _place(part / kind / target.name, target, scratch)
    shutil.rmtree(part)


def _write(group: zarr.Group, name: str, value: Any, scratch: Path) -> None:
    import zarr
    from anndata.io import write_elem

    chunks: dict[str, Any] = {}
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.size:
        chunks = {"chunks": (min(ROW_CHUNK, value.shape[0]), value.shape[1])}
    part = zarr.open_group(scratch / "part", mode="w", zarr_format=group.metadata.zarr_format)
    write_elem(part, "value", value, dataset_kwargs=chunks)
    _place(scratch / "part" / "value", Path(group.store.root) / group.path / name, scratch)


def _mapping(group: zarr.Group, name: str, scratch: Path) -> zarr.Group:
    """A dictionary in AnnData's encoding, made if it is missing."""
    if name not in group:
        _write(group, name, {}, scratch)
    return group[name]


def _write_columns(group: zarr.Group, slot: str, frame: Any, names: list[str], scratch: Path) -> None:
    """Add columns to a stored data frame, which lists them by name in its attributes."""
    stored = group[slot]
    for name in names:
        column = frame[name]
        _write(stored, name, column.array if hasattr(column, "cat") else column.to_numpy(), scratch)
    order = [str(c) for c in stored.attrs["column-order"]]
    stored.attrs["column-order"] = order + [n for n in names if n not in order]
