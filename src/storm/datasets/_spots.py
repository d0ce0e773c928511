"""Sections of spots in an array, of which the pixels of each spot are known: their scale, outlines and elements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from storm.datasets._fetch import PublicFiles

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def read_mirrored(name: str, file: str, path: str | Path | None) -> tuple[PublicFiles, AnnData]:
    """Open the mirror of a data set by one of its tables, and read this, with counts as CSR float32.

    Raises
    ------
    FileNotFoundError
        If no mirror is given, or it does not hold the file.
    """
    from anndata import read_h5ad
    from scipy.sparse import csr_matrix

    files = PublicFiles.open(name, marker=file, path=path)
    table = read_h5ad(files.get(file))
    table.X = csr_matrix(table.X, dtype=np.float32)
    return files, table


def array_section(
    table: AnnData, pixels: np.ndarray, array_um: np.ndarray, *, pitch_um: float, spot_um: float, image: Path | None
) -> tuple[SpatialData, dict[str, Any]]:
    """Build a section whose µm per pixel come from the pitch of its array.

    Parameters
    ----------
    table
        Counts and columns of the spots.
    pixels
        Centres in pixels of the image, shape (n, 2).
    array_um
        Centres in µm of the array, up to a turn and a shift, shape (n, 2).
    pitch_um, spot_um
        Distance of neighbouring spots and their diameter.
    image
        File of the H&E, or ``None``.

    Returns
    -------
    sdata : SpatialData
        ``images["he"]``, ``shapes["spots"]`` and ``tables["table"]``.
    scale : dict
        The µm per pixel, their source, and how well they fit; for ``uns``.
    """
    import geopandas as gpd
    import pandas as pd
    import shapely
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    from storm.io._open import open_image
    from storm.io._placing import fit_scale, in_pixels

    um_per_px, residual = fit_scale(array_um, pixels)
    table.obs["region"] = pd.Categorical(["spots"] * table.n_obs)
    table.obs["spot_id"] = table.obs_names.to_numpy()
    circles = gpd.GeoDataFrame(
        {"radius": np.full(table.n_obs, spot_um / 2 / um_per_px)},
        geometry=shapely.points(pixels),
        index=table.obs_names,
    )
    images = {} if image is None else {"he": open_image(image).element(in_pixels(um_per_px))}
    sdata = SpatialData(
        images=images,
        shapes={"spots": ShapesModel.parse(circles, transformations=in_pixels(um_per_px))},
        tables={"table": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
    )
    return sdata, {
        "um_per_px": um_per_px,
        "um_per_px_source": f"fit of the spots' pixels to the array's pitch of {pitch_um:g} µm",
        "array_residual_um": residual,
    }
