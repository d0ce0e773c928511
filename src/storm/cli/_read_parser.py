"""``storm read``: one task for each reader of :mod:`storm.io`, with the options of its function."""

from __future__ import annotations

from pathlib import Path

from storm.cli._command import Command
from storm.cli._derived import add_option, help_of
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


def add_read(read: Command, common: Command) -> None:
    """Add a task for each reader."""
    tasks = read.add_subparsers(dest="format", metavar="FORMAT", required=True, parser_class=Command)
    for name, function in formats().items():
        summary, parameters = describe(public("storm.io")[function], function)
        task = tasks.add_parser(name, help=summary.rstrip("."), description=summary, parents=[common])
        for one in parameters:
            if one.default is REQUIRED:
                task.add_argument(
                    one.name, type=Path, metavar=_SOURCES.get(one.name, one.name.upper()), help=help_of(one)
                )
        task.add_argument("out", type=Path, metavar="OUT.zarr", help="SpatialData store to write")
        for one in parameters:
            if one.default is not REQUIRED:
                add_option(task, one)
        task.add_argument("--overwrite", action="store_true", help="replace the store OUT.zarr if it exists")


def _parameters(function: str) -> list[Parameter]:
    return describe(public("storm.io")[function], function)[1]
