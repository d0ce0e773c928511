"""Bulk expression and outcome of three cohorts of The Cancer Genome Atlas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from storm._checks import check_choice
from storm.datasets._fetch import PublicFiles

if TYPE_CHECKING:
    from anndata import AnnData

#: Where the expression of each cohort was published, in repositories of mahmoodlab on GitHub.
_SOURCES = {
    "kirc": "datasets_csv_mutsig/tcga_kirc_all_clean.csv.zip of github.com/mahmoodlab/PORPOISE",
    "luad": "datasets_csv_sig of github.com/mahmoodlab/MCAT",
    "blca": "datasets_csv_sig of github.com/mahmoodlab/MCAT",
}
#: Clinical columns of TCGA-CDR under the names that a cohort has.
_CLINIC = {
    "age_at_initial_pathologic_diagnosis": "age",
    "gender": "sex",
    "ajcc_pathologic_tumor_stage": "stage",
    "histological_grade": "grade",
    "tss": "site",
    "slide_id": "slide",
}
_ENDPOINTS = ("OS", "DSS", "PFI")


def tcga_bulk(name: Literal["kirc", "luad", "blca"] = "kirc", *, path: str | Path | None = None) -> AnnData:
    """Read bulk expression and outcome of a cohort of TCGA, to try a signature on.

    Expression is of cancer-related genes only, z-scored gene by gene. There is no public address of these tables: they
    are read from the folder ``outcome/tcga_bulk`` of a mirror, as ``kirc_rna_z.csv.gz`` (genes × patients) and
    ``kirc_clinical.csv`` (a row per patient, columns of TCGA-CDR). The expression was published in
    ``datasets_csv_mutsig/tcga_kirc_all_clean.csv.zip`` of mahmoodlab/PORPOISE on GitHub (LUAD and BLCA in
    ``datasets_csv_sig`` of mahmoodlab/MCAT), the outcomes in ``TCGA-CDR.xlsx`` (Liu et al. 2018). The values are of the
    open-access tier, whose terms forbid identifying patients.

    Parameters
    ----------
    name
        ``"kirc"`` (kidney, 345 patients × 1,556 genes), ``"luad"`` (lung, 453 × 2,812) or ``"blca"`` (bladder, 373 ×
        2,814).
    path
        Mirror: the folder that holds the files, or the one that holds ``outcome/tcga_bulk``; by default
        ``storm.settings.data_dir``, whose initial value is the environment variable ``STORM_DATA_DIR``.

    Returns
    -------
    AnnData
        Patients × genes, float32. ``obs`` has ``OS_time`` (days), ``OS_event`` and the same of ``DSS`` and ``PFI``,
        ``age``, ``sex``, ``stage``, ``grade``, ``site`` (tissue source site) and ``slide`` (the diagnostic slide's
        file). What TCGA writes as ``"[Not Available]"`` and the like is missing. A few times are missing or 0, as they
        were published.

    Raises
    ------
    ValueError
        For a cohort that does not exist, or tables that do not fit each other.
    FileNotFoundError
        If the tables are not in a mirror; the message says what to download.

    Examples
    --------
    >>> import storm
    >>> adata = storm.datasets.tcga_bulk("kirc")  # doctest: +SKIP
    >>> score = storm.tl.score_bulk(adata.to_df(), ["AXL", "MET", "CD44"])  # doctest: +SKIP
    >>> time, died = adata.obs["OS_time"], adata.obs["OS_event"]  # doctest: +SKIP
    >>> test = storm.metrics.log_rank(time, died, score > score.median())  # doctest: +SKIP

    References
    ----------
    Liu et al., An Integrated TCGA Pan-Cancer Clinical Data Resource, Cell 2018; Chen et al., Pan-cancer integrative
    histology-genomic analysis via multimodal deep learning, Cancer Cell 2022.
    """
    from anndata import AnnData

    check_choice(name, list(_SOURCES), name="name")
    tables = f"{name}_rna_z.csv.gz", f"{name}_clinical.csv"
    try:
        files = PublicFiles.open("outcome/tcga_bulk", marker=tables[1], path=path)
        expression, clinic = (pd.read_csv(files.get(file), index_col=0) for file in tables)
    except FileNotFoundError as error:
        msg = (
            f"{error}. Nobody publishes these two tables: make {tables[0]} (genes × patients, z-scored) from "
            f"{_SOURCES[name]}, and {tables[1]} (a row per patient, first column case_id) from TCGA-CDR.xlsx of Liu et "
            f"al. 2018"
        )
        raise FileNotFoundError(msg) from error
    if sorted(expression.columns) != sorted(clinic.index) or clinic.index.has_duplicates:
        shared = len(set(expression.columns) & set(clinic.index))
        msg = (
            f"{tables[0]} has {expression.shape[1]} patients and {tables[1]} {len(clinic)}, {shared} of them in both; "
            f"they are to have the same"
        )
        raise ValueError(msg)
    obs = clinic[list(_CLINIC)].rename(columns=_CLINIC)
    obs = obs.mask(obs.map(lambda value: isinstance(value, str) and value.startswith("[")))
    obs["age"] = obs["age"].astype(float)
    for endpoint in _ENDPOINTS:
        obs[f"{endpoint}_time"] = clinic[f"{endpoint}.time"].astype(float)
        obs[f"{endpoint}_event"] = clinic[endpoint].astype(float)
    obs.index = obs.index.astype(str).rename("patient")
    values = expression.T.loc[clinic.index].to_numpy(dtype=np.float32)
    return AnnData(values, obs=obs, var=pd.DataFrame(index=expression.index.astype(str).rename(None)))
