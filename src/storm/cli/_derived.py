"""Options made of the parameters of public functions, by their annotations, defaults and docstrings."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Collection
from typing import Any, get_args

from storm import _types
from storm.cli import _values
from storm.cli._described import NAMED, REQUIRED, Parameter, describe, public

#: Parameters of every function that mean nothing in a shell: what is read has a path, and a store is no object.
_NEVER = ("data", "copy")


def add_rest(parser: argparse.ArgumentParser, package: str, name: str, *, besides: Collection[str] = ()) -> None:
    """Add an option for each parameter of a function that the parser does not have yet.

    Parameters
    ----------
    parser
        The parser of a command. Where words of its own are better than those of the docstring, it has its own options.
    package, name
        The function, or a class whose fields are meant.
    besides
        Parameters that the command has under other names, or not at all.

    Raises
    ------
    ValueError
        If a default cannot be read from the source alone: the option must be written by hand.
    """
    there = {action.dest for action in parser._actions}
    for one in describe(public(package)[name], name)[1]:
        if one.name in there or one.name in (*_NEVER, *besides) or one.default is REQUIRED:
            continue
        if one.default is NAMED:
            msg = f"the default of {one.name}, of {package}.{name}, is a name; add the option by hand"
            raise ValueError(msg)
        add_option(parser, one)


def add_option(task: argparse.ArgumentParser, one: Parameter) -> None:
    """Add the option of a parameter, whose kind follows from its annotation."""
    option = f"--{one.name.replace('_', '-')}"
    if one.types == ("bool",):
        task.add_argument(option, action=argparse.BooleanOptionalAction, default=one.default, help=help_of(one))
        return
    place = task.add_mutually_exclusive_group()
    place.add_argument(option, default=one.default, help=help_of(one), **_kind(one))
    if _takes_false(one):
        place.add_argument(f"--no-{one.name}", dest=one.name, action="store_false", help=f"read no {one.name}")


def _kind(one: Parameter) -> dict[str, Any]:
    if choices := _choices(one):
        return {"choices": choices, "type": _values.one_of(choices)}
    micrometres = one.name.startswith("um_") or one.name.endswith("_um")
    value: Callable[[str], Any] = str
    if "int" in one.types:
        value = _values.whole(1)
    elif "float" in one.types:
        value = _values.positive if micrometres else _values.number
    if _by_library(one):
        return {"type": _values.named(value), "action": "append", "metavar": "[LIBRARY=]VALUE"}
    file = any(kind in one.types for kind in ("Path", "np.ndarray"))
    if file:
        return {"type": value, "metavar": "FILE"}
    return {"type": value, "metavar": "UM" if micrometres else "N" if value is not str else one.name.upper()}


def _choices(one: Parameter) -> tuple[Any, ...]:
    """Values of a Literal in the annotation, written out or by its name in :mod:`storm._types`."""
    for kind in one.types:
        if kind.startswith("Literal["):
            return tuple(ast.literal_eval(f"({kind[len('Literal[') : -1]},)"))
        if values := get_args(getattr(_types, kind, None)):
            return values
    return ()


def _takes_false(one: Parameter) -> bool:
    return "bool" in one.types or "ImageSource" in one.types


def _by_library(one: Parameter) -> bool:
    return any(kind.startswith("Mapping[") for kind in one.types)


def help_of(one: Parameter) -> str:
    """The text of the docstring, with the words of a shell."""
    text = one.text
    for python, shell in {
        "With None, the default,": "By default",
        "False": f"--no-{one.name}" if _takes_false(one) else "no",
        "See storm.tl.embed.": "As in storm embed.",
        "np.eye(3)": "'identity'",
        " or an array (height, width, 3)": "",
        "as an array or in a csv": "in a csv",
        "as an array or a csv": "in a csv",
    }.items():
        text = text.replace(python, shell)
    if _by_library(one):
        text += " Here: LIBRARY=VALUE, once for each."
    said = isinstance(one.default, str | int | float) and not isinstance(one.default, bool)
    default = f" (default: {one.default})" if said else ""
    return f"{text}{default}".replace("%", "%%")
