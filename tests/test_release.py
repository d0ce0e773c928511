"""The files for registries say what the package says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "release_files.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the tests run outside of the repository: no scripts here")
FACTS = ["--home", "https://example.org/storm", "--docs", "https://storm.example.org/", "--contact", "somebody"]


def run(dist: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, dist, *options], capture_output=True, text=True, check=False)


def test_recipe_and_entry(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "storm_spatial-1.2.3.tar.gz").write_bytes(b"sources")
    done = run(tmp_path, *FACTS)
    assert done.returncode == 0, done.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert recipe["context"] == {"version": "1.2.3", "python_min": "3.11"}
    assert recipe["source"]["sha256"] == hashlib.sha256(b"sources").hexdigest()
    assert recipe["source"]["url"].endswith("/storm-spatial/storm_spatial-${{ version }}.tar.gz")
    needed = recipe["requirements"]["run"]
    assert len(needed) == len(project["dependencies"]) + 1
    assert "pytorch >=2.5" in needed
    assert "squidpy >=1.8" in needed
    entry = yaml.safe_load((tmp_path / "meta.yaml").read_text())
    assert entry["version"] == "1.2.3"
    assert entry["license"] == project["license"]
    assert entry["install"] == {"pypi": "storm-spatial"}
    assert entry["contact"] == ["somebody"]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "has 0 source distributions" in run(tmp_path, *FACTS).stderr
    assert "'example.org' is no https address" in run(tmp_path, "--home", "example.org", *FACTS[2:]).stderr
