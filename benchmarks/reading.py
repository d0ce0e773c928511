"""Measure how many H&E patches per second are read from a stored section, and what the limit is.

The image is the tissue of one real section of her2st (downloaded, or from a mirror: ``--data DIR`` or STORM_DATA_DIR),
mirrored and repeated to ``--size`` pixels and declared to have 0.5 µm/px, written by spatialdata as a zarr of format 3
with a pyramid. Four ways to read are compared at the spacings of Visium, of cells and of 8 µm bins, all in one process:
storm's reader, storm's canvases (pixels for an accelerator that crops and resizes itself), one zarr slice per patch,
and the two ways of spatialdata, ``ImageTilesDataset`` and ``bounding_box_query``. Only storm's patches are resized; the
others come at the image's own resolution. The floor decodes each needed chunk once and does nothing else, by storm's
decoder or by zarr's pipeline.

Rates per core-second count the processor's time, which other work on the machine does not change much. Every way is run
``--repeat`` times and the fastest counts.

    python benchmarks/reading.py --json reading.json    # about ten minutes
    python benchmarks/reading.py --quick                # about one minute
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from anndata import AnnData
from PIL import Image
from scipy import sparse
from spatialdata import SpatialData, bounding_box_query, get_pyramid_levels, read_zarr
from spatialdata.dataloader.datasets import ImageTilesDataset
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale
from xarray import DataTree

import storm
from storm._bridge.image import make_reader
from storm.data.patches import PatchReader
from storm.data.resample import Resampler
from storm.data.sources import Source, ZarrSource
from storm.data.sweep import Sweep

UM_PER_PX = 0.5
#: The part of section C2 that is covered by tissue, in its own pixels: rows, columns.
TISSUE = (slice(4800, 7200), slice(5200, 8200))


@dataclass(frozen=True)
class Case:
    """Centres in µm and what is read around them."""

    name: str
    centres: np.ndarray
    field_um: float
    out_px: int


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="mirror folder of her2st")
    parser.add_argument("--size", type=int, default=30_000, help="edge of the image in pixels")
    parser.add_argument("--chunk", type=int, default=512, help="edge of its chunks")
    parser.add_argument(
        "--patches", type=int, default=200_000, help="patches that storm reads of a dense case, at most"
    )
    parser.add_argument("--limit", type=int, default=200, help="patches that the slower ways read")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smaller image, fewer patches, once")
    parser.add_argument("--store", type=Path, help="where to keep the image, or where it is already")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    if options.quick:
        options.size, options.patches, options.limit, options.repeat = 8000, 50_000, 40, 1
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder) / "section.zarr"
        if not store.exists():
            SpatialData(images={"he": make_image(options)}).write(store)
        report = measure(read_zarr(store), store, options)
    print_table(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def make_image(options: argparse.Namespace) -> DataTree:
    """Tissue of a real section, mirrored and repeated, with a pyramid."""
    section = storm.datasets.her2st("C2", path=options.data)
    tissue = np.asarray(get_pyramid_levels(section["he"], n=0)[:, *TISSUE])
    pair = np.concatenate([tissue, tissue[:, ::-1]], axis=1)
    block = np.concatenate([pair, pair[:, :, ::-1]], axis=2)
    repeats = [-(-options.size // n) for n in block.shape[1:]]
    pixels = np.tile(block, (1, *repeats))[:, : options.size, : options.size]
    return Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2, 2],
        chunks=(3, options.chunk, options.chunk),
        transformations={"um": Scale([UM_PER_PX, UM_PER_PX], axes=("x", "y"))},
    )


def make_cases(options: argparse.Namespace) -> list[Case]:
    """Spacings of the platforms; the dense ones fill a square from one corner."""
    rng, edge = np.random.default_rng(0), options.size * UM_PER_PX - 60
    rows = np.arange(60, edge, 100 * np.sqrt(0.75))
    hexagons = [
        np.column_stack([(x := np.arange(60 + 50 * (k % 2), edge, 100)), 0 * x + y]) for k, y in enumerate(rows)
    ]
    visium = np.concatenate(hexagons) + rng.uniform(-0.1, 0.1, 2)
    side = min(edge - 60, np.sqrt(options.patches) * 11)
    cells = rng.uniform(60, 60 + side, (int((side / 11) ** 2), 2))
    line = np.arange(60.137, 60 + min(edge - 60, np.sqrt(options.patches) * 8), 8)
    bins = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    few = options.patches // 20
    return [
        Case("Visium, 100 µm apart", visium, 112, 224),
        Case("Visium, 100 µm apart", visium, 55, 224),
        Case("cells, 11 µm apart", cells, 16, 32),
        Case("bins, 8 µm apart", bins, 8, 16),
        # neighbours in space: the first rows of bins, and the cells of a corner
        Case("cells, 11 µm apart", cells[np.argsort(cells.max(axis=1))[:few]], 112, 224),
        Case("bins, 8 µm apart", bins[np.argsort(bins.max(axis=1))[:few]], 112, 224),
    ]


def measure(sdata: SpatialData, store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Read the same patches in each way."""
    reader = make_reader(sdata["he"], image_key="he", coordinate_system="um", um_per_unit=1.0)
    Resampler(reader.levels[0].um_to_px, field_um=1, out_px=1).compiles(10**9)
    warm_up = [Case("", np.full((40_000, 2), 100.0), 16, 32), Case("", np.full((4_000, 2), 100.0), 112, 224)]
    for case in warm_up:  # loads and compiles the filter
        drain(reader.iter_patches(case.centres, field_um=case.field_um, out_px=case.out_px))
    cases = []
    for case in make_cases(options):
        cases.append(measure_case(reader, sdata, case, options))
        print("measured:", cases[-1]["case"], cases[-1]["field_um"], flush=True)
    source = reader.levels[0].source
    stored = sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
    return {
        "image": list(source.shape),
        "um_per_px": UM_PER_PX,
        "chunks": list(source.chunks_yx),
        "compression": round(3 * source.width * source.height * (1 + 1 / 4 + 1 / 16) / stored, 2),
        "cases": cases,
        "profile": profile(reader, make_cases(options)[0]),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "versions": {
            p: version(p) for p in ("storm-spatial", "spatialdata", "zarr", "numcodecs", "dask", "pillow", "numba")
        },
    }


def measure_case(reader: PatchReader, sdata: SpatialData, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All ways for one case."""
    how = {"field_um": case.field_um, "out_px": case.out_px}
    level = reader.level_for(**how)
    source = reader.levels[level].source
    needed = needed_chunks(reader, case)
    n = len(case.centres)
    few = case.centres[np.random.default_rng(1).choice(n, min(options.limit, n), replace=False)]
    annotated = annotate(sdata, few)
    array = zarr.open_array(store=source._store, path=source._component, mode="r")
    pixels = few / UM_PER_PX / 2**level
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "floor": (n, lambda: drain(source.read_chunk(*chunk) for chunk in needed)),
        "floor, zarr": (n, lambda: drain(zarr_chunk(array, source, chunk) for chunk in needed)),
        "storm": (n, lambda: drain(reader.iter_patches(case.centres, **how))),
        "storm, canvases": (n, lambda: drain(reader.iter_canvases(case.centres, **how))),
        "storm, one by one": (len(few), lambda: [reader.read(few[k : k + 1], **how)[0] for k in range(len(few))]),
        "zarr per patch": (len(few), lambda: slices(array, pixels, case.field_um / UM_PER_PX / 2**level)),
        "ImageTilesDataset": (len(few), lambda: tiles_dataset(annotated, case.field_um, len(few))),
        "bounding_box_query": (len(few), lambda: box_queries(sdata, few, case.field_um)),
    }
    rates, per_core, results = {}, {}, {}
    for name, (count, read) in ways.items():
        walls, cpus = [], []
        for _ in range(options.repeat):
            start, start_cpu = time.perf_counter(), time.process_time()
            results[name] = read()
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - start_cpu)
        rates[name], per_core[name] = count / min(walls), count / min(cpus)
    agreement = check(results) if case.field_um > 50 else {}
    return {
        "case": case.name,
        "field_um": case.field_um,
        "out_px": case.out_px,
        "um_per_px_read": UM_PER_PX * 2**level,
        "patches": n,
        "agreement": agreement,
        "patches_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "patches_per_core_second": {name: round(rate, 1) for name, rate in per_core.items()},
        "share_of_floor": round(per_core["storm"] / per_core["floor"], 3),
        "share_of_floor_canvases": round(per_core["storm, canvases"] / per_core["floor"], 3),
        "share_of_floor_zarr": round(per_core["storm"] / per_core["floor, zarr"], 3),
        "kB_decoded_per_patch": round(3 * np.prod(source.chunks_yx) * len(needed) / n / 1e3, 2),
        "kB_decoded_per_patch_one_by_one": round(decoded_one_by_one(reader, few, how) / len(few) / 1e3, 1),
    }


def drain(batches: Iterator[Any]) -> None:
    """Take everything and keep nothing."""
    for _ in batches:
        pass


def check(results: dict[str, Any]) -> dict[str, float]:
    """Make sure that all read the same: correlation with storm's patches, the median over patches."""
    ours = results["storm, one by one"]
    out = {}
    for name in ("zarr per patch", "ImageTilesDataset", "bounding_box_query"):
        agreement = float(np.median([correlation(a, b) for a, b in zip(ours, results[name], strict=True)]))
        assert agreement > 0.9, f"{name} reads another patch (r = {agreement:.2f})"
        out[name] = round(agreement, 3)
    return out


def correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Similarity of two patches of different sizes."""
    resized = np.asarray(Image.fromarray(theirs).resize(ours.shape[:2], Image.Resampling.BICUBIC))
    return float(np.corrcoef(ours.ravel(), resized.ravel())[0, 1])


def zarr_chunk(array: zarr.Array, source: ZarrSource, chunk: tuple[int, int]) -> np.ndarray:
    """One chunk through zarr's own pipeline."""
    i, j = chunk
    return array[:, slice(*source.y_edges[i : i + 2].tolist()), slice(*source.x_edges[j : j + 2].tolist())]


def slices(array: zarr.Array, centres_px: np.ndarray, field_px: float) -> list[np.ndarray]:
    """The nearest whole pixels, one slice of the array per patch."""
    corners = np.maximum(np.round(centres_px - field_px / 2).astype(int), 0).tolist()
    size = round(field_px)
    return [np.moveaxis(array[:, y : y + size, x : x + size], 0, 2) for x, y in corners]


def annotate(sdata: SpatialData, centres: np.ndarray) -> SpatialData:
    """A table and shapes of the centres, which spatialdata's torch dataset asks for."""
    table = AnnData(sparse.csr_matrix((len(centres), 1), dtype=np.float32))
    table.obs["region"], table.obs["instance"] = "spots", np.arange(len(centres))
    table.obs["region"] = table.obs["region"].astype("category")
    shapes = ShapesModel.parse(centres, geometry=0, radius=1.0, transformations={"um": Identity()})
    parsed = TableModel.parse(table, region="spots", region_key="region", instance_key="instance")
    return SpatialData(images={"he": sdata["he"]}, shapes={"spots": shapes}, tables={"table": parsed})


def tiles_dataset(sdata: SpatialData, field_um: float, limit: int) -> list[np.ndarray]:
    """Read through spatialdata's torch dataset."""
    dataset = ImageTilesDataset(sdata, {"spots": "he"}, {"spots": "um"}, tile_dim_in_units=field_um, table_name="table")
    return [full_resolution(dataset[k]["he"]) for k in range(limit)]


def box_queries(sdata: SpatialData, centres: np.ndarray, field_um: float) -> list[np.ndarray]:
    """Query a box for each spot."""
    low, high = centres - field_um / 2, centres + field_um / 2
    return [
        full_resolution(
            bounding_box_query(
                sdata["he"], axes=("x", "y"), min_coordinate=a, max_coordinate=b, target_coordinate_system="um"
            )
        )
        for a, b in zip(low, high, strict=True)
    ]


def full_resolution(element: Any) -> np.ndarray:
    """Pixels of the finest level, which the query of a pyramid keeps beside the others."""
    array = get_pyramid_levels(element, n=0) if isinstance(element, DataTree) else element
    return np.moveaxis(array.to_numpy(), 0, 2)


@contextmanager
def watched(owner: type, name: str, note: Callable[[tuple, float], None]) -> Iterator[None]:
    """Note the arguments and the processor's time of every call of a method."""
    method = getattr(owner, name)

    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.thread_time()
        result = method(self, *args, **kwargs)
        note(args, time.thread_time() - start)
        return result

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, method)


def needed_chunks(reader: PatchReader, case: Case) -> list[tuple[int, int]]:
    """Chunks that the reader decodes, each of them once."""
    seen: list[tuple[int, int]] = []
    with watched(Source, "read_chunk", lambda args, _: seen.append(args)):
        drain(reader.iter_canvases(case.centres, field_um=case.field_um, out_px=case.out_px, prefetch=0))
    assert len(set(seen)) == len(seen), "a chunk was decoded twice"
    return seen


def decoded_one_by_one(reader: PatchReader, centres: np.ndarray, how: dict[str, float]) -> int:
    """Bytes that are decoded where each patch decodes its own chunks."""
    sizes: list[int] = []
    source = reader.levels[reader.level_for(**how)].source
    with watched(ZarrSource, "read_chunk", lambda *_: sizes.append(3 * int(np.prod(source.chunks_yx)))):
        for k in range(len(centres)):
            reader.read(centres[k : k + 1], **how)
    return sum(sizes)


def profile(reader: PatchReader, case: Case) -> dict[str, float]:
    """Where the reader's time goes, as shares, without the prefetch thread."""
    spent = {"decoding": 0.0, "canvases": 0.0, "resizing": 0.0}

    def note(key: str) -> Callable[[tuple, float], None]:
        def add(_: tuple, seconds: float) -> None:
            spent[key] += seconds

        return add

    start = time.process_time()
    with (
        watched(ZarrSource, "read_chunk", note("decoding")),
        watched(Sweep, "_assemble", note("canvases")),
        watched(Resampler, "many", note("resizing")),
    ):
        drain(reader.iter_patches(case.centres, field_um=case.field_um, out_px=case.out_px, prefetch=0))
    total = time.process_time() - start
    shares = {key: seconds / total for key, seconds in spent.items()}
    shares["the rest"] = 1 - sum(shares.values())
    return {key: round(share, 3) for key, share in shares.items()} | {"ms per patch": 1e3 * total / len(case.centres)}


def print_table(report: dict[str, Any]) -> None:
    """Show the numbers."""
    _, height, width = report["image"]
    print(
        f"\n{width} × {height} px at {report['um_per_px']} µm/px in chunks of {report['chunks'][1]} × "
        f"{report['chunks'][0]}, compressed {report['compression']} : 1; {report['cores']} cores"
    )
    for case in report["cases"]:
        print(
            f"\n{case['case']}: {case['patches']} patches of {case['field_um']:g} µm → {case['out_px']} px, read at "
            f"{case['um_per_px_read']:g} µm/px; {case['kB_decoded_per_patch']:.4g} kB decoded per patch "
            f"({case['kB_decoded_per_patch_one_by_one']:.4g} one by one)"
        )
        print(f"  {'':20} {'patches/s':>12} {'per core-second':>16} {'share of floor':>15}")
        floor = case["patches_per_core_second"]["floor"]
        for name, rate in case["patches_per_second"].items():
            per_core = case["patches_per_core_second"][name]
            print(f"  {name:20} {rate:12,.0f} {per_core:16,.0f} {per_core / floor:15.1%}")
    shares = ", ".join(f"{key} {share:.0%}" for key, share in report["profile"].items() if key != "ms per patch")
    print(f"\nfirst case, {report['profile']['ms per patch']:.2f} core-ms per patch: {shares}")


if __name__ == "__main__":
    main()
