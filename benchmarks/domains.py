"""Spatial domains on annotated public sections: STORM's read-outs beside simple baselines.

    python benchmarks/domains.py --data DIR --model FOLDER:C1,G2,rep12 --model FOLDER:B1,D1,rep11 [--json OUT]

Every ``--model`` is scored on the sections named behind it, which it must not have been trained on (train folds with
``scripts/train_storm_mini.py --hold-out``). K is the number of annotated classes; unlabelled spots take part in the
clustering and are left out of the score; k-means starts from five seeds. The baselines see the same spots:

- ``hvg_pca``: 2,000 highly variable genes, scaled, 30 principal components (scanpy);
- ``smoothing``: the same genes unscaled, averaged with Gaussian weights (σ = 0.7 pitch), 10 principal components.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import scanpy as sc
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import storm
from storm._bridge import read_spots
from storm.data.windows import make_windows
from storm.metrics.domains import score_domains

SEEDS = range(5)
MISSING = ("undetermined", "NA", "nan")


def load(section: str, data: Path):
    """A section, its truth as an array of strings, and which spots have one."""
    mob = section.startswith("rep")
    sdata = storm.datasets.mob(section, path=data) if mob else storm.datasets.her2st(section, path=data, image=False)
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


def baselines(sdata) -> dict[str, np.ndarray]:
    """Representations that need no model."""
    adata = sdata.tables["table"].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    x = adata[:, adata.var["highly_variable"]].X.toarray()
    centres = read_spots(sdata, image=False).centres
    pitch = make_windows(centres).pitch
    near = cKDTree(centres).sparse_distance_matrix(cKDTree(centres), 4 * pitch, output_type="coo_matrix").tocsr()
    near.data = np.exp(-((near.data / pitch) ** 2) / (2 * 0.7**2))
    near.setdiag(1.0)
    smooth = (near @ x) / np.asarray(near.sum(axis=1))
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    return {
        "hvg_pca": PCA(30, random_state=0).fit_transform(scaled),
        "smoothing": PCA(10, random_state=0).fit_transform(smooth),
    }


def main() -> None:
    """Score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    results: dict[str, dict[str, tuple[float, float]]] = {}
    for given in args.model:
        folder, _, sections = given.rpartition(":")
        model = storm.load_model(folder)
        for section in sections.split(","):
            if section in model.card.get("trained_on", []):
                msg = f"{folder} was trained on {section}; give a model that was not"
                raise ValueError(msg)
            sdata, truth, known = load(section, args.data)
            for name, values in baselines(sdata).items():
                results.setdefault(name, {})[section] = clustered(values, truth, known)
            for modality in ("st", "he", "both") if sdata.images else ("st",):
                for readout in ("center", "window", "section", "reconstruction"):
                    storm.tl.embed(sdata, model=model, modality=modality, readout=readout)
                    values = sdata.tables["table"].obsm["X_storm"]
                    results.setdefault(f"storm {modality} {readout}", {})[section] = clustered(values, truth, known)
    sections = sorted({section for scores in results.values() for section in scores})
    print("ARI / NMI".ljust(28), *(s.rjust(11) for s in sections), "mean".rjust(11))
    for name, scores in results.items():
        cells = [f"{scores[s][0]:.2f} / {scores[s][1]:.2f}" if s in scores else "" for s in sections]
        mean = np.mean(list(scores.values()), axis=0)
        print(name.ljust(28), *(c.rjust(11) for c in cells), f"{mean[0]:.3f} / {mean[1]:.3f}".rjust(13))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
