"""Human cortex, Visium (Maynard et al. 2021)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from storm._checks import check_choice
from storm.datasets._fetch import PublicFiles

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Distance between neighbouring spots, and between the rows of the array.
_PITCH_UM = 100.0
_ROW_UM = _PITCH_UM * np.sqrt(3) / 2
#: Diameter of a spot.
_SPOT_UM = 55.0


def dlpfc(section: Literal["151673", "151674"] = "151673", *, path: str | Path | None = None) -> SpatialData:
    """Read a section of human cortex, with its six layers and white matter.

    Visium: 55 µm spots on a hexagonal lattice of 100 µm pitch, 2,929 (``"151673"``) and 2,877 (``"151674"``) of them,
    about 11,000 genes; the reduced picture of Space Ranger at about 16 µm per pixel, in which no cell can be seen.

    Read from a mirror folder only: the .h5ad files join counts, places and layers from the package paste2 and the
    repository LieberInstitute/HumanPilot, so that no single address holds them.

    Parameters
    ----------
    section
        ``"151673"`` or ``"151674"``, neighbouring sections of one donor.
    path
        Mirror: the folder that holds ``DLPFC_151673.h5ad``, ``151673_tissue_lowres_image.png`` and
        ``151673_scalefactors_json.json``, or its parent (with the folder ``domains``); by default
        ``storm.settings.data_dir``, whose initial value is the environment variable ``STORM_DATA_DIR``.

    Returns
    -------
    SpatialData
        ``images["he"]`` (uint8), ``shapes["spots"]`` (circles), ``tables["table"]`` (raw counts, CSR float32;
        ``obs["layer"]`` categorical, ``obs["array_row"]``, ``obs["array_col"]``). Coordinate systems ``"global"``
        (pixels of the picture) and ``"um"`` (µm). ``uns["dlpfc"]`` holds the µm per pixel and their source.

    Raises
    ------
    ValueError
        For a section that does not exist.
    FileNotFoundError
        If no mirror is given, or it does not hold the section.

    References
    ----------
    K. R. Maynard et al., Transcriptome-scale spatial gene expression in the human dorsolateral prefrontal cortex,
    Nature Neuroscience 24, 425–436 (2021).

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.dlpfc("151673")  # doctest: +SKIP
    """
    import geopandas as gpd
    import pandas as pd
    import shapely
    from anndata import read_h5ad
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    from storm.io._open import open_image
    from storm.io._placing import fit_scale, in_pixels

    check_choice(section, ("151673", "151674"), name="section")
    files = PublicFiles.open("domains", marker=f"DLPFC_{section}.h5ad", path=path)
    table = read_h5ad(files.get(f"DLPFC_{section}.h5ad"))
    factors = json.loads(files.get(f"{section}_scalefactors_json.json").read_text(encoding="utf-8"))
    pixels = np.asarray(table.obsm["spatial_fullres_px"], dtype=np.float64) * factors["tissue_lowres_scalef"]
    array = table.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64) * (_PITCH_UM / 2, _ROW_UM)
    um_per_px, residual = fit_scale(array, pixels)
    table.X = csr_matrix(table.X, dtype=np.float32)
    table.obs = table.obs[["label", "array_row", "array_col"]].rename(columns={"label": "layer"})
    table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
    table.obs["spot_id"] = table.obs_names.to_numpy()
    del table.obsm["spatial_fullres_px"]
    table.obsm["spatial"] = pixels
    table.uns = {
        "dlpfc": {
            "section": section,
            "um_per_px": um_per_px,
            "um_per_px_source": f"fit of the spots' pixels to the array's pitch of {_PITCH_UM:g} µm",
            "array_residual_um": residual,
        }
    }
    circles = gpd.GeoDataFrame(
        {"radius": np.full(table.n_obs, _SPOT_UM / 2 / um_per_px)},
        geometry=shapely.points(pixels),
        index=table.obs_names,
    )
    picture = open_image(files.get(f"{section}_tissue_lowres_image.png"))
    return SpatialData(
        images={"he": picture.element(in_pixels(um_per_px))},
        shapes={"spots": ShapesModel.parse(circles, transformations=in_pixels(um_per_px))},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
    )
