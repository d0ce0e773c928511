"""Domains of a large section: time, memory and quality of the ways to cluster an embedding.

    python benchmarks/clustering.py --n 700000 --dim 768 --k 12 --json clustering.json
    python benchmarks/clustering.py --n 700000 --ways storm pca50 minibatch full
    python benchmarks/clustering.py --n 5208 5209 20000 20001 50000 50001 80000 80001 --ways storm storm-auto

Simulated: ``--k`` groups of unequal size in 60 directions plus noise in all ``--dim``, float32. ``storm`` is
:func:`storm.tl.domains` as it is called; the others are scikit-learn's on the same rows: ``pca50`` (its PCA by
covariance, then KMeans with 10 starts), ``minibatch`` (MiniBatchKMeans on 50 components), ``full`` (KMeans with one
start on all columns). Of several ``--n`` the first rows of one drawing are taken, so that the time on both sides of a
switch can be compared. Inertia is that of the groups found, in all columns, per row; ARI is to the planted groups. The
high-water mark of memory only rises, so run one way at a time where it matters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA

import storm
from storm.data.components import blocks
from storm.metrics import ari

WAYS = ("storm", "storm-auto", "storm-gmm", "storm-leiden", "pca50", "minibatch", "full")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[700_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--k", type=int, default=12)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["storm", "storm-auto", "storm-gmm", "minibatch"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    storm.settings.verbosity = 0
    warnings.simplefilter("ignore")
    drawn, groups = planted(max(options.n), options.dim, options.k)
    print(f"{len(drawn):,} × {options.dim}: {drawn.nbytes / 2**30:.2f} GB; memory beyond it at the highest mark so far")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = []
    for name, n in itertools.product(options.ways, options.n):
        values, truth = drawn[:n], groups[:n]
        wall, core = time.perf_counter(), time.process_time()
        labels, note = way(name, values, options.k)()
        row = {
            "way": name,
            "n": n,
            "wall_s": time.perf_counter() - wall,
            "core_s": time.process_time() - core,
            "extra_gb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 2**20,
            "inertia": inertia(values, labels),
            "ari": ari(truth, labels),
            "groups": len(np.unique(labels)),
            "note": note,
        }
        rows.append(row)
        print(
            f"{name:<14}{n:>10,}{row['wall_s']:>8.1f} s{row['core_s']:>8.1f} core-s{row['extra_gb']:>7.2f} GB   "
            f"inertia {row['inertia']:.4f}   ARI {row['ari']:.3f}   {row['groups']} groups   {note}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "rows": rows}, indent=1) + "\n")


def planted(n: int, dim: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows in groups, and the groups."""
    rng = np.random.default_rng(0)
    share = 1.0 / np.arange(1, k + 1)
    truth = rng.choice(k, n, p=share / share.sum())
    directions = rng.normal(size=(60, dim)).astype(np.float32) / 8
    centres = rng.normal(size=(k, 60)).astype(np.float32) * 0.6
    values = np.empty((n, dim), dtype=np.float32)
    for start in range(0, n, 20_000):
        group = truth[start : start + 20_000]
        latent = centres[group] + rng.standard_normal((len(group), 60), dtype=np.float32)
        noise = 0.3 * rng.standard_normal((len(group), dim), dtype=np.float32)
        values[start : start + 20_000] = latent @ directions + noise
    return values, truth


def way(name: str, values: np.ndarray, k: int) -> Callable[[], tuple[np.ndarray, str]]:
    """One way to find groups: labels and a note."""

    def ours(number: int | str = k, **how: Any) -> tuple[np.ndarray, str]:
        adata = ad.AnnData(obsm={"X_storm": values}, shape=(len(values), 0))
        storm.tl.domains(adata, number, **how)
        facts = adata.uns["storm"]["storm_domain"]
        kept = ("n_components", "auto_rows", "start_rows", "fit_rows", "n_domains")
        return adata.obs["storm_domain"].cat.codes.to_numpy(), str({key: facts[key] for key in kept if key in facts})

    def reduced() -> np.ndarray:
        return PCA(50, svd_solver="covariance_eigh").fit_transform(values)

    return {
        "storm": ours,
        "storm-auto": lambda: ours("auto"),
        "storm-gmm": lambda: ours(method="gmm"),
        "storm-leiden": lambda: ours("auto", method="leiden"),
        "pca50": lambda: (KMeans(k, n_init=10, random_state=0).fit_predict(reduced()), "scikit-learn"),
        "minibatch": lambda: (MiniBatchKMeans(k, n_init=10, random_state=0).fit_predict(reduced()), "scikit-learn"),
        "full": lambda: (KMeans(k, n_init=1, random_state=0).fit_predict(values), "scikit-learn, one start"),
    }[name]


def inertia(values: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the mean of the group, over all columns."""
    k = int(labels.max()) + 1
    count = np.bincount(labels, minlength=k)
    sums, squares = np.zeros((k, values.shape[1])), 0.0
    for part, block in blocks(values):
        member = np.zeros((k, len(block)), dtype=block.dtype)
        member[labels[part], np.arange(len(block))] = 1
        sums += member @ block
        squares += float(np.einsum("ij,ij->i", block, block).sum(dtype=np.float64))
    return (squares - float((sums**2).sum(axis=1) @ (1 / np.maximum(count, 1)))) / len(values)


if __name__ == "__main__":
    main()
