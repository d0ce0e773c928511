"""Genes from H&E by STORM's head, its ablations and other methods, on sections of her2st.

    python benchmarks/expression.py --data DIR --out TABLE.csv.gz [--genes 500] [--seeds 3]

``DIR`` holds ``her2st/`` (see ``storm.datasets``). Patient C has five sections with H&E, patient B one. Both ways
between the patients, with the genes of the sections that train and of those that are judged, and each section of C from
the other four. The methods, splits, scores and rankings are those of ``storm.benchmark.expression``. The two ways
between the patients are one pair of patients, not two samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import storm

SECTIONS = ("C2", "C3", "C4", "C5", "C6", "B4")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*")
    args = parser.parse_args()
    sections = {name: storm.datasets.her2st(name, path=args.data / "her2st") for name in SECTIONS}
    slow = ("his_to_gene",)
    names = [m for m in storm.benchmark.methods(task="expression") if not m.endswith("_image") and m not in slow]
    tables = []
    for encoders, methods in ((["model", "storm"], args.methods or names), (["model"], [] if args.methods else slow)):
        for splits, genes in (("patients", {"train": "train", "test": "test"}), ("sections", "train")):
            if methods:
                tables.append(
                    storm.benchmark.expression(
                        sections,
                        methods,
                        groups={name: name[0] for name in SECTIONS},
                        splits=splits,
                        genes=genes,
                        n_genes=args.genes,
                        encoders=encoders,
                        seeds=range(args.seeds),
                    )
                )
                pd.concat(tables).to_csv(args.out, index=False)
    summary = storm.benchmark.summary(pd.concat(tables, ignore_index=True))
    for (split, genes), rows in summary.groupby(["split", "genes"], sort=False):
        print(f"\n{split}, genes: {genes}")
        print(rows.drop(columns=["split", "genes", "same_patient"]).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
