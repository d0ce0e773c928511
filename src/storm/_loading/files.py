"""Small files of a model's folder: json and gene lists, written at once or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from storm.data.genes import Vocabulary
from storm.model.weights import sha256


def read_json(path: Path) -> dict[str, Any]:
    """Read a json file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is none.
    """
    if not path.is_file():
        msg = f"there is no {path.name!r} in {str(path.parent)!r}"
        raise FileNotFoundError(msg)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path.name!r} in {str(path.parent)!r} is damaged ({error}); copy the model's folder again"
        raise ValueError(msg) from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a json file."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file: whole, or not at all."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def write_genes(path: Path, vocabulary: Vocabulary) -> str:
    """Write symbols and Ensembl ids, one gene a line, and return the file's sha256."""
    ids = vocabulary.ensembl or ("",) * len(vocabulary)
    lines = (f"{symbol}\t{identifier}\n" for symbol, identifier in zip(vocabulary.symbols, ids, strict=True))
    write_text(path, "".join(lines))
    return sha256(path)


def read_genes(path: Path, expected: str) -> Vocabulary:
    """Read what :func:`write_genes` wrote.

    Raises
    ------
    ValueError
        If the file is missing or does not fit its checksum.
    """
    if not path.is_file() or sha256(path) != expected:
        msg = f"{path.name!r} in {str(path.parent)!r} is missing or does not fit its checksum; copy the folder again"
        raise ValueError(msg)
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    ids = tuple(row[1] for row in rows)
    return Vocabulary(tuple(row[0] for row in rows), ids if any(ids) else ())
