"""Measures of a report, each a row of numbers and a note."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

from storm.metrics.calibration import calibration_slope
from storm.metrics.discrimination import brier, concordance, cumulative_auc, uno_concordance
from storm.metrics.hazards import CoxModel, cox
from storm.metrics.reclassification import bootstrap_reclassification, net_reclassification

#: Measures by name: ``value``, ``lower``, ``upper`` and ``note``.
Rows = dict[str, dict[str, object]]


def column_of(patients: pd.DataFrame, column: str) -> pd.Series:
    if column not in patients:
        msg = f"there is no column {column!r} of patients; there are {list(patients)}"
        raise KeyError(msg)
    return patients[column]


def mean_concordance(table: pd.DataFrame, column: str = "risk") -> float:
    """Mean of the concordances of the folds: risks of different folds are not on one scale."""
    values = []
    for _, own in table.groupby("fold", sort=False):
        try:
            values.append(concordance(own["time"], own["event"], own[column]))
        except ValueError:
            continue
    return float(np.mean(values)) if values else np.nan


def remark(row: dict[str, object], *texts: str) -> dict[str, object]:
    """A row with texts added to its note."""
    note = "; ".join(text for text in (str(row.get("note", "")), *texts) if text)
    return row | {"note": note} if note else row


def left_out_folds(table: pd.DataFrame, measure: Callable[[pd.DataFrame], float], *, lacking: str) -> str:
    """Which folds do not count in a mean over folds, because they cannot be judged; empty if all of them count.

    Parameters
    ----------
    table
        Patients, with their ``fold``.
    measure
        Judges the patients of a fold; NaN where it cannot.
    lacking
        What such a fold lacks.
    """
    folds = {str(fold): measure(own) for fold, own in table.groupby("fold")}
    lost = [fold for fold, value in folds.items() if not np.isfinite(value)]
    if not lost:
        return ""
    which = f"fold {lost[0]}" if len(lost) == 1 else f"folds {', '.join(lost)}"
    return f"{len(lost)} of {len(folds)} folds lack {lacking} and do not count: {which}"


def interval(
    measure: Callable[[pd.DataFrame], float], table: pd.DataFrame, *, n_boot: int, seed: int
) -> dict[str, object]:
    """A measure, and its percentiles over patients resampled within folds."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(table["fold"] == fold) for fold in table["fold"].unique()]
    drawn = []
    for _ in range(n_boot):
        rows = np.concatenate([own[rng.integers(0, len(own), len(own))] for own in places])
        drawn.append(measure(table.iloc[rows]))
    row: dict[str, object] = {"value": measure(table)}
    known = np.isfinite(drawn)
    if known.any():
        row["lower"], row["upper"] = np.percentile(np.array(drawn)[known], [2.5, 97.5]).tolist()
    if not known.all():
        row["note"] = f"{int((~known).sum())} of {n_boot} resamples could not be judged"
    return row


def at_horizon(table: pd.DataFrame, horizon: float, *, n_boot: int, seed: int) -> Rows:
    time, event = table["time"], table["event"]
    rows: Rows = {}
    followed = int((time >= horizon).sum())
    before = int((event & (time <= horizon)).sum())
    if followed == 0 or before == 0:
        note = f"nobody is followed to {horizon:g}" if followed == 0 else f"no event until {horizon:g}"
        return {f"AUC at {horizon:g}": {"value": np.nan, "note": note}}

    def by_fold(measure: Callable[[pd.DataFrame], float]) -> Callable[[pd.DataFrame], float]:
        def mean(frame: pd.DataFrame) -> float:
            values = [measure(own) for _, own in frame.groupby("fold", sort=False)]
            return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan

        return mean

    def auc(own: pd.DataFrame) -> float:
        return float(cumulative_auc(own["time"], own["event"], own["risk"], times=horizon)[0])

    def uno(own: pd.DataFrame) -> float:
        try:
            return uno_concordance(own["time"], own["event"], own["risk"], tau=horizon)
        except ValueError:
            return np.nan

    for name, measure in ((f"Uno C until {horizon:g}", uno), (f"AUC at {horizon:g}", auc)):
        note = left_out_folds(table, measure, lacking=f"patients to compare at {horizon:g}")
        rows[name] = remark(interval(by_fold(measure), table, n_boot=n_boot, seed=seed), note)
    column = f"survival_{horizon:g}"
    if column in table and table[column].notna().all():
        survival = table[column].to_numpy()

        def score(frame: pd.DataFrame) -> float:
            return float(brier(frame["time"], frame["event"], frame[[column]].to_numpy(), times=horizon)[0])

        rows[f"Brier score at {horizon:g}"] = interval(score, table, n_boot=n_boot, seed=seed)
        inside = np.clip(survival, 1e-6, 1 - 1e-6)
        hazard = np.log(-np.log(inside))
        if np.ptp(hazard) > 1e-9:
            slope = calibration_slope(time, event, hazard)
            rows["calibration slope"] = {
                "value": slope.slope,
                "lower": slope.slope - 1.96 * slope.se,
                "upper": slope.slope + 1.96 * slope.se,
                "note": "1 is right; below, risks were predicted too far apart",
            }
    else:
        note = f"predictions have no {column}; predict with times=[{horizon:g}]"
        if column in table:
            lost = int(table[column].isna().sum())
            note = f"{lost} patients have no {column}: their models saw too few events, or none so late"
        rows[f"Brier score at {horizon:g}"] = {"value": np.nan, "note": note}
    return rows


def group_model(table: pd.DataFrame, frame: pd.DataFrame) -> CoxModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*events for .* covariates", category=UserWarning)
        return cox(table.loc[frame.index, "time"], table.loc[frame.index, "event"], frame)


def multivariable_model(
    table: pd.DataFrame,
    high: pd.DataFrame,
    clinical: pd.DataFrame,
    *,
    missing: str,
    horizon: float | None,
    n_boot: int,
    seed: int,
) -> tuple[CoxModel, Rows]:
    """Cox model of the group beside clinical covariates, and how it reclassifies patients beyond them."""
    rows: Rows = {}
    lost = {str(name): int(n) for name, n in clinical.isna().sum().items() if n}
    if lost and missing == "error":
        msg = (
            f"covariates are missing for some of {len(table)} patients: {lost}; give missing='drop' for complete "
            "cases, or leave these covariates out"
        )
        raise ValueError(msg)
    clinical = clinical.dropna()
    if clinical.empty:
        msg = f"no patient has all covariates: {lost} of {len(table)} are missing; leave covariates out"
        raise ValueError(msg)
    if constant := [str(name) for name in clinical if clinical[name].nunique() < 2]:
        msg = f"covariates {constant} are the same for all patients; leave them out"
        raise ValueError(msg)
    text = [name for name in clinical if clinical[name].dtype.kind not in "biuf"]
    coded = pd.get_dummies(clinical, columns=text, drop_first=True).astype(float)
    both = pd.concat([high.loc[coded.index], coded], axis=1)
    own = table.loc[coded.index]
    model = cox(own["time"], own["event"], both)
    ratio = model.table.astype(float).loc[["high risk"]].iloc[0].to_dict()
    dropped = f"{len(table) - len(own)} patients without a covariate left out; " if len(own) < len(table) else ""
    per = int(own["event"].sum()) / both.shape[1]
    rows["hazard ratio beside covariates"] = {
        "value": ratio["hr"],
        "lower": ratio["hr_lower"],
        "upper": ratio["hr_upper"],
        "note": f"{dropped}p = {ratio['p']:.2g}, {per:.0f} events per covariate, hazards proportional p = "
        f"{ratio['p_ph']:.2g}",
    }
    if horizon is not None:
        old = cox(own["time"], own["event"], coded)
        # Both models see the same patients, so that the improvement is optimistic.
        pair = tuple(1 - one.survival(frame, horizon)[:, 0] for one, frame in ((old, coded), (model, both)))
        if np.isfinite(pair).all():
            found = net_reclassification(own["time"], own["event"], (pair[0], pair[1]), horizon=float(horizon))
            drawn = bootstrap_reclassification(
                own["time"], own["event"], (pair[0], pair[1]), horizon=float(horizon), n_boot=n_boot, seed=seed
            )
            known = np.isfinite(drawn)
            limits = np.percentile(drawn[known], [2.5, 97.5]).tolist() if known.any() else [np.nan, np.nan]
            note = "; ".join((*found.remarks, "covariates with and without the group, fitted on these patients"))
            rows[f"NRI at {horizon:g}, continuous"] = {
                "value": found.nri,
                "lower": limits[0],
                "upper": limits[1],
                "note": note,
            }
    return model, rows
