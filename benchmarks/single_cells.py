"""Genes of single cells from H&E, with and without summing neighbours.

    python benchmarks/single_cells.py --data DIR [--n 3000] [--seeds 3]

Windows of nine cells, a contiguous split along x with a gap of one window (and one with the H&E field besides), up to
500 genes: the protocol of SPATCH. A head is trained on the left half, on counts of cells or on sums over a cell and its
eight nearest (``storm.pp.sum_windows``), and judged on the right half, on either: median r over genes.

``DIR`` holds ``platforms/xenium_he`` (200 cells × 338 genes of a real Xenium section, whose picture has about 2.1 µm
per pixel). Besides, drawn Xenium sections of ``--n`` cells.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import storm
from storm.data.normalise import log_normalise
from storm.metrics import pearson_per_gene

#: µm per pixel of the picture, as an estimate.
UM_PER_PX = 2.1


def xenium(folder: Path):
    """The real section; its columns ``x_pixel`` and ``y_pixel`` are row and column of the picture."""
    import spatialdata
    from anndata import read_h5ad
    from PIL import Image
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    table = read_h5ad(folder / "NCBI858.h5ad")
    with Image.open(folder / "NCBI858.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    at = table.obs[["y_pixel", "x_pixel"]].to_numpy() * UM_PER_PX
    table.obs["region"], table.obs["cell"] = pd.Categorical(["cells"] * len(at)), np.arange(len(at))
    to_um = {"um": Scale([UM_PER_PX] * 2, axes=("x", "y"))}
    return spatialdata.SpatialData(
        images={"he": Image2DModel.parse(np.moveaxis(pixels, 2, 0), dims=("c", "y", "x"), transformations=to_um)},
        shapes={"cells": ShapesModel.parse(at, geometry=0, radius=5.0, transformations={"um": Identity()})},
        tables={"table": TableModel.parse(table, region="cells", region_key="region", instance_key="cell")},
    )


def judge(sdata, *, field_um: float) -> dict[str, float]:
    """Median r over genes on the right half, by what a head was trained and judged on."""
    train, test = storm.pp.split_along_x(sdata, field_um=field_um)
    storm.pp.sum_windows(sdata)
    table = sdata.tables["table"]
    layers = {"cells": None, "sums": "window_counts"}
    row = {"train": int(train.sum()), "test": int(test.sum()), "counts": np.median(np.asarray(table.X.sum(axis=1)))}
    genes = None
    for name, layer in layers.items():
        head = storm.tl.fit_expression(
            sdata, genes, train=train, layer=layer, n_genes=500, conformal=False, device="cpu"
        )
        genes = list(head.genes)  # those that vary most between cells, for both
        storm.tl.predict_expression(sdata, head=head, keep="all", to="table", device="cpu")
        predicted = sdata.tables["table_storm"].to_df()[genes].to_numpy()[test]
        for other, truth_layer in layers.items():
            counts = table.X if truth_layer is None else table.layers[truth_layer]
            truth = log_normalise(counts)[:, table.var_names.get_indexer(genes)].toarray()[test]
            r = pearson_per_gene(truth, predicted)
            row[f"{name} → {other}"] = float(np.nanmedian(r))
    row["genes"] = len(genes)
    return row


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    storm.settings.verbosity = 0
    rows = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for field_um in (0.0, 112.0):
            section = xenium(args.data / "platforms" / "xenium_he")
            rows[f"xenium_he, field {field_um:g}"] = judge(section, field_um=field_um)
            drawn = [
                judge(storm.datasets.toy("xenium", n=args.n, seed=seed), field_um=field_um)
                for seed in range(args.seeds)
            ]
            rows[f"drawn, field {field_um:g}"] = pd.DataFrame(drawn).mean().to_dict()
            rows[f"drawn, field {field_um:g}, SD"] = pd.DataFrame(drawn).std().to_dict()
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    main()
