"""Scores of domains on a large section: core-seconds, memory, and how far an estimate is from the exact score.

    python benchmarks/metrics.py --n 700000 --json metrics.json

Simulated cells and bins with 12 domains whose borders are ragged, in random order. The silhouette beyond 20,000 spots
is an estimate from 2,000 seeded spots against all; beside it stands scikit-learn's ``sample_size=2000``, which thins
the spots themselves. Both are compared, over ten seeds, with the exact score on a section of ``--exact`` spots.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import silhouette_score

from storm import metrics


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=700_000)
    parser.add_argument("--exact", type=int, default=15_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in ("cells", "bins"):
        coords, labels = section(kind, options.n)
        guess = np.where(np.random.default_rng(1).random(len(labels)) < 0.1, (labels + 1) % 12, labels)
        for name in ("ari", "nmi", "fmi", "homogeneity", "completeness"):
            rows.append(measure(kind, name, len(labels), partial(getattr(metrics, name), labels, guess)))
        for name in ("chaos", "pas", "asw"):
            rows.append(measure(kind, name, len(labels), partial(getattr(metrics, name), coords, guess)))
    bias = estimates(options.exact)
    for row in rows:
        cost = f"{row['core_s']:>8.2f} core-s{row['extra_gb']:>7.2f} GB"
        print(f"{row['section']:<8}{row['score']:<14}{cost}{row['value']:>12.5f}")
    print("silhouette of", options.exact, "spots:", {name: round(value, 4) for name, value in bias.items()})
    if options.json:
        record = {"options": vars(options) | {"json": None}, "rows": rows, "silhouette": bias}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def section(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and domains."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(n)))
    coords = rng.random((n, 2)) * side * 8 if kind == "cells" else np.argwhere(np.ones((side, side)))[:n] * 8.0
    coords = rng.permutation(coords)
    ragged = coords + rng.normal(0, side * 0.08, coords.shape)
    column = np.clip(ragged[:, 0] * 4 / (side * 8), 0, 3.99).astype(int)
    return coords, column + 4 * np.clip(ragged[:, 1] * 3 / (side * 8), 0, 2.99).astype(int)


def estimates(n: int) -> dict[str, float]:
    """Exact silhouette, and mean and spread of two estimates of it."""
    coords, labels = section("cells", n)
    rng = np.random.default_rng(2)
    # one small domain, which thinning makes smaller still
    labels[rng.choice(n, 60, replace=False)] = 12
    ours = [metrics.silhouette(coords, labels, max_n=1000, n_queries=2000, seed=seed).value for seed in range(10)]
    theirs = [silhouette_score(coords, labels, sample_size=2000, random_state=seed) for seed in range(10)]
    return {
        "exact": metrics.silhouette(coords, labels).value,
        "storm_mean": float(np.mean(ours)), "storm_sd": float(np.std(ours)),
        "sample_size_mean": float(np.mean(theirs)), "sample_size_sd": float(np.std(theirs)),
    }  # fmt: skip


def measure(kind: str, name: str, n: int, work) -> dict[str, Any]:
    """Core-seconds and rise of the high-water mark of memory."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    value = work()
    seconds = time.process_time() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    return {"section": kind, "score": name, "n": n, "core_s": seconds, "extra_gb": extra, "value": float(value)}


if __name__ == "__main__":
    main()
