"""``storm read``: one task for each reader of :mod:`storm.io`, with the options of its function."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from storm.cli import _values
from storm.cli._command import Command
from storm.cli._described import REQUIRED, Parameter, describe, public

#: Names of tasks that are not those of the functions.
_NAMES = {"from_anndata": "h5ad"}
#: Names of what is read that are not those of the parameters.
_SOURCES = {"path": "SRC", "adata": "FILE.h5ad"}


def formats() -> dict[str, str]:
    """Readers of :mod:`storm.io` by the names that their formats have here."""
    readers = [function for function in public("storm.io") if not function.startswith("to_")]
    return {_NAMES.get(function, function): function for function in readers}


def format_of(function: str) -> str:
    """Name here of what a function of :mod:`storm.io` reads."""
    return _NAMES.get(function, function)


def sources(function: str) -> list[Parameter]:
    """Parameters of a reader that say what it reads; all others are options."""
    return [one for one in _parameters(function) if one.default is REQUIRED]


def add_read(read: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add a task for each reader."""
    tasks = read.add_subparsers(dest="format", metavar="FORMAT", required=True, parser_class=Command)
    for name, function in formats().items():
        summary, parameters = describe(public("storm.io")[function], function)
        task = tasks.add_parser(name, help=summary.rstrip("."), description=summary, parents=[common])
        for one in parameters:
            if one.default is REQUIRED:
                task.add_argument(
                    one.name, type=Path, metavar=_SOURCES.get(one.name, one.name.upper()), help=_help(one)
                )
        task.add_argument("out", type=Path, metavar="OUT.zarr", help="SpatialData store to write")
        for one in parameters:
            if one.default is not REQUIRED:
                _add_option(task, one)
        task.add_argument("--overwrite", action="store_true", help="replace the store OUT.zarr if it exists")


def _parameters(function: str) -> list[Parameter]:
    return describe(public("storm.io")[function], function)[1]


def _add_option(task: argparse.ArgumentParser, one: Parameter) -> None:
    """Add the option of a parameter, whose kind follows from its annotation."""
    option = f"--{one.name.replace('_', '-')}"
    if one.types == ("bool",):
        task.add_argument(option, action=argparse.BooleanOptionalAction, default=one.default, help=_help(one))
        return
    place = task.add_mutually_exclusive_group()
    place.add_argument(option, default=one.default, help=_help(one), **_kind(one))
    if _takes_false(one):
        place.add_argument(f"--no-{one.name}", dest=one.name, action="store_false", help=f"read no {one.name}")


def _kind(one: Parameter) -> dict[str, Any]:
    literal = next((kind for kind in one.types if kind.startswith("Literal[")), None)
    if literal is not None:
        choices = ast.literal_eval(f"({literal[len('Literal[') : -1]},)")
        return {"choices": choices, "type": _values.one_of(choices)}
    value = _values.positive if "float" in one.types else str
    if _by_library(one):
        return {"type": _values.named(value), "action": "append", "metavar": "[LIBRARY=]VALUE"}
    file = any(kind in one.types for kind in ("Path", "np.ndarray"))
    return {"type": value, "metavar": "FILE" if file else "UM" if one.name.startswith("um_") else one.name.upper()}


def _takes_false(one: Parameter) -> bool:
    return "bool" in one.types or "ImageSource" in one.types


def _by_library(one: Parameter) -> bool:
    return any(kind.startswith("Mapping[") for kind in one.types)


def _help(one: Parameter) -> str:
    """The text of the docstring, with the words of a shell."""
    text = one.text
    for python, shell in {
        "With None, the default,": "By default",
        "False": f"--no-{one.name}" if _takes_false(one) else "no",
        "np.eye(3)": "'identity'",
        " or an array (height, width, 3)": "",
        "as an array or in a csv": "in a csv",
        "as an array or a csv": "in a csv",
    }.items():
        text = text.replace(python, shell)
    if _by_library(one):
        text += " Here: LIBRARY=VALUE, once for each."
    default = "" if one.default in (REQUIRED, None, True, False) else f" (default: {one.default})"
    return f"{text}{default}".replace("%", "%%")
