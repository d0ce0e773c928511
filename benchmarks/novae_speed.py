"""Measure how many cells per second Novae embeds by its own loop and through storm, and that both say the same.

The cells are simulated (a gradient in space, 15 µm apart on average); the Novae is given (``--model FOLDER``) or of the
default size with random weights, which costs the same to run. Storm's times include all that it does from raw counts:
gene choice, normalisation, statistics and the graph; Novae's its own preprocessing, but not its graph. Rates per
core-second count the processor's time, which other work on the machine does not change much. One thread.

    python benchmarks/novae_speed.py --cells 3000 --json novae.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix, eye

from storm.expression import NovaeEncoder


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder that novae.Novae.save_pretrained wrote")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=400)
    parser.add_argument("--radius-um", type=float, default=80.0)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    # numba, which Novae's preprocessing starts, would set the threads of all OpenMP libraries, torch's too
    os.environ["NUMBA_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    report = measure(options)
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Embed the same cells in each way."""
    import novae

    counts, centres = simulate(options.cells, options.genes)
    names = [f"gene{i}" for i in range(options.genes)]
    if options.model:
        model = novae.Novae.from_pretrained(str(options.model))
        names = list(model.cell_embedder.gene_names)[: options.genes]
    else:
        torch.manual_seed(0)
        model = novae.Novae(var_names=names)
    model.mode.trained = True
    model.mode.zero_shot = True  # representations alone, without assigning prototypes
    encoders = {
        context: NovaeEncoder(model, context=context, graph="delaunay", radius_um=options.radius_um)
        for context in ("spot", "full")
    }

    def theirs(*, alone: bool) -> tuple[np.ndarray, np.ndarray]:
        adata = AnnData(counts.copy(), obsm={"spatial": centres})
        adata.var_names, adata.obs_names = names, [f"c{i}" for i in range(len(centres))]
        novae.spatial_neighbors(adata, radius=options.radius_um, verbose=False)
        if alone:
            adata.obsp["spatial_distances_local"] = adata.obsp["spatial_distances_view"] = csr_matrix(eye(len(centres)))
            adata.uns["novae_attrs"] = {"n_hops_local": 2, "n_hops_view": 2}
        model.compute_representations(adata)
        return adata.obsm["novae_latent"], adata.obs["neighborhood_valid"].to_numpy()

    ways: dict[str, Callable[[], Any]] = {
        "novae, one node": lambda: theirs(alone=True),
        "novae, 2 hops": lambda: theirs(alone=False),
        "storm, spot": lambda: encoders["spot"].encode(counts, names),
        "storm, full": lambda: encoders["full"].encode(counts, names, centres=centres),
        "storm, visible (half)": lambda: NovaeEncoder(
            model, context="visible", graph="delaunay", radius_um=options.radius_um
        ).encode(counts, names, centres=centres, visible=np.arange(len(centres)) % 2 == 0),
    }
    encoders["spot"].encode(counts[:64], names)  # the first call of a process loads code
    rates, per_core, results = {}, {}, {}
    for name, run in ways.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        results[name] = run()
        rates[name] = len(centres) / (time.perf_counter() - start)
        per_core[name] = len(centres) / (time.process_time() - start_cpu)
        assert torch.get_num_threads() == 1, f"{name} changed the number of threads"
    differences, ratios = {}, {}
    for ours, own in (("storm, spot", "novae, one node"), ("storm, full", "novae, 2 hops")):
        reference, valid = results[own]
        differences[ours] = float(np.abs(results[ours][valid] - reference[valid]).max())
        ratios[ours] = round(per_core[ours] / per_core[own], 1)
        assert differences[ours] < 1e-5, f"{ours} differs from {own} by {differences[ours]:.1e}"
    return {
        "cells": options.cells,
        "genes": options.genes,
        "model": str(options.model or "default size, random weights"),
        "cells_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "cells_per_core_second": {name: round(rate, 1) for name, rate in per_core.items()},
        "ratio_per_core_second": ratios,
        "largest_difference": differences,
        "largest_value": float(np.nanmax(np.abs(results["storm, full"]))),
        "load_average": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "versions": {p: version(p) for p in ("storm-spatial", "novae", "torch", "torch-geometric")},
    }


def simulate(n: int, genes: int) -> tuple[csr_matrix, np.ndarray]:
    """Counts and centres in µm."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 15 * np.sqrt(n), (n, 2))
    trend = np.exp(rng.normal(0, 0.7, (1, genes)) * np.sin(centres[:, :1] / 100))
    counts = rng.poisson(rng.gamma(0.4, 1.5, (1, genes)) * trend * rng.gamma(3, 0.4, (n, 1)))
    return csr_matrix(counts, dtype=np.float32), centres


def print_table(report: dict[str, Any]) -> None:
    """Show the numbers."""
    print(f"{report['cells']} cells, {report['genes']} genes, Novae: {report['model']}")
    print(f"{'':22} {'cells/s':>10} {'cells/core-s':>13} {'ratio':>7} {'largest difference':>19}")
    for name, rate in report["cells_per_second"].items():
        ratio = report["ratio_per_core_second"].get(name)
        row = f"{name:22} {rate:10.0f} {report['cells_per_core_second'][name]:13.0f}"
        print(f"{row} {ratio:7.1f} {report['largest_difference'][name]:19.1e}" if ratio else row)


if __name__ == "__main__":
    main()
