"""``storm.prognosis.split``."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from storm._bridge.cohort import Cohort, check_cohort
from storm._bridge.cohort_tables import names
from storm._checks import check_choice, check_whole
from storm._logging import logger
from storm.prognosis._leakage import leakage


def split(
    cohort: Cohort,
    *,
    endpoint: str,
    folds: int = 5,
    group: Literal["patient", "site"] = "patient",
    patients: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Divide the patients into folds with as equal shares of events as their groups allow.

    The same seed gives the same folds, whatever the order of the rows. For nested folds, split the training patients of
    each fold again: ``patients=table.index[table.fold != k]``.

    Parameters
    ----------
    cohort
        The cohort.
    endpoint
        Endpoint whose events are distributed; see :meth:`Cohort.endpoint`, which also says who is left out.
    folds
        Number of folds.
    group
        ``"patient"``: each patient is in one fold, with all slides. ``"site"``: so is each site (the column ``site`` of
        the patients), for a model that is to hold where it was not trained; sites stain, scan and select in their own
        way, and a network recognises them (Howard et al. 2021).
    patients
        Only these; all by default.
    seed
        Random seed.

    Returns
    -------
    DataFrame
        ``fold``, 0 to ``folds`` − 1, by patient. ``attrs["leakage"]`` has the rows of :func:`leakage` as dictionaries,
        and ``attrs`` also ``endpoint``, ``group``, ``folds`` and ``seed``. Slides that are the same file in several
        folds are a warning in the log.

    Raises
    ------
    KeyError
        If there are no such columns, or no such patient.
    TypeError
        If ``patients`` is no list.
    ValueError
        If a site is missing, there are fewer groups or events than folds, or a fold has no event.

    References
    ----------
    Howard et al., The impact of site-specific digital histology signatures on deep learning model accuracy and bias,
    Nat. Commun. 12, 4423 (2021).

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> folds = storm.prognosis.split(cohort, endpoint="DSS", folds=3)
    >>> sorted(folds["fold"].unique().tolist())
    [0, 1, 2]
    """
    check_cohort(cohort)
    check_whole(folds, name="folds", least=2)
    check_whole(seed, name="seed", least=0)
    check_choice(group, ("patient", "site"), name="group")
    events = cohort.endpoint(endpoint)["event"]
    if patients is not None:
        events = events[_usable(cohort, events.index, patients)]
    events = events.sort_index()
    groups = _groups(cohort, events.index, group)
    _check_enough(groups, events, folds=folds, group=group)
    fold = _folds(groups, events, folds=folds, seed=seed)
    empty = [k for k in range(folds) if not events[fold == k].any()]
    if empty:
        msg = (
            f"fold {', '.join(map(str, empty))} has no event of {endpoint} ({int(events.sum())} in all), so that it "
            f"measures nothing; ask for fewer folds than {folds}, or another seed than {seed}"
        )
        raise ValueError(msg)
    table = pd.DataFrame({"fold": fold}, index=events.index)
    leaks = leakage(table, cohort)
    for row in leaks[leaks["kind"] == "slide"].to_dict("records"):
        logger.warning("the same slide is in the folds %s, of the patients %s", row["folds"], names(row["patients"]))
    table.attrs = {
        "endpoint": endpoint,
        "group": group,
        "folds": folds,
        "seed": seed,
        "leakage": leaks.to_dict("records"),
    }
    return table


def _usable(cohort: Cohort, usable: pd.Index, wanted: Sequence[str]) -> list[str]:
    """Those of the wanted patients that the endpoint can be used of."""
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        msg = f"patients={wanted!r} is a {type(wanted).__name__}; give a list of names"
        raise TypeError(msg)
    listed = [str(name) for name in wanted]
    if unknown := [name for name in listed if name not in cohort.patients.index]:
        msg = f"{len(unknown)} of {len(listed)} patients are not in the cohort: {names(unknown)}"
        raise KeyError(msg)
    kept = set(listed)
    return [name for name in usable if name in kept]


def _groups(cohort: Cohort, patients: pd.Index, group: str) -> np.ndarray:
    """What must not be divided between folds, by patient."""
    if group == "patient":
        return np.asarray(patients, dtype=str)
    if "site" not in cohort.patients:
        msg = f"group='site' reads the column 'site' of patients; there are {list(cohort.patients.columns)}"
        raise KeyError(msg)
    site = cohort.patients.loc[patients, "site"]
    if len(missing := list(site.index[site.isna()])):
        msg = f"{len(missing)} patients have no site: {names(missing)}; fill it, or split with group='patient'"
        raise ValueError(msg)
    return np.asarray(site.astype(str), dtype=str)


def _check_enough(groups: np.ndarray, events: pd.Series, *, folds: int, group: str) -> None:
    known = np.unique(groups)
    if group == "site" and len(known) == 1:
        msg = f"all patients are of one site ({str(known[0])!r}), which cannot be divided; split with group='patient'"
        raise ValueError(msg)
    if len(known) < folds:
        what = "sites" if group == "site" else "patients"
        msg = f"there are {len(known)} {what} for folds={folds}: {names(list(known))}; ask for at most {len(known)}"
        raise ValueError(msg)
    if (n := int(events.sum())) < folds:
        msg = f"there are {n} events among {len(events)} patients for folds={folds}, and each fold needs one"
        raise ValueError(msg)


def _folds(groups: np.ndarray, events: pd.Series, *, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.full(len(events), -1)
    with warnings.catch_warnings():
        # It warns where either outcome is rarer than folds; a fold without an event is an error of ours, and one
        # without a censored patient is none.
        warnings.simplefilter("ignore", UserWarning)
        for k, (_, rows) in enumerate(splitter.split(np.zeros(len(events)), events.to_numpy(), groups)):
            fold[rows] = k
    return fold
