"""What ``batch=`` of a joint embedding should take for technical: pooled domains, and sections of unlike composition.

    python benchmarks/batches.py --data DIR [--batch anchors center none] [--json OUT]

``DIR`` holds ``her2st/``, ``mob/`` and ``domains/``. Expression only, the packaged model, k-means.

- **Pooled**: ARI and NMI of all spots of a study together, K = classes, seeds 0 to 4.
- **Alike**: half of one kind of spots is taken out of a section, along x, along y or at random, and given to the study
  as a section of its own that holds nothing else. The same with one kind of spots of another section. What is printed
  is the share of its spots with the label that most spots of the kind have in the first section, K = classes of the
  first section, seeds 0 to 2. Taking a shift for composition, or composition for a shift, costs it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import anndata
import numpy as np
from domain_sections import MISSING, read_section
from sklearn.cluster import KMeans

import storm
from storm._bridge import read_spots
from storm.metrics import ari, nmi

STUDIES = {
    "bulbs": ("rep11", "rep12"),
    "breast, four patients": ("B1", "C1", "D1", "G2"),
    "cortex": ("DLPFC_151673", "DLPFC_151674"),
}
CANCER, GRANULE, NERVE, GLOMERULI = (
    "invasive cancer",
    "Granular Cell Layer",
    "Olfactory nerve layer",
    "Glomerular layer",
)
HALVES = [(name, CANCER) for name in ("B1", "C1", "D1", "G2")]
HALVES += [("rep11", GRANULE), ("rep12", GLOMERULI), ("DLPFC_151673", "WM")]
OTHERS = [("rep11", "rep12", GRANULE), ("rep12", "rep11", GRANULE), ("rep11", "rep12", NERVE)]
OTHERS += [("rep12", "rep11", GLOMERULI), ("DLPFC_151673", "DLPFC_151674", "WM")]
OTHERS += [("B1", "D1", CANCER), ("D1", "G2", CANCER), ("C1", "G2", CANCER), ("G2", "B1", CANCER)]


def load(name: str, data: Path) -> anndata.AnnData:
    """Counts, places in µm and the annotation of a section."""
    section = read_section(name, data, image=False)
    labels = section.table.obs[section.column].astype(str).to_numpy()
    table = anndata.AnnData(section.table.X, var=section.table.var[[]], obs={"truth": labels})
    table.obsm["spatial"] = read_spots(section.data, image=False).centres
    return table


def part(table: anndata.AnnData, rows: np.ndarray) -> anndata.AnnData:
    """Some spots of a section."""
    return table[rows].copy()


def embed(study: list[anndata.AnnData], batch: str) -> np.ndarray:
    """Joint embeddings of all sections, one after the other; spots without one are zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        storm.tl.embed(study, batch=batch, device="cpu")
    return np.nan_to_num(np.concatenate([table.obsm["X_storm"] for table in study]))


def pooled(study: list[anndata.AnnData], batch: str) -> dict[str, float]:
    """Agreement of the domains of all sections with their labels."""
    values, truth = embed(study, batch), np.concatenate([table.obs["truth"].to_numpy(dtype=str) for table in study])
    known = ~np.isin(truth, MISSING)
    scores = []
    for seed in range(5):
        found = KMeans(len(set(truth[known])), n_init=10, random_state=seed).fit_predict(values)[known]
        scores.append((ari(truth[known], found), nmi(truth[known], found)))
    return dict(zip(("ari", "nmi"), np.mean(scores, axis=0).round(3).tolist(), strict=True))


def alike(first: anndata.AnnData, second: anndata.AnnData, kind: str, batch: str) -> float:
    """Share of the second section's spots, all of a kind, with the label of the kind in the first."""
    values, truth = embed([first, second], batch), first.obs["truth"].to_numpy(dtype=str)
    number = len(set(truth) - set(MISSING))
    shares = []
    for seed in range(3):
        found = KMeans(number, n_init=10, random_state=seed).fit_predict(values)
        label = np.bincount(found[: first.n_obs][truth == kind]).argmax()
        shares.append((found[first.n_obs :] == label).mean())
    return round(float(np.mean(shares)), 3)


def situations(sections: dict[str, anndata.AnnData]):
    """Name, first section, second section and kind."""
    for name, kind in HALVES:
        table = sections[name]
        rows = np.flatnonzero(table.obs["truth"].to_numpy(dtype=str) == kind)
        places = np.asarray(table.obsm["spatial"])[rows]
        by = {"x": places[:, 0], "y": places[:, 1], "random": np.random.default_rng(0).random(len(rows))}
        for how, value in by.items():
            out = np.isin(np.arange(table.n_obs), rows[value > np.median(value)])
            yield f"{name}, half of {kind!r} by {how}", part(table, ~out), part(table, out), kind
    for name, other, kind in OTHERS:
        rows = sections[other].obs["truth"].to_numpy(dtype=str) == kind
        yield f"{name}, {kind!r} of {other}", sections[name].copy(), part(sections[other], rows), kind


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", nargs="+", default=["anchors", "center", "none"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    sections = {name: load(name, args.data) for study in STUDIES.values() for name in study}
    result: dict[str, dict] = {}
    for name, members in STUDIES.items():
        result[name] = {b: pooled([sections[m].copy() for m in members], b) for b in args.batch}
        print(name.ljust(60), result[name], flush=True)
    shares = []
    for name, first, second, kind in situations(sections):
        result[name] = {b: alike(first, second, kind, b) for b in args.batch}
        shares.append(list(result[name].values()))
        print(name.ljust(60), result[name], flush=True)
    result["mean share"] = dict(zip(args.batch, np.mean(shares, axis=0).round(3).tolist(), strict=True))
    result["share of situations at .8 and above"] = dict(
        zip(args.batch, (np.array(shares) >= 0.8).mean(axis=0).round(3).tolist(), strict=True)
    )
    for name in ("mean share", "share of situations at .8 and above"):
        print(name.ljust(60), result[name])
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
