"""Domains and cell types of a drawn section, and what a nucleus of each type looks like."""

from __future__ import annotations

from dataclasses import dataclass

#: Planted domains in the order of their codes, worded as in the pathologist's labels of her2st.
DOMAINS = ("invasive cancer", "connective tissue", "adipose tissue", "immune infiltrate", "breast glands")
TUMOUR, STROMA, FAT, IMMUNE, GLANDS = range(5)

#: Cell types in the order of their codes.
CELLS = (
    "tumour cell",
    "luminal cell",
    "myoepithelial cell",
    "fibroblast",
    "adipocyte",
    "T cell",
    "B cell",
    "macrophage",
    "endothelial cell",
)
CANCER, LUMINAL, MYOEPITHELIAL, FIBROBLAST, ADIPOCYTE, T_CELL, B_CELL, MACROPHAGE, ENDOTHELIAL = range(9)

#: Red blood cells are drawn, but they hold no RNA and are in no table.
ERYTHROCYTE = 9


@dataclass(frozen=True)
class Look:
    """Nucleus of a cell type.

    Attributes
    ----------
    major, ratio
        Semi-major axis in µm, and the minor as a share of it.
    spread
        Coefficient of variation of the size.
    stain
        Haematoxylin optical density (stain units).
    texture
        Strength of the chromatin's clumping.
    rim
        Strength of the dark nuclear membrane (vesicular nuclei).
    wobble
        Irregularity of the outline, as a share of the radius.
    body
        Radius in µm of the cell around the nucleus.
    """

    major: float
    ratio: float
    spread: float
    stain: float
    texture: float
    rim: float
    wobble: float
    body: float


LOOKS = (
    Look(4.6, 0.78, 0.16, 1.05, 0.55, 0.55, 0.09, 7.0),
    Look(3.7, 0.74, 0.08, 1.15, 0.35, 0.25, 0.04, 5.5),
    Look(4.3, 0.36, 0.12, 1.30, 0.25, 0.10, 0.05, 4.5),
    Look(6.0, 0.26, 0.20, 1.35, 0.25, 0.10, 0.06, 6.0),
    Look(4.6, 0.27, 0.12, 1.35, 0.20, 0.10, 0.05, 5.0),
    Look(2.75, 0.93, 0.07, 1.95, 0.35, 0.10, 0.04, 3.6),
    Look(3.0, 0.93, 0.07, 1.80, 0.40, 0.15, 0.04, 4.0),
    Look(4.2, 0.62, 0.13, 0.90, 0.35, 0.30, 0.12, 7.0),
    Look(4.8, 0.30, 0.12, 1.35, 0.25, 0.10, 0.06, 5.0),
    Look(3.1, 0.95, 0.05, 0.00, 0.10, 0.00, 0.05, 3.1),
)
