"""Measure what share of the time of ``storm.tl.encode_tiles`` is the network's, and how busy it keeps a device.

A painted section (``storm.datasets.toy``, 0.5 µm per pixel, written as zarr with a pyramid) is embedded with fields of
112 µm, resized to 224 px, around hexagonal spots 100 µm apart, random cells and bins of 8 µm. Two networks with random
weights: a fast ConvNet (timm's ``mobilenetv3_small_050``) and a transformer (ViT-Ti, patches of 16 px). Of several
numbers of ``--spots`` the ConvNet embeds a section each: what is done once for a section weighs less in a larger one.

``forward``
    The network alone on the very batches that ``encode_tiles`` gave it, copies of them held in memory. Their memory
    layout is the one that they came in, channels last (N, H, W, C in memory); beside it the same batches copied to
    contiguous NCHW. Of a large section, the first 1,600 tiles.
``storm``
    ``storm.tl.encode_tiles`` from call to result, with its own default of tiles per batch unless ``--batch`` says
    otherwise. Its share is the forward passes' time divided by its own.
``ImageTilesDataset``, ``LazySlide``
    Where installed: the same fields read by spatialdata's torch dataset, resized by torch and passed through the same
    network in batches of 32; and LazySlide's ``feature_extraction``, whose default that is, on the same pixels as a
    tiled TIFF. LazySlide embeds the same tiles as storm; ``ImageTilesDataset``, which takes longest, fewer of them
    (``--limit``), and its time is divided by their number.
``device``
    Two runs against a simulated device of ``--device-rate`` patches a second, which sleeps n / rate seconds for n
    patches: once as an encoder, with patches that are resized on the processor, and once fed with canvases, which is
    what ``encode_tiles`` sends to an accelerator. Reading goes on while it sleeps. Its share is the time that it was
    busy divided by the time on the clock; where other work uses the cores, that is less than it would be. The share by
    the processor's time is what one undisturbed core would reach: busy time / max(busy time, processor's time).

Time is the processor's, of all threads (``time.process_time``), with one torch thread. Every way is run ``--repeat``
times in turn with the others, and the fastest counts. Ratios hold within one run only.

    python benchmarks/end_to_end.py                 # about ten minutes on a busy core
    python benchmarks/end_to_end.py --quick         # about two minutes
    python benchmarks/end_to_end.py --store kept    # keep the sections for the next run or another version of storm
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from anndata import AnnData
from scipy import sparse
from spatialdata import SpatialData, get_pyramid_levels, read_zarr
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, get_transformation
from torch import Tensor, nn

import storm
from storm._bridge.image import make_reader
from storm.encoders import EncoderInfo

UM_PER_PX = 0.5
FIELD_UM = 112.0
TILE_PX = 224
#: LazySlide's default, for the other packages.
BATCH = 32
#: Tiles on which the network alone is timed, at most; those of a large section do not fit into memory.
FORWARD_TILES = 1600
#: What ``encode_tiles`` gives a network without a transformer, and an accelerator, at a time.
DEVICE_BATCH = 256
SPOTS = "Visium, 100 µm apart"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = {"ConvNet": "mobilenetv3_small_050", "ViT-Ti": "vit_tiny_patch16_224"}


def main() -> None:
    """Run the comparison from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spots = "Visium spots of each section, which decide about its size; the first has the other cases, too"
    parser.add_argument("--spots", type=int, nargs="+", default=[400, 4000], help=spots)
    parser.add_argument("--convnet-tiles", type=int, default=1500, help="cells and bins that the ConvNet embeds")
    parser.add_argument("--vit-tiles", type=int, default=200, help="cells and bins that the transformer embeds")
    parser.add_argument("--device-tiles", type=int, default=8000, help="cells and bins for the simulated device")
    parser.add_argument("--batch", type=int, help="tiles per batch of storm; its own default otherwise")
    parser.add_argument("--limit", type=int, default=64, help="tiles that ImageTilesDataset embeds")
    parser.add_argument("--device-rate", type=float, default=8000.0, help="patches a second of the simulated device")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only-storm", action="store_true", help="leave the other packages out")
    parser.add_argument("--no-dataset", action="store_true", help="leave ImageTilesDataset out, which takes longest")
    parser.add_argument("--no-device", action="store_true", help="leave the simulated device out")
    parser.add_argument("--quick", action="store_true", help="fewer tiles, once")
    parser.add_argument("--store", type=Path, help="folder in which sections are kept, or are already")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    if options.quick:
        options.spots, options.convnet_tiles, options.vit_tiles = [150], 300, 48
        options.device_tiles, options.limit, options.repeat = 2000, 16, 1
    warnings.simplefilter("ignore")
    storm.settings.verbosity = 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        sections = [painted(n, options.store or Path(scratch)) for n in options.spots]
        tiffs: list[Path | None] = [None] * len(sections)
        if not options.only_storm and installed("lazyslide"):
            tiffs = [write_tiff(section, Path(scratch) / f"{k}.tif") for k, section in enumerate(sections)]
        report = measure(sections, tiffs, options)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def painted(n: int, folder: Path) -> SpatialData:
    """A section with n spots, stored in a folder."""
    store = folder / f"section-{n}.zarr"
    if not store.exists():
        storm.datasets.toy("visium", n=n, um_per_px=UM_PER_PX, path=store)
    return read_zarr(store)


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def spots_of(section: SpatialData) -> np.ndarray:
    """Centres of the spots in µm."""
    to_um = get_transformation(section["spots"], to_coordinate_system="um")
    points = np.column_stack([section["spots"].geometry.x, section["spots"].geometry.y])
    return points @ to_um.to_affine_matrix(("x", "y"), ("x", "y"))[:2, :2].T


def make_cases(section: SpatialData, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Centres in µm of each spacing; the dense ones fill a square around the middle of the spots."""
    rng = np.random.default_rng(0)
    spots = spots_of(section)
    middle = np.median(spots, axis=0)
    n = max(options.convnet_tiles, options.device_tiles)
    half = np.sqrt(n) * 11 / 2
    line = (np.arange(np.ceil(np.sqrt(n))) - np.sqrt(n) / 2) * 8 + 0.137
    bins = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return {
        SPOTS: spots,
        "cells, 11 µm apart": nearest(middle + rng.uniform(-half, half, (n, 2)), n),
        "bins, 8 µm apart": nearest(middle + bins, n),
    }


def nearest(centres: np.ndarray, n: int) -> np.ndarray:
    """The n centres that are nearest to the middle, in random order."""
    order = np.argsort(np.linalg.norm(centres - np.median(centres, axis=0), axis=1))[:n]
    return centres[np.random.default_rng(1).permutation(order)]


def nearest_to_middle(centres: np.ndarray, n: int) -> np.ndarray:
    """The n of them in the middle, whose spacing is that of all, in the order that they have."""
    distance = np.linalg.norm(centres - np.median(centres, axis=0), axis=1)
    return centres[np.sort(np.argsort(distance)[:n])]


def annotated(section: SpatialData, centres: np.ndarray) -> SpatialData:
    """The section's image with shapes at the centres and a table of them."""
    table = AnnData(sparse.csr_matrix((len(centres), 1), dtype=np.float32))
    table.obs["region"], table.obs["instance"] = "places", np.arange(len(centres))
    table.obs["region"] = table.obs["region"].astype("category")
    shapes = ShapesModel.parse(centres, geometry=0, radius=1.0, transformations={"um": Identity()})
    parsed = TableModel.parse(table, region="places", region_key="region", instance_key="instance")
    return SpatialData(images={"he": section["he"]}, shapes={"places": shapes}, tables={"table": parsed})


class Recorder(nn.Module):
    """A network that keeps the batches it is given while ``batches`` is a list."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.batches: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The network's output."""
        if self.batches is not None and sum(map(len, self.batches)) < FORWARD_TILES:
            self.batches.append(x.clone())  # the same memory holds the next batch
        return self.network(x)


class SimulatedDevice(nn.Module):
    """Something that takes n / rate seconds for n patches, in which the processor is free."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.busy = 0.0

    def work(self, n: int) -> None:
        """Be busy with n patches."""
        start = time.perf_counter()
        time.sleep(n / self.rate)
        # A busy machine wakes the thread late: what it slept longer is the machine's, not the device's.
        self.busy += min(n / self.rate, time.perf_counter() - start)

    def forward(self, x: Tensor) -> Tensor:
        """Three numbers a patch, which cost nothing."""
        self.work(len(x))
        return x[:, :, 0, 0]


def measure(sections: list[SpatialData], tiffs: list[Path | None], options: argparse.Namespace) -> dict[str, Any]:
    """All networks at all spacings, and the device."""
    section = sections[0]
    warm_up(section)
    cases = make_cases(section, options)
    rows = []
    for name, timm_name in NETWORKS.items():
        torch.manual_seed(0)
        network = Recorder(timm.create_model(timm_name, num_classes=0).eval().requires_grad_(False))
        encoder = wrap(network, timm_name)
        n = options.vit_tiles if name == "ViT-Ti" else options.convnet_tiles
        places = [(0, case, nearest_to_middle(centres, n)) for case, centres in cases.items()]
        if name == "ConvNet":
            places[:1] = [(k, SPOTS, spots_of(one)) for k, one in enumerate(sections)]
        for k, case, centres in places:
            row = measure_network(sections[k], tiffs[k], network, encoder, centres, options)
            rows.append({"network": name, "case": case} | row)
            print("measured:", name, case, len(centres), flush=True)
    devices = []
    for case, centres in {} if options.no_device else cases.items():
        devices.append({"case": case} | measure_device(section, centres, options))
        print("measured: device,", case, flush=True)
    return {
        "storm": str(Path(storm.__file__).parent),
        "field_um": FIELD_UM,
        "tile_px": TILE_PX,
        "image": list(get_pyramid_levels(section["he"], n=0).shape),
        "networks": rows,
        "device_rate": options.device_rate,
        "device": devices,
        "torch_threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "versions": versions("storm-spatial", "spatialdata", "torch", "timm", "numba", "zarr", "lazyslide", "wsidata"),
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of those that are installed."""
    out = {}
    for package in packages:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def wrap(network: nn.Module, name: str, *, dim: int | None = None) -> EncoderInfo:
    """A tile encoder of a network."""
    if dim is None:
        with torch.inference_mode():
            dim = network(torch.zeros(1, 3, TILE_PX, TILE_PX)).shape[1]
    normalisation = {} if isinstance(network, SimulatedDevice) else {"mean": MEAN, "std": STD}
    return storm.encoders.wrap_encoder(network, name=name, dim=dim, tile_px=TILE_PX, field_um=FIELD_UM, **normalisation)


def warm_up(section: SpatialData) -> None:
    """Load and compile what is loaded and compiled once, among it the reader's filter."""
    reader = reader_of(section)
    shape = np.array(get_pyramid_levels(section["he"], n=0).shape[:0:-1])
    centres = np.broadcast_to(shape * UM_PER_PX / 2, (4000, 2))
    for _ in reader.iter_patches(centres, field_um=FIELD_UM, out_px=TILE_PX):
        pass
    embed(annotated(section, centres[:8] + np.arange(8)[:, None]), wrap(SimulatedDevice(1e6), "warm up", dim=3))


def reader_of(section: SpatialData) -> Any:
    """Storm's patch reader of the image."""
    return make_reader(section["he"], image_key="he", coordinate_system="um", um_per_unit=1.0)


def embed(sdata: SpatialData, encoder: EncoderInfo, *, batch_size: int | None = None) -> np.ndarray:
    """``storm.tl.encode_tiles``, from call to result."""
    storm.tl.encode_tiles(
        sdata,
        encoder,
        image_key="he",
        table_key="table",
        key_added="X_tiles",
        device="cpu",
        batch_size=batch_size,
        recompute=True,
    )
    return sdata.tables["table"].obsm["X_tiles"]


def measure_network(
    section: SpatialData,
    tiff: Path | None,
    network: Recorder,
    encoder: EncoderInfo,
    centres: np.ndarray,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """One network at one spacing."""
    sdata, n = annotated(section, centres), len(centres)
    few = nearest_to_middle(centres, options.limit)
    network.batches = []
    embedding = embed(sdata, encoder, batch_size=options.batch)
    batches, network.batches = network.batches, None
    n_forward = sum(map(len, batches))
    assert n_forward == n or n_forward >= FORWARD_TILES
    assert np.isfinite(embedding).all()
    layout = "channels last" if batches[0].is_contiguous(memory_format=torch.channels_last) else "contiguous NCHW"
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "storm": (n, lambda: embed(sdata, encoder, batch_size=options.batch)),
        "forward": (n_forward, lambda: forward(network, batches)),
    }
    if not (options.only_storm or options.no_dataset):
        ways["ImageTilesDataset"] = (len(few), lambda: by_dataset(annotated(section, few), network))
    if tiff is not None:
        ways["LazySlide"] = (n, lambda: by_lazyslide(tiff, network, centres))
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "forward, contiguous")}
    for _ in range(options.repeat):
        for name, (count, work) in ways.items():
            seconds[name].append(timed(work) / count)
        contiguous = [x.contiguous() for x in batches]
        seconds["forward, contiguous"].append(timed(lambda c=contiguous: forward(network, c)) / n_forward)
        del contiguous
    best = {name: min(values) for name, values in seconds.items()}
    return {
        "tiles": n,
        "tiles_of_dataset": len(few),
        "layout": layout,
        "batch": len(batches[0]),
        "tiles_per_core_second": {name: round(1 / value, 1) for name, value in best.items()},
        "share_of_forward": {name: round(best["forward"] / best[name], 3) for name in ways if name != "forward"},
        "share_of_forward_contiguous": round(best["forward, contiguous"] / best["storm"], 3),
        "ms_beside_the_network": round(1e3 * (best["storm"] - best["forward"]), 3),
    }


def timed(work: Callable[[], Any]) -> float:
    """Seconds of the processor, of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def forward(network: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    """The network alone."""
    with torch.inference_mode():
        return [network(x) for x in batches]


def prepared(tiles: Tensor) -> Tensor:
    """Tiles (b, 3, h, w), uint8, as the network reads them."""
    x = tiles.float().div_(255)
    if x.shape[-1] != TILE_PX or x.shape[-2] != TILE_PX:
        x = nn.functional.interpolate(x, (TILE_PX, TILE_PX), mode="bicubic", antialias=True)
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def by_dataset(sdata: SpatialData, network: nn.Module) -> list[Tensor]:
    """Through spatialdata's torch dataset."""
    from spatialdata.dataloader.datasets import ImageTilesDataset

    dataset = ImageTilesDataset(
        sdata, {"places": "he"}, {"places": "um"}, tile_dim_in_units=FIELD_UM, table_name="table"
    )
    out = []
    with torch.inference_mode():
        for start in range(0, len(dataset), BATCH):
            tiles = [pixels(dataset[k]["he"]) for k in range(start, min(start + BATCH, len(dataset)))]
            out.append(network(torch.cat([prepared(tile[None]) for tile in tiles])))
    return out


def pixels(element: Any) -> Tensor:
    """The finest level of what the dataset returns, (3, h, w)."""
    array = element if hasattr(element, "data") and hasattr(element, "sizes") and "y" in element.dims else None
    return torch.from_numpy(np.asarray(get_pyramid_levels(element, n=0) if array is None else array))


def write_tiff(section: SpatialData, path: Path) -> Path:
    """The same pixels as a tiled TIFF with a pyramid, which LazySlide opens."""
    import tifffile

    levels = [np.moveaxis(np.asarray(level), 0, 2) for level in get_pyramid_levels(section["he"])]
    tags = {"photometric": "rgb", "tile": (256, 256), "compression": "zlib", "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for k, level in enumerate(levels):
            resolution = (1e4 / (UM_PER_PX * 2**k),) * 2
            file.write(level, resolution=resolution, subfiletype=1 if k else 0, **tags)
    return path


def by_lazyslide(path: Path, network: nn.Module, centres: np.ndarray) -> Any:
    """LazySlide's extraction of features at the same places."""
    import lazyslide
    from wsidata import TileSpec, open_wsi
    from wsidata.io import add_tiles

    slide = open_wsi(path, store=None)
    size = round(FIELD_UM / UM_PER_PX)
    corners = np.round(centres / UM_PER_PX - size / 2).astype(int)
    spec = TileSpec(size, size, size, size, mpp=UM_PER_PX)
    add_tiles(slide, key="tiles", xys=corners, tile_spec=spec, tissue_ids=np.zeros(len(corners), dtype=int))

    def transform(tile: np.ndarray) -> Tensor:
        return prepared(torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None])[0]

    lazyslide.tl.feature_extraction(
        slide,
        model=network,
        transform=transform,
        batch_size=BATCH,
        num_workers=0,
        device="cpu",
        key_added="features",
        pbar=False,
    )
    return slide


def measure_device(section: SpatialData, centres: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """How much of its time a simulated device is busy."""
    sdata, reader = annotated(section, centres), reader_of(section)

    def patches(device: SimulatedDevice) -> None:
        embed(sdata, wrap(device, "device", dim=3), batch_size=DEVICE_BATCH)

    def canvases(device: SimulatedDevice) -> None:
        waiting = 0  # encode_tiles collects the patches of several canvases to whole batches
        for canvas in reader.iter_canvases(centres, field_um=FIELD_UM, out_px=TILE_PX, batch_size=DEVICE_BATCH):
            waiting += len(canvas.index)
            if waiting >= DEVICE_BATCH:
                device.work(waiting)
                waiting = 0
        device.work(waiting)

    out: dict[str, Any] = {"tiles": len(centres)}
    for name, feed in (("patches", patches), ("canvases", canvases)):
        runs = []
        for _ in range(options.repeat):
            device = SimulatedDevice(options.device_rate)
            clock, core = time.perf_counter(), time.process_time()
            feed(device)
            clock, core = time.perf_counter() - clock, time.process_time() - core
            runs.append((device.busy / clock, core))
        core = min(core for _, core in runs)
        busy = len(centres) / options.device_rate
        out[name] = {
            "share_by_the_clock": round(max(share for share, _ in runs), 3),
            "share_by_the_processor": round(busy / max(busy, core), 3),
            "tiles_per_core_second": round(len(centres) / core, 1),
        }
    return out


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    others = [name for name in ("ImageTilesDataset", "LazySlide") if name in report["networks"][0]["share_of_forward"]]
    columns = ["network", "places", "tiles", "forward", "contiguous", "storm", "share", "share, contiguous"]
    columns += [f"{name}{what}" for name in others for what in ("", ", share")]
    print("\ntiles per core-second; share = time of the forward passes / time of all")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in report["networks"]:
        rate, share = row["tiles_per_core_second"], row["share_of_forward"]
        cells = [row["network"], row["case"], f"{row['tiles']:,}", f"{rate['forward']:,.0f}"]
        cells += [f"{rate['forward, contiguous']:,.0f}", f"{rate['storm']:,.0f}", f"{share['storm']:.0%}"]
        cells.append(f"{row['share_of_forward_contiguous']:.0%}")
        for name in others:
            cells += [f"{rate[name]:,.1f}", f"{share[name]:.0%}"]
        print("| " + " | ".join(cells) + " |")
    first = report["networks"][0]
    print(f"\nforward and storm: batches of {first['batch']} in the layout {first['layout']!r}; others: of {BATCH}")
    if report["device"]:
        show_device(report)
    print(f"\n{report['storm']}, load average {report['load_average']}, {report['versions']}")


def show_device(report: dict[str, Any]) -> None:
    """Print the table of the simulated device."""
    print(f"\na simulated device of {report['device_rate']:,.0f} patches a second: share of its time that it is busy")
    columns = ["places", "tiles", "fed with", "by the clock", "by one core's time", "tiles per core-second"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in report["device"]:
        for name in ("patches", "canvases"):
            part = row[name]
            shares = f"{part['share_by_the_clock']:.0%} | {part['share_by_the_processor']:.0%}"
            print(f"| {row['case']} | {row['tiles']:,} | {name} | {shares} | {part['tiles_per_core_second']:,.0f} |")


if __name__ == "__main__":
    main()
