"""Time and memory of the biology of domains on a large section: contacts, genes, gene sets, cells.

    python benchmarks/biology.py                        # 200,000 bins × 18,000 genes, ten domains: about five minutes
    python benchmarks/biology.py --bins 50000

A drawn section, no data needed: bins of 8 µm on a lattice, 200 counts each, blocks of domains with planted genes. Each
step is one call of ``storm.tl``; the memory is the process's largest so far, the section included.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix

import storm

#: Entries of a bin, before those of one gene are added up.
PER_BIN = 200
#: Types of cells of the signature, and its genes.
TYPES, SIGNATURE = 10, 170


def section(bins: int, genes: int, domains: int) -> AnnData:
    """A section whose domains share a profile but for a hundred genes each."""
    rng = np.random.default_rng(0)
    width = int(np.sqrt(bins))
    x, y = np.arange(bins) % width, np.arange(bins) // width
    domain = (x * 5 // width + 5 * (y * 4 * 5 // (bins // width + 1))) % domains
    columns = (genes * rng.random((bins, PER_BIN)) ** 2).astype(np.int32)
    columns[:, :10] = domain[:, None] * 100 + rng.integers(100, size=(bins, 10))
    ends = np.arange(0, bins * PER_BIN + 1, PER_BIN)
    counts = csr_matrix((np.ones(bins * PER_BIN, np.float32), columns.ravel(), ends), shape=(bins, genes))
    counts.sum_duplicates()
    table = AnnData(counts, obsm={"spatial": np.column_stack([x, y]) * 8.0})
    table.obs["storm_domain"] = pd.Categorical(domain.astype(str))
    return table


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bins", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=18_000)
    parser.add_argument("--domains", type=int, default=10)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    rng = np.random.default_rng(1)
    table = section(args.bins, args.genes, args.domains)
    signature = pd.DataFrame(
        rng.gamma(0.4, 50, (SIGNATURE, TYPES)), index=table.var_names[:SIGNATURE], columns=list("abcdefghij")
    )
    sets = {f"set {k}": rng.choice(table.var_names, 100, replace=False).tolist() for k in range(50)}
    sets |= {f"domain {k}": table.var_names[100 * k : 100 * k + 60].tolist() for k in range(args.domains)}
    steps: dict[str, Callable[[], object]] = {
        "adjacent_domains": lambda: storm.tl.adjacent_domains(table),
        "rank_domain_genes": lambda: storm.tl.rank_domain_genes(table),
        "enrich, ora": lambda: storm.tl.enrich(table, sets),
        "enrich, gsea, one domain": lambda: storm.tl.enrich(table, sets, method="gsea", groups="0", key_added="gsea"),
        "signature": lambda: storm.tl.signature(table, domain="0"),
        "composition, nnls": lambda: storm.tl.composition(table, signature, key="storm_domain"),
        "rank_domain_genes, match_depth": lambda: storm.tl.rank_domain_genes(table, match_depth=True),
    }
    print(f"{args.bins:,} bins × {args.genes:,} genes, {args.domains} domains, {table.X.nnz:,} entries; "
          f"{_gigabytes():.1f} GB before\n\n| step | s | core-s | GB |\n|---|---|---|---|")  # fmt: skip
    for name, step in steps.items():
        clock, cores = time.perf_counter(), time.process_time()
        step()
        clock, cores = time.perf_counter() - clock, time.process_time() - cores
        print(f"| {name} | {clock:.0f} | {cores:.0f} | {_gigabytes():.1f} |", flush=True)
    found = storm.get.rank_domain_genes(table, "0")["names"].head(100).astype(int)
    print(f"\nof the first 100 genes of domain 0, {(found < 100).sum()} are planted")


def _gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
