"""``storm read``: what a vendor's software wrote, an AnnData or a slide becomes a SpatialData store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import storm
from storm._bridge.image import levels_of
from storm._keys import READ
from storm.cli._read_parser import formats, sources
from storm.cli._stores import check_new_path, check_parent, is_store, write_store

if TYPE_CHECKING:
    from spatialdata import SpatialData


def read(*, format: str, out: Path, overwrite: bool, **given: Any) -> None:  # noqa: A002  the name of the argument
    """``storm read``.

    Raises
    ------
    FileNotFoundError
        If what is to be read does not exist.
    FileExistsError
        If ``out`` exists and is not to be replaced, or is not a store.
    ValueError
        If what is to be read and what is written are the same, and whatever the reader raises.
    """
    function = formats()[format]
    inputs = [given[one.name] for one in sources(function)]
    _check_out(out, inputs, overwrite=overwrite)
    for path in inputs:
        if not path.exists():
            msg = f"{path} does not exist"
            raise FileNotFoundError(msg)
    arguments = {name: _value(value) for name, value in given.items()}
    if "adata" in arguments:
        import anndata

        arguments["adata"] = anndata.read_h5ad(arguments["adata"])
    sdata = getattr(storm.io, function)(**arguments)
    write_store(sdata, out, overwrite=overwrite)
    print(f"{_summary(sdata)}: {out}")


def _check_out(out: Path, inputs: list[Path], *, overwrite: bool) -> None:
    """Raise unless the store can be written, and none of the input lost by it."""
    target = out.resolve()
    for path in inputs:
        source = path.resolve()
        if source.is_relative_to(target) or (is_store(source) and target.is_relative_to(source)):
            msg = f"OUT.zarr is {out}, where {path} itself lies; give another name"
            raise ValueError(msg)
    if not overwrite:
        check_new_path(out, option="OUT.zarr", advice="give another name, or --overwrite")
        return
    if os.path.lexists(out) and not is_store(out):
        msg = f"{out} is not a zarr store, so --overwrite does not replace it; give another name"
        raise FileExistsError(msg)
    check_parent(out, option="OUT.zarr", shown=out)


def _value(given: Any) -> Any:
    """An argument of a reader as it was typed: pairs by library become a mapping, if they name one."""
    if isinstance(given, list):
        if len({name is None for name, _ in given}) > 1 or len(given) > len({name for name, _ in given}):
            msg = f"{', '.join(str(value) for _, value in given)}: give one value, or LIBRARY=VALUE once for each"
            raise ValueError(msg)
        return given[0][1] if given[0][0] is None else dict(given)
    return np.eye(3) if given == "identity" else given


def _summary(sdata: SpatialData) -> str:
    """What was read, in a line."""
    parts = [f"{table.n_obs:,} rows × {table.n_vars:,} genes" for table in sdata.tables.values()]
    for name, image in sdata.images.items():
        height, width = levels_of(image)[0].shape[-2:]
        parts.append(f"image {name!r} of {width:,} × {height:,} pixels")
    if not sdata.images:
        parts.append("no image")
    um = sdata.attrs.get(READ, {}).get("um_per_px")
    return ", ".join(parts) + (f", {um:.4g} µm per pixel" if isinstance(um, float) else "")
