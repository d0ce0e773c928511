"""What a command was told, beside its result: whether a section was done before, and with the same settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storm import _keys

if TYPE_CHECKING:
    from anndata import AnnData

#: Entry of ``uns["storm"][key]``, and attribute of a table in a store of its own.
COMMAND = "command"
#: In it: marks of what was read of the store.
INPUTS = "inputs"
#: Options that do not change a result, or only where it lies.
_NO_SETTINGS = {"path", "out", "table_out", "device", "batch_size", "recompute", "shown", "told"}
#: Options that name files, whose content counts; of weights, which may be large, size and date do.
_CONTENT, _WEIGHTS = ("head",), ("weights", "tile_encoder")


def settings_of(command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about the result of a command, as it is stored beside it.

    Parameters
    ----------
    command
        Its name.
    options
        Its options, with paths that hold in this process.
    """
    from storm import __version__

    told = {name: value for name, value in options.items() if name not in _NO_SETTINGS}
    for name in (*_CONTENT, *_WEIGHTS):
        if told.get(name) is not None:
            told[name] = _mark(Path(told[name]).expanduser(), whole=name in _CONTENT)
    if "model" in told:
        from storm._loading.fetch import find_model

        folder = find_model(told["model"], download=False, revision=None, token=None)
        told["model"] = _mark(Path(folder), whole=True)
    return {"storm": __version__, "command": command, **json.loads(json.dumps(told, default=str))}


def _mark(path: Path, *, whole: bool) -> str:
    """A short text that changes with a file, or with the files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
        facts = file.stat()
        known = file.read_bytes() if whole else f"{facts.st_size} {facts.st_mtime_ns}".encode()
        digest.update(f"{file.relative_to(path)} {len(known)} ".encode() + known)
    return f"{path.name} {digest.hexdigest()[:16]}"


def sign(uns: MutableMapping[str, Any], key: str, told: Mapping[str, Any]) -> None:
    """Write what a command was told beside its result, in a table's ``uns``."""
    uns[_keys.UNS][key][COMMAND] = json.dumps(dict(told), sort_keys=True)


def sign_table(path: Path, told: Mapping[str, Any]) -> None:
    """Write what a command was told into the store of a table."""
    import zarr

    zarr.open_group(path, mode="r+", use_consolidated=False).attrs[COMMAND] = json.dumps(dict(told), sort_keys=True)


def state(
    store: Path, key: str, told: Mapping[str, Any], *, look: Callable[[Mapping[str, str]], list[str]]
) -> str | None:
    """How a stored result differs from the one that a command would make.

    Parameters
    ----------
    store
        The store that holds the result, or a table of its own.
    key
        Key of the result.
    told
        What the command is told now.
    look
        Says which of the marked inputs of a result have changed.

    Returns
    -------
    str
        Empty if it would be the same; otherwise what differs, in words. ``None`` if there is no result.
    """
    differences = []
    for found in _stored(store, key):
        if found is None:
            differences.append("by which settings is not known")
            continue
        marks = found.pop(INPUTS, None)
        # An embedding of which nothing is known may be another one by now.
        names = [n for n in (*found, *told) if found.get(n) != told.get(n) or (n == "from" and told[n] is None)]
        if not names:
            if marks is None:
                differences.append("of data of which nothing is known")
                continue
            if not (others := look(marks)):
                return ""
            differences.append(f"of other data (changed since: {', '.join(others)})")
            continue
        listed = [_difference(name, found.get(name), told.get(name)) for name in dict.fromkeys(names)]
        differences.append(f"with other settings ({'; '.join(listed[:3])}{', …' * (len(listed) > 3)})")
    return differences[-1] if differences else None


def _difference(name: str, old: Any, new: Any) -> str:
    if name == "from":
        return "from another embedding, or one of which that is not known"
    if name == "study":
        return "together with other sections" if old and new else "as if alone" if new else "together with others"
    return f"{name.replace('_', '-')} {old}, now {new}"


def of_embedding(store: Path, key: str) -> str | None:
    """What a stored embedding was made with, as a short text; ``None`` if that is not known."""
    return _short([None if found is None else json.dumps(found, sort_keys=True) for found in _stored(store, key)])


def embedding_of(tables: Mapping[str, AnnData], key: str) -> str | None:
    """As :func:`of_embedding`, of an embedding in memory."""
    records = [dict(table.uns.get(_keys.UNS, {})).get(key) for _, table in sorted(tables.items())]
    return _short([record.get(COMMAND) for record in records if record is not None])


def _short(texts: Sequence[str | None]) -> str | None:
    known = [text for text in texts if text is not None]
    return hashlib.sha256("".join(known).encode()).hexdigest()[:16] if texts and len(known) == len(texts) else None


def _stored(store: Path, key: str) -> Iterator[dict[str, Any] | None]:
    """What each result under a key was made with; ``None`` where it was not made by a command."""
    import anndata
    import zarr

    group = zarr.open_group(store, mode="r", use_consolidated=False)
    if "tables" not in group:
        if COMMAND in group.attrs:
            yield json.loads(str(group.attrs[COMMAND]))
        return
    for name in sorted(dict(zarr.open_group(store / "tables", mode="r", use_consolidated=False).groups())):
        place = f"tables/{name}/uns/{_keys.UNS}/{key}"
        if place not in group:
            continue
        own = f"{place}/{COMMAND}"
        yield json.loads(str(anndata.io.read_elem(group[own]))) if own in group else None
