"""Files as a user has them, drawn small: the pages below ``start/`` run on them, at the build and in the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
from anndata import AnnData
from PIL import Image
from scipy.sparse import csr_matrix

import storm

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from vendor_folders import outlines, xenium_archive, xenium_description

storm.settings.verbosity = 0  # no progress bars on a page

#: µm per pixel of Xenium's morphology image, and of CosMx's.
_XENIUM_PX, _COSMX_PX = 0.2125, 0.120280945


def section(path: str = "section.zarr", *, n: int = 300, seed: int = 0) -> None:
    """Write a SpatialData store with an H&E image, spots and counts."""
    storm.datasets.toy("visium", n=n, seed=seed, path=path)


def visium(folder: str = "outs", image: str = "HE.tif", *, n: int = 300) -> None:
    """Write a folder of Space Ranger, and the microscope's image beside it."""
    sdata = storm.datasets.toy("visium", n=n)
    table, pixels = sdata["table"], _pixels(sdata)
    spatial = Path(folder) / "spatial"
    spatial.mkdir(parents=True)
    _write_10x(Path(folder) / "filtered_feature_bc_matrix.h5", table)
    positions = table.obs[["in_tissue", "array_row", "array_col"]].rename_axis("barcode")
    positions["pxl_row_in_fullres"], positions["pxl_col_in_fullres"] = table.obsm["spatial"][:, ::-1].T
    positions.to_csv(spatial / "tissue_positions.csv")
    _write_reduced(spatial, pixels, scale=1.0, spot_diameter_fullres=65.0)
    _write_image(Path(image), pixels)


def visium_anndata(path: str = "visium.h5ad", image: str = "HE.tif", *, n: int = 300) -> None:
    """Write what ``squidpy.read.visium`` returns: counts, pixels, and a reduced picture."""
    sdata = storm.datasets.toy("visium", n=n)
    pixels = _pixels(sdata)
    adata = _plain(sdata["table"])
    adata.obs[["in_tissue", "array_row", "array_col"]] = sdata["table"].obs[["in_tissue", "array_row", "array_col"]]
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 65.0, "fiducial_diameter_fullres": 105.0}
    adata.uns["spatial"] = {"biopsy": {"images": {"hires": pixels[::2, ::2]}, "scalefactors": factors}}
    adata.write_h5ad(path)
    _write_image(Path(image), pixels)


def counts(path: str = "cells.h5ad", *, n: int = 1000) -> None:
    """Write an AnnData of cells: counts and places in µm, no image."""
    table = storm.datasets.toy("xenium", n=n)["table"]
    _plain(table).write_h5ad(path)


def visium_hd(folder: str = "outs", image: str = "HE.btf", *, n: int = 2000) -> None:
    """Write a folder of Space Ranger for Visium HD with bins of 8 µm, and its image."""
    sdata = storm.datasets.toy("visium_hd", n=n)
    table, pixels = sdata["table"], _pixels(sdata)
    part = Path(folder) / "binned_outputs" / "square_008um"
    (part / "spatial").mkdir(parents=True)
    with h5py.File(Path(folder) / "feature_slice.h5", "w") as file:
        layout = json.dumps({"file_format": "1.0", "transform": np.eye(3).ravel().tolist()})
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout, "transform_matrices": {}})
    _write_10x(part / "filtered_feature_bc_matrix.h5", table)
    positions = table.obs[["in_tissue", "array_row", "array_col"]].rename_axis("barcode")
    positions["pxl_row_in_fullres"], positions["pxl_col_in_fullres"] = table.obsm["spatial"][:, ::-1].T
    positions.reset_index().to_parquet(part / "spatial" / "tissue_positions.parquet")
    factors = {"spot_diameter_fullres": 16.0, "bin_size_um": 8.0, "microns_per_pixel": 0.5}
    _write_reduced(part / "spatial", pixels, scale=0.5, **factors)
    _write_image(Path(image), pixels)


def xenium(
    folder: str = "output-XETG", image: str = "HE.tif", alignment: str = "HE_alignment.csv", *, n: int = 600
) -> None:
    """Write a folder of Xenium Onboard Analysis, an H&E, and the alignment between them."""
    sdata = storm.datasets.toy("xenium", n=n)
    table = sdata["table"]
    um = table.obsm["spatial"]
    out = Path(folder)
    out.mkdir()
    xenium_description(out / "experiment.xenium", _XENIUM_PX)
    xenium_archive(out / "cells.zarr.zip", table.obs_names)
    _write_10x(out / "cell_feature_matrix.h5", table)
    cells = pd.DataFrame({"cell_id": table.obs_names, "x_centroid": um[:, 0], "y_centroid": um[:, 1]})
    cells[["transcript_counts", "cell_area", "nucleus_area"]] = [10, 80.0, 20.0]
    cells.to_parquet(out / "cells.parquet")
    outlines(um, table.obs_names, 5.0).to_parquet(out / "cell_boundaries.parquet")
    outlines(um, table.obs_names, 3.0).to_parquet(out / "nucleus_boundaries.parquet")
    _write_image(Path(image), _pixels(sdata))
    np.savetxt(alignment, np.diag([0.5 / _XENIUM_PX, 0.5 / _XENIUM_PX, 1.0]), delimiter=",")


def cosmx(folder: str = "run1", *, n: int = 600) -> None:
    """Write a folder of CosMx with two fields of view, in each of which cells count from 1."""
    table = storm.datasets.toy("xenium", n=n)["table"]
    px = table.obsm["spatial"] / _COSMX_PX
    out = Path(folder)
    out.mkdir()
    middle = np.median(px[:, 0])
    fov = 1 + (px[:, 0] > middle).astype(int)
    starts = np.array([[px[:, 0].min(), px[:, 1].min()], [middle, px[:, 1].min()]])
    cells = pd.DataFrame({"fov": fov, "cell_ID": 0, "Area": 5000, "Width": 80, "Height": 80})
    cells["cell_ID"] = cells.groupby("fov").cumcount() + 1
    cells[["CenterX_local_px", "CenterY_local_px"]] = px - starts[fov - 1]
    cells[["CenterX_global_px", "CenterY_global_px"]] = px
    cells.to_csv(out / "run_metadata_file.csv", index=False)
    counts = pd.DataFrame(csr_matrix(table.X).toarray().astype(int), columns=list(table.var_names))
    pd.concat([cells[["fov", "cell_ID"]], counts], axis=1).to_csv(out / "run_exprMat_file.csv", index=False)
    positions = pd.DataFrame(starts, columns=["x_global_px", "y_global_px"]).assign(fov=[1, 2])
    for axis in "xy":
        positions[f"{axis}_global_mm"] = positions[f"{axis}_global_px"] * _COSMX_PX / 1000
    positions.to_csv(out / "run_fov_positions_file.csv", index=False)


def slide(path: str = "biopsy.svs", *, n: int = 300) -> None:
    """Write a slide without spots, in Aperio's format, with its µm per pixel."""
    pixels = _pixels(storm.datasets.toy("visium", n=n, um_per_px=0.5, seed=1))
    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        photometric="rgb",
        compression="jpeg",
        description="Aperio Image Library\n|AppMag = 20|MPP = 0.5",
        metadata=None,
    )


def sections(names: str = "ABC", *, n: int = 150) -> None:
    """Write a store for each of several sections."""
    for seed, name in enumerate(names):
        section(f"{name}.zarr", n=n, seed=seed)


def samples(path: str = "samples.h5ad", *, n: int = 150) -> None:
    """Write an AnnData whose column ``sample`` names the section of each row."""
    import anndata

    tables = {name: _plain(storm.datasets.toy("visium", n=n, seed=seed)["table"]) for seed, name in enumerate("ABC")}
    anndata.concat(tables, label="sample", index_unique="-").write_h5ad(path)


def _pixels(sdata) -> np.ndarray:
    """The full-resolution image, (y, x, 3)."""
    return np.asarray(sdata["he"]["scale0"]["image"].transpose("y", "x", "c"))


def _plain(table: AnnData) -> AnnData:
    """Counts and places of a table, without what SpatialData adds."""
    names = pd.DataFrame(index=table.obs_names)
    return AnnData(table.X, obs=names, var=table.var[[]], obsm={"spatial": table.obsm["spatial"]})


def _write_10x(path: Path, table: AnnData) -> None:
    """Matrix of 10x Genomics, HDF5, version 3."""
    matrix = csr_matrix(table.X)
    n = table.n_vars
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(list(table.obs_names), dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data.astype(np.int32), matrix.indices, matrix.indptr
        group["shape"] = np.array([n, table.n_obs])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{k:011d}" for k in range(n)], dtype="S")
        features["name"] = np.array(list(table.var_names), dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * n, dtype="S")
        features["genome"] = np.array(["GRCh38"] * n, dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def _write_reduced(spatial: Path, pixels: np.ndarray, **factors: float) -> None:
    um = factors.pop("scale")
    Image.fromarray(pixels[::2, ::2]).save(spatial / "tissue_hires_image.png")
    Image.fromarray(pixels[::8, ::8]).save(spatial / "tissue_lowres_image.png")
    reduced = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.125, "fiducial_diameter_fullres": 105 / um}
    (spatial / "scalefactors_json.json").write_text(json.dumps(reduced | factors))


def _write_image(path: Path, pixels: np.ndarray) -> None:
    """Tiled TIFF with a pyramid and no word about its scale."""
    with tifffile.TiffWriter(path, bigtiff=path.suffix == ".btf") as file:
        for step in (1, 2, 4):
            file.write(pixels[::step, ::step], tile=(256, 256), photometric="rgb", compression="zlib", metadata=None)
