"""Time and memory of embedding several sections together, on sections made for it.

    python benchmarks/studies.py --sections 20 --spots 5000
    python benchmarks/studies.py --sections 3 --spots 200000 --pitch 8 --genes 2000 --counts 60
    python benchmarks/studies.py --he --sections 2 8 --spots 10000     # stores with H&E, 100 MB of scratch disk

Expression only: each section has five kinds of tissue in blobs, its own depth and chemistry. The table of all sections
is made in memory; what is printed is the largest resident memory before and during the call, and how well the blobs are
found.

With H&E: bins of toy Visium HD sections, in stores, embedded by the function (objects read from the stores) and by the
command, each in a process of its own. What is printed is the largest resident memory beyond that of the process before
the call, and beyond the result.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import tempfile
import threading
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import psutil
import spatialdata
from scipy import sparse
from scipy.ndimage import gaussian_filter
from sklearn.metrics import adjusted_rand_score

import storm
from storm.cli import main as main_of_storm


def section(n: int, n_genes: int, counts: float, pitch: float, means: np.ndarray, seed: int) -> anndata.AnnData:
    """A square lattice of about n spots."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n))
    fields = np.stack([gaussian_filter(rng.normal(size=(side, side)), side / 12, mode="wrap") for _ in means])
    kind = fields.argmax(axis=0).ravel()
    profiles = means * np.exp(rng.normal(scale=0.3, size=n_genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    depth = counts * np.exp(rng.normal(scale=0.3))
    parts = []
    for start in range(0, side * side, 20_000):
        rows = kind[start : start + 20_000]
        parts.append(sparse.csr_matrix(rng.poisson(profiles[rows] * depth).astype(np.float32)))
    i, j = np.mgrid[:side, :side]
    table = anndata.AnnData(sparse.vstack(parts, format="csr"))
    table.obs["kind"] = kind.astype(str)
    table.obsm["spatial"] = np.column_stack([j.ravel(), i.ravel()]) * pitch
    return table


def peak_gib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Peak:
    """Largest resident memory of this process while a block runs, in GiB, beyond that before it."""

    def __enter__(self) -> Peak:
        gc.collect()
        self.before = self.most = psutil.Process().memory_info().rss / 2**30
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.ended.wait(0.02):
            self.most = max(self.most, process.memory_info().rss / 2**30)

    @property
    def more(self) -> float:
        """In GiB."""
        return self.most - self.before


def with_he(stores: list[str], how: str) -> None:
    """Embed stores with H&E jointly in this process, by the function or by the command; print time and memory."""
    storm.settings.verbosity = 0
    model = storm.load_model("storm-mini")
    objects = [spatialdata.read_zarr(path) for path in stores] if how == "function" else []
    start = time.perf_counter()
    with Peak() as peak:
        if how == "function":
            storm.tl.embed(objects, model=model, field="dense")
        else:
            out = tempfile.mkdtemp(dir=Path(stores[0]).parent) + "/new"
            command = ["embed", *stores, "--joint", "--workers", "1", "--field", "dense", "--quiet", "--out", out]
            assert main_of_storm(command) == 0
    seconds = time.perf_counter() - start
    tables = [one.tables["table"] for one in objects or map(spatialdata.read_zarr, sorted(Path(out).iterdir()))]
    result = sum(table.obsm["X_storm"].nbytes for table in tables) / 2**30
    print(
        f"{how}: {len(stores)} sections, {seconds:.0f} s; memory {peak.before:.2f} GiB before, {peak.more:.2f} GiB "
        f"more at most; the result is {result:.2f} GiB",
        flush=True,
    )


def main_with_he(sizes: list[int], n: int) -> None:
    """Make stores, and measure studies of the first of them."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [f"{folder}/s{k}.zarr" for k in range(max(sizes))]
        for k, path in enumerate(stores):
            storm.datasets.toy("visium_hd", n=n, seed=k).write(path)
        for how in ("function", "command"):
            for size in sizes:
                process = multiprocessing.get_context("spawn").Process(target=with_he, args=(stores[:size], how))
                process.start()
                process.join()


def main() -> None:
    """Make the study, embed it, find its domains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, nargs="+", default=[20], help="several sizes only with --he")
    parser.add_argument("--he", action="store_true", help="sections with H&E, in stores")
    parser.add_argument("--spots", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--counts", type=float, default=300.0)
    parser.add_argument("--pitch", type=float, default=100.0, help="µm")
    parser.add_argument("--batch", default="anchors")
    arguments = parser.parse_args()
    storm.settings.verbosity = 0
    if arguments.he:
        main_with_he(arguments.sections, arguments.spots)
        return
    n_sections = arguments.sections[0]
    rng = np.random.default_rng(0)
    vocabulary = np.array(storm.load_model("storm-mini").vocabulary.symbols)
    genes = rng.permutation(vocabulary)[: arguments.genes]
    means = rng.gamma(0.3, 1.0, size=(5, len(genes)))
    parts = {}
    for k in range(n_sections):
        parts[f"s{k:02d}"] = section(arguments.spots, len(genes), arguments.counts, arguments.pitch, means, seed=k + 1)
    table = anndata.concat(parts, label="library", index_unique="-")
    table.var_names = pd.Index(genes)
    del parts
    print(f"{n_sections} sections, {table.n_obs} spots, {table.X.nnz / 1e6:.0f} million counts", flush=True)
    before = peak_gib()
    start = time.perf_counter()
    storm.tl.embed(table, library_key="library", um_per_px=1.0, batch=arguments.batch)
    embedded = time.perf_counter() - start
    record = table.uns["storm"]["X_storm"]
    shape = table.obsm["X_storm"].shape
    print(
        f"embed {embedded:.0f} s, {shape[1]} columns, network {'used' if record['st_tokens'] else 'left out'}",
        flush=True,
    )
    start = time.perf_counter()
    storm.tl.domains(table, 5)
    found = time.perf_counter() - start
    ari = adjusted_rand_score(table.obs["kind"], table.obs["storm_domain"])
    print(f"domains {found:.0f} s, ARI {ari:.3f}; memory {before:.1f} GiB before, {peak_gib():.1f} GiB at most")


if __name__ == "__main__":
    main()
