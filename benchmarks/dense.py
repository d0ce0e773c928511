"""Measure embeddings of bins from one pass over the tissue (``field="dense"``) against tile by tile.

The section is synthetic (``storm.datasets.toy("visium_hd")``), so no data are needed: bins of 8 µm, each with a field
of 112 µm. With ``stain-texture`` all bins are embedded either way, and what is made of the embeddings is compared:
domains (with the planted ones, and with each other) and genes predicted from H&E on the half of the section that the
head was not trained on. Transformers have random weights here: their rows say what the pass costs and that it is wired
as it should be, not how near dense embeddings of trained weights are. Cosines are between embeddings whose features
are centred on the mean of the exact ones, and, for ``stain-texture``, scaled by their deviation, as models read them.

Rates per core-second count the processor's time, which other work on the machine does not change much.

    python benchmarks/dense.py --json dense.json    # about five minutes
    python benchmarks/dense.py --quick              # about one minute
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import storm
from storm._bridge.read import read_spots
from storm._inference.dense import TilePlan, encode_dense
from storm._inference.device import Compute
from storm._inference.tiles import encode_tiles
from storm.data.spots import Spots
from storm.encoders import EncoderInfo, get_encoder
from storm.metrics.domains import ari
from storm.metrics.expression import pearson_per_gene

#: How both ways are run.
COMPUTE = Compute(devices=(torch.device("cpu"),), batch_size=32)


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000, help="number of bins")
    parser.add_argument("--sample", type=int, default=250, help="bins that a transformer embeds tile by tile")
    parser.add_argument("--quick", action="store_true", help="fewer bins, no large transformer")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    if options.quick:
        options.n, options.sample = 1000, 40
    warnings.simplefilter("ignore")
    storm.settings.verbosity = 0
    torch.set_num_threads(1)
    sdata = storm.datasets.toy("visium_hd", n=options.n)
    spots = read_spots(sdata, table=False)
    encode_dense(subset(spots, np.arange(200)), get_encoder("stain-texture"), COMPUTE, field_um=112.0)  # fills caches
    report: dict[str, Any] = {"bins": options.n, "stain-texture": stain(spots), "downstream": downstream(sdata)}
    report["transformers"] = [transformer(spots, "timm:vit_tiny_patch16_224", options.sample, overlaps=(1, 2, 3))]
    if not options.quick:
        middle = np.argsort(np.abs(spots.centres - np.median(spots.centres, axis=0)).max(axis=1))[:1500]
        report["transformers"].append(transformer(subset(spots, middle), "h0-mini", 60, overlaps=(1,)))
    report["machine"] = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": 1,
        "load_average": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "versions": {p: version(p) for p in ("storm-spatial", "torch", "timm", "numpy")},
    }
    print_tables(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def stain(spots: Spots) -> list[dict[str, Any]]:
    """The encoder of the packaged model, at several spacings."""
    encoder, rows = get_encoder("stain-texture"), []
    rng = np.random.default_rng(0)
    low, high = spots.centres.min(axis=0), spots.centres.max(axis=0)
    at_random = replace(spots, centres=rng.uniform(low, high, spots.centres.shape))
    line = [np.arange(a, min(b, a + 250), 2.0) for a, b in zip(low, high, strict=True)]
    fine = np.stack(np.meshgrid(*line), axis=-1).reshape(-1, 2)
    every_other = (np.round((spots.centres - low) / 8) % 2 == 0).all(axis=1)
    cases = {
        "bins, 8 µm": (spots, slice(None)),
        "bins, 16 µm": (subset(spots, np.flatnonzero(every_other)), slice(None)),
        "bins, 2 µm": (replace(spots, ids=np.arange(len(fine)).astype(str), centres=fine), slice(0, None, 40)),
        "as many cells at random": (at_random, slice(0, None, 8)),
    }
    for name, (places, sample) in cases.items():
        dense, fast = timed(lambda places=places: encode_dense(places, encoder, COMPUTE, field_um=112.0))
        few = subset(places, np.arange(len(places))[sample])
        exact, slow = timed(lambda few=few: tile_by_tile(few, encoder))
        row = {"places": name, "n": len(places), "n_exact": len(few)}
        row |= {"exact_per_core_s": len(few) / slow, "dense_per_core_s": len(places) / fast}
        rows.append(row | agreement(dense[sample], exact, scaled=True))
    return rows


def downstream(sdata: Any) -> dict[str, Any]:
    """What models make of exact and of dense tile embeddings."""
    out: dict[str, Any] = {}
    labels: dict[str, dict[str, Any]] = {}
    left = None
    for field in ("exact", "dense"):
        copy = storm.tl.encode_tiles(sdata, "stain-texture", field=field, device="cpu", copy=True)
        table = copy.tables["table"]
        truth = table.obs["domain"].to_numpy()
        for modality in ("he", "both"):
            storm.tl.embed(copy, field=field, modality=modality, device="cpu")
            storm.tl.domains(copy, n_domains=len(np.unique(truth)))
            labels.setdefault(modality, {})[field] = table.obs["storm_domain"].to_numpy()
            out[f"ari_{modality}_{field}"] = ari(truth, labels[modality][field])
        x = table.obs["array_col"].to_numpy()
        left = x < np.median(x)
        head = storm.tl.fit_expression(copy, train=left, n_genes=100, field=field, device="cpu")
        storm.tl.predict_expression(copy, head=head, field=field, device="cpu", keep="all", to="layer")
        predicted = table.layers["storm"]
        genes = np.isfinite(predicted).all(axis=0)
        counts = table.X[~left][:, genes].toarray()
        measured = np.log1p(1e4 * counts / np.maximum(table.X[~left].sum(axis=1), 1))
        out[f"gene_r_{field}"] = float(np.nanmedian(pearson_per_gene(np.asarray(measured), predicted[~left][:, genes])))
        out["genes"] = int(genes.sum())
    for modality, found in labels.items():
        out[f"ari_{modality}_dense_vs_exact"] = ari(found["exact"], found["dense"])
    return out


def transformer(spots: Spots, name: str, sample: int, *, overlaps: tuple[int, ...]) -> dict[str, Any]:
    """A transformer with random weights."""
    info = get_encoder(name)
    torch.manual_seed(0)
    network = info.architecture().eval().requires_grad_(False)
    info = replace(info, build=lambda: network)
    rows = np.sort(np.random.default_rng(0).choice(len(spots), sample, replace=False))
    few = subset(spots, rows)
    exact, slow = timed(lambda: tile_by_tile(few, info))
    out = {"encoder": name, "weights": "random", "n": len(spots), "n_exact": sample, "field_um": info.field_um}
    out |= {"exact_per_core_s": sample / slow, "dense": []}
    ways = [{"overlap": overlap} for overlap in overlaps]
    if overlaps != (1,):
        ways.append({"overlap": 1, "patch_tokens": True})
    for way in ways:
        dense, fast = timed(lambda way=way: encode_dense(spots, info, COMPUTE, field_um=info.field_um, **way))
        tiles = len(TilePlan.make(spots.centres, info.field_um / way["overlap"]).middles)
        row = way | {"tiles": tiles, "flop_ratio": len(spots) / tiles, "dense_per_core_s": len(spots) / fast}
        out["dense"].append(row | agreement(dense[rows], exact, scaled=False))
    return out


def tile_by_tile(spots: Spots, encoder: EncoderInfo) -> np.ndarray:
    """The exact way."""
    return encode_tiles(spots, encoder, COMPUTE, field_um=encoder.field_um)


def subset(spots: Spots, rows: np.ndarray) -> Spots:
    """Some of the spots."""
    return Spots(spots.ids[rows], spots.centres[rows], True, patches=spots.patches, scale=spots.scale)


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Result and core-seconds."""
    start = time.process_time()
    result = function()
    return np.asarray(result), time.process_time() - start


def agreement(dense: np.ndarray, exact: np.ndarray, *, scaled: bool) -> dict[str, float]:
    """Cosine of what is read: features less their mean, scaled or not."""
    scale = exact.std(axis=0) if scaled else 1.0
    a, b = ((x - exact.mean(axis=0)) / scale for x in (dense, exact))
    raw, cosine = (
        (p * q).sum(axis=1) / np.linalg.norm(p, axis=1) / np.linalg.norm(q, axis=1) for p, q in ((dense, exact), (a, b))
    )
    out = {"cosine_mean": float(cosine.mean()), "cosine_p5": float(np.percentile(cosine, 5))}
    out |= {"raw_cosine_mean": float(raw.mean()), "raw_cosine_p5": float(np.percentile(raw, 5))}
    if scaled:
        out["rms_in_deviations"] = float(np.sqrt(np.square(a - b).mean()))
    return out


def print_tables(report: dict[str, Any]) -> None:
    """Print what was measured."""
    head = ("", "exact /core-s", "dense /core-s", "ratio", "cosine", "5th perc.", "RMS in SD")
    print(" | ".join(head))
    for row in report["stain-texture"]:
        slow, fast = row["exact_per_core_s"], row["dense_per_core_s"]
        cells = (f"{slow:.0f}", f"{fast:,.0f}", f"{fast / slow:.1f}", f"{row['cosine_mean']:.6f}")
        print(" | ".join([row["places"], *cells, f"{row['cosine_p5']:.6f}", f"{row['rms_in_deviations']:.1e}"]))
    print()
    for name, value in report["downstream"].items():
        print(f"{name}: {value:.4f}")
    print()
    print(
        "transformer, random weights | tiles | FLOP ratio | exact /core-s | dense /core-s | ratio | cosine | 5th perc."
    )
    for found in report["transformers"]:
        for row in found["dense"]:
            way = f"{found['encoder']}, overlap {row['overlap']}" + (", patch tokens" * ("patch_tokens" in row))
            slow, fast = found["exact_per_core_s"], row["dense_per_core_s"]
            cells = (str(row["tiles"]), f"{row['flop_ratio']:.0f}", f"{slow:.1f}", f"{fast:,.0f}", f"{fast / slow:.0f}")
            print(" | ".join([way, *cells, f"{row['cosine_mean']:.3f}", f"{row['cosine_p5']:.3f}"]))


if __name__ == "__main__":
    main()
