"""Mouse olfactory bulb, legacy Spatial Transcriptomics (Ståhl et al. 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from storm._checks import check_choice
from storm.datasets._spots import array_section, read_mirrored

if TYPE_CHECKING:
    from spatialdata import SpatialData

#: Distance between neighbouring spots.
_PITCH_UM = 200.0
#: Diameter of a spot.
_SPOT_UM = 100.0


def mob(
    section: Literal["rep11", "rep12"] = "rep11", *, path: str | Path | None = None, image: bool = True
) -> SpatialData:
    """Read a section of the mouse olfactory bulb.

    Legacy Spatial Transcriptomics: 100 µm spots on a square lattice of 200 µm pitch, 262 (``"rep11"``) and 282
    (``"rep12"``) of them, about 16,000 genes; H&E at about 2.75 µm per pixel, too coarse to see cells; five layers.

    Read from a mirror folder only: the .h5ad files join counts, places and layers from several public repositories
    (tare/Splotch, almaan/sepal, huimin230/BayesCafe), so that no single address holds them.

    Parameters
    ----------
    section
        ``"rep11"`` or ``"rep12"``.
    path
        Mirror: the folder that holds ``rep11.h5ad`` and ``rep11.jpg``, or its parent (with the folder ``mob``); by
        default ``storm.settings.data_dir``, whose initial value is the environment variable ``STORM_DATA_DIR``.
    image
        Whether to read the H&E image.

    Returns
    -------
    SpatialData
        ``images["he"]`` (multiscale, uint8), ``shapes["spots"]`` (circles), ``tables["table"]`` (raw counts, CSR
        float32; ``obs["layer"]`` categorical, missing where the annotators gave none). Coordinate systems ``"global"``
        (pixels) and ``"um"`` (µm). ``uns["st"]`` holds the µm per pixel and their source.

    Raises
    ------
    ValueError
        For a section that does not exist.
    FileNotFoundError
        If no mirror is given, or it does not hold the section.

    References
    ----------
    P. L. Ståhl et al., Visualization and analysis of gene expression in tissue sections by spatial transcriptomics,
    Science 353, 78–82 (2016).

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.mob("rep11")  # doctest: +SKIP
    """
    check_choice(section, ("rep11", "rep12"), name="section")
    files, table = read_mirrored("mob", f"{section}.h5ad", path)
    pixels = np.asarray(table.obsm["spatial"], dtype=np.float64)
    array = np.array([name.split("_") for name in table.obs_names], dtype=int)
    for column in table.obs.columns.intersection(["layer", "layer_CARD"]):
        table.obs[column] = pd.Categorical(table.obs[column].astype(str).replace(["NA", "nan"], None))
    table.obs["array_row"], table.obs["array_col"] = array[:, 1], array[:, 0]
    picture = files.get(f"{section}.jpg") if image else None
    sdata, scale = array_section(table, pixels, array * _PITCH_UM, pitch_um=_PITCH_UM, spot_um=_SPOT_UM, image=picture)
    sdata["table"].uns["st"] = {"section": section, **scale}
    return sdata
