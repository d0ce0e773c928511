r"""Spatial domains on annotated public sections: STORM's read-outs beside baselines, by platform.

    python benchmarks/domains.py --data DIR --model FOLD_A:C1,G2,rep12 --model FOLD_B:B1,D1,rep11 \
        --model storm-mini:DLPFC_151673,DLPFC_151674,STARmap_VC,STARmap_mPFC_BZ5 [--json OUT]

Every ``--model`` is scored on the sections named behind it, which it must not have been trained on (train folds with
``scripts/train_storm_mini.py --hold-out``). K is the number of annotated classes; unlabelled spots take part in the
clustering and are left out of the score; k-means, ten starts each, begins from five seeds. The baselines
(``domain_baselines.py``) see the same spots, and are clustered and scored in the same way, but for the mixture. The
Novae is trained from scratch, which takes minutes: on the sections that the model beside it was trained on, or, for a
platform of which that has seen none, on the sections of this platform themselves. ``--only`` names the methods to run
instead of all. With ``--json`` results are written after each section, and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from domain_baselines import BASELINES, read_expression
from domain_novae import novae_latent, train_novae
from domain_sections import GROUPS, Section, read_section
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import storm
from storm.metrics.domains import score_domains

SEEDS = range(5)
READOUTS = ("adaptive", "section", "window", "center", "reconstruction")
#: Facts of the provenance that are shown beside the scores.
FACTS = ("reach", "reach_um", "reach_r2", "gate", "gate_r2", "st_tokens")


def load(name: str, data: Path):
    """A section's data, its truth as an array of strings, and which spots have one."""
    section = read_section(name, data)
    return section.data, section.truth, section.known


def k_means(values: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Labels by k-means."""
    return KMeans(k, n_init=10, random_state=seed).fit_predict(values)


def mixture(values: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Labels by a mixture of Gaussians with full covariances."""
    return GaussianMixture(k, random_state=seed).fit_predict(values.astype(np.float64))


def clustered(
    values: np.ndarray, truth: np.ndarray, known: np.ndarray, *, cluster: Callable = k_means
) -> tuple[float, float]:
    """Mean ARI and NMI over the seeds."""
    scores = []
    for seed in SEEDS:
        found = cluster(values, len(np.unique(truth[known])), seed)
        score = score_domains(truth[known], found[known].astype(str))
        scores.append((score["ari"], score["nmi"]))
    ari, nmi = np.mean(scores, axis=0)
    return float(ari), float(nmi)


def methods(section: Section, model: storm.StormModel) -> Iterator[tuple[str, Callable[[], np.ndarray], Callable]]:
    """Name of each method, what computes its representation of the section, and what clusters that."""
    for name, represent in BASELINES.items():
        yield name, lambda represent=represent: represent(read_expression(section)), k_means
    yield "aggregated_mixture", lambda: BASELINES["aggregated"](read_expression(section)), mixture

    def embedded(modality: str, readout: str) -> np.ndarray:
        storm.tl.embed(section.data, model=model, modality=modality, readout=readout)
        return section.table.obsm["X_storm"]

    image = not hasattr(section.data, "obsm") and bool(section.data.images)
    for modality in ("st", "he", "both") if image else ("st",):
        for readout in READOUTS:
            yield f"storm {modality} {readout}", lambda m=modality, r=readout: embedded(m, r), k_means


def group_of(name: str) -> str:
    """Platform of a section."""
    return next(group for group, names in GROUPS.items() if name in names)


def novae_sections(name: str, model: storm.StormModel) -> tuple[str, ...]:
    """Sections on which the Novae for a section is trained."""
    group = group_of(name)
    return tuple(model.card["trained_on"]) if group in ("breast", "bulb") else GROUPS[group]


def show(report: dict) -> None:
    """Print the tables: a row per method, a column per section; and by platform, with the spread over its sections."""
    scores, seconds = report["scores"], report["seconds"]
    sections = [name for names in GROUPS.values() for name in names if any(name in row for row in scores.values())]
    print("ARI / NMI".ljust(28), *(name[-9:].rjust(11) for name in sections))
    for name, row in scores.items():
        cells = [f"{row[s][0]:.2f} / {row[s][1]:.2f}" if s in row else "" for s in sections]
        print(name.ljust(28), *(cell.rjust(11) for cell in cells))
    print("\nmean ± spread".ljust(29), *(group.rjust(27) for group in GROUPS), "mean of groups".rjust(15), "seconds")
    for name, row in scores.items():
        cells, means = [], []
        for names in GROUPS.values():
            values = np.array([row[s] for s in names if s in row])
            if len(values) < len(names):
                cells.append("")
                continue
            mean, spread = values.mean(axis=0), values.std(axis=0)
            means.append(mean)
            cells.append(f"{mean[0]:.3f} ± {spread[0]:.2f} / {mean[1]:.3f} ± {spread[1]:.2f}")
        whole = "{:.3f} / {:.3f}".format(*np.mean(means, axis=0)) if len(means) == len(GROUPS) else ""
        took = " ".join(f"{np.mean([seconds[name][s] for s in n if s in seconds[name]]):.1f}" for n in GROUPS.values()
                        if any(s in seconds[name] for s in n))  # fmt: skip
        print(name.ljust(28), *(cell.rjust(27) for cell in cells), whole.rjust(15), took)


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--json", type=Path, help="scores, seconds, what the read-out chose, Novae's training")
    parser.add_argument("--only", nargs="*", help="names of the table's rows, as in hvg_pca or 'storm st section'")
    args = parser.parse_args()
    storm.settings.verbosity = 0
    warnings.filterwarnings("ignore", message=".*genes that the model reads")
    report: dict = {"scores": {}, "seconds": {}, "facts": {}, "novae_training": {}}
    if args.json and args.json.exists():
        report = json.loads(args.json.read_text())
    trained: dict[tuple[str, ...], object] = {}
    for given in args.model:
        folder, _, names = given.rpartition(":")
        model = storm.load_model(folder)
        for name in names.split(","):
            if name in model.card.get("trained_on", []):
                msg = f"{folder} was trained on {name}; give a model that was not"
                raise ValueError(msg)
        for name in names.split(","):
            section = read_section(name, args.data)
            rows = list(methods(section, model))
            if args.only is None or "novae" in args.only:
                others = novae_sections(name, model)
                if others not in trained and name not in report["scores"].get("novae", {}):
                    trained[others], facts = train_novae(read_section(s, args.data, image=False) for s in others)
                    report["novae_training"][names] = facts
                    print(f"novae for {names}: {facts}", flush=True)
                rows.append(("novae", lambda n=others, s=section: novae_latent(trained[n], s), k_means))
            for method, represent, cluster in rows:
                if args.only is not None and method not in args.only:
                    continue
                if name in report["scores"].get(method, {}):
                    continue
                started = time.perf_counter()
                values = represent()
                took = round(time.perf_counter() - started, 2)
                report["seconds"].setdefault(method, {})[name] = took
                score = clustered(values, section.truth, section.known, cluster=cluster)
                report["scores"].setdefault(method, {})[name] = score
                if method.endswith("adaptive"):
                    chosen = section.table.uns["storm"]["X_storm"]
                    report["facts"][f"{name} {method}"] = {
                        key: np.asarray(chosen[key]).tolist() for key in FACTS if key in chosen
                    }
                print(f"{name} {method}: {score}, {took} s", flush=True)
            if args.json:
                args.json.write_text(json.dumps(report, indent=1, default=float) + "\n")
    show(report)


if __name__ == "__main__":
    main()
