"""Prediction intervals and unusual tiles of virtual genes, on sections that the head was not trained on.

    python benchmarks/intervals.py --data DIR [--genes 500] [--json OUT]

``DIR`` holds ``her2st/`` and ``mob/`` (see ``storm.datasets``). Patient C has five sections with H&E, patient B one:

- each section of C by a head that was trained on the other four: another section of a known patient;
- B4 by a head of all five, and the five by a head of B4: another patient, which is not promised;
- the same with some spots of B4 measured (ten random choices): its other spots;
- with both patients in the training, and the head chosen by what holds for either (``groups=``): each section of C by a
  head of B4 and the other four, and each half of B4 (along x, with a gap of two spots) by a head of C and its other
  half;
- tiles of each of these, and of a mouse's olfactory bulb, against the tiles of C.

Coverage is of spots × genes at a nominal 90 %, for the depth of each spot (rounded to the depths of the table), beside
that of one interval for all depths. The genes are the most variable ones of the training sections.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np

import storm
from storm._bridge import read_spots
from storm.data.normalise import log_normalise
from storm.metrics import conformal_quantile, coverage_by_depth, expression_report, interval_coverage

PATIENT_C, OTHER = ("C2", "C3", "C4", "C5", "C6"), ("B4",)


def load(name: str, data: Path):
    """A section with the embeddings of its tiles."""
    kind = "mob" if name.startswith("rep") else "her2st"
    sdata = getattr(storm.datasets, kind)(name, path=data / kind)
    storm.tl.encode_tiles(sdata, storm.load_model("storm-mini").tile_encoder)
    return sdata


def judge(head, flat, sdata, rows=slice(None)) -> dict:
    """Coverage, width and correlation on a section, or some of its spots."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        storm.tl.predict_expression(sdata, head=head, keep="all", to="table", device="cpu")
    table = sdata.tables["table_storm"]
    spots = read_spots(sdata, image=False)
    columns = {name: i for i, name in enumerate(spots.genes)}
    known = [g for g in table.var_names if g in columns]
    truth = log_normalise(spots.counts)[:, [columns[g] for g in known]].toarray()[rows]
    pred = table[:, known].to_df().to_numpy()[rows]
    depth = np.asarray(spots.counts.sum(axis=1)).ravel()[rows]
    at = [head.genes.index(g) for g in known]
    limits = [np.stack([head.intervals.at(d)[side][at] for d in depth]) for side in (0, 1)]
    lower, upper = np.maximum(pred + limits[0], 0), np.maximum(pred + limits[1], 0)
    one_limits = None if flat is None else [np.maximum(pred + side[at], 0) for side in flat]
    genes = expression_report(truth, pred, genes=known, lower=lower, upper=upper)
    by_depth = coverage_by_depth(truth, lower, upper, depth=depth)
    row = {
        "spots": len(truth),
        "umi": int(np.median(depth)),
        "r": float(genes["pearson"].median()),
        "coverage": float(genes["coverage"].mean()),
        "genes_above_80": float((genes["coverage"] > 0.8).mean()),
        "by_depth": by_depth["coverage"].round(3).tolist(),
        "width_sd": float((genes["width"] / truth.std(axis=0)).median()),
        "unusual": float(table.uns["storm"]["storm"]["unusual_tiles"]),
    }
    if one_limits is not None:
        one = expression_report(truth, pred, genes=known, lower=one_limits[0], upper=one_limits[1])
        row["coverage_flat"] = float(one["coverage"].mean())
        row["flat_by_depth"] = coverage_by_depth(truth, *one_limits, depth=depth)["coverage"].round(3).tolist()
    return row


def recalibrated(head, sdata, k: int, repeats: int = 10) -> dict:
    """Coverage of the spots that a head was not recalibrated by, over random choices of those that it was."""
    table, spots = sdata.tables["table_storm"], read_spots(sdata, image=False)
    columns = {name: i for i, name in enumerate(spots.genes)}
    known = [g for g in head.genes if g in columns]
    at = [head.genes.index(g) for g in known]
    truth = log_normalise(spots.counts)[:, [columns[g] for g in known]].toarray()
    pred, depth = table[:, known].to_df().to_numpy(), np.asarray(spots.counts.sum(axis=1)).ravel()
    deepest = depth > np.quantile(depth, 0.75)
    found = []
    for seed in range(repeats):
        chosen = np.isin(np.arange(len(truth)), np.random.default_rng(seed).choice(len(truth), k, replace=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            own = storm.tl.recalibrate_expression(head, sdata, chosen, device="cpu").intervals.at()
        limits = [np.maximum(pred + side[at], 0) for side in own]
        covered = [
            interval_coverage(truth[rows], limits[0][rows], limits[1][rows]) for rows in (~chosen, ~chosen & deepest)
        ]
        found.append((covered[0].mean(), np.quantile(covered[0], 0.05), covered[1].mean()))
    mean, low, deep = np.mean(found, axis=0)
    span = [round(float(f([one[0] for one in found])), 3) for f in (min, max)]
    return {"coverage": float(mean), "least_most": span, "gene_at_5_percent": float(low), "deepest": float(deep)}


def fit(sections: list, n_genes: int):
    """A head, and for comparison one interval of each gene for all depths, if there are sections to hold out."""
    head = storm.tl.fit_expression(sections, n_genes=n_genes, device="cpu")
    return head, flat_interval(head, sections) if len(sections) > 1 else None


def two_patients(sections: dict, n_genes: int) -> dict:
    """Heads of both patients, chosen by the rule for several, on what they were not trained on; beside heads of C."""
    rows = {}

    def both(label: str, names: list, sdata, test=slice(None), masks=None) -> None:
        parts, patients = [sections[n] for n in names], [n[0] for n in names]
        head = storm.tl.fit_expression(parts, n_genes=n_genes, groups=patients, train=masks, device="cpu")
        own = storm.tl.fit_expression(parts[: -len(OTHER)], list(head.genes), device="cpu")
        for of, one in (("C and B4", head), ("C", own)):
            chosen = {key: one.notes["config"][key] for key in ("penalty", "scale")}
            rows[f"{label} (rest of {of})"] = judge(one, None, sdata, test) | chosen

    for name in PATIENT_C:
        both(name, [*(n for n in PATIENT_C if n != name), *OTHER], sections[name])
    x = read_spots(sections["B4"], image=False).centres[:, 0]
    middle, gap = np.median(x), 2 * 200.0
    names = [*PATIENT_C, *OTHER]
    for side, train, test in (("right", x < middle - gap, x >= middle), ("left", x > middle + gap, x <= middle)):
        masks = [np.ones(sections[n].tables["table"].n_obs, dtype=bool) for n in PATIENT_C] + [train]
        both(f"B4, {side} half", names, sections["B4"], np.flatnonzero(test), masks)
    return rows


def flat_interval(head, sections: list) -> tuple[np.ndarray, np.ndarray]:
    """Signed quantiles of the errors as they are: what a table by depth replaces."""
    errors = []
    for i, held in enumerate(sections):
        others = [s for j, s in enumerate(sections) if j != i]
        part = storm.tl.fit_expression(others, list(head.genes), device="cpu", conformal=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            storm.tl.predict_expression(held, head=part, keep="all", to="table", device="cpu")
        spots = read_spots(held, image=False)
        columns = {name: j for j, name in enumerate(spots.genes)}
        truth = log_normalise(spots.counts)[:, [columns[g] for g in head.genes]].toarray()
        errors.append(truth - held.tables["table_storm"].to_df().to_numpy())
    error = np.concatenate(errors)
    return -conformal_quantile(-error, alpha=0.05), conformal_quantile(error, alpha=0.05)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    sections = {name: load(name, args.data) for name in (*PATIENT_C, *OTHER, "rep11")}
    rows = {}
    for name in PATIENT_C:
        rest = [sections[n] for n in PATIENT_C if n != name]
        rows[f"{name} (rest of C)"] = judge(*fit(rest, args.genes), sections[name])
    whole, flat = fit([sections[n] for n in PATIENT_C], args.genes)
    rows["B4 (C)"] = judge(whole, flat, sections["B4"])
    other = fit([sections["B4"]], args.genes)
    for name in PATIENT_C:
        rows[f"{name} (B4)"] = judge(*other, sections[name])
    for k in (20, 40, 80):
        rows[f"B4 (C, {k} spots of B4)"] = recalibrated(whole, sections["B4"], k)
    rows |= two_patients(sections, args.genes)
    bulb = sections["rep11"]
    raw = np.asarray(bulb.tables["table"].obsm["X_stain-texture"])
    rows["bulb rep11, tiles only (C)"] = {"unusual": float((whole.novelty.p(raw) <= 0.05).mean())}
    for name, row in rows.items():
        print(name.ljust(28), json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
