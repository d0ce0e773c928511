"""Small files of a model's folder: JSON and lists of genes, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storm._files import replacing
from storm._loading.fields import Fields
from storm.data.genes import Vocabulary
from storm.model.weights import sha256

#: Largest JSON file that is read, in bytes. A head of 60,000 genes takes about 2 MB.
MAX_JSON = 32 * 1024**2


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not JSON, holds something other than an object, or is larger than 32 MiB.
    """
    values = _parse(path)
    Fields(values, source=source_of(path))
    return values


def read_fields(path: Path) -> Fields:
    """Read a JSON file as fields that are checked; see :func:`read_json`."""
    return Fields(_parse(path), source=source_of(path))


def is_whole(folder: Path) -> bool:
    """Whether a model's folder holds every file that its configuration lists.

    Raises
    ------
    ValueError
        If the configuration cannot be read.
    """
    config = folder / "config.json"
    return config.is_file() and all((folder / name).is_file() for name in read_fields(config).checksums("sha256"))


def source_of(path: Path) -> str:
    """How errors name a file."""
    return f"{path.name!r} in {str(path.parent)!r}"


def _parse(path: Path) -> Any:
    if not path.is_file():
        msg = f"there is no {path.name!r} in {str(path.parent)!r}"
        raise FileNotFoundError(msg)
    size = path.stat().st_size
    if size > MAX_JSON:
        msg = f"{source_of(path)} is {size:,} bytes large, at most {MAX_JSON:,} are read; it is not a file of storm's"
        raise ValueError(msg)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f"{source_of(path)} is damaged ({str(error)[:200]}); copy the model's folder again"
        raise ValueError(msg) from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_genes(path: Path, vocabulary: Vocabulary) -> str:
    """Write symbols and Ensembl ids, one gene per line, and return the file's sha256.

    Raises
    ------
    ValueError
        If a symbol contains a tab or a line break, with which the file could not be read again.
    """
    broken = [symbol for symbol in vocabulary.symbols if set(symbol) & set("\t\n\r")]
    if broken:
        msg = f"gene names with tabs or line breaks cannot be stored: {broken[:5]}; rename these genes"
        raise ValueError(msg)
    ids = vocabulary.ensembl or ("",) * len(vocabulary)
    lines = (f"{symbol}\t{identifier}\n" for symbol, identifier in zip(vocabulary.symbols, ids, strict=True))
    write_text(path, "".join(lines))
    return sha256(path)


def read_genes(path: Path, expected: str) -> Vocabulary:
    """Read a list of genes that :func:`write_genes` wrote.

    Parameters
    ----------
    path
        The file.
    expected
        Its sha256.

    Raises
    ------
    ValueError
        If the file is missing, does not match its checksum, or is not a list of genes.
    """
    if not path.is_file() or sha256(path) != expected:
        msg = f"{path.name!r} in {str(path.parent)!r} is missing or does not fit its checksum; copy the folder again"
        raise ValueError(msg)
    try:
        # Not splitlines(), which also breaks lines at characters that a symbol may contain.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        symbols, ids = zip(*(line.split("\t") for line in lines if line), strict=True) if any(lines) else ((), ())
        return Vocabulary(tuple(symbols), tuple(ids) if any(ids) else ())
    except ValueError as error:
        msg = f"{source_of(path)} is not a list of genes, one symbol, a tab and an Ensembl id per line ({error})"
        raise ValueError(msg) from error
