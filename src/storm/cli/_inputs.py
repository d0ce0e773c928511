"""What a command reads of a store, in short marks that change with it.

A mark has two halves, as git keeps them. The first is of the names, sizes and dates of files, and is compared without
opening one. Only where it differs, because something changed or because a copy has other dates, the second decides,
which is of their bytes as they are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storm import _keys
from storm._bridge.counts import RAW
from storm.cli._stores import attributes_of, is_store

#: Bytes that are read at a time.
_PIECE = 1 << 24
#: What a call was told, and the next one finds in a table, by the option that wins over it.
_REMEMBERED = ("image_key", "coordinate_system", "library_key")


def marks_of(command: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Mark all that a command reads of a store, to be stored beside its result.

    Parameters
    ----------
    command
        Its name.
    options
        Its options, among them ``path``.

    Returns
    -------
    dict
        By what it is, in words; empty for ``domains``, which read an embedding alone, and where there is no store.
    """
    return {name: f"{_of_dates(paths)} {_of_content(paths)}" for name, paths in _read_by(command, options).items()}


def changed(marks: Mapping[str, str], command: str, options: Mapping[str, Any]) -> list[str]:
    """What a command would read otherwise than when it was marked, in words; what is new beside it does not count."""
    now = _read_by(command, options)
    return [
        name
        for name, mark in marks.items()
        if mark != f"{_of_dates(now.get(name, []))} {mark.partition(' ')[2]}"
        and mark.partition(" ")[2] != _of_content(now.get(name, []))
    ]


def _read_by(command: str, options: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Files and folders that a command reads, by what they are."""
    store: Path = options["path"]
    if command == "domains" or not is_store(store):
        return {}
    read: dict[str, list[Path]] = {}
    modality = options.get("modality", "he")
    if modality != "st":
        read |= {f"image {one.name!r}": [one] for one in _elements(store, "images", options.get("image_key"))}
    for one in _elements(store, "shapes", options.get("shapes_key")):
        if one.name != _keys.TILES:  # laid by the command itself
            read[f"shapes {one.name!r}"] = [one]
    for table in _elements(store, "tables", options.get("table_key")):
        of = f"of table {table.name!r}"
        facts, remembered = attributes_of(table), table / "uns" / _keys.UNS / _keys.REMEMBERED
        columns = [facts.get("region_key"), facts.get("instance_key"), options.get("library_key")]
        read[f"places {of}"] = [
            table / "obsm" / "spatial", *(table / "obs" / str(name) for name in columns if name is not None)
        ]  # fmt: skip
        if command != "encode":
            read[f"genes {of}"] = [table / "var" / str(attributes_of(table / "var").get("_index", "_index"))]
        if command == "embed" and modality != "he":
            layer = options.get("layer")
            places = [table / "X"] if layer is None else [table / "layers" / layer, *([table / RAW] * (layer == RAW))]
            read[f"counts {of}"] = places
        if options.get("um_per_px") is None:
            read[f"scale {of}"] = [table / "obs" / _keys.UM_PER_UNIT]
        read[f"what was told {of}"] = [remembered / name for name in _REMEMBERED if options.get(name) is None]
    return read


def _elements(store: Path, kind: str, wanted: Any) -> list[Path]:
    """Elements of one kind: the one that is named, or all."""
    folder = store / kind
    if isinstance(wanted, str):
        return [folder / wanted]
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


def _files(paths: list[Path]) -> Iterator[tuple[str, Path]]:
    """All files of some files and folders, by a name that a copy of the store has, too."""
    for number, path in enumerate(paths):
        for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []:
            yield f"{number} {file.relative_to(path).as_posix()}", file


def _of_dates(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for name, file in _files(paths):
        facts = file.stat()
        digest.update(f"{name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _of_content(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for name, file in _files(paths):
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while piece := content.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()[:16]
