"""What is given in place of a store: a vendor's folder, an AnnData, a slide, a folder of stores; and what to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from storm.cli._read_parser import format_of

#: Folders that are called so in every section.
_COMMON = {"outs", "binned_outputs", "spatial", ""}


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group, of any kind."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def explain(path: Path) -> str | None:
    """Say what lies at an existing path that is not a SpatialData store, and the line to type.

    Returns
    -------
    str
        End of a sentence that begins with the path; ``None`` if it is nothing known.
    """
    from storm.io._recognise import recognise

    if path.is_dir() and (stores := sorted(one for one in path.glob("*.zarr") if is_zarr(one))):
        return f"is a folder of stores, {len(stores)} in all; give them: {shlex.quote(str(path))}/*.zarr"
    found = recognise(path)
    if found is None:
        return None
    function, source = found
    bins = re.fullmatch(r"square_0*(\d+)um", path.name)
    size = [] if bins is None else ["--bin-size", bins[1]]
    line = shlex.join(["storm", "read", format_of(function), str(source), f"{_name(source)}.zarr", *size])
    return f"is no SpatialData store; read it first: {line}"


def refuse(paths: Sequence[Path]) -> None:
    """Raise if something among the paths is known to be no store, before anything is done with the others.

    Raises
    ------
    ValueError
        With what to type.
    """
    for path in paths:
        if not is_zarr(path) and (known := explain(path)):
            msg = f"{path} {known}"
            raise ValueError(msg)


def _name(source: Path) -> str:
    """What the section may be called."""
    absolute = source.resolve()
    if absolute.is_file():
        return absolute.name.partition(".")[0]
    parts = (part for part in (absolute, *absolute.parents) if part.name not in _COMMON)
    return next((part.name.removesuffix(".zarr") for part in parts), "section")
