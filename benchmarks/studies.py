"""Time and memory of embedding several sections together, expression only, on sections made for it.

    python benchmarks/studies.py --sections 20 --spots 5000
    python benchmarks/studies.py --sections 3 --spots 200000 --pitch 8 --genes 2000 --counts 60

Each section has five kinds of tissue in blobs, its own depth and chemistry. The table of all sections is made in
memory; what is printed is the largest resident memory before and during the call, and how well the blobs are found.
"""

from __future__ import annotations

import argparse
import resource
import time

import anndata
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.ndimage import gaussian_filter
from sklearn.metrics import adjusted_rand_score

import storm


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


def main() -> None:
    """Make the study, embed it, find its domains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=20)
    parser.add_argument("--spots", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--counts", type=float, default=300.0)
    parser.add_argument("--pitch", type=float, default=100.0, help="µm")
    parser.add_argument("--batch", default="anchors")
    arguments = parser.parse_args()
    storm.settings.verbosity = 0
    rng = np.random.default_rng(0)
    vocabulary = np.array(storm.load_model("storm-mini").vocabulary.symbols)
    genes = rng.permutation(vocabulary)[: arguments.genes]
    means = rng.gamma(0.3, 1.0, size=(5, len(genes)))
    parts = {}
    for k in range(arguments.sections):
        parts[f"s{k:02d}"] = section(arguments.spots, len(genes), arguments.counts, arguments.pitch, means, seed=k + 1)
    table = anndata.concat(parts, label="library", index_unique="-")
    table.var_names = pd.Index(genes)
    del parts
    print(f"{arguments.sections} sections, {table.n_obs} spots, {table.X.nnz / 1e6:.0f} million counts", flush=True)
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
