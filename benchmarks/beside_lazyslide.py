"""From the file of a slide to the features of its tiles, through storm and through LazySlide, both at their defaults.

    python benchmarks/beside_lazyslide.py SLIDE.svs[:UM_PER_PX] ... [--repeat 3] [--json OUT]

Both open the file, find the tissue, lay tiles of 112 µm side by side and embed them at 224 px with one network (timm's
``mobilenetv3_small_050``, random weights): ``storm.io.slide`` and ``storm.tl.encode_tiles``; ``wsidata.open_wsi``,
``find_tissues``, ``tile_tissues`` and ``feature_extraction``. Batch sizes and everything else are each one's own. They
keep other tiles, so that their time is divided by the number of their own. UM_PER_PX is needed where a file does not
say it.

Time is the processor's, of all threads (``time.process_time``), with one torch thread. The whole way is gone
``--repeat`` times, in turn with the other's, after once that is not counted; the fastest counts. Of LazySlide the
extraction of features is also given alone, without opening the file, tissue and tiles, which storm's time includes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

import storm

FIELD_UM, TILE_PX = 112.0, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORK = "mobilenetv3_small_050"
#: Seconds of LazySlide's feature extraction without what comes before it, of every run.
FEATURES_ALONE: list[float] = []


def by_storm(path: Path, um_per_px: float | None, network: nn.Module) -> int:
    """Number of tiles that storm embeds."""
    dim = network(torch.zeros(1, 3, TILE_PX, TILE_PX)).shape[1]
    encoder = storm.encoders.wrap_encoder(
        network, name=NETWORK, dim=dim, tile_px=TILE_PX, field_um=FIELD_UM, mean=MEAN, std=STD
    )
    slide = storm.io.slide(path, um_per_px=um_per_px)
    storm.tl.encode_tiles(slide, encoder, key_added="X_tiles", device="cpu")
    return len(slide.tables["tiles"])


def by_lazyslide(path: Path, um_per_px: float | None, network: nn.Module) -> int:
    """Number of tiles that LazySlide embeds."""
    import lazyslide
    from wsidata import open_wsi

    slide = open_wsi(path, store=None)
    if um_per_px is not None:
        slide.set_mpp(um_per_px)
    lazyslide.pp.find_tissues(slide)
    lazyslide.pp.tile_tissues(slide, TILE_PX, mpp=FIELD_UM / TILE_PX)

    def transform(tile: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.array(tile)).permute(2, 0, 1).float().div_(255)
        return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    start = time.process_time()
    lazyslide.tl.feature_extraction(slide, model=network, transform=transform, device="cpu", pbar=False)
    FEATURES_ALONE.append(time.process_time() - start)
    return len(slide["tiles"])


def timed(work: Callable[..., int], *args: Any) -> tuple[int, float]:
    """What it returns, and seconds of the processor, of all threads."""
    start = time.process_time()
    return work(*args), time.process_time() - start


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", metavar="SLIDE[:UM_PER_PX]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only-storm", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    storm.settings.verbosity = 0
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = timm.create_model(NETWORK, num_classes=0).eval().requires_grad_(False)
    ways = {"storm": by_storm} | ({} if options.only_storm else {"LazySlide": by_lazyslide})
    rows: list[dict[str, Any]] = []
    print("| slide | by | tiles | core-s | tiles per core-second |\n|---|---|---|---|---|")
    for text in options.slides:
        name, _, scale = text.partition(":")
        um_per_px = float(scale) if scale else None
        runs = [
            {by: timed(way, Path(name), um_per_px, network) for by, way in ways.items()}
            for _ in range(options.repeat + 1)
        ]
        for by in ways:
            tiles, seconds = min((run[by] for run in runs[1:]), key=lambda run: run[1])
            rows.append({"slide": Path(name).name, "by": by, "tiles": tiles, "core_s": seconds})
            print(f"| {Path(name).name} | {by} | {tiles} | {seconds:.2f} | {tiles / seconds:.0f} |", flush=True)
        if FEATURES_ALONE:
            alone = min(FEATURES_ALONE[1:])
            rows.append({"slide": Path(name).name, "by": "LazySlide, features alone", "tiles": tiles, "core_s": alone})
            what = "LazySlide, `feature_extraction` alone"
            print(f"| {Path(name).name} | {what} | {tiles} | {alone:.2f} | {tiles / alone:.0f} |", flush=True)
            FEATURES_ALONE.clear()
    packages = ("torch", "timm") if options.only_storm else ("torch", "timm", "lazyslide", "wsidata")
    print(f"\nload average {os.getloadavg()[0]:.1f}, " + ", ".join(f"{one} {version(one)}" for one in packages))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
