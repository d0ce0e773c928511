"""The annotated public sections on which spatial domains are scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata
from anndata import AnnData
from spatialdata import SpatialData

import storm

#: Platforms, and the sections of each.
GROUPS = {
    "breast": ("B1", "C1", "D1", "G2"),
    "bulb": ("rep11", "rep12"),
    "Visium": ("DLPFC_151673", "DLPFC_151674"),
    "cells": ("STARmap_VC", "STARmap_mPFC_BZ5"),
}
#: Labels that are none.
MISSING = ("undetermined", "NA", "nan")


@dataclass(frozen=True)
class Section:
    """A section and its annotation.

    Attributes
    ----------
    data
        What STORM reads.
    column
        Column of ``obs`` with the label of each spot, some of them ``MISSING``.
    """

    data: SpatialData | AnnData
    column: str

    @property
    def table(self) -> AnnData:
        """The table of counts."""
        return self.data if isinstance(self.data, AnnData) else self.data.tables["table"]


def read_section(name: str, data: Path, *, image: bool = True) -> Section:
    """A section by its name, from a folder with ``her2st``, ``mob`` and ``domains``; the bulb with H&E if wanted."""
    if name.startswith("rep"):
        found, column = storm.datasets.mob(name, path=data, image=image), "layer"
    elif len(name) == 2:
        found, column = storm.datasets.her2st(name, path=data, image=False), "label"
    else:
        found = anndata.read_h5ad(data / "domains" / f"{name}.h5ad")
        column = "label" if "label" in found.obs else "truth"
    return Section(found, column)
