"""Train the packaged model ``storm-mini`` on public sections, or a fold of it that leaves sections out.

    python scripts/train_storm_mini.py --data DIR --out DIR [--hold-out C G rep12] [--epochs 3]

``--data`` is a mirror of the public data sets, with the folders ``her2st`` and ``mob`` and, for Ensembl ids,
``genes/human_10x_features.tsv``. ``--hold-out`` takes patients (``C``), sections (``C2``, ``rep12``) or both; nothing
of them is used for anything, and the model is then scored on those that have labels or H&E. Runs on two cores in about
ten minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

import storm
from storm._bridge.read import read_spots
from storm._inference.device import Compute
from storm._inference.tiles import encode_tiles
from storm._loading import StormModel
from storm.data.genes import Vocabulary
from storm.data.normalise import log_normalise, standardise
from storm.data.windows import make_windows
from storm.encoders import get_encoder
from storm.expression import FactorExpression
from storm.metrics.domains import score_domains
from storm.metrics.expression import pearson_per_gene
from storm.model import build_storm
from storm.pretraining.config_groups import OptimiserConfig
from storm.pretraining.factors import Panel, choose_genes, fit_factors, spread_within
from storm.pretraining.fit import fit
from storm.pretraining.objective import Masking
from storm.pretraining.sections import TrainingSection

HER2ST = [f"{p}{i}" for p, n in zip("BCDEFGH", (6, 6, 6, 3, 3, 3, 3), strict=True) for i in range(1, n + 1)]
MOB = ["rep11", "rep12"]
WITH_HE = ["B4", "C2", "C3", "C4", "C5", "C6", *MOB]
LABELLED = {"B1": "label", "C1": "label", "D1": "label", "G2": "label", "rep11": "layer", "rep12": "layer"}
HER2ST_GENES, MOB_GENES, FACTORS = 4000, 2000, 64
#: A section with H&E is shown this often per epoch: there are 8 of them against 24 without.
HE_REPEATS = 3


def load(name: str, data: Path):
    """One section as a SpatialData."""
    if name in MOB:
        return storm.datasets.mob(name, path=data)
    return storm.datasets.her2st(name, path=data, image=name in WITH_HE)


def held_out(name: str, chosen: list[str]) -> bool:
    """Whether a section, or its patient, is left out."""
    return name in chosen or (name not in MOB and name[0] in chosen)


def prepare(names: list[str], data: Path, encoder: str):
    """Per section: expression under its own names, windows, raw tile embeddings (or None)."""
    panels, windows, tiles = {}, {}, {}
    for name in names:
        spots = read_spots(load(name, data), image=name in WITH_HE)
        panels[name] = Panel(log_normalise(spots.counts), spots.genes)
        windows[name] = make_windows(spots.centres)
        tiles[name] = None
        if name in WITH_HE:
            info = get_encoder(encoder)
            tiles[name] = encode_tiles(
                spots, info, Compute(devices=(torch.device("cpu"),), batch_size=64), field_um=info.field_um
            )
        print(f"{name}: {len(spots)} spots, {panels[name].expression.shape[1]} genes", flush=True)
    return panels, windows, tiles


def ensembl_ids(symbols: list[str], data: Path) -> tuple[str, ...]:
    """Ensembl id of each symbol, from 10x's public feature list."""
    path = data / "genes" / "human_10x_features.tsv"
    if not path.is_file():
        return ()
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    by_symbol: dict[str, str] = {}
    for row in rows:
        by_symbol.setdefault(row[1].upper(), row[0])
    return tuple(by_symbol.get(symbol, "") for symbol in symbols)


def train(names: list[str], args: argparse.Namespace) -> tuple[StormModel, list[dict]]:
    """Vocabulary, expression encoder, statistics and network, from the named sections only."""
    panels, windows, tiles = prepare(names, args.data, "stain-texture")
    symbols = choose_genes(
        [
            ([panels[n] for n in names if n not in MOB], HER2ST_GENES),
            ([panels[n] for n in names if n in MOB], MOB_GENES),
        ]
    )
    over = {name: panels[name].over(symbols) for name in names}
    factors = fit_factors([over[name] for name in names], FACTORS, seed=args.seed)
    raw = {}
    for name, (values, measured) in over.items():
        at = torch.from_numpy(np.flatnonzero(measured))
        raw[name] = factors(torch.from_numpy(values[:, measured]), at).numpy()
        raw[name][values.sum(axis=1) == 0] = np.nan
    spread = {
        "st": spread_within(list(raw.values())),
        "he": spread_within([values for values in tiles.values() if values is not None]),
    }
    stats = {f"{name}_mean": mean for name, (mean, _) in spread.items()}
    stats |= {f"{name}_std": std for name, (_, std) in spread.items()}
    sections = []
    for name in names:
        values, measured = over[name]
        he = tiles[name]
        if he is not None:
            he = np.clip(standardise(he, stats["he_mean"], stats["he_std"], within=True), -6, 6)
        st = standardise(raw[name], stats["st_mean"], stats["st_std"], within=True, isotropic=True)
        # Tokens are relative to their section, so are the targets.
        target = np.where(measured, values - values.mean(axis=0), 0).astype(np.float32)
        sections += [TrainingSection(name, windows[name], he, st, target, measured)] * (1 if he is None else HE_REPEATS)
    torch.manual_seed(args.seed)
    network = build_storm("mini", he_dim=get_encoder("stain-texture").dim, st_dim=FACTORS, n_genes=len(symbols))
    config = OptimiserConfig(epochs=args.epochs, warmup_epochs=min(1, args.epochs / 3), batch_size=256, lr=1e-3)
    history = fit(
        network,
        sections,
        config,
        masking=Masking(n_visible=5, he_only=0.3, genes_per_step=384),
        seed=args.seed,
        on_epoch=lambda record: print(record, flush=True),
    )
    statistics = nn.ParameterDict(
        {
            name: nn.Parameter(torch.from_numpy(value.astype(np.float32)), requires_grad=False)
            for name, value in stats.items()
        }
    )
    settings = {
        "standardise": "section",
        "readout": "section",
        "modality_weights": {"he": 0.5, "st": 1.0},
    }
    vocabulary = Vocabulary(tuple(symbols), ensembl_ids(symbols, args.data))
    network.requires_grad_(False).eval()
    model = StormModel(
        name="storm-mini",
        network=network,
        tile_encoder=get_encoder("stain-texture"),
        expression=FactorExpression(factors, vocabulary, min_genes=50),
        vocabulary=vocabulary,
        statistics=statistics,
        settings=settings,
    )
    return model, history


def score(model: StormModel, names: list[str], data: Path, seeds: int = 5) -> list[dict]:
    """ARI and NMI of the shipped defaults on labelled sections, K the number of classes, per modality."""
    rows = []
    for name in names:
        sdata = load(name, data)
        table = sdata.tables["table"]
        truth = table.obs[LABELLED[name]].astype(object).where(~table.obs[LABELLED[name]].isin(["undetermined", "NA"]))
        known = truth.notna().to_numpy()
        for modality in ["st", "he", "both"] if name in WITH_HE else ["st"]:
            storm.tl.embed(sdata, model=model, modality=modality)
            scores = []
            for seed in range(seeds):
                storm.tl.domains(sdata, int(truth.nunique()), seed=seed)
                found = table.obs["storm_domain"].to_numpy()
                result = score_domains(truth[known].astype(str).to_numpy(), np.asarray(found)[known].astype(str))
                scores.append((result["ari"], result["nmi"]))
            ari, nmi = np.mean(scores, axis=0)
            rows.append(
                {"section": name, "modality": modality, "ari": round(ari, 3), "nmi": round(nmi, 3), "seeds": seeds}
            )
            print(rows[-1], flush=True)
    return rows


def score_expression(model: StormModel, trained: list[str], unseen: list[str], data: Path) -> dict:
    """Median Pearson r per gene of the head on unseen sections, beside a linear probe on the same tile features."""
    genes = list(model.head.genes)
    truth, found, slide = [], [], []
    for name in unseen:
        sdata = load(name, data)
        storm.tl.predict_expression(
            sdata, [g for g in genes if g in sdata.tables["table"].var_names], model=model, to="table"
        )
        predicted = sdata.tables["table_storm"].to_df().reindex(columns=genes)
        spots = read_spots(sdata, image=False)
        truth.append(_columns(spots, genes))
        found.append(predicted.to_numpy())
        slide += [name] * len(predicted)
    slide = np.array(slide)
    probe = _linear_probe(trained, unseen, genes, data)
    rows = {}
    for method, values in {"storm": np.concatenate(found), "pca_ridge_probe": probe}.items():
        target = np.concatenate(truth)
        pooled = pearson_per_gene(target, values)
        per_slide = [np.nanmedian(pearson_per_gene(target[slide == s], values[slide == s])) for s in unseen]
        rows[method] = {
            "median_r_pooled": round(float(np.nanmedian(pooled)), 3),
            "median_r_slide": round(float(np.mean(per_slide)), 3),
        }
    print(rows, flush=True)
    return {"trained_on": trained, "tested_on": unseen, "n_genes": len(genes), **rows}


def _columns(spots, genes: list[str]) -> np.ndarray:
    at = {gene: i for i, gene in enumerate(spots.genes)}
    values = log_normalise(spots.counts)
    out = np.full((len(spots), len(genes)), np.nan, dtype=np.float32)
    for j, gene in enumerate(genes):
        if gene in at:
            out[:, j] = values[:, at[gene]].toarray()[:, 0]
    return out


def _linear_probe(trained: list[str], unseen: list[str], genes: list[str], data: Path) -> np.ndarray:
    """PCA and ridge on the same tile features, no network and no neighbours."""
    info = get_encoder("stain-texture")
    features, targets = {}, {}
    for name in [*trained, *unseen]:
        spots = read_spots(load(name, data), image=True)
        features[name] = encode_tiles(
            spots, info, Compute(devices=(torch.device("cpu"),), batch_size=64), field_um=info.field_um
        )
        targets[name] = _columns(spots, genes)
    x, y = (np.concatenate([d[name] for name in trained]) for d in (features, targets))
    known = np.isfinite(x).all(axis=1)
    scaler = StandardScaler().fit(x[known])
    pca = PCA(min(256, x.shape[1], known.sum() - 1), random_state=0).fit(scaler.transform(x[known]))
    z = pca.transform(scaler.transform(x[known]))
    y = np.nan_to_num(y[known])
    ridge = Ridge(alpha=100 / (z.shape[1] * y.shape[1]), fit_intercept=False, solver="lsqr").fit(z, y - y.mean(axis=0))
    blocks = []
    for name in unseen:
        inside = np.isfinite(features[name]).all(axis=1)
        block = np.full((len(inside), len(genes)), np.nan)
        block[inside] = ridge.predict(pca.transform(scaler.transform(features[name][inside]))) + y.mean(axis=0)
        blocks.append(block)
    return np.concatenate(blocks)


def main() -> None:
    """Train, save, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hold-out", nargs="*", default=[])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reuse", action="store_true", help="keep the network in --out, train its head")
    args = parser.parse_args()
    storm.settings.verbosity = 0
    started = time.time()
    names = [name for name in [*HER2ST, *MOB] if not held_out(name, args.hold_out)]
    if args.reuse:
        model = storm.load_model(args.out)
        losses, earlier = model.card["losses"], model.card["minutes"]
    else:
        model, history = train(names, args)
        losses, earlier = {k: round(v, 4) for k, v in history[-1].items() if k in ("he", "st")}, 0
    with_he = [name for name in names if name in WITH_HE and name not in MOB]
    head = storm.tl.fit_expression(
        [load(name, args.data) for name in with_he],
        model=model,
        groups=[name[0] for name in with_he],
        tissue="HER2+ breast cancer (legacy ST)",
    )
    card = {
        "trained_on": names,
        "held_out": [name for name in [*HER2ST, *MOB] if name not in names],
        "head_trained_on": with_he,
        "epochs": args.epochs,
        "seed": args.seed,
        "minutes": round(earlier + (time.time() - started) / 60, 1),
        "losses": losses,
    }
    replace(model, head=head, card=card).save(args.out)
    unseen = [name for name in LABELLED if name not in names]
    report = {"unseen": bool(unseen), "domains": score(model, unseen or list(LABELLED), args.data), **card}
    unseen_he = [name for name in WITH_HE if name not in names and name not in MOB]
    if unseen_he:
        report["expression"] = score_expression(replace(model, head=head), with_he, unseen_he, args.data)
    (args.out / "scores.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
