"""``storm.prognosis.leakage``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from storm._bridge.cohort import Cohort, check_cohort
from storm._bridge.cohort_tables import DONE, names


def leakage(split: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """What is on both sides of a split: patients, slides that are the same file, and sites.

    A patient or a slide in two folds makes what is measured in them worthless. Sites in several folds are as they are
    met in a random split of a study: a network that recognises them may use what they have in common, and will not have
    that at another site. Measure with ``split(group="site")`` too.

    Parameters
    ----------
    split
        Table with ``fold`` by patient, from :func:`split` or your own.
    cohort
        The cohort.

    Returns
    -------
    DataFrame
        A row for each leak: ``kind`` (``"patient"``, ``"slide"`` or ``"site"``), ``name`` (of a slide its checksum),
        ``folds`` and ``patients`` (tuples). Empty if there is none.

    Raises
    ------
    KeyError
        If the table has no column ``fold``, or patients whom the cohort does not have.

    Examples
    --------
    Slides of one site in several folds are a leak by site, which patients held out do not prevent:

    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> folds = storm.prognosis.split(cohort, endpoint="DSS", folds=3)
    >>> storm.prognosis.leakage(folds, cohort)["kind"].unique().tolist()
    ['site']
    >>> by_site = storm.prognosis.split(cohort, endpoint="DSS", folds=3, group="site")
    >>> len(storm.prognosis.leakage(by_site, cohort))
    0
    """
    check_cohort(cohort)
    if not isinstance(split, pd.DataFrame) or "fold" not in split:
        columns = list(split.columns) if isinstance(split, pd.DataFrame) else type(split).__name__
        msg = f"the split is a table with a column 'fold', by patient, not {columns}"
        raise KeyError(msg)
    if unknown := [str(name) for name in split.index if name not in cohort.patients.index]:
        msg = f"{len(unknown)} patients of the split are not in the cohort: {names(unknown)}"
        raise KeyError(msg)
    who = pd.DataFrame({"patient": split.index, "fold": split["fold"].to_numpy()})
    done = cohort.slides[cohort.slides["status"] == DONE]
    slides = who.merge(done[["patient", "sha256"]], on="patient")
    rows = [*_shared("patient", who["patient"], who), *_shared("slide", slides["sha256"], slides)]
    if "site" in cohort.patients:
        rows += _shared("site", who["patient"].map(cohort.patients["site"]), who)
    return pd.DataFrame(rows, columns=["kind", "name", "folds", "patients"])


def _shared(kind: str, key: pd.Series, table: pd.DataFrame) -> Iterable[tuple[str, str, tuple, tuple]]:
    """Keys that several folds have."""
    for name, rows in table.groupby(np.asarray(key), sort=True, dropna=True):
        folds = tuple(sorted(rows["fold"].unique().tolist()))
        if len(folds) > 1:
            yield kind, str(name), folds, tuple(sorted(rows["patient"].unique().tolist()))
