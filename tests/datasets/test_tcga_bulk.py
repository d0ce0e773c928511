"""Bulk cohorts: the real tables where they are, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import storm


def test_e2f_targets_in_kirc(shared_data: Path) -> None:
    """The published split of the cohort by E2F targets (log-rank of overall survival)."""
    adata = storm.datasets.tcga_bulk("kirc", path=shared_data)
    assert adata.shape == (345, 1556)
    assert adata.obs[["OS_event", "DSS_event", "PFI_event"]].sum().tolist() == [92, 58, 90]
    assert set(adata.obs["stage"].dropna()) == {"Stage I", "Stage II", "Stage III", "Stage IV"}
    genes = storm.datasets.gene_sets("hallmark", path=shared_data)["HALLMARK_E2F_TARGETS"]
    with pytest.warns(UserWarning, match="26 of the signature's 200 genes"):
        score = storm.tl.score_bulk(adata.to_df(), genes)
    used = adata.obs["OS_time"] > 0
    test = storm.metrics.log_rank(
        adata.obs["OS_time"][used], adata.obs["OS_event"][used], (score > score[used].median())[used]
    )
    assert test.statistic == pytest.approx(17.42035, abs=1e-4)
    for name, shape in (("luad", (453, 2812)), ("blca", (373, 2814))):
        assert storm.datasets.tcga_bulk(name, path=shared_data).shape == shape


def test_without_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm.settings, "data_dir", None)
    with pytest.raises(FileNotFoundError, match=r"make kirc_rna_z.csv.gz .*tcga_kirc_all_clean.csv.zip of .*PORPOISE"):
        storm.datasets.tcga_bulk()
    with pytest.raises(FileNotFoundError, match=r"not a mirror of outcome/tcga_bulk.*TCGA-CDR.xlsx"):
        storm.datasets.tcga_bulk("blca", path=tmp_path)
    with pytest.raises(ValueError, match="name="):
        storm.datasets.tcga_bulk("brca")


def test_tables_of_other_patients(tmp_path: Path) -> None:
    columns = ["age_at_initial_pathologic_diagnosis", "gender", "ajcc_pathologic_tumor_stage", "histological_grade"]
    clinic = pd.DataFrame({name: ["[Not Available]", "x"] for name in [*columns, "tss", "slide_id"]}, index=["a", "b"])
    clinic[columns[0]] = [np.nan, 50]
    for name in ("OS", "DSS", "PFI"):
        clinic[name], clinic[f"{name}.time"] = [0, 1], [10, 20]
    clinic.rename_axis("case_id").to_csv(tmp_path / "kirc_clinical.csv")
    pd.DataFrame({"b": [1.0, 2], "a": [3, 4]}, index=["TP53", "VHL"]).to_csv(tmp_path / "kirc_rna_z.csv.gz")
    adata = storm.datasets.tcga_bulk(path=tmp_path)
    assert adata.to_df().loc["a"].tolist() == [3, 4]
    assert adata.obs["grade"].isna().tolist() == [True, False]
    pd.DataFrame({"b": [1.0], "c": [3]}, index=["VHL"]).to_csv(tmp_path / "kirc_rna_z.csv.gz")
    with pytest.raises(ValueError, match=r"has 2 patients and kirc_clinical.csv 2, 1 of them in both"):
        storm.datasets.tcga_bulk(path=tmp_path)
