"""Genes from H&E by STORM's head, its ablations and other methods, on sections of her2st.

    python benchmarks/expression.py --data DIR --out TABLE.csv.gz [--genes 500] [--seeds 3] [--splits sections]

``DIR`` holds ``her2st/`` (see ``storm.datasets``). Patient C has five sections with H&E, patient B one. Both ways
between the patients, with the genes of the sections that train and of those that are judged, and each section of C from
the other four. The methods, splits, scores and rankings are those of ``storm.benchmark.expression``; the ablations run
with one seed. The two ways between the patients are one pair of patients, not two samples. The table is written after
each group of methods.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import storm

SECTIONS = ("C2", "C3", "C4", "C5", "C6", "B4")
GENES = {"sections": "train", "patients": {"train": "train", "test": "test"}}
#: Methods, what the probes among them read, and whether they run with all seeds.
GROUPS = (
    (("storm", "mean", "ridge", "hest", "knn", "mlp", "bleep"), ("model", "storm"), True),
    (("storm_window_1", "storm_untrained", "storm_tile", "storm_random_tile"), ("model",), False),
    (("st_net", "deep_pt"), ("model", "storm"), True),
    (("his_to_gene",), ("model",), True),
)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", nargs="+", choices=tuple(GENES), default=list(GENES))
    args = parser.parse_args()
    storm.settings.verbosity = 0
    sections = {name: storm.datasets.her2st(name, path=args.data / "her2st") for name in SECTIONS}
    for one in sections.values():
        storm.tl.encode_tiles(one, "stain-texture")  # once for all groups
    tables = []
    for methods, encoders, random in GROUPS:
        for splits in args.splits:
            table = storm.benchmark.expression(
                sections,
                methods,
                groups={name: name[0] for name in SECTIONS},
                splits=splits,
                genes=GENES[splits],
                n_genes=args.genes,
                encoders=encoders,
                seeds=range(args.seeds if random else 1),
            )
            tables.append(table)
            pd.concat(tables).to_csv(args.out, index=False)
            print(storm.benchmark.summary(table).drop(columns="same_patient").round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
