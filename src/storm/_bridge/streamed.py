"""A table in a zarr store of its own, whose matrices are written block by block and never held as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.staging import consolidate
from storm._files import check_folder_writable, full_disk_explained, replacing, without_format_news

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData

#: Values of a chunk, 4 MiB: a gene is read without most of the others, and a million cells are not a million files.
_CHUNK = 2**20


def check_new_store(path: str | Path, *, store: Path | None) -> Path:
    """Raise unless a store of this name can be made.

    Parameters
    ----------
    path
        The store.
    store
        That of the object that is read, in which it must not lie.

    Raises
    ------
    FileExistsError
        If there is something of that name.
    FileNotFoundError, PermissionError
        If its folder does not exist, or cannot be written.
    TypeError
        If it is not a path.
    ValueError
        If it lies in the object's own store.
    """
    if not isinstance(path, str | Path) or not str(path):
        msg = f"out={path!r} is not a path; give the name of a new store, such as 'genes.zarr'"
        raise TypeError(msg)
    new = Path(path).absolute()
    if new.exists() or new.is_symlink():
        msg = f"out={str(path)!r} exists; give another name, or remove it"
        raise FileExistsError(msg)
    if store is not None and new.resolve().is_relative_to(store.resolve()):
        msg = f"out={str(path)!r} lies inside the object's own store {store}; give a name outside of it"
        raise ValueError(msg)
    if not new.parent.is_dir():
        msg = f"out={str(path)!r}: there is no folder {new.parent}; make it first"
        raise FileNotFoundError(msg)
    check_folder_writable(new.parent, advice="give out= another folder")
    return new


def stream_table(
    path: Path, table: AnnData, blocks: Iterable[tuple[slice, Sequence[np.ndarray]]], *, layers: Sequence[str] = ()
) -> None:
    """Write a table into a new store, which appears when it is whole; on an error there is none.

    Parameters
    ----------
    path
        The store.
    table
        The table without its matrices.
    blocks
        Rows, ascending and of the same number but for the last, and the values of ``X`` and of each of ``layers``
        there, float32, shape (rows, n_vars).
    layers
        Names of the layers.

    Raises
    ------
    OSError
        If the disk is full.
    """
    import zarr

    needed = 4 * table.n_obs * table.n_vars * (1 + len(layers))
    with full_disk_explained(path, needed=needed), replacing(path) as scratch:
        with without_format_news():
            table.write_zarr(scratch)
        root = zarr.open_group(scratch, mode="r+", use_consolidated=False)
        if "X" in root:  # AnnData may note that there is none
            del root["X"]
        arrays: list[Any] = []
        for rows, values in blocks:
            if not arrays:
                places: list[tuple[zarr.Group, str]] = [(root, "X"), *((root["layers"], name) for name in layers)]  # type: ignore[list-item]
                arrays = [_array(*place, shape=table.shape, rows=len(values[0])) for place in places]
            for array, block in zip(arrays, values, strict=True):
                array[rows] = block
        consolidate(scratch, scratch)


def _array(group: zarr.Group, name: str, *, shape: tuple[int, int], rows: int) -> Any:
    """An empty matrix as AnnData writes one, in chunks of so many rows."""
    columns = min(max(_CHUNK // rows, 1), shape[1])
    array = group.create_array(name, shape=shape, chunks=(rows, columns), dtype="float32", fill_value=np.nan)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return array
