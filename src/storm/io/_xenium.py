"""Xenium, and the H&E image that is taken of the same section afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._checks import check_positive
from storm._logging import logger
from storm.io._aligned import aligned_image, find_alignment
from storm.io._vendor import as_table, check_counts, facts, find_folder, need, read_json, vendor_call

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_FILES = {
    "cell_feature_matrix.h5": "the matrix of counts",
    "cells.parquet": "the table of cells",
    "cells.zarr.zip": "the archive of cells",
    "cell_boundaries.parquet": "the outlines of the cells",
}


def xenium(
    path: str | Path,
    image: str | Path | bool | None = None,
    alignment: str | Path | np.ndarray | None = None,
    *,
    um_per_px: float | None = None,
    nuclei: bool = True,
) -> SpatialData:
    """Read a Xenium section, and the H&E of the same section with its alignment.

    Parameters
    ----------
    path
        The folder that Xenium Onboard Analysis or Xenium Ranger wrote (with ``experiment.xenium``).
    image
        The post-Xenium H&E (see :func:`~storm.io.slide` for formats). With ``None``, the default, the file
        ``*he_image.ome.tif`` of the folder if there is one; ``False`` reads no image. The morphology images are
        fluorescence, and not read.
    alignment
        Where the H&E lies: the matrix from its pixels to pixels of the morphology image, 3 × 3 or 2 × 3, as an array
        or in the csv of Xenium Explorer; or Xenium Explorer's csv of key points (columns fixedX, fixedY, alignmentX,
        alignmentY), through which an affine map is fitted. By default ``*he_imagealignment.csv`` beside the image or in
        the folder. An image that lies on the morphology image's own pixels has the alignment ``np.eye(3)``.
    um_per_px
        µm per pixel of the H&E, only to check the alignment.
    nuclei
        Also read the outlines of nuclei, ``shapes["nuclei"]``. The table annotates the cells.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, lazy where the format allows), ``shapes["cells"]`` and ``shapes["nuclei"]``
        (polygons, in µm), ``tables["table"]`` (raw counts of genes, CSR float32). Coordinate systems ``"global"``
        (pixels of the morphology image, as the vendor has it) and ``"um"`` (µm). ``attrs["storm_io"]`` tells the pixel
        size and the facts of the alignment.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; there are no cells or no counts; or the alignment is missing, no affine matrix,
        mirrors the image, contradicts the scale of the image, or places no cell on it.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.xenium("outs", "HE.ome.tif", "HE_imagealignment.csv")  # doctest: +SKIP
    >>> storm.tl.embed(sdata)  # doctest: +SKIP
    """
    import spatialdata_io
    from spatialdata import SpatialData

    folder = find_folder(
        path, platform="Xenium", signs=("experiment.xenium", "cell_feature_matrix.h5", "cells.zarr.zip")
    )
    specs_file = need(folder, "experiment.xenium", what="the description of the run")
    specs = read_json(specs_file)
    if "pixel_size" not in specs:
        msg = f"{specs_file} tells no pixel_size; it holds {sorted(specs)}"
        raise ValueError(msg)
    pixel_um = float(specs["pixel_size"])
    check_positive(pixel_um, name=f"pixel_size in {specs_file}", unit="µm")
    for name, what in _FILES.items():
        need(folder, name, what=what)
    nuclei = nuclei and (folder / "nucleus_boundaries.parquet").is_file()

    with vendor_call(folder, platform="Xenium"):
        raw = spatialdata_io.xenium(
            folder,
            nucleus_boundaries=nuclei,
            cells_labels=False,
            nucleus_labels=False,
            transcripts=False,
            morphology_mip=False,
            morphology_focus=False,
            aligned_images=False,
        )
    table = raw["table"]
    check_counts(table, folder / "cell_feature_matrix.h5")
    names = {"cell_boundaries": "cells", "nucleus_boundaries": "nuclei"}
    shapes = {new: _in_um(raw.shapes[old], pixel_um) for old, new in names.items() if old in raw.shapes}
    _note_cells(table.obs["cell_id"].to_numpy(), shapes, folder)

    found = _he_image(folder) if image is None else image
    images: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if found:
        images["he"], more = aligned_image(
            Path(found),
            find_alignment(Path(found), folder, alignment),
            centres_um=table.obsm["spatial"],
            platform_um=pixel_um,
            um_per_px=um_per_px,
        )
    scale = (pixel_um, f"pixel_size in {specs_file.name}")
    return SpatialData(
        images=images,
        shapes=shapes,
        tables={"table": as_table(table, region="cells", instance_key="cell_id")},
        attrs=facts("xenium", folder=folder, scale=scale, **more),
    )


def _in_um(shapes: GeoDataFrame, pixel_um: float) -> GeoDataFrame:
    """Outlines, which the vendor stores in µm, placed in ``"um"`` and ``"global"``."""
    from spatialdata.transformations import Identity, Scale, set_transformation

    pixels = Scale([1 / pixel_um, 1 / pixel_um], axes=("x", "y"))
    set_transformation(shapes, {"global": pixels, "um": Identity()}, set_all=True)
    return shapes


def _note_cells(ids: np.ndarray, shapes: dict[str, GeoDataFrame], folder: Path) -> None:
    """Say which shapes the table annotates; raise if they share no cell with it."""
    there = np.isin(ids, shapes["cells"].index.to_numpy())
    if not there.any():
        msg = (
            f"{folder}: the cells of cell_feature_matrix.h5 (like {str(ids[0])!r}) are not those of "
            f"cell_boundaries.parquet (like {shapes['cells'].index[0]!r}); the files are of different runs"
        )
        raise ValueError(msg)
    if not there.all():
        logger.warning("%d of %d cells have no outline", int((~there).sum()), len(there))
    if "nuclei" in shapes:
        logger.info("the table annotates shapes['cells'], not shapes['nuclei']")


def _he_image(folder: Path) -> Path | None:
    found = sorted(folder.glob("*he_image.ome.tif"))
    if len(found) > 1:
        msg = f"{folder} holds several H&E images, {[p.name for p in found]}; choose one with image="
        raise ValueError(msg)
    return found[0] if found else None
