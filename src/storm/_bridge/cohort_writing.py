"""Features of a slide go into a cohort: the same checks for those that STORM makes and those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from storm import __version__
from storm._bridge.cohort import Cohort, check_cohort, check_no_cohort
from storm._bridge.cohort_facts import adopt_facts
from storm._bridge.cohort_features import HE, ST, TileFeatures, checked, read_attributes, write_features, write_group
from storm._bridge.cohort_tables import DONE, FEATURES, SLIDES, names, tables_lock, write_table
from storm._checks import check_genes, check_mapping
from storm._logging import logger

#: Facts that a cohort keeps itself.
_OWN = {"format", "storm_version", "modalities", "he_dim", "genes"}


def store_features(
    cohort: Cohort,
    slide: str,
    *,
    he: Any,
    st: Any = None,
    genes: Sequence[str] | None = None,
    xy_um: Any,
    per_tile: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any],
    sha256: str | None = None,
    **attributes: Any,
) -> None:
    """Check the features of a slide against the cohort, and store them.

    Parameters
    ----------
    cohort
        The cohort.
    slide
        Name of a slide of its table.
    he, st, genes, xy_um, per_tile
        As in :func:`storm.prognosis.add_features`.
    facts
        What made them; it must be the same for all slides.
    sha256
        Checksum of the slide's file; of the features by default.
    **attributes
        What belongs to this slide only, and is stored with its features.

    Raises
    ------
    KeyError, ValueError, TypeError
        As :func:`storm.prognosis.add_features`.
    """
    check_cohort(cohort)
    check_mapping(facts, name="facts", example='{"encoder": "my-vit"}')
    check_mapping({} if per_tile is None else per_tile, name="per_tile", example='{"n_cells": counts}')
    if not isinstance(slide, str) or slide not in cohort.slides.index or slide not in _stored(cohort):
        msg = f"there is no slide {slide!r} in the stored cohort.slides; add a row with its patient, then cohort.save()"
        raise KeyError(msg)
    features = checked(slide, he=he, st=st, xy_um=xy_um, per_tile=per_tile)
    listed = None if genes is None else check_genes(genes)
    n_genes = 0 if features.st is None else features.st.shape[1]
    if len(listed or ()) != n_genes:
        msg = f"slide {slide!r}: st has {n_genes} columns, and genes names {len(listed or ())}; give one for each"
        raise ValueError(msg)
    cohort.facts = adopt_facts(cohort.folder, _all_facts(features, listed, facts), slide=slide)
    checksum = sha256 or features.sha256()
    write_features(cohort.path_of(slide), features, {**_attributes(features, checksum), **attributes})
    record(cohort, slide, status=DONE, n_tiles=len(features), sha256=checksum)
    same = cohort.slides.index[(cohort.slides["sha256"] == checksum) & (cohort.slides.index != slide)]
    if len(same):
        logger.warning(
            "slide %s is the same file as %s: its tiles count twice, and they may lie on both sides of a split",
            slide, names(list(same)),
        )  # fmt: skip


def _stored(cohort: Cohort) -> pd.Index:
    """Names of the slides in the table on disk."""
    return pd.read_parquet(cohort.folder / SLIDES, columns=[]).index


def record(cohort: Cohort, slide: str, **values: Any) -> None:
    """Store values of a slide's row; rows that other processes have stored meanwhile, and your own changes, are kept.

    Parameters
    ----------
    cohort
        The cohort.
    slide
        Name of the slide.
    **values
        New values by column.
    """
    with tables_lock(cohort.folder):
        table = pd.read_parquet(cohort.folder / SLIDES)
        for column, value in values.items():
            table.loc[slide, column] = value
        write_table(cohort.folder / SLIDES, table)
    for column, value in values.items():
        cohort.slides.loc[slide, column] = value
    cohort.forget()


def make_cohort(
    folder: str | Path,
    *,
    patients: pd.DataFrame,
    made: Mapping[str, tuple[str, TileFeatures]],
    genes: Sequence[str],
    facts: Mapping[str, Any],
) -> Cohort:
    """Make a cohort of features that are all there; its tables are written last.

    Parameters
    ----------
    folder
        Folder to make.
    patients
        Table of patients.
    made
        Patient and features of each slide.
    genes
        Names of the columns of ``st``.
    facts
        What made them.

    Raises
    ------
    FileExistsError
        If there is a cohort in the folder.
    """
    check_no_cohort(Path(folder))
    rows = {}
    for slide, (patient, features) in made.items():
        attributes = _attributes(features, features.sha256())
        write_group(Path(folder) / FEATURES / f"{slide}.zarr", features, attributes)
        rows[slide] = {"patient": patient, "status": DONE, **{key: attributes[key] for key in ("n_tiles", "sha256")}}
    cohort = Cohort.create(folder, patients=patients, slides=pd.DataFrame.from_dict(rows, orient="index"))
    slide, (_, features) = next(iter(made.items()))
    cohort.facts = adopt_facts(cohort.folder, _all_facts(features, list(genes), facts), slide=slide)
    return cohort


def _all_facts(features: TileFeatures, genes: list[str] | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that all slides of a cohort share.

    Raises
    ------
    ValueError
        If one of them has a name of the cohort's own.
    """
    if taken := sorted(_OWN.intersection(facts)):
        msg = f"facts has {taken}, which the cohort keeps itself; give them other names (taken are {sorted(_OWN)})"
        raise ValueError(msg)
    return {
        **facts,
        "modalities": [HE] if features.st is None else [HE, ST],
        "he_dim": features.he.shape[1],
        "genes": genes or [],
    }


def _attributes(features: TileFeatures, sha256: str) -> dict[str, Any]:
    """What is stored with the features of one slide."""
    return {"sha256": sha256, "n_tiles": len(features), "storm_version": __version__}


def recover_slide(cohort: Cohort, slide: str) -> bool:
    """Whether a slide has features on disk; if its row does not say so, an earlier process was killed before it did."""
    stored = read_attributes(cohort.path_of(slide))
    if stored is None:
        return False
    row = cohort.slides.loc[slide]
    if row["status"] != DONE or row["sha256"] != stored["sha256"]:
        record(cohort, slide, status=DONE, n_tiles=int(stored["n_tiles"]), sha256=stored["sha256"])
    return True
