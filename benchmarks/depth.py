"""What unequal depth of domains does to the tests of their genes: annotated sections, and the same without biology.

    python benchmarks/depth.py --data DIR               # about two minutes; DIR holds her2st and signatures

Each pathologist's domain is compared with the rest of its section by ``storm.tl.rank_domain_genes``, as it is and with
``match_depth=True``. The null section has the same spots, domains and depths, but every spot draws its counts from one
profile, that of the whole section: whatever is called there is called for the depth. The same
for types of cells, by ``storm.tl.composition``.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from anndata import AnnData
from domain_sections import MISSING, Section, read_section
from scipy.sparse import csr_matrix

import storm

DOMAINS = {
    "B1": ["invasive cancer", "breast glands"],
    "C1": ["invasive cancer"],
    "D1": ["invasive cancer", "immune infiltrate"],
    "G2": ["invasive cancer", "immune infiltrate", "cancer in situ"],
}


def without_biology(table: AnnData, seed: int = 0) -> AnnData:
    """The same spots with counts of one profile."""
    rng = np.random.default_rng(seed)
    profile = np.asarray(table.X.sum(axis=0), dtype=np.float64).ravel()
    depth = np.asarray(table.X.sum(axis=1)).ravel().astype(int)
    null = table.copy()
    null.X = csr_matrix(np.stack([rng.multinomial(n, profile / profile.sum()).astype(np.float32) for n in depth]))
    return null


def genes(name: str, section: Section, tables: dict[str, AnnData], min_pct: float) -> None:
    """Print what is called of each domain's genes."""
    for domain in DOMAINS[name]:
        for kind, table in tables.items():
            section.data.tables["table"] = table
            for matched in (False, True):
                storm.tl.rank_domain_genes(
                    section.data, "label", "rest", groups=[domain], match_depth=matched, min_pct=min_pct
                )
                frame = storm.get.rank_domain_genes(section.data).dropna(subset="pvals")
                ratio = table.uns["storm"]["rank_genes_groups"]["depth_ratio"][0]
                cells = [f"{name}, {domain}", str(int((table.obs["label"] == domain).sum())), f"{ratio:.1f}", kind,
                         "yes" if matched else "no"]  # fmt: skip
                for p in ("pvals", "p_spatial"):
                    called, up = frame[f"{p}_adj"] < 0.05, frame["scores"] > 0
                    cells += [f"{(frame[p] < 0.05).mean():.3f}", f"{(called & up).sum()} / {(called & ~up).sum()}"]
                print("| " + " | ".join(cells) + " |", flush=True)


def types(name: str, section: Section, tables: dict[str, AnnData]) -> None:
    """Print what is called of all domains' types, and the types of immune infiltrates."""
    for kind, table in tables.items():
        section.data.tables["table"] = table
        for signature, method in (("til10", "nnls"), ("mcp", "markers")):
            for matched in (False, True):
                storm.tl.composition(
                    section.data, storm.datasets.signatures(signature), method=method, key="label", match_depth=matched,
                    key_added=f"X_{signature}",
                )  # fmt: skip
                tests = storm.get.composition_tests(section.data, key_added=f"X_{signature}").dropna(subset="pvals")
                called = tests["p_spatial_adj"] < 0.05
                print(
                    f"| {name} | {signature} | {kind} | {'yes' if matched else 'no'} | {called.sum()} of {len(tests)} |"
                )
                own = tests[(tests["group"] == "immune infiltrate")].sort_values("rank_biserial", ascending=False)
                if kind == "measured" and len(own):
                    print(own.head(4)[["type", "rank_biserial", "p_spatial", "p_spatial_adj"]].round(4).to_string())


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--min-pct", type=float, default=0.0)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    storm.settings.data_dir = args.data
    warnings.filterwarnings("ignore", message="spots of some domains have many more")
    sections = {name: read_section(name, args.data, image=False) for name in DOMAINS}
    tables = {}
    for name, section in sections.items():
        label = section.table.obs[section.column].astype(object)
        section.table.obs["label"] = label.where(~label.isin(MISSING)).astype("category")
        tables[name] = {"measured": section.table, "one profile": without_biology(section.table)}
    print("| section, domain | spots | genes per spot, ratio | counts | depth matched | p < .05 | BH, up / down | "
          "spatial, p < .05 | spatial, BH, up / down |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, section in sections.items():
        genes(name, section, tables[name], args.min_pct)
    print("\n| section | signature | counts | depth matched | tests called, spatial, BH |\n|---|---|---|---|---|")
    for name, section in sections.items():
        types(name, section, tables[name])


if __name__ == "__main__":
    main()
