"""The package as a whole: cost of importing, exported names, and all public signatures."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import storm

ROOT = Path(storm.__file__).parent
STUBS = sorted(ROOT.rglob("__init__.pyi"))
CONTAINERS = ("spatialdata", "anndata", "scanpy", "squidpy")
MAX_POSITIONAL = 3


def run(code: str) -> str:
    """Output of ``code`` in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True
    ).stdout.strip()


def loaded_after(statement: str, modules: tuple[str, ...]) -> str:
    return run(f"import sys; {statement}; print(*[m for m in {modules!r} if m in sys.modules])")


# ---------------------------------------------------------------------------------------------- importing


def test_import_is_lazy() -> None:
    assert loaded_after("import storm", ("torch", "numpy", "pandas", "matplotlib", *CONTAINERS)) == ""


def test_import_is_fast() -> None:
    code = "from time import perf_counter as t; start = t(); import storm; print(t() - start)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"]])
def test_help_loads_next_to_nothing(arguments: list[str]) -> None:
    code = f"""
    import contextlib, os, sys
    from storm.cli import main
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(open(os.devnull, "w")):
        main({arguments!r})
    print(*[m for m in {("torch", "numpy", "pandas", "matplotlib", "numba", *CONTAINERS)!r} if m in sys.modules])
    """
    assert run(code) == ""


_RESIZING = """
import numpy as np
from storm.data._resize import resize_boxes as compiled
canvas, out = np.zeros((3, 9, 9), "u1"), np.zeros((1, 4, 4, 3), "u1")
compiled(canvas, np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 9]], "f4"), out)
"""
_ATTENTION = """
import numpy as np
from storm.expression._attention import _scores as compiled
both, lengths, vector = np.ones((3, 8), "f4"), np.ones(3, "f4"), np.ones(4, "f4")
compiled(both, lengths, vector, vector, 2, 0.2, np.arange(3), np.arange(4))
"""


@pytest.mark.parametrize("code", [_RESIZING, _ATTENTION], ids=["resizing", "attention"])
def test_what_is_compiled_is_kept_for_the_next_process(code: str) -> None:
    run(code)
    report = "print(*compiled.stats.cache_hits.values(), len(compiled.stats.cache_misses))"
    assert run(code + report) == "1 0"


@pytest.mark.parametrize("room", ["model", "encoders", "expression", "metrics", "biology", "pretraining"])
def test_room_imports_no_container(room: str) -> None:
    code = """
    import importlib, pkgutil, sys
    room = importlib.import_module("storm.{room}")
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    print(*[m for m in {containers!r} if m in sys.modules])
    """
    assert run(textwrap.dedent(code).format(room=room, containers=CONTAINERS)) == ""


def test_torchvision_belongs_to_torch() -> None:
    """torchvision has its operators, which timm needs; they are missing if it comes from another build than torch."""
    import timm
    import torch
    import torchvision

    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torchvision.ops.nms(box, torch.ones(1), 0.5).tolist() == [0]
    assert timm.__version__


def test_version_is_the_distribution_s() -> None:
    assert importlib.metadata.version("storm-spatial") == storm.__version__


def test_changelog_and_citation_name_this_version() -> None:
    """The changelog begins with the version under development, and the citation names the latest release."""
    import yaml

    top = Path(__file__).resolve().parents[1]
    if not (top / "CITATION.cff").is_file():
        pytest.skip("the tests run outside of the repository: no CITATION.cff here")
    headings = re.findall(r"^## (\S+) \((\S+)\)$", (top / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings[0][0] == storm.__version__.split(".dev")[0]
    released = next((version, date) for version, date in headings if date != "unreleased")
    citation = yaml.safe_load((top / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], str(citation["date-released"])) == released
    assert citation["preferred-citation"]["identifiers"][0]["value"] == "arXiv:2604.03630"


def test_installed_package_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()
    assert STUBS


# ---------------------------------------------------------------------------------------------- exports


def stub_names(stub: Path) -> set[str]:
    """Names that a stub re-exports (``from … import x as x``)."""
    names = set()
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname == alias.name}
    return names


@pytest.mark.parametrize("stub", STUBS, ids=lambda p: ".".join(p.relative_to(ROOT.parent).parts[:-1]))
def test_exports_agree(stub: Path) -> None:
    """``__all__``, ``dir()``, the lazy map and the stub list the same names, and each of them resolves."""
    module = importlib.import_module(".".join(stub.relative_to(ROOT.parent).parts[:-1]))
    names = stub_names(stub)
    assert set(module.__all__) == names
    assert names <= set(dir(module))
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


# ---------------------------------------------------------------------------------------------- signatures


def public_objects() -> dict[str, Any]:
    """Every public function and class, by its shortest dotted name."""
    found: dict[str, Any] = {}
    todo: list[ModuleType] = [storm]
    seen = set()
    while todo:
        module = todo.pop(0)
        if module.__name__ in seen:
            continue
        seen.add(module.__name__)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if isinstance(thing, ModuleType):
                todo.append(thing)
            elif callable(thing) and thing.__module__.startswith("storm") and thing not in found.values():
                found[f"{module.__name__}.{name}"] = thing
    return found


def public_functions() -> dict[str, Any]:
    """Public functions, and the public methods of public classes that are defined in this package."""
    functions = {}
    for name, thing in public_objects().items():
        if not inspect.isclass(thing):
            functions[name] = thing
            continue
        for attribute, member in vars(thing).items():
            member = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            if inspect.isfunction(member) and not attribute.startswith("_"):
                functions[f"{name}.{attribute}"] = member
    return functions


def positional(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name not in ("self", "cls")]


def section(doc: str, title: str) -> str | None:
    """Text of one numpydoc section, or None where there is none."""
    match = re.search(rf"^{title}\n-{{{len(title)}}}\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, flags=re.M | re.S)
    return match and match.group(1)


def raises_itself(function: Any) -> bool:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.startswith("check_"):
            return True
    return False


def test_something_is_public() -> None:
    assert public_objects()


def test_at_most_three_positional_arguments() -> None:
    constructors = {name: thing for name, thing in public_objects().items() if inspect.isclass(thing)}
    wrong = {
        name: positional(function)
        for name, function in (public_functions() | constructors).items()
        if len(positional(function)) > MAX_POSITIONAL
    }
    assert not wrong


def test_public_classes_are_documented() -> None:
    undocumented = [
        name
        for name, thing in public_objects().items()
        if inspect.isclass(thing) and not (vars(thing).get("__doc__") or "").strip()
    ]
    assert not undocumented


def test_docstrings_are_complete() -> None:
    """Numpydoc: every parameter has an entry, and there are Returns and Raises if the function returns or raises."""
    wrong = []
    for name, function in public_functions().items():
        doc = inspect.getdoc(function) or ""
        signature = inspect.signature(function)
        parameters = [p for p in signature.parameters if p not in ("self", "cls")]
        is_method = name.split(".")[-2][0].isupper()
        if not doc:
            wrong.append(f"{name}: no docstring")
            continue
        if is_method:  # one line is enough where the class says the rest
            continue
        described = section(doc, "Parameters")
        entries = re.findall(r"^(\*{0,2}\w+(?:, *\*{0,2}\w+)*)(?= *:|$)", described or "", flags=re.M)
        listed = {n.strip().lstrip("*") for entry in entries for n in entry.split(",")}
        if set(parameters) != listed:
            wrong.append(f"{name}: signature has {parameters}, Parameters lists {sorted(listed)}")
        if signature.return_annotation not in (None, "None") and not section(doc, "Returns"):
            wrong.append(f"{name}: no Returns")
        if raises_itself(function) and not section(doc, "Raises"):
            wrong.append(f"{name}: raises, but has no Raises")
    assert not wrong, "\n".join(wrong)


def test_warnings_name_the_line_of_the_user() -> None:
    """However deep in the package something is noticed, and whatever stands between."""
    table = storm.datasets.toy("visium", n=60)["table"]
    table.X = table.X.multiply(np.arange(60)[:, None] >= 3).tocsr()
    with pytest.warns(UserWarning, match="3 without counts") as caught:
        storm.tl.embed(table, modality="st")
    assert {one.filename for one in caught} == {__file__}
    assert {one.category for one in caught} == {UserWarning}  # as the docstrings say, and not a class of its own
    with pytest.warns(UserWarning, match="match_depth") as caught:
        storm.tl.rank_domain_genes(table, "domain")
    assert {one.filename for one in caught} == {__file__}
