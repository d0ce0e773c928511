"""Measure how busy canvases keep a simulated device when several threads decode the image.

The image of ``benchmarks/reading.py`` (tissue of a real section, mirrored and repeated, 0.5 µm per pixel) is stored as
zarr in chunks of 512 px and as TIFF in JPEG tiles of 256 px. Fields of 112 µm around hexagonal spots 100 µm apart are
read as canvases, which is what an accelerator is sent, and given to a device that sleeps n / ``--rate`` seconds for n
patches, with ``--threads`` decoding threads.

``decoding``
    Reading every needed chunk in as many threads, and nothing else.
``by the clock``
    Share of the time that the device was busy. Where other work uses the cores, that is less than it would be.
``by the processor``
    The same share on as many undisturbed cores as threads: the processor's time of all threads divided by the cores, or
    that of the thread that assembles canvases if this is more, takes the place of the clock. ``goal`` is this share
    with decoding alone in the place of reading.

    python benchmarks/feeding.py --data DIR          # about a minute
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from reading import UM_PER_PX, make_cases, make_image, needed_chunks
from spatialdata import SpatialData, get_pyramid_levels, read_zarr

import storm
from storm._bridge.image import make_reader
from storm.data.patches import PatchReader
from storm.data.prefetch import mapped


def main() -> None:
    """Write the files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="mirror folder of her2st")
    parser.add_argument("--size", type=int, default=12_288, help="edge of the image in pixels")
    parser.add_argument("--rate", type=float, default=8000.0, help="patches a second of the device")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.chunk, options.patches = 512, 20_000
    warnings.simplefilter("ignore")
    storm.settings.verbosity = 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, reader in readers(Path(folder), options).items():
            rows += [{"image": name} | measure(reader, threads, options) for threads in options.threads]
    columns = ["image", "threads", "patches", "decoding", "canvases", "by the clock", "by the processor", "goal"]
    print(
        "decoding, canvases: patches per core-second\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|"
    )
    for row in rows:
        rates = f"{row['decoding']:,.0f} | {row['canvases']:,.0f}"
        shares = f"{row['clock']:.2f} | {row['processor']:.2f} | {row['goal']:.2f}"
        print(f"| {row['image']} | {row['threads']} | {row['patches']:,} | {rates} | {shares} |")
    print(f"load average {os.getloadavg()[0]:.1f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def readers(folder: Path, options: argparse.Namespace) -> dict[str, PatchReader]:
    """The image as zarr and as TIFF."""
    image = make_image(options)
    SpatialData(images={"he": image}).write(folder / "he.zarr")
    size = {"resolution": (1e4 / UM_PER_PX,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(folder / "he.tif") as file:
        for k, level in enumerate(get_pyramid_levels(image)):
            pixels = np.moveaxis(np.asarray(level), 0, 2)
            file.write(
                pixels, tile=(256, 256), photometric="rgb", compression="jpeg", subfiletype=1 if k else 0,
                **size if k == 0 else {},
            )  # fmt: skip
    stored = {"zarr": read_zarr(folder / "he.zarr")["he"], "JPEG TIFF": storm.io.slide(folder / "he.tif")["he"]}
    return {
        name: make_reader(element, image_key="he", coordinate_system="um", um_per_unit=1.0)
        for name, element in stored.items()
    }


def measure(reader: PatchReader, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Decode, and feed the device."""
    case = make_cases(options)[0]
    how = {"field_um": case.field_um, "out_px": case.out_px}
    source, n = reader.levels[reader.level_for(**how)].source, len(case.centres)
    chunks = needed_chunks(reader, case)
    busy = n / options.rate
    best: dict[str, list[float]] = {"decoding": [], "canvases": [], "own": [], "clock": []}
    for _ in range(options.repeat):
        start = time.process_time()
        drain(mapped(lambda chunk: source.read_chunk(*chunk), chunks, threads=threads, ahead=2 * threads))
        best["decoding"].append(time.process_time() - start)
        # In this thread, to know what it does itself.
        start, own = time.process_time(), time.thread_time()
        drain(reader.iter_canvases(case.centres, **how, prefetch=0, threads=threads))
        best["canvases"].append(time.process_time() - start)
        best["own"].append(time.thread_time() - own)
        best["clock"].append(feed(reader.iter_canvases(case.centres, **how, threads=threads), options.rate))
    decoding, core, own, clock = (min(values) for values in best.values())
    return {
        "threads": threads,
        "patches": n,
        "decoding": n / decoding,
        "canvases": n / core,
        "clock": busy / clock,
        "processor": busy / max(busy, core / threads, own),
        "goal": busy / max(busy, decoding / threads),
    }


def feed(canvases: Iterable[Any], rate: float) -> float:
    """Seconds until the device has worked on all canvases."""
    start = time.perf_counter()
    for canvas in canvases:
        time.sleep(len(canvas.index) / rate)
    return time.perf_counter() - start


def drain(items: Iterable[Any]) -> None:
    """Take everything and keep nothing."""
    for _ in items:
        pass


if __name__ == "__main__":
    main()
