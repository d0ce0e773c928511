"""Spatial domains before and after fitting the model on the section itself (``storm.tl.adapt``), without labels.

    python benchmarks/adapt.py --data DIR --model FOLDER:C1,G2,rep12 --model FOLDER:B1,D1,rep11 --json OUT [--only NAME]

Every ``--model`` is adapted to, and scored on, the sections named behind it, which it must not have been trained on
(train folds with ``scripts/train_storm_mini.py --hold-out``). Labels are used for scores only: K is the number of
annotated classes, unlabelled spots are fitted and clustered with the others and left out of the score, k-means starts
from five seeds. Results are added to ``--json`` as they come.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from domain_sections import MISSING, read_section

import storm

#: What is compared: arguments of ``storm.tl.adapt``. ``model=None`` is from scratch; the fold's model otherwise.
SETTINGS: dict[str, dict] = {
    "unadapted": {},
    "defaults": {"expression": "keep"},
    "scratch, defaults": {"model": None},
    "keep, 50, nothing held out": {"expression": "keep", "epochs": 50, "held_out": 0},
    "scratch, 50, nothing held out": {"model": None, "epochs": 50, "held_out": 0},
    "scratch, 50, batches of 32": {"model": None, "epochs": 50, "held_out": 0, "batch_size": 32},
}
_FACTS = ("best_epoch", "epochs", "held_out_loss", "held_out_loss_of_the_mean")
READOUTS = ("section", "window", "reconstruction", "center")


def main() -> None:
    """Fit, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--modality", choices=["st", "both"], default="st")
    parser.add_argument("--models", type=Path, help="keep the adapted models in this folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    for name in args.only:
        rows = []
        for given in args.model:
            folder, _, sections = given.rpartition(":")
            fold = storm.load_model(folder)
            for section in sections.split(","):
                if section in fold.card.get("trained_on", []):
                    msg = f"{folder} was trained on {section}; give a model that was not"
                    raise ValueError(msg)
                rows.append({"setting": name, "section": section} | one(section, fold, name, args))
                print(rows[-1], flush=True)
        for readout in READOUTS:
            mean = np.mean([row["scores"][readout] for row in rows], axis=0)
            print(f"== {name}, {readout}: {mean[0]:.3f} / {mean[1]:.3f}", flush=True)
        done = json.loads(args.json.read_text()) if args.json.is_file() else []
        args.json.write_text(json.dumps(done + rows, indent=1) + "\n")


def one(section: str, fold: storm.StormModel, name: str, args: argparse.Namespace) -> dict:
    """Scores of one section under one setting."""
    found = read_section(section, args.data)
    sdata = found.data
    started, cpu, model, facts = time.perf_counter(), time.process_time(), fold, {}
    setting = SETTINGS[name]
    if setting:
        model = storm.tl.adapt(sdata, **{"model": fold, "modality": args.modality, "seed": args.seed, **setting})
        facts = {key: model.card[key] for key in _FACTS if key in model.card}
    row: dict = {"seed": args.seed, "modality": args.modality, "seconds": round(time.perf_counter() - started, 1)}
    row["cpu_seconds"] = round(time.process_time() - cpu, 1)
    if setting and args.models is not None:
        model.save(args.models / f"{name}, {section}, {args.modality}, {args.seed}")
    names = {f"storm_{args.modality}_{readout}": readout for readout in READOUTS}
    table = storm.benchmark.domains(sdata, list(names), truth=found.column, unlabelled=MISSING, model=model)
    means = table.groupby("method")[["ari", "nmi"]].mean()
    row["scores"] = {readout: means.loc[name].round(4).tolist() for name, readout in names.items()}
    return row | facts


if __name__ == "__main__":
    main()
