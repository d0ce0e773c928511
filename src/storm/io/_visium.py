"""Visium: a Space Ranger folder and the microscope's image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.scale import VISIUM_PITCH_UM, VISIUM_SPOT_UM
from storm.io._matrix import read_matrix
from storm.io._placing import in_pixels
from storm.io._recognise import SIGNS
from storm.io._scale import choose_scale, given_scale
from storm.io._space_ranger import (
    join_positions,
    pitch_scale,
    read_factors,
    read_positions,
    reduced_pictures,
    space_ranger_image,
    under_tissue,
)
from storm.io._vendor import as_table, check_scale, choose_image, find_folder, need, read_facts

if TYPE_CHECKING:
    from spatialdata import SpatialData


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
        ``False`` reads no image. With ``None``, the default, no image is read either, and a warning is given.
    um_per_px
        µm per pixel of the full-resolution image. By default from the folder's scale factors, or, where these hold
        none, from the pitch of the array.
    filtered
        Whether to read only the spots that Space Ranger called tissue, instead of all spots of the capture area.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8, lazy where the format allows), ``shapes["spots"]`` (circles),
        ``tables["table"]`` (raw counts of genes, spots × genes, CSR float32). Coordinate systems ``"global"`` (pixels
        of the full-resolution image) and ``"um"`` (µm). ``attrs["storm_io"]`` holds the µm per pixel, their source, the
        names of the files that were read, and how many features and rows were left out;
        ``uns["spatial"]["spots"]`` of the table holds the scale factors.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read; two tables of positions differ; barcodes occur twice or have no position; positions
        are NaN; there are no spots or no counts; the image is not the one that Space Ranger was run on (e.g. a reduced
        copy); or the scale is unknown, impossible or contradictory.

    Warns
    -----
    UserWarning
        If there is no image; the array's pitch contradicts the scale; another matrix beside the one that is read
        differs from it; or features that are not genes (e.g. antibodies) are left out.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.io.visium("outs", "HE_slide.tif")
    >>> storm.tl.embed(sdata)
    >>> "X_storm" in sdata["table"].obsm
    True
    """
    import geopandas as gpd
    import shapely
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel

    given = given_scale(um_per_px)
    kind = "filtered" if filtered else "raw"
    folder = find_folder(path, platform="Visium", signs=SIGNS["visium"])
    spatial = need(folder, "spatial", what="the folder with the positions of the spots")
    factors_file = need(spatial, "scalefactors_json.json", what="the file of scale factors")
    factors = read_factors(factors_file)
    positions_file, positions = read_positions(spatial, "tissue_positions.csv", "tissue_positions_list.csv")
    table, facts = read_matrix(folder, f"{kind}_feature_bc_matrix")
    facts["positions"] = positions_file.name
    facts |= join_positions(table, positions, counts=folder / facts["counts"], path=positions_file)

    centres = table.obsm["spatial"]
    array = table.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64)
    scale = choose_scale([given, _from_factors(factors, factors_file.name)], of=str(folder))
    by_pitch = pitch_scale(
        array * [VISIUM_PITCH_UM / 2, VISIUM_PITCH_UM * np.sqrt(3) / 2],
        centres,
        pitch_um=VISIUM_PITCH_UM,
        scale=scale,
        path=folder,
    )
    scale = scale or by_pitch
    if scale is None:
        msg = f"{factors_file} holds no usable spot_diameter_fullres; pass um_per_px= (µm per full-resolution pixel)"
        raise ValueError(msg)
    check_scale(scale)
    facts["um_per_px_of_pitch"] = by_pitch and by_pitch[0]

    pictures = reduced_pictures(spatial)
    picture, reduced_name = choose_image(
        image, in_folder=lambda: None, reduced=pictures, missing=f"{folder} has no full-resolution image"
    )
    images = space_ranger_image(
        picture,
        reduced_name,
        centres=centres[under_tissue(table.obs)],
        factors=factors,
        pictures=pictures,
        um_per_px=scale[0],
    )
    diameter = factors.get("spot_diameter_fullres", VISIUM_SPOT_UM / scale[0])
    metadata = table.uns.pop("metadata")
    table.obs["spot_id"] = np.arange(table.n_obs)
    circles = gpd.GeoDataFrame(
        {"radius": np.full(table.n_obs, float(diameter) / 2)},
        geometry=shapely.points(centres),
        index=table.obs["spot_id"].to_numpy(),
    )
    return SpatialData(
        images=images,
        shapes={"spots": ShapesModel.parse(circles, transformations=in_pixels(scale[0]))},
        tables={
            "table": as_table(
                table,
                region="spots",
                instance_key="spot_id",
                uns={"spatial": {"spots": {"scalefactors": factors, "metadata": metadata}}},
            )
        },
        attrs=read_facts("visium", folder=folder, scale=scale, more=facts),
    )


def _from_factors(factors: dict[str, Any], name: str) -> tuple[float | None, str]:
    """µm per pixel from Space Ranger's scale factors, and the factor that it comes from."""
    if "microns_per_pixel" in factors:
        return float(factors["microns_per_pixel"]), f"microns_per_pixel in {name}"
    if "spot_diameter_fullres" in factors:
        um = VISIUM_SPOT_UM / float(factors["spot_diameter_fullres"])
        return um, f"spot_diameter_fullres in {name} (65 µm on Visium)"
    return None, ""
