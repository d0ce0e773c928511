"""Visium: a Space Ranger folder and the microscope's image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.scale import VISIUM_PITCH_UM, VISIUM_SPOT_UM
from storm._logging import logger
from storm.io._open import open_image
from storm.io._placing import in_pixels
from storm.io._scale import check_full_resolution, choose_scale, given_scale, note_image_scale
from storm.io._vendor import (
    as_table,
    check_barcodes,
    check_counts,
    choose_image,
    facts,
    find_folder,
    need,
    pitch_scale,
    read_barcodes,
    read_json,
    reduced_pictures,
    reduced_sizes,
    vendor_call,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def visium(
    path: str | Path,
    image: str | Path | bool | None = None,
    *,
    um_per_px: float | None = None,
    filtered: bool = True,
) -> SpatialData:
    """Read a Visium section: the folder ``outs`` of Space Ranger, and the H&E image that it was run on.

    Parameters
    ----------
    path
        The folder, or the one above it.
    image
        The full-resolution H&E (see :func:`~storm.io.slide` for formats); Space Ranger does not copy it into its
        folder. ``"hires"`` or ``"lowres"`` takes a reduced picture of the folder, in which cells cannot be seen;
        ``False`` reads no image. With ``None``, the default, there is no image either, and a warning says so.
    um_per_px
        µm per pixel of the full-resolution image. By default from the folder's scale factors.
    filtered
        Read spots under tissue only.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, lazy where the format allows), ``shapes["spots"]`` (circles),
        ``tables["table"]`` (raw counts, CSR float32). Coordinate systems ``"global"`` (pixels of the full-resolution
        image) and ``"um"`` (µm). ``attrs["storm_io"]`` tells the µm per pixel and where they come from;
        ``uns["spatial"]["spots"]`` of the table holds the scale factors.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; barcodes have no position; there are no spots or no counts; the image is not the one
        that Space Ranger was run on (e.g. a reduced copy); or the scale is unknown or contradictory.

    Warns
    -----
    UserWarning
        If there is no image, or the array's pitch contradicts the scale factors.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.visium("outs", "HE_slide.tif")  # doctest: +SKIP
    >>> storm.tl.embed(sdata)  # doctest: +SKIP
    """
    import spatialdata_io
    from spatialdata import SpatialData

    kind = "filtered" if filtered else "raw"
    folder = find_folder(path, platform="Visium", signs=("spatial", f"*{kind}_feature_bc_matrix*"))
    spatial = need(folder, "spatial", what="the folder with the positions of the spots")
    factors_file = need(spatial, "scalefactors_json.json", what="the file of scale factors")
    factors = read_json(factors_file)
    positions_file = need(
        spatial, "tissue_positions_list.csv", "tissue_positions.csv", what="the table of positions of the spots"
    )
    counts_file, dataset = _counts(folder, f"{kind}_feature_bc_matrix")
    counts_path = folder / counts_file
    positions = read_positions(positions_file)
    barcodes = read_barcodes(counts_path.parent if counts_file.endswith(".mtx.gz") else counts_path)
    check_barcodes(barcodes, positions["barcode"], counts=counts_path, positions=positions_file)

    with vendor_call(folder, platform="Visium"):
        raw = spatialdata_io.visium(folder, dataset_id=dataset, counts_file=counts_file)
    table, spots = raw["table"], raw[dataset]
    check_counts(table, counts_path)

    centres = np.column_stack([spots.geometry.x, spots.geometry.y])
    array = table.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64)
    said = _from_factors(factors, factors_file.name)
    by_pitch = pitch_scale(
        array * [VISIUM_PITCH_UM / 2, VISIUM_PITCH_UM * np.sqrt(3) / 2], centres, scale=said, path=folder
    )
    scale = choose_scale([given_scale(um_per_px), said or (None, "")], of=str(folder)) or by_pitch
    if scale is None:
        msg = f"{factors_file} tells no spot_diameter_fullres; pass um_per_px= (µm per full-resolution pixel)"
        raise ValueError(msg)

    pictures = reduced_pictures(spatial)
    images = space_ranger_image(
        *choose_image(image, found=lambda: None, reduced=pictures, missing=f"{folder} has no full-resolution image"),
        centres=centres[under_tissue(table)],
        factors=factors,
        reduced=reduced_sizes(pictures, factors),
        um_per_px=scale[0],
    )
    attrs = facts("visium", folder=folder, scale=scale, um_per_px_of_pitch=by_pitch and by_pitch[0])
    metadata = dict(table.uns.pop("spatial", {}).get(dataset, {}).get("metadata", {}))
    return SpatialData(
        images=images,
        shapes={"spots": in_both_systems(spots, scale[0])},
        tables={
            "table": as_table(
                table,
                region="spots",
                instance_key="spot_id",
                uns={"spatial": {"spots": {"scalefactors": factors, "metadata": metadata}}},
            )
        },
        attrs=attrs,
    )


def under_tissue(table: AnnData) -> np.ndarray:
    """Which spots or bins Space Ranger saw under tissue, bool (n,); all where it does not say."""
    seen = table.obs["in_tissue"].to_numpy() == 1 if "in_tissue" in table.obs else np.ones(table.n_obs, dtype=bool)
    return seen if seen.any() else ~seen


def _counts(folder: Path, name: str) -> tuple[str, str]:
    """Name of the file with the counts as spatialdata-io takes it, and of the data set."""
    if (folder / f"{name}.h5").is_file():
        return f"{name}.h5", "visium"
    if (folder / name / "matrix.mtx.gz").is_file():
        return f"{name}/matrix.mtx.gz", "visium"
    prefixed = sorted(folder.glob(f"*_{name}.h5"))
    if len(prefixed) == 1:
        return f"{name}.h5", prefixed[0].name.removesuffix(f"_{name}.h5")
    need(folder, f"{name}.h5", f"{name}/matrix.mtx.gz", what="the matrix of counts")
    raise AssertionError


def read_positions(path: Path) -> pd.DataFrame:
    """Positions of the spots of any version of Space Ranger (1: no header)."""
    try:
        first = pd.read_csv(path, header=None, nrows=1)
        frame = pd.read_csv(path, header=0 if "in_tissue" in first.iloc[0].tolist() else None)
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as a table of positions: {error}"
        raise ValueError(msg) from error
    if frame.shape[1] != len(_COLUMNS):
        msg = f"{path} has {frame.shape[1]} columns; Space Ranger writes {_COLUMNS}"
        raise ValueError(msg)
    frame.columns = _COLUMNS
    return frame


def _from_factors(factors: dict[str, Any], name: str) -> tuple[float, str] | None:
    if factors.get("microns_per_pixel"):
        return float(factors["microns_per_pixel"]), f"microns_per_pixel in {name}"
    if factors.get("spot_diameter_fullres"):
        um = VISIUM_SPOT_UM / float(factors["spot_diameter_fullres"])
        return um, f"spot_diameter_fullres in {name} (65 µm on Visium)"
    return None


def space_ranger_image(
    path: Path | None,
    reduced_name: str | None,
    *,
    centres: np.ndarray,
    factors: dict[str, Any],
    reduced: dict[str, tuple[tuple[int, int], float]],
    um_per_px: float,
) -> dict[str, Any]:
    """The H&E as ``{"he": element}``, or nothing.

    Parameters
    ----------
    path, reduced_name
        The picture, and its name if it is a reduced one.
    centres
        x and y of spots or bins in pixels of the full-resolution image, (n, 2).
    factors
        Space Ranger's scale factors.
    reduced
        Sizes and scales of the reduced pictures.
    um_per_px
        µm per pixel of the full-resolution image.
    """
    from spatialdata.transformations import Scale

    if path is None:
        return {}
    opened = open_image(path)
    if reduced_name is None:
        check_full_resolution(opened, centres, reduced=reduced)
        note_image_scale(opened, um_per_px)
        return {"he": opened.element(in_pixels(um_per_px))}
    scale = float(factors[f"tissue_{reduced_name}_scalef"])
    logger.warning(
        "images['he'] is the reduced picture %s with %.3g µm per pixel; give the microscope's image if you have it",
        opened.path.name, um_per_px / scale,
    )  # fmt: skip
    steps = {"global": 1 / scale, "um": um_per_px / scale}
    return {"he": opened.element({system: Scale([step, step], axes=("x", "y")) for system, step in steps.items()})}


def in_both_systems(shapes: GeoDataFrame, um_per_px: float) -> GeoDataFrame:
    """Shapes in pixels of the full-resolution image, placed in ``"global"`` and ``"um"``."""
    from spatialdata.transformations import set_transformation

    set_transformation(shapes, in_pixels(um_per_px), set_all=True)
    return shapes
