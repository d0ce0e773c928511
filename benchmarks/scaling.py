"""Time and memory from the check of a section to its predicted genes, as sections grow, and at their real size.

    python benchmarks/scaling.py                                        # growth: 5,000 to 500,000 bins of 300 genes
    python benchmarks/scaling.py --like visium_hd --n 700000 --steps open check windows embed domains predict
    python benchmarks/scaling.py --like xenium --n 500000 --steps open check windows embed domains predict
    python benchmarks/scaling.py --like visium_hd --n 700000 --model storm-mini --modality st --steps open own embed
    python benchmarks/scaling.py --n 1000000 --steps open predict --head-genes 5000 --stream

A drawn section is written as a SpatialData zarr and opened again: an H&E (a drawn piece, repeated) in chunks with a
pyramid, outlines, a table whose expression follows eight planted tissues.

=============  =====================================================================================================
``plain``      circles 8 µm apart, 300 genes, 0.5 µm per pixel
``visium_hd``  bins of 8 µm (squares) with 18,000 genes, of which about 150 are seen in each; 0.2738 µm per pixel
``xenium``     cells (octagons) 10 µm apart with 5,000 genes, of which about 150 are seen in each; 0.2738 µm per pixel
=============  =====================================================================================================

With ``--stream``, the predicted genes are written to a store of their own, block by block, and read from it again: one
gene of all cells, and ten thousand cells. ``--head-genes`` widens the head by repeating its genes.

``--model tiny`` is the smallest model with a tile encoder that costs next to nothing, so that reading, gathering and
writing show. Each section runs in a process of its own. Memory is anonymous memory (`RssAnon`: what the process needs,
without pages of files that the system can drop): its peak over the process with everything imported (``peak``) and over
the beginning of the step (``step``). Beside it is the peak of all resident memory over the imports, with such pages.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = ("open", "check", "windows", "own", "embed", "domains", "predict")
#: Rows that are drawn at once.
BLOCK = 20_000


@dataclass(frozen=True)
class Kind:
    """What a section is like."""

    pitch_um: float
    um_per_px: float
    genes: int
    shapes: str
    nonzeros: int | None = None
    jitter: float = 0.0


KINDS = {
    "plain": Kind(8.0, 0.5, 300, "circles"),
    "visium_hd": Kind(8.0, 0.2738, 18_000, "squares", 150),
    "xenium": Kind(10.0, 0.2738, 5_000, "octagons", 150, 0.3),
}


def make(n: int, path: Path, kind: Kind) -> None:
    """A section of about n bins or cells."""
    import anndata as ad
    import dask.array as da
    import numpy as np
    import pandas as pd
    import spatialdata
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    import storm

    side = round(n**0.5)
    rng = np.random.default_rng(0)
    drawn = storm.datasets.toy("visium", n=150, seed=0)
    tile = np.asarray(drawn.images["he"]["scale0"]["image"].data)
    px = int((side + 4) * kind.pitch_um / kind.um_per_px)
    repeats = -(-px // tile.shape[1])
    # As a lazy array: the image is never held as a whole.
    image = da.tile(da.from_array(tile, chunks=(3, 1024, 1024)), (1, repeats, repeats))[:, :px, :px]
    at = (np.indices((side, side)).reshape(2, -1).T[:, ::-1] + 2.5) * kind.pitch_um
    at += rng.uniform(-kind.jitter, kind.jitter, at.shape) * kind.pitch_um
    known = [*drawn.tables["table"].var_names, *storm.load_model("storm-mini").expression.vocabulary.symbols]
    known = list(dict.fromkeys(known))[: kind.genes]
    table = ad.AnnData(
        _counts(at, kind, rng),
        obs=pd.DataFrame({"region": pd.Categorical(["bins"] * len(at)), "id": np.arange(len(at))}),
        var=pd.DataFrame(index=known + [f"UNKNOWN{i}" for i in range(kind.genes - len(known))]),
    )
    table.obs_names = [f"b{i}" for i in range(len(at))]
    sdata = spatialdata.SpatialData(
        images={
            "he": Image2DModel.parse(
                image.rechunk((3, 512, 512)), dims=("c", "y", "x"), c_coords=("r", "g", "b"), chunks=(3, 512, 512),
                scale_factors=[2, 2, 2], transformations={"um": Scale([kind.um_per_px] * 2, axes=("x", "y"))},
            )
        },
        shapes={"bins": ShapesModel.parse(_shapes(at, kind), transformations={"um": Identity()})},
        tables={"table": TableModel.parse(table, region="bins", region_key="region", instance_key="id")},
    )  # fmt: skip
    sdata.write(path)


def _counts(at: Any, kind: Kind, rng: Any) -> Any:
    """Raw counts, block by block, as CSR."""
    import numpy as np
    from scipy import sparse

    blocks = []
    if kind.nonzeros is None:
        rate = rng.gamma(0.5, 0.3, (1, kind.genes)) * np.exp(
            np.sin(at[:, :1] / 300) * rng.normal(0, 1, (1, kind.genes))
        )
        for k in range(0, len(at), BLOCK):
            blocks.append(sparse.csr_matrix(rng.poisson(rate[k : k + BLOCK]).astype(np.float32)))
        return sparse.vstack(blocks).tocsr()
    tissue = (np.sin(at[:, 0] / 400) > 0) * 4 + (np.sin(at[:, 1] / 300) > 0) * 2 + (np.sin(at.sum(axis=1) / 700) > 0)
    shares = rng.gamma(0.5, 1, kind.genes) * np.exp(rng.normal(0, 0.7, (8, kind.genes)))
    chance = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
    for k in range(0, len(at), BLOCK):
        here = tissue[k : k + BLOCK]
        total = rng.poisson(1.05 * kind.nonzeros * rng.lognormal(-0.08, 0.4, len(here)))
        row = np.repeat(np.arange(len(here)), total)
        gene = np.empty(len(row), dtype=np.int32)
        for value in np.unique(here):
            which = here[row] == value
            gene[which] = np.minimum(np.searchsorted(chance[value], rng.random(which.sum())), kind.genes - 1)
        block = sparse.coo_matrix((np.ones(len(row), np.float32), (row, gene)), shape=(len(here), kind.genes)).tocsr()
        block.sort_indices()
        blocks.append(block)
    return sparse.vstack(blocks).tocsr()


def _shapes(at: Any, kind: Kind) -> Any:
    """Outlines."""
    import geopandas as gpd
    import numpy as np
    import shapely

    half = kind.pitch_um / 2
    if kind.shapes == "circles":
        return gpd.GeoDataFrame({"radius": np.full(len(at), half)}, geometry=shapely.points(at))
    if kind.shapes == "squares":
        return gpd.GeoDataFrame(geometry=shapely.box(*(at - half).T, *(at + half).T))
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    corners = at[:, None] + 0.8 * half * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return gpd.GeoDataFrame(geometry=shapely.polygons(corners))


def memory_mb(name: str) -> float:
    """``RssAnon`` or ``VmRSS`` of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise OSError(f"no {name} in /proc/self/status")  # noqa: EM102


class Peak:
    """Peaks of the memory in a block, and its seconds."""

    def __init__(self, imports: tuple[float, float]) -> None:
        self.imports = imports

    def __enter__(self) -> Peak:
        self.begin = self.most = memory_mb("RssAnon")
        self.resident = memory_mb("VmRSS")
        self.stop, self.start, self.core = threading.Event(), time.perf_counter(), time.process_time()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.05):
            self.most = max(self.most, memory_mb("RssAnon"))
            self.resident = max(self.resident, memory_mb("VmRSS"))

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.seconds, self.core = time.perf_counter() - self.start, time.process_time() - self.core

    def report(self) -> dict[str, float]:
        """Numbers of the table."""
        return {
            "seconds": round(self.seconds, 1), "core_s": round(self.core, 1),
            "peak_mb": round(self.most - self.imports[0]), "step_mb": round(self.most - self.begin),
            "resident_mb": round(self.resident - self.imports[1]),
        }  # fmt: skip


def widened(head: Any, n_genes: int) -> Any:
    """The head with its genes repeated, under other names, until there are so many."""
    from dataclasses import replace

    import numpy as np

    from storm.model.heads import ExpressionMLP

    take = np.arange(n_genes) % len(head.genes)
    layer = head.module.hidden[0]
    wide = ExpressionMLP(layer.in_features, n_genes, hidden=layer.out_features)
    genewise = {"offset", "linear.weight", "linear.bias", "hidden.3.weight", "hidden.3.bias"}
    wide.load_state_dict({k: v[take] if k in genewise else v for k, v in head.module.state_dict().items()})
    genes = tuple(f"{head.genes[i]}.{k}" for k, i in enumerate(take))
    reliability = np.abs(head.reliability[take])
    return replace(head, genes=genes, reliability=reliability, reliability_min=None, intervals=None, module=wide.eval())


def read_back(path: Path) -> None:
    """One gene of all cells, and all genes of ten thousand cells."""
    import anndata as ad
    import numpy as np

    table = ad.experimental.read_lazy(path)
    for part in (table[:, 7], table[500:10_500]):
        if not np.isfinite(np.asarray(part.X)).all():
            raise ValueError(path)


def models(name: str, genes: Any) -> tuple[Any, Any]:
    """The model, and a head where it brings none."""
    import torch
    from torch import nn

    import storm

    if name != "tiny":
        return storm.load_model(name), None
    encoder = storm.encoders.wrap_encoder(
        nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 32)).eval(), name="pooled", dim=32,
        tile_px=32, field_um=16,
    )  # fmt: skip
    model = storm.build_model("storm-tiny", genes=genes, tile_encoder=encoder)
    with torch.inference_mode():
        encoder.build()(torch.rand(2, 3, 32, 32))
    drawn = storm.datasets.toy("visium", n=150, seed=0)
    return model, storm.tl.fit_expression(drawn, n_genes=100, model=model)


def measure(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All steps on one stored section."""
    import scanpy  # noqa: F401
    import spatialdata

    import storm
    from storm._bridge.read import read_spots
    from storm._inference.adaptive import own_expression
    from storm.data.windows import make_windows

    storm.settings.verbosity = 0
    if "predict" in args.steps or args.model == "tiny":
        model, head = models(args.model, _genes(path))
    else:
        model, head = storm.load_model(args.model), None
    imports = memory_mb("RssAnon"), memory_mb("VmRSS")
    how = {"model": model, "field": args.field}
    if args.head_genes is not None:
        head = widened(model.head if head is None else head, args.head_genes)
    out_path = path.with_name("genes.zarr") if args.stream else None

    def windows() -> None:
        make_windows(read_spots(sdata, image=False, table=False).centres)

    def own() -> Callable[[], None]:
        spots = read_spots(sdata, image=False)
        found = make_windows(spots.centres)
        return lambda: own_expression(spots, found)

    runs = {
        "check": lambda: storm.pp.check(sdata, model=model),
        "windows": windows,
        "embed": lambda: storm.tl.embed(sdata, modality=args.modality, readout=args.readout, **how),
        "domains": lambda: storm.tl.domains(sdata, 7),
        "predict": lambda: storm.tl.predict_expression(sdata, head=head, out=out_path, **how),
        "read": lambda: read_back(out_path),
    }
    out: dict[str, Any] = {"steps": {}}
    with Peak(imports) as peak:
        sdata = spatialdata.read_zarr(path)
    out["steps"]["open"] = peak.report()
    table = sdata.tables["table"]
    out |= {"n": table.n_obs, "genes": table.n_vars, "nonzeros": int(table.X.nnz / table.n_obs)}
    for name in [*args.steps, *(["read"] if args.stream else [])]:
        if name == "open":
            continue
        step = own() if name == "own" else runs[name]
        with Peak(imports) as peak:
            step()
        out["steps"][name] = peak.report()
        print(f"  {name}: {out['steps'][name]}", file=sys.stderr, flush=True)
    if "embed" in args.steps:
        out["width"] = table.obsm["X_storm"].shape[1]
    return out


def _genes(path: Path) -> Any:
    import anndata as ad

    return ad.experimental.read_elem(__import__("zarr").open_group(path / "tables" / "table" / "var", mode="r")).index


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--like", choices=list(KINDS), default="plain")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=["open", "embed", "domains"])
    parser.add_argument("--model", default="tiny", help="or a name or folder that storm.load_model takes")
    parser.add_argument("--modality", default="auto", choices=["auto", "both", "he", "st"])
    parser.add_argument("--readout", default="section")
    parser.add_argument("--field", default="exact", choices=["exact", "dense"])
    parser.add_argument("--head-genes", type=int)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder where sections are kept for the next run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.one, args)))
        return
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for n in args.n:
            path = (args.keep or Path(scratch)) / f"{args.like}_{n}.zarr"
            if not path.exists():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    make(n, path, KINDS[args.like])
            argv = [sys.executable, __file__, "--one", str(path), *sys.argv[1:]]
            done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                sys.exit(f"{path.name}: ended with {done.returncode}")
            records.append(json.loads(done.stdout.splitlines()[-1]))
    show(records)
    if args.out:
        args.out.write_text(json.dumps(records, indent=1) + "\n")


def show(records: list[dict[str, Any]]) -> None:
    """Markdown."""
    head = ["places", "step", "s", "core-s", "µs a place (core)", "peak GB", "step GB", "resident GB"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for record in records:
        for name, r in record["steps"].items():
            sizes = " | ".join(f"{r[key] / 1024:.2f}" for key in ("peak_mb", "step_mb", "resident_mb"))
            each = 1e6 * r["core_s"] / record["n"]
            print(f"| {record['n']:,} | {name} | {r['seconds']} | {r['core_s']} | {each:.0f} | {sizes} |")
    for record in records:
        print(f"{record['n']:,} × {record['genes']:,}, {record['nonzeros']} nonzeros each, width {record.get('width')}")


if __name__ == "__main__":
    main()
