"""A process that stores results is killed, once between each two of its changes to the file system.

Whatever the moment: the store opens, each element in it is the old one or the new one as a whole, results and
provenance belong together, all else is as it was, and the same call made again ends as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy import sparse
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel, TableModel

from kill_points import killed_after
from storm import _files
from storm._bridge import persist
from storm._bridge.staging import recover

# anndata announces a change of its own defaults, in the name of contextlib
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")

N, G = 6, 3

# What a first call (0) and a second call (1) store under the same key.
VALUES: dict[str, tuple[Any, Any]] = {
    "number": (np.arange(N), np.arange(N) / 7),
    "category": (pd.Categorical(list("abcabc")), pd.Categorical(list("ccxxcc"))),
    "string": (
        pd.array(["a", None, "b", "c", "d", None], dtype="string"),
        pd.array([None, "x", "y", "x", "y", "z"], dtype="string"),
    ),
    "type": (pd.Categorical(list("abcabc")), np.arange(N)),
    "matrix": (np.zeros((N, 2), dtype=np.float32), np.ones((N, 4), dtype=np.float32)),
    "layer": (np.zeros((N, G), dtype=np.float32), np.ones((N, G), dtype=np.float32)),
    "sparse": (sparse.csr_matrix(np.eye(N, G, dtype=np.float32)), sparse.csr_matrix(np.ones((N, G), np.float32))),
    "gene": (np.arange(G), np.arange(G) / 3),
    "record": ({"seed": 0, "names": np.array(["a", "b"])}, {"seed": 1, "more": {"x": 2.5}}),
}


@dataclass(frozen=True)
class Case:
    """What one call stores: pairs of a slot (or kind of element) and a name of :data:`VALUES`."""

    entries: tuple[tuple[str, str], ...]


CASES = {
    "obs, numbers": Case((("obs", "number"),)),
    "obs, categories": Case((("obs", "category"),)),
    "obs, nullable strings": Case((("obs", "string"),)),
    "obs, another type": Case((("obs", "type"),)),
    "obsm": Case((("obsm", "matrix"),)),
    "layers, dense": Case((("layers", "layer"),)),
    "layers, sparse": Case((("layers", "sparse"),)),
    "var": Case((("var", "gene"),)),
    "uns": Case((("uns", "record"),)),
    "a result with its provenance": Case(
        (("obs", "category"), ("obsm", "matrix"), ("layers", "layer"), ("var", "gene"), ("uns", "record"))
    ),
    "a table": Case((("tables", "second"),)),
    "shapes": Case((("shapes", "tiles"),)),
    "shapes and a table": Case((("shapes", "tiles"), ("tables", "second"))),
}


def make_shapes(edge: float) -> gpd.GeoDataFrame:
    return ShapesModel.parse(gpd.GeoDataFrame(geometry=[shapely.box(k, 0, k + edge, 1) for k in range(N)]))


def make_table(region: str, value: float) -> ad.AnnData:
    table = ad.AnnData(
        X=sparse.csr_matrix(np.full((N, G), value, dtype=np.float32)),
        obs=pd.DataFrame(
            {"region": pd.Categorical([region] * N), "id": np.arange(N)}, index=[f"s{k}" for k in range(N)]
        ),
        var=pd.DataFrame(index=["A", "B", "C"]),
        uns={"storm": {"before": {"seed": 7}}},
        obsm={"spatial": np.arange(2.0 * N).reshape(N, 2)},
    )
    return TableModel.parse(table, region=region, region_key="region", instance_key="id")


def section() -> SpatialData:
    spots = ShapesModel.parse(np.arange(2.0 * N).reshape(N, 2), geometry=0, radius=1.0, index=np.arange(N))
    return SpatialData(shapes={"spots": spots}, tables={"table": make_table("spots", 1)})


def store_values(sdata: SpatialData, case: Case, call: int) -> None:
    """Set the values of a call in the object, and store them."""
    table = sdata.tables["table"]
    names: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spatialdata, about the same name given twice
        for slot, name in case.entries:
            names.setdefault(slot, []).append(name)
            if slot == "shapes":
                sdata.shapes[name] = make_shapes(call + 1)
            elif slot == "tables":
                sdata.tables[name] = make_table("spots", call + 5)
            elif slot == "uns":
                table.uns["storm"] = {**table.uns["storm"], name: VALUES[name][call]}
            else:
                getattr(table, slot)[name] = VALUES[name][call]
    key = "table" if set(names) - {"shapes", "tables"} else None
    persist(sdata, key, **names)


def content(path: Path) -> dict[str, Any]:
    """Everything that a plain reader finds in a store, element by element."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata = read_zarr(path)
    shapes = {f"shapes/{name}": repr(element.to_wkb().to_dict()) for name, element in sdata.shapes.items()}
    return shapes | {f"tables/{name}": plain(table) for name, table in sdata.tables.items()}


def plain(value: Any) -> Any:
    """Values and types in a form that can be compared."""
    if isinstance(value, ad.AnnData):
        slots = ("X", "obs", "var", "obsm", "layers", "uns")
        return {slot: plain(getattr(value, slot)) for slot in slots} | {"names": list(value.obs_names)}
    if isinstance(value, pd.DataFrame):
        return {name: (str(value[name].dtype), repr(list(value[name]))) for name in value}
    if sparse.issparse(value):
        return ("sparse", plain(value.toarray()))
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.tolist())
    if hasattr(value, "items"):
        return {name: plain(item) for name, item in value.items()}
    return repr(value)


def fingerprint(path: Path) -> str:
    """Checksum of all files of a store and their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        digest.update(f"{file.relative_to(path)} {file.is_dir()}\n".encode())
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass
class Sweep:
    """A case in its place: the store before, and what is to be in it before and afterwards."""

    folder: Path
    case: Case
    overwritten: bool
    consolidated: bool

    def __post_init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.template = self.folder / "template" / "s.zarr"
        sdata = section()
        sdata.write(self.template)
        if self.overwritten:
            store_values(sdata, self.case, 0)
        if not self.consolidated:
            metadata = json.loads((self.template / "zarr.json").read_text())
            del metadata["consolidated_metadata"]
            (self.template / "zarr.json").write_text(json.dumps(metadata))
        self.old = self.content(self.template)
        self.sdata = read_zarr(self.template)
        path = self.fresh()
        with killed_after(self.folder) as counter:
            store_values(self.sdata, self.case, 1)
        self.changes = counter.changes
        self.new, self.end = self.content(path), fingerprint(path)
        assert self.new != self.old

    def content(self, path: Path) -> dict[str, Any]:
        """What a plain reader finds; files that are the same, byte for byte, are read once."""
        key = fingerprint(path)
        if key not in self.known:
            self.known[key] = content(path)
        return self.known[key]

    def fresh(self) -> Path:
        path = self.folder / "killed" / "s.zarr"
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(self.template, path)
        self.sdata.path = path
        return path

    def kill(self, at: int, *, torn: bool = False) -> bool:
        """Kill at a point, check everything; return whether an element was missing until STORM came by."""
        path = self.fresh()
        with killed_after(self.folder, at, torn=torn) as counter:
            store_values(self.sdata, self.case, 1)
        assert counter.killed
        found = self.content(path)
        missing = set(self.old) - set(found)
        assert len(missing) <= 1
        self.check(found, missing)
        recover(path)
        self.check(self.content(path), set())
        store_values(self.sdata, self.case, 1)
        assert fingerprint(path) == self.end
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        return bool(missing)

    def check(self, found: dict[str, Any], missing: set[str]) -> None:
        """Each element is whole: the old one, or the new one."""
        assert set(found) <= set(self.new)
        for name in (set(self.old) | set(found)) - missing:
            assert found[name] in (self.old.get(name), self.new[name]), name

    def points(self, *, every: int) -> list[tuple[int, bool]]:
        """Points to be killed at: those next to a change of the store itself, and some of the others."""
        # A link is made from a file of the store, which it leaves as it is.
        inside = {
            k
            for k, change in enumerate(self.changes)
            if " /killed/s.zarr/" in change and not change.startswith("os.link")
        }
        chosen = {k for k in range(len(self.changes)) if k % every == 0} | inside | {k + 1 for k in inside}
        plain_kills = [(k, False) for k in sorted(chosen) if k < len(self.changes)]
        return plain_kills + [(k, True) for k, _ in plain_kills if self.changes[k].startswith("open")]


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing takes most of the time here, and a kill, unlike a power failure, does not need it."""
    monkeypatch.setattr(_files, "_flush_one", lambda path: None)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "_renameat2", lambda: None)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def refuse(source: str, target: str, **options: Any) -> None:
        if not os.fspath(source).endswith(".partial"):  # not zarr's own, which it makes and removes for each file
            raise PermissionError(1, "no hard links here")
        real(source, target, **options)

    without_exchange(monkeypatch)
    monkeypatch.setattr("os.link", refuse)


SYSTEMS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "exchange": lambda monkeypatch: None,
    "two renamings": without_exchange,
    "no links": without_links,
}


def sweep(folder: Path, case: str, *, overwritten: bool, consolidated: bool, exchange: bool, every: int) -> int:
    """Kill at all points of a case; return how many there were."""
    done = Sweep(folder, CASES[case], overwritten=overwritten, consolidated=consolidated)
    points = done.points(every=every)
    gaps = sum(done.kill(at, torn=torn) for at, torn in points)
    # Without an exchange each replaced element is away between two renamings, and comes back with the next command.
    replaced = len({change for change in done.changes if "os.rename /killed/s.zarr/" in change}) if not exchange else 0
    assert gaps == (min(replaced, len(points)) if not exchange else 0)
    return len(points)


#: Cases of the fast tests, and whether something is overwritten.
FAST = [
    ("obs, categories", True),
    ("obs, nullable strings", True),
    ("obsm", True),
    ("uns", True),
    ("a table", True),
    ("shapes and a table", True),
    ("obs, categories", False),
    ("shapes and a table", False),
]


@pytest.mark.parametrize(("case", "overwritten"), FAST)
def test_killed_anywhere(tmp_path: Path, case: str, overwritten: bool) -> None:
    """A thinned sweep: next to each change of the store itself, and at a few of the others."""
    assert sweep(tmp_path, case, overwritten=overwritten, consolidated=True, exchange=True, every=400) > 3


@pytest.mark.parametrize("system", ["two renamings", "no links"])
def test_killed_anywhere_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    SYSTEMS[system](monkeypatch)
    case = "a result with its provenance" if system == "two renamings" else "obsm"
    assert sweep(tmp_path, case, overwritten=True, consolidated=True, exchange=False, every=400) > 3


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", CASES)
def test_killed_everywhere(tmp_path: Path, case: str) -> None:
    """Between all changes."""
    # An element that is exchanged as one folder has fewer changes than an entry of a table.
    assert sweep(tmp_path, case, overwritten=True, consolidated=True, exchange=True, every=1) > 80


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("consolidated", [True, False], ids=["consolidated", "plain"])
@pytest.mark.parametrize("overwritten", [False, True], ids=["new", "overwritten"])
@pytest.mark.parametrize("case", CASES)
def test_killed_on_every_system(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    overwritten: bool,
    consolidated: bool,
    system: str,
) -> None:
    """Next to each change of the store, on each kind of file system."""
    SYSTEMS[system](monkeypatch)
    exchange = system == "exchange"
    options = {"overwritten": overwritten, "consolidated": consolidated, "exchange": exchange}
    assert sweep(tmp_path, case, every=100, **options) > 3
