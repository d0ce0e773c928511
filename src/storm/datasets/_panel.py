"""Genes of the drawn sections: real human symbols, grouped by the cell type (or programme) that expresses them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storm.datasets._types import (
    ADIPOCYTE,
    B_CELL,
    CANCER,
    CELLS,
    DOMAINS,
    ENDOTHELIAL,
    FAT,
    FIBROBLAST,
    GLANDS,
    IMMUNE,
    LUMINAL,
    MACROPHAGE,
    MYOEPITHELIAL,
    STROMA,
    T_CELL,
    TUMOUR,
)

#: Markers, as groups of the cell types that share them.
_MARKERS: tuple[tuple[tuple[int, ...], str], ...] = (
    (
        (CANCER,),
        "ERBB2 GRB7 STARD3 PGAP3 MIEN1 PSMD3 MKI67 TOP2A CCND1 MUC1 TFF1 AGR2 S100P CEACAM6 FASN SPDEF LAPTM4B BIRC5 "
        "CDK1 CCNB1 UBE2C TYMS PCNA MYBL2 SCD CRABP2 CALML5 TMEM45B DSP S100A14 PRSS8 RAB25",
    ),
    ((CANCER, LUMINAL), "EPCAM KRT8 KRT18 KRT19 KRT7 CDH1 CLDN3 CLDN4 CLDN7 ELF3 TACSTD2 XBP1 GATA3 ESR1 TFF3 AZGP1"),
    (
        (LUMINAL,),
        "PIP SCGB2A2 SCGB1D2 LTF SLPI ELF5 KIT ALDH1A3 PROM1 WFDC2 PIGR MUCL1 ANKRD30A KRT15 KRT23 LCN2 SAA1 PGR AREG",
    ),
    ((MYOEPITHELIAL,), "KRT5 KRT14 KRT17 OXTR TP63 DST LAMB3 ACTG2 MYLK CNN1 SYNM SAMD5 DKK3"),
    ((MYOEPITHELIAL, FIBROBLAST, ENDOTHELIAL), "ACTA2 TAGLN MYL9 TPM2 CALD1"),
    (
        (FIBROBLAST,),
        "COL1A1 COL1A2 COL3A1 COL5A1 COL5A2 COL6A1 COL6A2 COL6A3 FN1 LUM DCN POSTN FAP PDGFRA PDGFRB THY1 MMP2 MMP11 "
        "MGP VCAN FBLN1 FBN1 THBS2 CTHRC1 SFRP2 SFRP4 ASPN COMP C1S C1R SERPINF1 MMP14 TIMP3 LOX CCDC80",
    ),
    ((FIBROBLAST, ENDOTHELIAL), "SPARC BGN COL4A1 COL4A2 IGFBP7 TIMP1 VIM"),
    (
        (ADIPOCYTE,),
        "ADIPOQ PLIN1 PLIN4 FABP4 LPL LEP CIDEC LIPE AQP7 CD36 G0S2 ADH1B RBP4 TIMP4 CFD GPD1 PNPLA2 TRARG1 SLC19A3",
    ),
    (
        (T_CELL,),
        "CD3D CD3E CD3G CD2 CD8A CD4 TRAC TRBC1 TRBC2 IL7R CCR7 LCK GZMA GZMB GZMK NKG7 CCL5 PRF1 FOXP3 CTLA4 PDCD1 "
        "TIGIT LAG3 IL32 CD69 ITK",
    ),
    (
        (B_CELL,),
        "CD79A CD79B MS4A1 CD19 CD22 BANK1 PAX5 CR2 FCER2 TCL1A IGHM IGHD IGKC IGHG1 JCHAIN MZB1 CXCR5 CXCL13 VPREB3 "
        "FCRLA BLK POU2AF1 SPIB TNFRSF13C",
    ),
    ((T_CELL, B_CELL), "PTPRC CXCR4 CD52 LTB CORO1A CD37 RAC2 SELL CYTIP"),
    (
        (MACROPHAGE,),
        "CD68 CD163 CD14 CSF1R C1QA C1QB C1QC TYROBP AIF1 FCER1G LYZ MRC1 MSR1 APOE APOC1 SPP1 FCGR3A MARCO ITGAX "
        "MS4A6A",
    ),
    ((MACROPHAGE, B_CELL), "CD74 HLA-DRA HLA-DRB1 HLA-DPA1 HLA-DPB1"),
    ((ENDOTHELIAL,), "PECAM1 VWF CDH5 CLDN5 ENG KDR FLT1 TEK TIE1 EGFL7 ESAM PLVAP RAMP2 EMCN ERG ROBO4"),
)

#: Expressed by every cell.
_HOUSEKEEPING = (
    "ACTB GAPDH B2M EEF1A1 TPT1 UBC UBB HSP90AB1 FTH1 FTL TMSB4X TMSB10 PPIA RPL3 RPL10 RPL13 RPL13A RPL19 RPL32 RPL37 "
    "RPLP0 RPLP1 RPS3 RPS6 RPS12 RPS18 RPS19 RPS27 RPS29 NACA"
)

#: Induced by interferon, and so by a field that leaves no trace in the image: the limit of a prediction from H&E.
_HIDDEN = "ISG15 IFI6 IFI27 IFI44L IFIT1 IFIT2 IFIT3 MX1 OAS1 STAT1"

#: Noise: few counts, the same everywhere.
_NOISE = "SNAP25 SYP NRXN1 GRIN1 MBP GFAP MAGEA4 DDX4 PRM1 TNP1 ACTN3 MYH7 INS GCG ALB CRX RHO OR51E2 SFTPC UMOD"

#: Genes that rise with a field of the local morphology: its name, and the log2 change from its low to its high end.
_MODULATED: tuple[tuple[str, float, str], ...] = (
    ("grade", 2.6, "MKI67 TOP2A BIRC5 CDK1 CCNB1 UBE2C TYMS PCNA MYBL2"),
    ("grade", 1.4, "ERBB2 GRB7 STARD3 PGAP3 MIEN1 PSMD3"),
    ("collagen", 2.2, "COL1A1 COL1A2 COL3A1 COL5A1 COL5A2 FN1 POSTN FAP MMP11 THBS2 CTHRC1 COMP ASPN LOX ACTA2"),
    ("hidden", 3.5, _HIDDEN),
)

#: Genes that the same cells express more in one domain than elsewhere (log2 change), as cells do that answer their
#: surroundings: activated fibroblasts and macrophages of a tumour, quiet ones of the tissue around it.
_SURROUNDINGS: tuple[tuple[int, float, str], ...] = (
    (TUMOUR, 1.5, "FAP POSTN MMP11 CTHRC1 COL5A2 THBS2 COL1A1 FN1 MMP14 SPP1 APOC1 TIMP1 VCAN KRT19 S100A14 CXCR4"),
    (STROMA, 1.2, "DCN FBLN1 CCDC80 SFRP4 C1S C1R SERPINF1 COMP ASPN COL6A1 COL6A2 IGFBP7 MRC1 ACTA2 TAGLN"),
    (FAT, 1.2, "COL6A3 CD36 TIMP3 FBN1 VWF CLDN5 PECAM1 MSR1 APOE SPARC FTL"),
    (IMMUNE, 1.2, "CXCL13 CCL5 CD52 LTB PTPRC HLA-DRA CD74 SELL CCR7 B2M TMSB4X CORO1A"),
    (GLANDS, 1.4, "SFRP2 PDGFRA IGHG1 JCHAIN PIGR COL4A1 COL4A2 LAMB3 KRT15 SLPI MGP TIMP4 DKK3 AREG"),
)

#: RNA of a cell of each type relative to a T cell.
CONTENT = np.array([3.2, 2.2, 1.5, 1.8, 3.0, 1.0, 1.1, 2.0, 1.4], dtype=np.float32)


@dataclass(frozen=True)
class Panel:
    """Genes with their expression in every cell type.

    Attributes
    ----------
    genes
        Symbols, shape (g,).
    profiles
        Share of a cell type's RNA that each gene makes up, shape (9, g), rows sum to 1.
    modulation
        For every field of the local morphology the log2 change of each gene from its low to its high end, shape (g,).
    surroundings
        log2 change of each gene in every domain, shape (5, g).
    dispersion
        Negative-binomial dispersion φ of each gene (variance μ + φ μ²), shape (g,).
    """

    genes: np.ndarray
    profiles: np.ndarray
    modulation: dict[str, np.ndarray]
    surroundings: np.ndarray
    dispersion: np.ndarray


def all_genes() -> list[str]:
    """Symbols of the whole panel, in a fixed order."""
    names = [g for _, group in _MARKERS for g in group.split()]
    return [*names, *_HOUSEKEEPING.split(), *_HIDDEN.split(), *_NOISE.split()]


def make_panel(seed: int, *, n_genes: int | None = None) -> Panel:
    """Draw expression levels; ``n_genes`` keeps that many genes, spread over all groups."""
    rng = np.random.default_rng([seed, 8])
    genes = np.array(all_genes())
    column = {g: k for k, g in enumerate(genes)}
    level = np.exp(0.8 * rng.standard_normal(len(genes)))
    profiles = np.zeros((len(CELLS), len(genes)))
    for types, group in _MARKERS:
        for gene in group.split():
            # a little of every marker is seen everywhere
            profiles[:, column[gene]] = level[column[gene]] * rng.uniform(0.01, 0.03, len(CELLS))
            for cell in types:
                profiles[cell, column[gene]] = level[column[gene]] * (1 if len(types) == 1 else rng.uniform(0.5, 1.0))
    for gene in _HOUSEKEEPING.split():
        profiles[:, column[gene]] = 2.0 * level[column[gene]] * np.exp(0.15 * rng.standard_normal(len(CELLS)))
    for gene in _HIDDEN.split():
        profiles[:, column[gene]] = 0.25 * level[column[gene]]
    profiles /= profiles.sum(axis=1, keepdims=True)
    for gene in _NOISE.split():
        profiles[:, column[gene]] = 3e-4 * level[column[gene]]
    profiles /= profiles.sum(axis=1, keepdims=True)
    modulation = {name: np.zeros(len(genes), dtype=np.float32) for name, _, _ in _MODULATED}
    for name, change, group in _MODULATED:
        for gene in group.split():
            modulation[name][column[gene]] = change * rng.uniform(0.75, 1.25)
    surroundings = np.zeros((len(DOMAINS), len(genes)), dtype=np.float32)
    for domain, change, group in _SURROUNDINGS:
        for gene in group.split():
            surroundings[domain, column[gene]] = change * rng.uniform(0.75, 1.25)
    dispersion = 0.12 * np.exp(0.5 * rng.standard_normal(len(genes)))
    kept = np.arange(len(genes))
    if n_genes is not None and n_genes < len(genes):
        kept = np.linspace(0, len(genes) - 1, n_genes).round().astype(int)
    return Panel(
        genes[kept],
        profiles[:, kept].astype(np.float32),
        {k: v[kept] for k, v in modulation.items()},
        surroundings[:, kept],
        dispersion[kept].astype(np.float32),
    )
