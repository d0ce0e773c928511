"""Time and memory of embed and domains, as a section grows.

    python benchmarks/scaling.py [--n 5000 50000 500000] [--out scaling.json]

Bins of 8 µm on a square lattice, an H&E image of 0.5 µm per pixel in a zarr store (a drawn section, repeated), 300
genes; the smallest model with a tile encoder that costs next to nothing, so that reading, gathering and writing show.
Each size runs in a process of its own. Memory is anonymous memory (`RssAnon`: what the process needs, without pages of
files that the system can drop), its peak above that of the process with everything imported and the section open; the
size of the result stands beside it. Linux only.
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
from pathlib import Path

PITCH_UM, UM_PER_PX, GENES = 8.0, 0.5, 300


def make(n: int, path: Path) -> None:
    """A section of about n bins."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    import spatialdata
    from scipy import sparse
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    import storm

    side = round(n**0.5)
    rng = np.random.default_rng(0)
    drawn = storm.datasets.toy("visium", n=150, seed=0)
    tile = np.asarray(drawn.images["he"]["scale0"]["image"].data)
    px = int((side + 4) * PITCH_UM / UM_PER_PX)
    repeats = -(-px // tile.shape[1])
    image = np.tile(tile, (1, repeats, repeats))[:, :px, :px]
    at = (np.indices((side, side)).reshape(2, -1).T[:, ::-1] + 2.5) * PITCH_UM
    rate = rng.gamma(0.5, 0.3, (1, GENES)) * np.exp(np.sin(at[:, :1] / 300) * rng.normal(0, 1, (1, GENES)))
    blocks = [
        sparse.csr_matrix(rng.poisson(rate[k : k + 20_000]).astype(np.float32)) for k in range(0, len(at), 20_000)
    ]
    table = ad.AnnData(
        sparse.vstack(blocks).tocsr(),
        obs=pd.DataFrame({"region": pd.Categorical(["bins"] * len(at)), "id": np.arange(len(at))}),
        var=pd.DataFrame(index=drawn.tables["table"].var_names[:GENES]),
    )
    table.obs_names = [f"b{i}" for i in range(len(at))]
    sdata = spatialdata.SpatialData(
        images={
            "he": Image2DModel.parse(
                image, dims=("c", "y", "x"), c_coords=("r", "g", "b"), chunks=(3, 512, 512), scale_factors=[2, 2],
                transformations={"um": Scale([UM_PER_PX, UM_PER_PX], axes=("x", "y"))},
            )
        },
        shapes={"bins": ShapesModel.parse(at, geometry=0, radius=PITCH_UM / 2, transformations={"um": Identity()})},
        tables={"table": TableModel.parse(table, region="bins", region_key="region", instance_key="id")},
    )  # fmt: skip
    sdata.write(path)


def anonymous_mb() -> float:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("no RssAnon in /proc/self/status")  # noqa: EM101


class Peak:
    """Peak of the anonymous memory in a block, and its seconds."""

    def __enter__(self) -> Peak:
        self.begin = self.most = anonymous_mb()
        self.stop, self.start, self.core = threading.Event(), time.perf_counter(), time.process_time()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.stop.wait(0.05):
            self.most = max(self.most, anonymous_mb())

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.seconds, self.core = time.perf_counter() - self.start, time.process_time() - self.core

    def report(self, result_mb: float) -> dict:
        """Numbers of the table."""
        above = self.most - self.begin
        return {
            "seconds": round(self.seconds, 1), "core_s": round(self.core, 1), "peak_mb": round(above),
            "result_mb": round(result_mb), "beyond_result_mb": round(above - result_mb),
        }  # fmt: skip


def measure(path: Path) -> dict:
    """Embed and domains of one stored section."""
    import spatialdata
    import torch
    from torch import nn

    import storm

    storm.settings.verbosity = 0
    encoder = storm.encoders.wrap_encoder(
        nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 32)).eval(), name="pooled", dim=32,
        tile_px=32, field_um=16,
    )  # fmt: skip
    sdata = spatialdata.read_zarr(path)
    table = sdata.tables["table"]
    model = storm.build_model("storm-tiny", genes=table.var_names, tile_encoder=encoder)
    with torch.inference_mode():
        encoder.build()(torch.rand(2, 3, 32, 32))
    with Peak() as embed:
        storm.tl.embed(sdata, model=model, readout="window")
    out = {"n": table.n_obs, "embed": embed.report(table.obsm["X_storm"].nbytes / 2**20)}
    with Peak() as domains:
        storm.tl.domains(sdata, 7)
    return {**out, "domains": domains.report(table.n_obs / 2**20)}


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.one)))
        return
    records = []
    with tempfile.TemporaryDirectory() as scratch:
        for n in args.n:
            path = Path(scratch) / f"{n}.zarr"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make(n, path)
            argv = [sys.executable, __file__, "--one", str(path)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            records.append(json.loads(done.stdout.splitlines()[-1]))
    print("| spots | step | s | core-s | µs a spot (core) | peak MB | of which result |\n|---|---|---|---|---|---|---|")
    for record in records:
        for step in ("embed", "domains"):
            r = record[step]
            each = 1e6 * r["core_s"] / record["n"]
            print(
                f"| {record['n']:,} | {step} | {r['seconds']} | {r['core_s']} | {each:.0f} | {r['peak_mb']} | "
                f"{r['result_mb']} |"
            )
    if args.out:
        args.out.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
