"""Level and power of the rank-sum test between domains, without and with what neighbouring spots share.

    python benchmarks/spatial_tests.py                  # about five minutes, no data needed

Genes are Poisson counts whose log mean is a Gaussian field, smoothed over σ pitches (0: independent spots), of a
standard deviation of 0.7; 400 spots of a 20 × 20 lattice. Nine in ten genes know nothing of the domains; a tenth has
a fold change between them. Domains are two halves, a central patch of 100 spots, or two k-means clusters of the null
genes themselves (twelve principal components), which is double dipping: there every gene counts as false, as none has
a cause.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from storm.biology.distances import distance_bins
from storm.biology.ranks import benjamini_hochberg, rank_columns, rank_sum_test, spatial_rank_test

SIDE = 20


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--fold", type=float, default=2.0)
    given = parser.parse_args()
    print(f"{given.repeats} sections of {given.genes} genes, fold change {given.fold:g}; shares of genes")
    columns = ["Wilcoxon, p < .05", "Wilcoxon, BH", "spatial, p < .05", "spatial, BH", "power, BH", "power, spatial"]
    print("| domains | σ |", " | ".join(columns), "|")
    print("|---|---|---|---|---|---|---|---|")
    for layout in ("halves", "patch", "clustered"):
        for sigma in (0, 1, 2, 3):
            rows = np.array([list(one(layout, sigma, seed, given)) for seed in range(given.repeats)])
            cells = " | ".join("" if np.isnan(value) else f"{value:.3f}" for value in rows.mean(axis=0))
            print(f"| {layout} | {sigma} | {cells} |", flush=True)


def one(layout: str, sigma: float, seed: int, given: argparse.Namespace) -> Iterator[float]:
    """Shares of null genes that are called, by test, and of the others."""
    rng = np.random.default_rng([seed, int(sigma)])
    centres = np.array([(x, y) for y in range(SIDE) for x in range(SIDE)], dtype=float)
    field = rng.normal(size=(given.genes, SIDE, SIDE))
    if sigma:
        field = gaussian_filter(field, (0, sigma, sigma), mode="wrap")
    field = 0.7 * field.reshape(given.genes, -1).T / field.std()
    counts = rng.poisson(np.exp(field))
    if layout == "clustered":
        scores = PCA(12, random_state=0).fit_transform(np.log1p(counts))
        domain = KMeans(2, n_init=5, random_state=0).fit_predict(scores) == 1
        true = np.zeros(given.genes, dtype=bool)
    else:
        domain = centres[:, 0] < SIDE / 2 if layout == "halves" else (abs(centres - 9.5) < 5).all(axis=1)
        true = np.arange(given.genes) < given.genes // 10
        counts[:, true] = rng.poisson(np.exp(field[:, true]) * np.where(domain, given.fold, 1.0)[:, None])
    ranks = rank_columns(counts)
    plain = rank_sum_test(ranks, domain).p
    spatial = spatial_rank_test(ranks, domain, distance_bins(centres, domain, pitch=1.0))[1]
    for p in (plain, spatial):
        yield (p[~true] < 0.05).mean()
        yield (benjamini_hochberg(p)[~true] < 0.05).mean()
    for p in (plain, spatial):
        yield (benjamini_hochberg(p)[true] < 0.05).mean() if true.any() else float("nan")


if __name__ == "__main__":
    main()
