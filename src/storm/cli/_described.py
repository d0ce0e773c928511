"""Public functions as their source describes them: parameters, defaults and texts of docstrings, without imports."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: The default of a parameter that has none.
REQUIRED = object()
#: A default that is written as a name, which the source of the function alone does not tell.
NAMED = object()


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function.

    Attributes
    ----------
    name
        Its name.
    types
        Members of its annotation, as text, for example ``("float", "None")``.
    default
        Its default, or :data:`REQUIRED`, or :data:`NAMED`.
    text
        What the docstring says, without markup.
    """

    name: str
    types: tuple[str, ...]
    default: Any
    text: str


def public(package: str) -> dict[str, Path]:
    """Public functions of a package that loads them lazily, with the files that hold them."""
    folder = _folder(package)
    stub = ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8"))
    return {
        name.name: folder / f"{node.module}.py"
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for name in node.names
    }


def describe(file: Path, name: str) -> tuple[str, list[Parameter]]:
    """The first line of a function's docstring, and its parameters in their order; of a dataclass, its fields."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    node = next(one for one in module.body if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == name)
    document = ast.get_docstring(node) or ""
    texts = _texts(document, "Parameters" if isinstance(node, ast.FunctionDef) else "Attributes")
    parameters = [
        Parameter(
            name=own,
            types=tuple(_members(annotation)),
            default=REQUIRED if default is None else _literal(default),
            text=texts.get(own, ""),
        )
        for own, annotation, default in (_arguments(node.args) if isinstance(node, ast.FunctionDef) else _fields(node))
    ]
    return _plain(document.partition("\n\n")[0]), parameters


def _arguments(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Names, annotations and defaults of a function's arguments."""
    named = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(named) - len(arguments.defaults)) + arguments.defaults
    for one, default in zip([*named, *arguments.kwonlyargs], [*defaults, *arguments.kw_defaults], strict=True):
        yield one.arg, one.annotation, default


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Names, annotations and defaults of a dataclass's fields."""
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            yield one.target.id, one.annotation, one.value


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        msg = f"there is no package {package}"
        raise ModuleNotFoundError(msg)
    return Path(spec.origin).parent


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return NAMED


def _members(annotation: ast.expr | None) -> list[str]:
    """Members of a union."""
    if isinstance(annotation, ast.BinOp):
        return _members(annotation.left) + _members(annotation.right)
    return [] if annotation is None else [ast.unparse(annotation)]


def _texts(document: str, section: str) -> dict[str, str]:
    """Texts of a numpydoc section by name; several names may share one."""
    _, _, rest = document.partition(f"{section}\n{'-' * len(section)}\n")
    items = re.split(r"\n\w[\w ]*\n-{3,}\n", rest)[0]
    texts: dict[str, str] = {}
    for part in re.split(r"\n(?=\S)", items):
        names, _, body = part.partition("\n")
        texts |= {name.strip(): _plain(textwrap.dedent(body)) for name in names.split(",")}
    return texts


def _plain(text: str) -> str:
    """Text without the markup of Sphinx, on one line."""
    text = re.sub(r":\w+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", text)
    return " ".join(text.replace("``", "").split())
