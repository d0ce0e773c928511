"""Public functions as their source describes them: parameters, defaults and texts of docstrings, without imports."""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: The default of a parameter that has none.
REQUIRED = object()


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
        Its default, or :data:`REQUIRED`.
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


def describe(file: Path, function: str) -> tuple[str, list[Parameter]]:
    """The first line of a function's docstring, and its parameters in their order."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    node = next(one for one in module.body if isinstance(one, ast.FunctionDef) and one.name == function)
    document = ast.get_docstring(node) or ""
    texts = _parameter_texts(document)
    named = [*node.args.posonlyargs, *node.args.args]
    defaults = [None] * (len(named) - len(node.args.defaults)) + list(node.args.defaults)
    pairs = [*zip(named, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    parameters = [
        Parameter(
            name=argument.arg,
            types=tuple(_members(argument.annotation)),
            default=REQUIRED if default is None else ast.literal_eval(default),
            text=texts.get(argument.arg, ""),
        )
        for argument, default in pairs
    ]
    return _plain(document.partition("\n\n")[0]), parameters


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        msg = f"there is no package {package}"
        raise ModuleNotFoundError(msg)
    return Path(spec.origin).parent


def _members(annotation: ast.expr | None) -> list[str]:
    """Members of a union."""
    if isinstance(annotation, ast.BinOp):
        return _members(annotation.left) + _members(annotation.right)
    return [] if annotation is None else [ast.unparse(annotation)]


def _parameter_texts(document: str) -> dict[str, str]:
    """Texts of a numpydoc section "Parameters" by name; several names may share one."""
    _, _, rest = document.partition("Parameters\n----------\n")
    section = re.split(r"\n\w[\w ]*\n-{3,}\n", rest)[0]
    texts: dict[str, str] = {}
    for part in re.split(r"\n(?=\S)", section):
        names, _, body = part.partition("\n")
        texts |= {name.strip(): _plain(textwrap.dedent(body)) for name in names.split(",")}
    return texts


def _plain(text: str) -> str:
    """Text without the markup of Sphinx, on one line."""
    text = re.sub(r":\w+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", text)
    return " ".join(text.replace("``", "").split())
