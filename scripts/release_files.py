"""Write what registries ask for beside the distribution: a conda recipe and the entry of the scverse ecosystem's list.

    python -m build && python -m twine check --strict dist/*
    python scripts/release_files.py dist --home https://… --docs https://… --contact NAME …

Both are made from ``pyproject.toml`` and the files in ``dist``, so that they cannot say anything else than the package
does. Addresses and names are asked for: they belong to who publishes, and nothing in the package knows them.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Names on conda-forge that differ from those on PyPI.
CONDA = {"dask": "dask-core", "igraph": "python-igraph", "matplotlib": "matplotlib-base", "torch": "pytorch"}


def conda_name(requirement: str) -> str:
    """A requirement of PyPI as conda writes it: ``torch>=2.5`` is ``pytorch >=2.5``."""
    name, limits = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*(.*)", requirement).groups()  # type: ignore[union-attr]
    return f"{CONDA.get(name.lower(), name.lower())} {limits}".strip()


def recipe(project: dict[str, Any], *, version: str, sdist: Path, home: str, docs: str, contacts: list[str]) -> str:
    """The recipe of conda-forge, format 1."""
    name = project["name"]
    python = project["requires-python"].removeprefix(">=")
    run = "\n".join(f"    - {conda_name(one)}" for one in sorted(project["dependencies"], key=str.lower))
    return f"""\
schema_version: 1

context:
  version: "{version}"
  python_min: "{python}"

package:
  name: {name}
  version: ${{{{ version }}}}

source:
  url: https://pypi.org/packages/source/{name[0]}/{name}/{sdist.name.replace(version, "${{ version }}")}
  sha256: {hashlib.sha256(sdist.read_bytes()).hexdigest()}

build:
  number: 0
  noarch: python
  script: ${{{{ PYTHON }}}} -m pip install . -vv --no-deps --no-build-isolation
  python:
    entry_points:
      - storm = {project["scripts"]["storm"]}

requirements:
  host:
    - python ${{{{ python_min }}}}.*
    - hatchling
    - pip
  run:
    - python >=${{{{ python_min }}}}
{run}

tests:
  - python:
      imports: [storm]
      python_version: ["${{{{ python_min }}}}.*", "*"]
      pip_check: true
  - script:
      - storm --version
      - storm demo --quiet --out demo

about:
  summary: {project["description"]}
  license: {project["license"]}
  license_file: LICENSE
  homepage: {home}
  repository: {home}
  documentation: {docs}

extra:
  recipe-maintainers: [{", ".join(contacts)}]
"""


def ecosystem(project: dict[str, Any], *, version: str, home: str, docs: str, contacts: list[str]) -> str:
    """``packages/storm/meta.yaml`` of scverse's list of ecosystem packages."""
    listed = "\n".join(f"  - {one}" for one in contacts)
    tags = "\n".join(f"  - {one}" for one in project["keywords"])
    return f"""\
name: STORM
description: |
  {project["description"]}: embeddings, spatial domains, genes predicted from H&E with how far to believe them, and
  patient outcome, read from and written to SpatialData and AnnData.
project_home: {home}
documentation_home: {docs}
tutorials_home: {docs.rstrip("/")}/tutorials/quickstart.html
install:
  pypi: {project["name"]}
primary_category: Imaging
language: Python
license: {project["license"]}
version: {version}
tags:
{tags}
contact:
{listed}
test_command: pip install ".[test]" && pytest
category: ecosystem
"""


def main() -> None:
    """Read the arguments and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder with the source distribution; the files are written into it")
    parser.add_argument("--home", required=True, help="address of the repository")
    parser.add_argument("--docs", required=True, help="address of the documentation")
    parser.add_argument("--contact", required=True, nargs="+", help="GitHub names of the maintainers")
    args = parser.parse_args()
    for address in (args.home, args.docs):
        if not re.fullmatch(r"https://[^\s/]+\S*", address):
            parser.error(f"{address!r} is no https address")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = sorted(args.dist.glob(f"{project['name'].replace('-', '_')}-*.tar.gz"))
    if len(found) != 1:
        parser.error(f"{args.dist} has {len(found)} source distributions; empty it, then run python -m build")
    version = found[0].name.removesuffix(".tar.gz").rsplit("-", 1)[1]
    facts: dict[str, Any] = {"version": version, "home": args.home, "docs": args.docs, "contacts": args.contact}
    for name, text in (
        ("recipe.yaml", recipe(project, sdist=found[0], **facts)),
        ("meta.yaml", ecosystem(project, **facts)),
    ):
        (args.dist / name).write_text(text)
        print(args.dist / name)


if __name__ == "__main__":
    main()
