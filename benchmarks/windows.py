"""Windows at scale: making the index, and running the network over it.

    python benchmarks/windows.py --n 700000 --run 20000 --size mini --json windows.json

``--n`` bins in random order on a turned square lattice with 20 % holes, the same number of hexagonal spots, and cells;
``scipy`` is the plain way, a KD-tree over the points as they come (25 nearest for lattices, 9 for cells). Then the
network of ``--size`` (random weights) over windows of ``--run`` bins: each window's spots gathered and projected by
themselves, beside :func:`storm.tl.embed`'s way, which projects a spot once for all windows of a patch and gathers into
one buffer. Core-seconds of one process; peak memory beyond what was held before, by the process's high-water mark, so
that it can be stated only where a step needs more than all before.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

import storm
from storm._inference.device import Compute
from storm._inference.windows import run_windows
from storm.data.windows import Windows, make_windows
from storm.model import WindowBatch, build_storm
from storm.model.readout import window


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=700_000, help="spots of the index")
    parser.add_argument("--run", type=int, default=20_000, help="windows that the network runs over; 0 for none")
    parser.add_argument("--size", default="mini", help="named size of the network")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    storm.settings.verbosity = 0
    rows = index_rows(options.n) + (run_rows(options) if options.run else [])
    for row in rows:
        cost = f"{row['core_s']:>10.2f} core-s{row['per_core_s']:>14,.0f} /core-s{row['extra_gb']:>8.2f} GB"
        print(f"{row['what']:<46}{cost}")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "rows": rows}, indent=1) + "\n")


def index_rows(n: int) -> list[dict[str, Any]]:
    """Index of three kinds of sections."""
    rng = np.random.default_rng(0)
    result = []
    for kind, points in sections(n, rng).items():
        k = 9 if kind == "cells" else 25
        result.append(
            measure(f"{kind}: scipy's {k} nearest", len(points), lambda p=points, k=k: cKDTree(p).query(p, k=k))
        )
        result.append(measure(f"{kind}: storm's windows", len(points), lambda p=points: make_windows(p)))
    return result


def sections(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Points of each kind, in random order."""
    side = int(np.ceil(np.sqrt(n / 0.8)))
    places = np.argwhere(rng.random((side, side)) > 0.2)
    places = places[rng.permutation(len(places))]
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    hexagonal = np.array([[1, 0], [0.5, np.sqrt(3) / 2]])
    return {
        "square lattice": places @ turn * 8.0,
        "hexagonal lattice": places @ hexagonal @ turn * 100.0,
        "cells": rng.random((n, 2)) * 10 * np.sqrt(n),
    }


def run_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The network over one section, in both ways, twice."""
    rng = np.random.default_rng(0)
    network = build_storm(options.size).eval()
    points = sections(options.run, rng)["square lattice"]
    n = len(points)
    tokens = {
        "he": rng.standard_normal((n, network.config.he_dim), dtype=np.float32),
        "st": rng.standard_normal((n, network.config.st_dim), dtype=np.float32),
    }
    windows = make_windows(points)
    compute = Compute(devices=(torch.device("cpu"),), batch_size=options.batch_size)
    found: dict[str, dict[str, np.ndarray]] = {}
    ways: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "each window by itself": lambda: plainly(network, tokens, windows, options.batch_size),
        "storm": lambda: run_windows(network, tokens, windows, compute, readout="window"),
    }
    result = []
    for turn in ("", ", again"):
        for name, way in ways.items():
            result.append(measure(f"{options.size}: {name}{turn}", n, lambda w=way, k=name: found.update({k: w()})))
    one, two = found.values()
    difference = max(float(np.nanmax(abs(one[name] - two[name]))) for name in one)
    assert difference < 1e-4, f"the two ways differ by {difference}"
    return result


def plainly(network, tokens, windows: Windows, batch_size: int) -> dict[str, np.ndarray]:
    """Gather and project every window's spots by themselves."""
    values = {name: torch.from_numpy(array) for name, array in tokens.items()}
    out: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for start in range(0, len(windows), batch_size):
            rows = slice(start, start + batch_size)
            members = torch.from_numpy(windows.index[rows]).long()
            parts = {}
            for name, array in values.items():
                parts[name] = array[members.clamp(min=0)]
                parts[f"{name}_mask"] = members >= 0
            batch = WindowBatch(offsets=torch.from_numpy(windows.offsets), **parts)
            for name, vector in window(network(batch), batch).items():
                out.setdefault(name, np.empty((len(windows), vector.shape[1]), np.float32))[rows] = vector.numpy()
    return out


def measure(what: str, n: int, work: Callable[[], Any]) -> dict[str, Any]:
    """Core-seconds and rise of the high-water mark of memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    work()
    seconds = time.process_time() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"what": what, "n": n, "core_s": seconds, "per_core_s": n / seconds, "extra_gb": extra}


if __name__ == "__main__":
    main()
