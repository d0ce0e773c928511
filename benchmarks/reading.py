"""Measure how many H&E patches per second can be read from a stored section.

Compares STORM's patch reader with the two ways that spatialdata offers, ``ImageTilesDataset`` and
``bounding_box_query``, on a real section of her2st (downloaded, or from a mirror: ``--data DIR`` or STORM_DATA_DIR),
written to a temporary zarr store with spatialdata's own chunks. All of them read the same patches in one process; the
peers return them at the image's own resolution, STORM resampled to ``--out-px``. Rates per core-second count the
processor's time, which other work on the machine does not change much.

    python benchmarks/reading.py --section B4 --json reading.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from spatialdata import SpatialData, bounding_box_query, get_pyramid_levels, read_zarr
from spatialdata.dataloader.datasets import ImageTilesDataset
from xarray import DataTree

import storm
from storm._bridge import read_spots
from storm.data.sources import ZarrSource
from storm.data.spots import Spots


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", default="B4", help="her2st section with an image")
    parser.add_argument("--data", type=Path, help="mirror folder of her2st")
    parser.add_argument("--field-um", type=float, default=112.0)
    parser.add_argument("--out-px", type=int, default=224)
    parser.add_argument("--limit", type=int, default=150, help="patches that the slower ways read")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "section.zarr"
        storm.datasets.her2st(options.section, path=options.data).write(store)
        report = measure(read_zarr(store), options)
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(sdata: SpatialData, options: argparse.Namespace) -> dict[str, Any]:
    """Read the same patches in each way."""
    spots = read_spots(sdata)
    limit = min(options.limit, len(spots))
    ways: dict[str, tuple[int, Callable[[], list[np.ndarray]]]] = {
        "storm": (len(spots), lambda: stream(spots, options)),
        "storm, one by one": (limit, lambda: one_by_one(spots, options, limit)),
        "ImageTilesDataset": (limit, lambda: tiles_dataset(sdata, options, limit)),
        "bounding_box_query": (limit, lambda: box_queries(sdata, spots, options, limit)),
        "storm, again": (len(spots), lambda: stream(spots, options)),
    }
    rates, per_core, first = {}, {}, {}
    for name, (n, read) in ways.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        patches = read()
        rates[name] = n / (time.perf_counter() - start)
        per_core[name] = n / (time.process_time() - start_cpu)
        first[name] = patches[0]
    for name in ("ImageTilesDataset", "bounding_box_query"):
        agreement = correlation(first["storm"], first[name])
        assert agreement > 0.95, f"{name} reads another patch (r = {agreement:.2f})"
    source = spots.patches.levels[spots.patches.level_for(options.field_um, options.out_px)].source
    decoded = count_chunks(spots, options)
    return {
        "section": options.section,
        "image": list(source.shape),
        "chunks": list(source.chunks_yx),
        "patches": len(spots),
        "field_um": options.field_um,
        "out_px": options.out_px,
        "patches_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "patches_per_core_second": {name: round(rate, 1) for name, rate in per_core.items()},
        "ratio": {name: round(rates["storm"] / rate, 1) for name, rate in rates.items()},
        "ratio_per_core_second": {name: round(per_core["storm"] / rate, 1) for name, rate in per_core.items()},
        "load_average": os.getloadavg()[0],
        "chunks_decoded": decoded,
        "kB_decoded_per_patch": round(3 * np.prod(source.chunks_yx) * decoded / len(spots) / 1e3, 1),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "versions": {p: version(p) for p in ("storm-spatial", "spatialdata", "zarr", "dask", "pillow")},
    }


def stream(spots: Spots, options: argparse.Namespace) -> list[np.ndarray]:
    """All patches in the order of the chunks; the first spot's patch is returned."""
    out: list[np.ndarray] = []
    for index, patches in spots.patches.iter_patches(spots.centres, field_um=options.field_um, out_px=options.out_px):
        out.extend(patches[index == 0])
    return out


def one_by_one(spots: Spots, options: argparse.Namespace, limit: int) -> list[np.ndarray]:
    """The same reader, patch after patch in the table's order: every patch decodes its own chunks."""
    return [
        spots.patches.read(spots.centres[k : k + 1], field_um=options.field_um, out_px=options.out_px)[0]
        for k in range(limit)
    ]


def tiles_dataset(sdata: SpatialData, options: argparse.Namespace, limit: int) -> list[np.ndarray]:
    """Read through spatialdata's torch dataset."""
    region = sdata.tables["table"].uns["spatialdata_attrs"]["region"]
    dataset = ImageTilesDataset(
        sdata, {region: "he"}, {region: "um"}, tile_dim_in_units=options.field_um, table_name="table"
    )
    return [full_resolution(dataset[k]["he"]) for k in range(limit)]


def box_queries(sdata: SpatialData, spots: Spots, options: argparse.Namespace, limit: int) -> list[np.ndarray]:
    """Query a box for each spot."""
    low, high = spots.centres - options.field_um / 2, spots.centres + options.field_um / 2
    return [
        full_resolution(
            bounding_box_query(
                sdata["he"],
                axes=("x", "y"),
                min_coordinate=low[k],
                max_coordinate=high[k],
                target_coordinate_system="um",
            )
        )
        for k in range(limit)
    ]


def full_resolution(element: Any) -> np.ndarray:
    """Pixels of the finest level, which the query of a pyramid keeps beside the others."""
    array = get_pyramid_levels(element, n=0) if isinstance(element, DataTree) else element
    return np.moveaxis(array.to_numpy(), 0, 2)


def correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Check that two patches of different sizes show the same."""
    resized = np.asarray(Image.fromarray(theirs).resize(ours.shape[:2], Image.Resampling.BICUBIC))
    return float(np.corrcoef(ours.ravel(), resized.ravel())[0, 1])


def count_chunks(spots: Spots, options: argparse.Namespace) -> int:
    """Chunks that the stream decodes."""
    seen = 0
    read = ZarrSource.read_chunk

    def counting(self: ZarrSource, i: int, j: int) -> np.ndarray:
        nonlocal seen
        seen += 1
        return read(self, i, j)

    ZarrSource.read_chunk = counting
    try:
        stream(spots, options)
    finally:
        ZarrSource.read_chunk = read
    return seen


def print_table(report: dict[str, Any]) -> None:
    """Show the numbers."""
    print(
        f"her2st {report['section']}: {report['patches']} patches of {report['field_um']:g} µm from an image of "
        f"{report['image'][2]} × {report['image'][1]} px in chunks of {report['chunks'][1]} × {report['chunks'][0]}, "
        f"{report['cores']} cores"
    )
    print(f"{'':20} {'patches/s':>12} {'ratio':>7} {'patches/core-s':>16} {'ratio':>7}")
    for name, rate in report["patches_per_second"].items():
        print(
            f"{name:20} {rate:12.1f} {report['ratio'][name]:7.1f} "
            f"{report['patches_per_core_second'][name]:16.1f} {report['ratio_per_core_second'][name]:7.1f}"
        )
    print(f"{report['chunks_decoded']} chunks decoded, {report['kB_decoded_per_patch']:.0f} kB per patch")


if __name__ == "__main__":
    main()
