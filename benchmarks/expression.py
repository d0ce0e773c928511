"""Genes from H&E by storm's head and by other methods on the same tiles: same sections, genes, splits and seeds.

    python benchmarks/expression.py --data DIR [--genes 500] [--seeds 3] [--json OUT]

``DIR`` holds ``her2st/`` (see ``storm.datasets``). Patient C has five sections with H&E, patient B one. Splits:

- ``within C``: each section of C from the other four;
- ``C to B4`` and ``B4 to C``: another patient. These are one pair of patients, not two samples.

The methods beside storm's head run twice: on the embedding of a spot's own tile, standardised within its section, and
on the features of storm's head, which see the window around it. Neither uses expression. All predict the same
log-normalised expression. Two lists of genes: the most variable ones of C's sections, and those of B4, among the genes
that all six measure. A list is chosen on all sections of its patient, those that are held out among them, and for all
methods alike.

r is the median over genes, pooled over all held-out spots and within each section (mean over sections). "top 50" is r
within sections of the 50 genes that storm's head ranks first by r on spots held out of *training*; "flattered" is that
of the 50 genes that are best on the sections that are judged, for each method its own.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import nn

import storm
from storm._bridge import read_spots
from storm._bridge.keys import Keys
from storm._bridge.study import open_study
from storm._inference.device import Compute
from storm._inference.head_reading import read_head_section
from storm.data.normalise import log_normalise
from storm.metrics import expression_report, score_expression, top_n_curve

PATIENT_C, PATIENT_B = ("C2", "C3", "C4", "C5", "C6"), ("B4",)
SPLITS = {
    "within C": [(tuple(n for n in PATIENT_C if n != name), (name,)) for name in PATIENT_C],
    "C to B4": [(PATIENT_C, PATIENT_B)],
    "B4 to C": [(PATIENT_B, PATIENT_C)],
}

Method = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def mean(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Mean of the training spots: no r, only an error to beat."""
    return np.tile(y.mean(axis=0), (len(new), 1))


def hest(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """HEST's probe (Jaume et al., NeurIPS 2024): scaler, 256 components, ridge with alpha = 100 / (d · genes).

    As there, without intercept; HEST's target is log1p of counts, here it is that of all methods, centred.
    """
    scaler = StandardScaler().fit(x)
    pca = PCA(min(256, *x.shape), random_state=seed).fit(scaler.transform(x))
    z, offset = pca.transform(scaler.transform(x)), y.mean(axis=0)
    ridge = Ridge(alpha=100 / (z.shape[1] * y.shape[1]), fit_intercept=False, solver="lsqr").fit(z, y - offset)
    return ridge.predict(pca.transform(scaler.transform(new))) + offset


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Ridge regression with a penalty of 31.6 per spot on standardised features."""
    scaler = StandardScaler().fit(x)
    return Ridge(alpha=31.6 * len(x)).fit(scaler.transform(x), y).predict(scaler.transform(new))


def neighbours(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Mean expression of the 50 training spots with the nearest features."""
    scaler = StandardScaler().fit(x)
    near = NearestNeighbors(n_neighbors=50).fit(scaler.transform(x))
    return y[near.kneighbors(scaler.transform(new), return_distance=False)].mean(axis=1)


class Projection(nn.Module):
    """BLEEP's projection head: linear, GELU, linear, dropout, residual, layer norm; to 256."""

    def __init__(self, width: int, out: int = 256) -> None:
        super().__init__()
        self.project = nn.Linear(width, out)
        self.rest = nn.Sequential(nn.GELU(), nn.Linear(out, out), nn.Dropout(0.1))
        self.norm = nn.LayerNorm(out)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Project (n, width) to (n, 256)."""
        projected = self.project(values)
        return self.norm(projected + self.rest(projected))


def bleep(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int, *, epochs: int = 50) -> np.ndarray:
    """BLEEP (Xie et al., NeurIPS 2023) on tile embeddings in the place of its image network.

    Soft contrastive loss with temperature 1, AdamW 1e-3 / 1e-3, batches of 512, the mean expression of the 50 training
    spots whose projected expression is nearest in angle to the projected tile. 50 epochs, a number of
    ours that no held-out spot chose.
    """
    scaler = StandardScaler().fit(x)
    tiles, spots, query = (
        torch.from_numpy(np.asarray(values, dtype=np.float32))
        for values in (scaler.transform(x), y, scaler.transform(new))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image, gene = Projection(tiles.shape[1]), Projection(spots.shape[1])
        optimiser = torch.optim.AdamW([*image.parameters(), *gene.parameters()], lr=1e-3, weight_decay=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(tiles)).split(512):
                a, b = image(tiles[rows]), gene(spots[rows])
                logits = b @ a.T
                wanted = (((a @ a.T) + (b @ b.T)) / 2).softmax(dim=-1).detach()
                loss = nn.functional.cross_entropy(logits, wanted) + nn.functional.cross_entropy(logits.T, wanted.T)
                optimiser.zero_grad(set_to_none=True)
                (loss / 2).backward()
                optimiser.step()
    image.eval()
    gene.eval()
    with torch.inference_mode():
        a, b = (nn.functional.normalize(values, dim=-1) for values in (image(query), gene(spots)))
        best = (a @ b.T).topk(min(50, len(b)), dim=-1).indices.numpy()
    return y[best].mean(axis=1)


METHODS: dict[str, Method] = {
    "mean": mean,
    "HEST's ridge probe": hest,
    "ridge (31.6)": ridge,
    "kNN (50)": neighbours,
    "BLEEP-style": bleep,
}
SEEDED = ("BLEEP-style",)


class Sections:
    """Sections with the embeddings of their tiles, features and measured expression."""

    def __init__(self, data: Path) -> None:
        self.objects, self.spots = {}, {}
        self.features: dict[str, dict[str, np.ndarray]] = {"own tile": {}, "storm's features": {}}
        model = storm.load_model("storm-mini")
        for name in (*PATIENT_C, *PATIENT_B):
            sdata = storm.datasets.her2st(name, path=data / "her2st")
            storm.tl.encode_tiles(sdata, model.tile_encoder)
            raw = np.asarray(sdata.tables["table"].obsm["X_stain-texture"], dtype=np.float64)
            self.objects[name], self.spots[name] = sdata, read_spots(sdata, image=False)
            self.features["own tile"][name] = (raw - raw.mean(axis=0)) / np.maximum(raw.std(axis=0), 1e-8)
            study = open_study(sdata, Keys(), library_key=None, image_key=None, image=True, writable=False)
            self.features["storm's features"][name] = read_head_section(
                next(iter(study)),
                None,
                model,
                Compute.of("cpu"),
                wanted=None,
                field_um=model.tile_encoder.field_um,
                field="exact",
                by=model.settings["standardise"],
            ).features

    def truth(self, name: str, genes: list[str]) -> np.ndarray:
        """Log-normalised expression."""
        column = {gene: i for i, gene in enumerate(self.spots[name].genes)}
        return log_normalise(self.spots[name].counts)[:, [column[gene] for gene in genes]].toarray()

    def variable(self, names: tuple[str, ...], n: int) -> list[str]:
        """The genes of largest variance within some sections, of those that all sections measure."""
        common = sorted(set.intersection(*(set(spots.genes) for spots in self.spots.values())))
        variance = np.sum([self.truth(name, common).var(axis=0) for name in names], axis=0)
        return [common[i] for i in np.argsort(-variance, kind="stable")[:n]]


def storm_head(sections: Sections, train: tuple[str, ...], test: tuple[str, ...], genes: list[str]):
    """Predictions of storm's head for each test section, and the head."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        head = storm.tl.fit_expression([sections.objects[n] for n in train], genes, device="cpu", conformal=False)
        out = []
        for name in test:
            storm.tl.predict_expression(sections.objects[name], head=head, keep="all", to="table", device="cpu")
            out.append(sections.objects[name].tables["table_storm"][:, genes].to_df().to_numpy())
    return np.concatenate(out), head


def judge(truth: np.ndarray, pred: np.ndarray, slides: np.ndarray, genes: list[str], rank: np.ndarray, **who) -> dict:
    """Correlation pooled, within sections and of the top 50, and the error."""
    report = expression_report(truth, pred, genes=genes, slides=slides, **who)
    per_gene = report.groupby("gene", sort=False)["pearson"].mean().to_numpy()
    summary = score_expression(truth, pred, slides=slides)
    return {
        "r_pooled": summary["median_r_pooled"],
        "r_slides": summary["median_r_slides"],
        "top_50": top_n_curve(per_gene, ns=[50], rank_by=rank).get(50, np.nan),
        "top_50_flattered": top_n_curve(per_gene, ns=[50]).get(50, np.nan),
        "rmse": float(report["rmse"].median()),
    }


def run(sections: Sections, split: str, genes: list[str], seeds: int) -> dict[str, list[dict]]:
    """All methods on a split: a row for each seed."""
    parts = SPLITS[split]
    tested = [name for _, test in parts for name in test]
    truth = np.concatenate([sections.truth(name, genes) for name in tested])
    slides = np.repeat(tested, [len(sections.spots[name]) for name in tested])
    # A report on another patient makes sure that he is one.
    who = {} if split == "within C" else {"patients": [s[0] for s in slides], "trained_on": [parts[0][0][0][0]]}
    found, heads = [], []
    for train, test in parts:
        pred, head = storm_head(sections, train, test, genes)
        found.append(pred)
        heads.append(head)
    rank = np.mean([head.reliability for head in heads], axis=0)
    rows = {"storm's head": [judge(truth, np.concatenate(found), slides, genes, rank, **who)]}
    rows["storm's head"][0]["chosen"] = sorted({h.notes["config"]["penalty"] for h in heads})
    for kind, features in sections.features.items():
        for name, method in METHODS.items():
            if name == "mean" and kind != "own tile":
                continue
            label = name if name == "mean" else f"{name}, {kind}"
            rows[label] = []
            for seed in range(seeds if name in SEEDED else 1):
                pred = []
                for train, test in parts:
                    x = np.concatenate([features[n] for n in train])
                    y = np.concatenate([sections.truth(n, genes) for n in train])
                    pred.append(method(x, y, np.concatenate([features[n] for n in test]), seed))
                rows[label].append(judge(truth, np.concatenate(pred), slides, genes, rank, **who))
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    sections = Sections(args.data)
    result = {}
    for owner, names in (("C", PATIENT_C), ("B4", PATIENT_B)):
        genes = sections.variable(names, args.genes)
        for split in SPLITS if owner == "C" else ("C to B4", "B4 to C"):
            rows = run(sections, split, genes, args.seeds)
            result[f"{split}, genes of {owner}"] = rows
            print(f"\n{split}, {len(genes)} genes of {owner}", flush=True)
            for name, runs in rows.items():
                text = {
                    key: " ± ".join(
                        f"{f([row[key] for row in runs]):.3f}"
                        for f in ((np.mean, np.std) if len(runs) > 1 else (np.mean,))
                    )
                    for key in ("r_pooled", "r_slides", "top_50", "top_50_flattered", "rmse")
                }
                print(name.ljust(40), text, runs[0].get("chosen", ""), flush=True)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
