"""Spatial domains on annotated public sections: STORM's read-outs beside baselines.

    python benchmarks/domains.py --data DIR --model FOLDER:C1,G2,rep12 --model FOLDER:B1,D1,rep11 [--json OUT]

Every ``--model`` is scored on the sections named behind it, which it must not have been trained on (train folds with
``scripts/train_storm_mini.py --hold-out``). K is the number of annotated classes; unlabelled spots take part in the
clustering and are left out of the score; k-means starts from five seeds. The baselines (``domain_baselines.py``) see
the same spots, and are clustered and scored in the same way; the Novae is trained from scratch on the sections that the
model beside it was trained on, which takes minutes; ``--only`` names the methods to run instead of all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from domain_baselines import BASELINES, novae_latent, read_expression, train_novae
from sklearn.cluster import KMeans

import storm
from storm.metrics.domains import score_domains

SEEDS = range(5)
MISSING = ("undetermined", "NA", "nan")
READOUTS = ("section", "window", "center", "reconstruction")


def read(section: str, data: Path, *, image: bool):
    """A section as SpatialData."""
    return (storm.datasets.mob if section.startswith("rep") else storm.datasets.her2st)(section, path=data, image=image)


def load(section: str, data: Path):
    """A section, its truth as an array of strings, and which spots have one."""
    mob = section.startswith("rep")
    sdata = read(section, data, image=mob)
    truth = sdata.tables["table"].obs["layer" if mob else "label"].astype(str).to_numpy()
    return sdata, truth, ~np.isin(truth, MISSING)


def clustered(values: np.ndarray, truth: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Mean ARI and NMI over the seeds."""
    scores = []
    for seed in SEEDS:
        found = KMeans(len(np.unique(truth[known])), n_init=10, random_state=seed).fit_predict(values)
        score = score_domains(truth[known], found[known].astype(str))
        scores.append((score["ari"], score["nmi"]))
    ari, nmi = np.mean(scores, axis=0)
    return float(ari), float(nmi)


def methods(sdata, model: storm.StormModel, novae) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Name of each method, and what computes its representation of the section."""
    for name, represent in BASELINES.items():
        yield name, lambda represent=represent: represent(read_expression(sdata))
    if novae is not None:
        yield "novae", lambda: novae_latent(novae, sdata)

    def embedded(modality: str, readout: str) -> np.ndarray:
        storm.tl.embed(sdata, model=model, modality=modality, readout=readout)
        return sdata.tables["table"].obsm["X_storm"]

    for modality in ("st", "he", "both") if sdata.images else ("st",):
        for readout in READOUTS:
            yield f"storm {modality} {readout}", lambda m=modality, r=readout: embedded(m, r)


def show(scores: dict[str, dict[str, tuple[float, float]]], seconds: dict[str, dict[str, float]]) -> None:
    """Print the table: a row per method, a column per section, the mean, and the mean time of a section."""
    sections = sorted({section for row in scores.values() for section in row})
    print("ARI / NMI".ljust(28), *(s.rjust(11) for s in sections), "mean".rjust(13), "seconds".rjust(8))
    for name, row in scores.items():
        cells = [f"{row[s][0]:.2f} / {row[s][1]:.2f}" if s in row else "" for s in sections]
        ari, nmi = np.mean(list(row.values()), axis=0)
        mean, took = f"{ari:.3f} / {nmi:.3f}", f"{np.mean(list(seconds[name].values())):.1f}"
        print(name.ljust(28), *(c.rjust(11) for c in cells), mean.rjust(13), took.rjust(8))


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--json", type=Path, help="written after each section: scores, seconds, Novae's training")
    parser.add_argument("--only", nargs="*", help="names of the table's rows, as in hvg_pca or 'storm st section'")
    args = parser.parse_args()
    storm.settings.verbosity = 0
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    seconds: dict[str, dict[str, float]] = {}
    training: dict[str, dict[str, float]] = {}
    for given in args.model:
        folder, _, sections = given.rpartition(":")
        model, novae = storm.load_model(folder), None
        for section in sections.split(","):
            if section in model.card.get("trained_on", []):
                msg = f"{folder} was trained on {section}; give a model that was not"
                raise ValueError(msg)
        if args.only is None or "novae" in args.only:
            novae, training[sections] = train_novae(read(s, args.data, image=False) for s in model.card["trained_on"])
            print(f"novae for {sections}: {training[sections]}", flush=True)
        for section in sections.split(","):
            sdata, truth, known = load(section, args.data)
            for name, represent in methods(sdata, model, novae):
                if args.only is not None and name not in args.only:
                    continue
                started = time.perf_counter()
                values = represent()
                seconds.setdefault(name, {})[section] = round(time.perf_counter() - started, 2)
                scores.setdefault(name, {})[section] = clustered(values, truth, known)
                print(f"{section} {name}: {scores[name][section]}, {seconds[name][section]} s", flush=True)
            if args.json:
                report = {"scores": scores, "seconds": seconds, "novae_training": training}
                args.json.write_text(json.dumps(report, indent=1) + "\n")
    show(scores, seconds)


if __name__ == "__main__":
    main()
