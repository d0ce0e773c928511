"""Layouts of a microscope's image: seconds to open it, patches per second, memory; seconds of the processor.

    python benchmarks/slides.py [--px 12288] [--json slides.json]        # about ten minutes, 2 GB of scratch disk

An H&E (a drawn piece, mirrored and repeated; 0.25 µm per pixel) is written as OME-TIFF (JPEG tiles of 256 px, with a
pyramid), as TIFF in LZW strips, and as JPEG. It is opened by ``storm.io`` and by spatialdata-io as that leaves it, not
saved as zarr: ``xenium_aligned_image`` by itself (one chunk) and with chunks of 4,096 px and a pyramid, and the image
of ``visium`` (read by the same function, with the same pyramid). The patches, 112 µm wide and 224 px, are then all read
by storm's reader, so that what is compared is the layout that each leaves: at the spots of a Visium array, or around
5,000 random cells.

spatialdata-io does not come with STORM: ``pip install spatialdata-io`` first. Each row runs in a process of its own,
for ``--seconds`` at most; memory is the process's high-water mark over what it held when all packages were imported.
Ratios hold within one run. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

UM_PER_PX, FIELD_UM, OUT_PX, CELLS = 0.25, 112.0, 224, 5_000
#: Rows of the table: file, who opens it, where patches are read.
ROWS = [
    ("he.ome.tif", "storm", "visium"),
    ("he.ome.tif", "aligned", "visium"),
    ("he.ome.tif", "visium", "visium"),
    ("he.ome.tif", "storm", "cells"),
    ("he.ome.tif", "aligned", "cells"),
    ("he.ome.tif", "aligned, 4096", "cells"),
    ("strips.tif", "storm", "visium"),
    ("he.jpg", "storm", "visium"),
]
FILES = {"he.ome.tif": "OME-TIFF, tiles of 256 px", "strips.tif": "LZW strips", "he.jpg": "JPEG"}
OPENED = {
    "storm": "`storm.io`",
    "aligned": "`spatialdata_io.xenium_aligned_image` (one chunk)",
    "aligned, 4096": "`spatialdata_io.xenium_aligned_image`, chunks of 4,096 and a pyramid",
    "visium": "`spatialdata_io.visium`, not saved",
}
PLACES = {"visium": "Visium spots", "cells": f"{CELLS:,} cells"}


def make(folder: Path, px: int) -> None:
    """The three files."""
    import numpy as np
    import tifffile
    from PIL import Image

    import storm

    drawn = storm.datasets.toy("visium", n=150, seed=0)
    piece = np.moveaxis(np.asarray(drawn.images["he"]["scale0"]["image"].data), 0, 2)
    piece = np.concatenate([piece, piece[::-1]])
    piece = np.concatenate([piece, piece[:, ::-1]], axis=1)
    image = np.tile(piece, (-(-px // len(piece)), -(-px // piece.shape[1]), 1))[:px, :px]
    how = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 85}}
    size = {"axes": "YXS", "PhysicalSizeX": UM_PER_PX, "PhysicalSizeY": UM_PER_PX}
    with tifffile.TiffWriter(folder / "he.ome.tif", ome=True, bigtiff=True) as file:
        file.write(image, subifds=3, metadata=size | {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}, **how)
        for step in (2, 4, 8):
            file.write(np.ascontiguousarray(image[::step, ::step]), subfiletype=1, **how)
    tifffile.imwrite(folder / "strips.tif", image, photometric="rgb", compression="lzw", rowsperstrip=16)
    Image.fromarray(image).save(folder / "he.jpg", quality=85)


def opened(path: Path, by: str) -> Any:
    """The image as an element in pixels and in µm."""
    import spatialdata_io
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale, set_transformation

    import storm

    if by == "storm":
        return storm.io.slide(path, um_per_px=UM_PER_PX)["he"]
    if by == "visium":
        from spatialdata_io.readers.visium import _read_image
        from xarray import DataArray

        pixels = DataArray(_read_image(path, {}), dims=("c", "y", "x"))
        element = Image2DModel.parse(
            pixels, scale_factors=[2, 2, 2, 2], transformations={"global": Identity()}, rgb=None
        )
    else:
        more = {"chunks": (3, 4096, 4096), "scale_factors": [2, 2, 2]} if by == "aligned, 4096" else {}
        element = spatialdata_io.xenium_aligned_image(path, None, image_models_kwargs=more, rgba=True)
    set_transformation(element, Scale([UM_PER_PX, UM_PER_PX], axes=("x", "y")), to_coordinate_system="um")
    return element


def centres(places: str, px: int) -> Any:
    """Places in µm whose fields lie on the image."""
    import numpy as np

    side = px * UM_PER_PX
    if places == "cells":
        return np.random.default_rng(0).uniform(FIELD_UM, side - FIELD_UM, (CELLS, 2))
    rows = np.arange(FIELD_UM, side - FIELD_UM, 100 * np.sqrt(3) / 2)
    columns = np.arange(FIELD_UM, side - FIELD_UM - 50, 100)
    return np.array([(x + 50 * (i % 2), y) for i, y in enumerate(rows) for x in columns])


def measure(path: Path, by: str, places: str, args: argparse.Namespace) -> dict[str, float]:
    """One row."""
    import spatialdata_io  # noqa: F401
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    import storm
    import storm.io
    from storm._bridge.read import read_spots

    storm.settings.verbosity = 0
    before = peak_gb()
    start = time.process_time()
    element = opened(path, by)
    seconds = time.process_time() - start
    at = centres(places, args.px)
    shapes = ShapesModel.parse(at, geometry=0, radius=27.5, transformations={"um": Identity()})
    spots = read_spots(SpatialData(images={"he": element}, shapes={"spots": shapes}), image=True)
    start, core, n = time.perf_counter(), time.process_time(), 0
    for index, _ in spots.patches.iter_patches(spots.centres, field_um=FIELD_UM, out_px=OUT_PX, batch_size=32):
        n += len(index)
        if time.perf_counter() - start > args.seconds:
            break
    rate = n / (time.process_time() - core)
    return {"open_s": seconds, "patches": n, "per_s": rate, "gb": peak_gb() - before}


def peak_gb() -> float:
    """High-water mark of this process; what ``getrusage`` says includes that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--px", type=int, default=12_288)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the patches of a row, at most")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(Path(args.one[0]), *args.one[1:], args)))
        return
    results = []
    print("| file | read by | patches at | open | patches per core-second | memory |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(Path(scratch), args.px)
        for name, by, places in ROWS:
            argv = [sys.executable, __file__, "--px", str(args.px), "--seconds", str(args.seconds)]
            done = subprocess.run(
                [*argv, "--one", str(Path(scratch) / name), by, places], stdout=subprocess.PIPE, text=True, check=False
            )
            if done.returncode:
                print(
                    f"| {FILES[name]} | {OPENED[by]} | {PLACES[places]} | ended with {done.returncode} |||", flush=True
                )
                continue
            r = json.loads(done.stdout.splitlines()[-1])
            results.append({"file": name, "by": by, "places": places} | r)
            rate = f"{r['per_s']:.1f}" if r["per_s"] < 10 else f"{r['per_s']:,.0f}"
            what = f"| {FILES[name]} | {OPENED[by]} | {PLACES[places]} |"
            print(f"{what} {r['open_s']:.1f} s | {rate} | {r['gb']:.1f} GB |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
