"""Human cortex, Visium (Maynard et al. 2021)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from storm._checks import check_choice
from storm.datasets._spots import array_section, read_mirrored

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
    check_choice(section, ("151673", "151674"), name="section")
    files, table = read_mirrored("domains", f"DLPFC_{section}.h5ad", path)
    factors = json.loads(files.get(f"{section}_scalefactors_json.json").read_text(encoding="utf-8"))
    pixels = np.asarray(table.obsm["spatial_fullres_px"], dtype=np.float64) * factors["tissue_lowres_scalef"]
    array = table.obs[["array_col", "array_row"]].to_numpy(dtype=np.float64) * (_PITCH_UM / 2, _ROW_UM)
    table.obs = table.obs[["label", "array_row", "array_col"]].rename(columns={"label": "layer"})
    del table.obsm["spatial_fullres_px"]
    table.obsm["spatial"], table.uns = pixels, {}
    picture = files.get(f"{section}_tissue_lowres_image.png")
    sdata, scale = array_section(table, pixels, array, pitch_um=_PITCH_UM, spot_um=_SPOT_UM, image=picture)
    sdata["table"].uns["dlpfc"] = {"section": section, **scale}
    return sdata
