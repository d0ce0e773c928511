"""Tiny folders as the platforms' software writes them, with an H&E whose pixels are known.

Also the files that the real test sections lack, written from public descriptions of the formats.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from PIL import Image

GENES = ["EPCAM", "CD3E", "COL1A1", "ACTB", "PTPRC"]
UM = 0.5  # µm per pixel of the H&E
SIZE = (360, 480)  # its pixels, y and x
MARK = (20, 60, 220)


def counts(n: int) -> np.ndarray:
    """Observation k has k + 1 counts of the first gene."""
    values = np.random.default_rng(0).poisson(2, (n, len(GENES))).astype(np.int32)
    values[:, 0] = np.arange(n) + 1
    return values


def he_image(marks: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise of tissue colours with an L at each of ``marks`` (x, y), which tells up from down and left from right."""
    pixels = np.random.default_rng(1).integers(170, 240, (*size, 3), dtype=np.uint8)
    for x, y in np.asarray(marks).round().astype(int):
        pixels[y - 8 : y + 8, x - 8 : x - 4] = MARK
        pixels[y + 4 : y + 8, x - 8 : x + 8] = MARK
    return pixels


def write_he(path: Path, pixels: np.ndarray) -> Path:
    """Tiled TIFF with two levels and no word about its scale."""
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2):
            file.write(pixels[::step, ::step], tile=(64, 64), photometric="rgb", compression="zlib", metadata=None)
    return path


def write_10x(path: Path, values: np.ndarray, barcodes, kind: str = "Gene Expression") -> None:
    """Matrix of 10x Genomics, HDF5, version 3."""
    from scipy.sparse import csr_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = csr_matrix(values)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(list(barcodes), dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array([matrix.shape[1], matrix.shape[0]])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{k:011d}" for k in range(matrix.shape[1])], dtype="S")
        features["name"] = np.array(GENES, dtype="S")
        features["feature_type"] = np.array([kind] * matrix.shape[1], dtype="S")
        features["genome"] = np.array(["GRCh38"] * matrix.shape[1], dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def barcodes(n: int) -> list[str]:
    letters = np.array(list("ACGT"))[np.random.default_rng(2).integers(0, 4, (n, 16))]
    return ["".join(row) + "-1" for row in letters]


# ------------------------------------------------------------------------------------------------------- Visium


def visium_places() -> tuple[np.ndarray, np.ndarray]:
    """Array (column, row) and pixels (x, y) of a hexagonal lattice with 100 µm between spots."""
    row, col = np.meshgrid(np.arange(2), np.arange(4), indexing="ij")
    col = 2 * col + row % 2
    pixels = np.stack([60 + col * 50 / UM, 100 + row * 50 * np.sqrt(3) / UM], axis=-1).reshape(-1, 2)
    keep = pixels[:, 0] < SIZE[1] - 30
    return np.stack([col, row], axis=-1).reshape(-1, 2)[keep], pixels[keep].round()


def scalefactors(**more) -> dict:
    return {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1, "fiducial_diameter_fullres": 105 / UM} | more


def write_reduced(spatial: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[::2, ::2]).save(spatial / "tissue_hires_image.png")
    Image.fromarray(pixels[::10, ::10]).save(spatial / "tissue_lowres_image.png")


def visium_folder(path: Path, *, version: int = 2) -> tuple[Path, Path, np.ndarray]:
    """Folder, H&E beside it, and pixels (x, y) of the spots in the order of the barcodes."""
    array, pixels = visium_places()
    spatial = path / "outs" / "spatial"
    spatial.mkdir(parents=True)
    names = barcodes(len(array))
    image = he_image(pixels)
    write_10x(path / "outs" / "filtered_feature_bc_matrix.h5", counts(len(array)), names)
    frame = pd.DataFrame(
        {
            "barcode": names,
            "in_tissue": 1,
            "array_row": array[:, 1],
            "array_col": array[:, 0],
            "pxl_row_in_fullres": pixels[:, 1],
            "pxl_col_in_fullres": pixels[:, 0],
        }
    ).iloc[::-1]
    name = "tissue_positions.csv" if version >= 2 else "tissue_positions_list.csv"
    frame.to_csv(spatial / name, index=False, header=version >= 2)
    factors = scalefactors(spot_diameter_fullres=65 / UM)
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    write_reduced(spatial, image)
    return path / "outs", write_he(path / "he.tif", image), pixels


# ---------------------------------------------------------------------------------------------------- Visium HD


def feature_slice(path: Path) -> None:
    """The file that carries the layout of the slide in its attributes."""
    with h5py.File(path, "w") as file:
        layout = json.dumps({"file_format": "1.0", "transform": np.eye(3).ravel().tolist()})
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout, "transform_matrices": {}})


def visium_hd_folder(path: Path, *, bin_size: int = 8, image_inside: bool = True) -> tuple[Path, Path, np.ndarray]:
    """As :func:`visium_folder`; the array's columns run against x, as on most real slides."""
    outs = path / "outs"
    part = outs / "binned_outputs" / f"square_{bin_size:03d}um"
    spatial = part / "spatial"
    spatial.mkdir(parents=True)
    feature_slice(outs / "feature_slice.h5")
    row, col = (a.ravel() for a in np.meshgrid(np.arange(10, 14), np.arange(20, 25), indexing="ij"))
    step = bin_size / UM
    pixels = np.column_stack([300 - (col - 20) * step, 80 + (row - 10) * step])
    names = [f"s_{bin_size:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)]
    marked = pixels[[3]]
    image = he_image(marked)
    write_10x(part / "filtered_feature_bc_matrix.h5", counts(len(names)), names)
    frame = pd.DataFrame(
        {
            "barcode": names,
            "in_tissue": 1,
            "array_row": row,
            "array_col": col,
            "pxl_row_in_fullres": pixels[:, 1],
            "pxl_col_in_fullres": pixels[:, 0],
        }
    )
    frame.to_parquet(spatial / "tissue_positions.parquet")
    factors = scalefactors(spot_diameter_fullres=bin_size / UM, bin_size_um=float(bin_size), microns_per_pixel=UM)
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    write_reduced(spatial, image)
    inside = outs / "microscope_image"
    if image_inside:
        inside.mkdir()
    return outs, write_he((inside if image_inside else path) / "he.btf", image), pixels


def add_segmented_cells(outs: Path) -> np.ndarray:
    """Three squares as Space Ranger 4 writes cells; returns their centres in pixels."""
    part = outs / "segmented_outputs"
    (part / "spatial").mkdir(parents=True)
    centres = np.array([[100.0, 60.0], [150.0, 200.0], [300.0, 120.0]])
    names = [f"cellid_{k + 1:09d}-1" for k in range(3)]
    write_10x(part / "filtered_feature_cell_matrix.h5", counts(3), names)
    corners = np.array([[-8, -8], [8, -8], [8, 8], [-8, 8], [-8, -8]])
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [(centre + corners).tolist()]},
            "properties": {"cell_id": k + 1},
        }
        for k, centre in enumerate(centres)
    ]
    for name in ("cell_segmentations.geojson", "nucleus_segmentations.geojson"):
        (part / name).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    factors = scalefactors(microns_per_pixel=UM, spot_diameter_fullres=8 / UM)
    (part / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    write_reduced(part / "spatial", he_image(centres))
    return centres


# ------------------------------------------------------------------------------------------------------- Xenium

PIXEL = 0.2125  # µm, of the morphology image


def xenium_ids(n: int) -> list[str]:
    """Cell numbers in hexadecimal with the digits shifted to the letters a to p."""
    return ["".join(chr(ord("a") + int(digit, 16)) for digit in f"{k + 1:08x}") + "-1" for k in range(n)]


def xenium_description(path: Path, pixel_size: float = PIXEL, version: str = "1.6.0.8") -> None:
    """``experiment.xenium``, as far as readers look at it."""
    told = {"analysis_sw_version": f"xenium-{version}", "pixel_size": pixel_size, "run_name": "test"}
    path.write_text(json.dumps(told))


def xenium_archive(path: Path, ids, version: str = "1.6.0.8") -> None:
    """``cells.zarr.zip``: who the cells are; no rasters. Before 1.3 cells had plain numbers, and no values in masks."""
    prefix = [int("".join(f"{ord(letter) - ord('a'):x}" for letter in name.split("-")[0]), 16) for name in ids]
    names = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y",
             "nucleus_area", "z_level"]  # fmt: skip
    folder = path.with_suffix(".folder")
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    group.create_array("cell_id", data=np.column_stack([prefix, np.ones(len(prefix))]).astype(np.uint32))
    if version != "1.0.1":
        group.create_array("seg_mask_value", data=np.arange(1, len(prefix) + 1, dtype=np.uint32))
    summary = group.create_array("cell_summary", data=np.zeros((len(prefix), len(names))))
    summary.attrs["column_names"] = names
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())


def outlines(centres_um: np.ndarray, ids, radius: float) -> pd.DataFrame:
    turn = np.linspace(0, 2 * np.pi, 13)
    points = centres_um[:, None] + radius * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return pd.DataFrame(
        {
            "cell_id": np.repeat(ids, 13),
            "vertex_x": points[..., 0].ravel().astype(np.float32),
            "vertex_y": points[..., 1].ravel().astype(np.float32),
        }
    )


def xenium_folder(path: Path, *, alignment: np.ndarray) -> tuple[Path, Path, np.ndarray]:
    """Folder, H&E, and pixels of the H&E (x, y) of each cell; ``alignment`` maps them to morphology pixels."""
    path.mkdir(parents=True, exist_ok=True)
    on_he = np.array([[60.0, 50.0], [200.0, 90.0], [330.0, 260.0], [120.0, 300.0], [420.0, 60.0]])
    on_platform = on_he @ alignment[:2, :2].T + alignment[:2, 2]
    um = on_platform * PIXEL
    ids = xenium_ids(len(um))
    xenium_description(path / "experiment.xenium")
    xenium_archive(path / "cells.zarr.zip", ids)
    write_10x(path / "cell_feature_matrix.h5", counts(len(um)), ids)
    cells = pd.DataFrame({"cell_id": ids, "x_centroid": um[:, 0], "y_centroid": um[:, 1]})
    cells[["transcript_counts", "cell_area", "nucleus_area"]] = [10, 80.0, 20.0]
    cells.to_parquet(path / "cells.parquet")
    outlines(um, ids, 5.0).to_parquet(path / "cell_boundaries.parquet")
    outlines(um + 1.0, ids, 2.0).to_parquet(path / "nucleus_boundaries.parquet")
    return path, write_he(path / "slide_he_image.ome.tif", he_image(on_he)), on_he


def write_matrix(path: Path, matrix: np.ndarray) -> Path:
    """As Xenium Explorer exports it: numbers only."""
    np.savetxt(path, matrix, delimiter=",")
    return path


# -------------------------------------------------------------------------------------------------------- CosMx


def cosmx_extras(path: Path, run: str, fovs: dict[int, tuple[float, float]], *, um: float | None = None) -> None:
    """Positions of the fields of view, and the folders of composites and label images (of no pixels that matter)."""
    frame = pd.DataFrame(
        {"fov": list(fovs), "x_global_px": [x for x, _ in fovs.values()], "y_global_px": [y for _, y in fovs.values()]}
    )
    if um is not None:
        for axis in "xy":
            frame[f"{axis}_global_mm"] = frame[f"{axis}_global_px"] * um / 1e3
    frame.to_csv(path / f"{run}_fov_positions_file.csv", index=False)
    for folder, name, shape in (("CellComposite", "CellComposite_F{:03d}.jpg", (8, 8, 3)),
                                ("CellLabels", "CellLabels_F{:03d}.tif", (8, 8))):  # fmt: skip
        (path / folder).mkdir()
        for fov in fovs:
            picture = np.zeros(shape, dtype=np.uint8)
            if len(shape) == 3:
                Image.fromarray(picture).save(path / folder / name.format(fov))
            else:
                tifffile.imwrite(path / folder / name.format(fov), picture.astype(np.uint16))


def cosmx_folder(
    path: Path, *, alignment: np.ndarray, polygons: bool = True, um: float | None = None
) -> tuple[Path, Path, np.ndarray]:
    """As :func:`xenium_folder`, with two fields of view in each of which cells count from 1."""
    path.mkdir(parents=True, exist_ok=True)
    fovs = {1: (1000.0, 3000.0), 2: (2500.0, 3000.0)}
    on_he = np.array([[60.0, 50.0], [120.0, 300.0], [200.0, 90.0], [250.0, 60.0], [330.0, 260.0], [420.0, 60.0]])
    on_platform = on_he @ alignment[:2, :2].T + alignment[:2, 2]
    fov = np.array([1, 1, 1, 2, 2, 2])
    cell = np.array([1, 2, 3, 1, 2, 3])
    local = on_platform - np.array([fovs[f] for f in fov])
    metadata = pd.DataFrame({"fov": fov, "cell_ID": cell, "Area": 5000, "Width": 80, "Height": 80})
    metadata[["CenterX_local_px", "CenterY_local_px"]] = local
    metadata[["CenterX_global_px", "CenterY_global_px"]] = on_platform
    metadata.to_csv(path / "run_metadata_file.csv", index=False)
    matrix = pd.DataFrame(counts(len(cell)), columns=GENES)
    matrix.insert(0, "fov", fov)
    matrix.insert(1, "cell_ID", cell)
    # the vendor's row of transcripts outside of cells
    outside = pd.DataFrame([[1, 0, 9, 9, 9, 9, 9]], columns=matrix.columns)
    pd.concat([outside, matrix]).to_csv(path / "run_exprMat_file.csv", index=False)
    if polygons:
        corners = np.array([[-30, -30], [30, -30], [30, 30], [-30, 30]])
        rows = [
            {"fov": f, "cellID": c, "x_global_px": x, "y_global_px": y}
            for f, c, centre in zip(fov, cell, on_platform, strict=True)
            for x, y in centre + corners
        ]
        pd.DataFrame(rows).to_csv(path / "run-polygons.csv", index=False)
    cosmx_extras(path, "run", fovs, um=um)
    return path, write_he(path / "he.tif", he_image(on_he)), on_he
