"""``storm.prognosis.evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from storm._checks import check_choice, check_frame, check_whole
from storm.metrics.calibration import Subgroups, calibration_table, subgroup_hazards
from storm.metrics.hazards import CoxModel
from storm.metrics.survival import KaplanMeier, LogRank, kaplan_meier, log_rank
from storm.prognosis._measures import (
    Rows,
    at_horizon,
    column_of,
    group_model,
    interval,
    left_out_folds,
    mean_concordance,
    multivariable_model,
    remark,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Report:
    """What :func:`evaluate` found.

    Attributes
    ----------
    summary
        A row per measure: ``value``, ``lower`` and ``upper`` (95 %), and ``note``, what limits it, in words.
    by_fold
        A row per fold: ``n``, ``n_events``, ``c`` (or ``auroc``).
    curves
        Survival of the ``"low"`` and the ``"high"`` group.
    test
        Log-rank test between them.
    groups
        Cox model of the groups alone.
    multivariable
        Cox model of the groups beside the covariates.
    calibration
        Predicted beside observed survival at the horizon, in fifths of the patients.
    subgroups
        Hazard ratios in the levels of each column asked for, and their interaction tests.
    """

    summary: pd.DataFrame
    by_fold: pd.DataFrame
    curves: dict[str, KaplanMeier] = field(default_factory=dict)
    test: LogRank | None = None
    groups: CoxModel | None = None
    multivariable: CoxModel | None = None
    calibration: pd.DataFrame | None = None
    subgroups: dict[str, Subgroups] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Report\n{self.summary.to_string()}"


def evaluate(
    predictions: pd.DataFrame,
    patients: pd.DataFrame,
    *,
    endpoint: str,
    baseline: pd.DataFrame | None = None,
    covariates: Sequence[str] = (),
    subgroups: Sequence[str] = (),
    horizon: float | None = None,
    missing: str = "error",
    n_boot: int = 1000,
    seed: int = 0,
) -> Report:
    """Judge risks of patients whom no model was trained on.

    Intervals are percentiles over resampled patients (within folds). Groups are those of the models' frozen cut-offs;
    there is no way to make a cut-off on the patients who are reported.

    Parameters
    ----------
    predictions
        Of :meth:`OutcomeModel.predict` or, for one network, of :func:`cross_validate`: ``risk`` and ``group`` by
        patient, ``fold`` where there are several, ``survival_<horizon>`` for calibration and Brier score.
    patients
        Clinical data by patient, such as ``cohort.patients``; it may hold more patients.
    endpoint
        Name of the endpoint, such as ``"DSS"``; a column of 0 and 1 for a response.
    baseline
        Predictions of the same patients by another model: the difference of concordances, or of the AUROC of a
        response, is of the same resamples.
    covariates
        Columns of ``patients`` for the multivariable Cox model, beside the group, and for the reclassification. Text is
        coded as columns of 0 and 1, the first level left out.
    subgroups
        Columns of ``patients`` in whose levels the hazard ratio is estimated.
    horizon
        Time, in the unit of the endpoint, for time-dependent measures; none of them without it.
    missing
        ``"error"`` if a covariate is missing for a patient, or ``"drop"`` for complete cases, which are counted.
    n_boot
        Resamples.
    seed
        Random seed of the resamples.

    Returns
    -------
    Report

    Raises
    ------
    KeyError
        If a column is missing, or a patient has no clinical data.
    ValueError
        If predictions are of several networks, a patient is predicted twice or was trained on, a risk, a group, an
        event or a follow-up is invalid, or a covariate is missing and ``missing="error"``.
    ImportError
        Without lifelines (curves, tests and Cox models).

    Examples
    --------
    >>> import storm
    >>> cohort = storm.datasets.toy_cohort("cohort", n_patients=30, n_tiles=(20, 40))
    >>> config = storm.prognosis.OutcomeFit(epochs=2)
    >>> folds = storm.prognosis.split(cohort, endpoint="DSS", folds=2)
    >>> table = storm.prognosis.cross_validate(cohort, folds, networks=["mean"], config=config)
    >>> report = storm.prognosis.evaluate(table, cohort.patients, endpoint="DSS", n_boot=50)
    >>> report.summary.columns.tolist()
    ['value', 'lower', 'upper', 'note']
    """
    check_choice(missing, ("error", "drop"), name="missing")
    check_whole(n_boot, name="n_boot")
    given = {"predictions": predictions} | ({} if baseline is None else {"baseline": baseline})
    for name, one in given.items():
        check_frame(one, name=name, source="what OutcomeModel.predict or cross_validate returns (pandas.read_csv)")
    check_frame(patients, name="patients", source="cohort.patients, or a table with a row for each patient")
    for name, columns in {"covariates": covariates, "subgroups": subgroups}.items():
        if isinstance(columns, str):
            msg = f"{name}={columns!r} is text; give a list of columns: {name}=[{columns!r}]"
            raise TypeError(msg)
    table = _table(predictions, patients, endpoint)
    rows: Rows = {
        "patients": {"value": len(table)},
        "events": {"value": int(table["event"].sum())},
    }
    if baseline is not None:
        _add_baseline(table, _table(baseline, patients, endpoint))
    if "time" not in table:
        return _response(table, rows, n_boot=n_boot, seed=seed)
    concordances: dict[str, Callable[[pd.DataFrame], float]] = {"Harrell C": mean_concordance}
    if baseline is not None:
        concordances["C of the baseline"] = lambda t: mean_concordance(t, "baseline")
        concordances["difference of C"] = lambda t: mean_concordance(t) - mean_concordance(t, "baseline")
    lost = left_out_folds(table, mean_concordance, lacking="comparable pairs")
    for name, measure in concordances.items():
        rows[name] = remark(interval(measure, table, n_boot=n_boot, seed=seed), lost)
    if horizon is not None:
        rows |= at_horizon(table, float(horizon), n_boot=n_boot, seed=seed)
    high = (table["group"] == "high").to_numpy()
    curves = {
        name: kaplan_meier(table["time"][own], table["event"][own])
        for name, own in (("low", ~high), ("high", high))
        if own.any()
    }
    test = groups = multivariable = None
    frame = pd.DataFrame({"high risk": high.astype(float)}, index=table.index)
    if 0 < high.sum() < len(high) and table["event"].any():
        test, groups = log_rank(table["time"], table["event"], high), group_model(table, frame)
        rows["high risk"] = {"value": int(high.sum())}
        ratio = groups.table.iloc[0]
        rows["hazard ratio, high against low"] = dict(
            zip(("value", "lower", "upper"), ratio[["hr", "hr_lower", "hr_upper"]].tolist(), strict=True)
        ) | {"note": f"log-rank p = {test.p:.2g}"}
        if covariates:
            clinical = pd.DataFrame({name: column_of(patients, name).reindex(table.index) for name in covariates})
            multivariable, more = multivariable_model(
                table, frame, clinical, missing=missing, horizon=horizon, n_boot=n_boot, seed=seed
            )
            rows |= more
    else:
        rows["high risk"] = {"value": int(high.sum()), "note": "all patients are in one group, so nothing is compared"}
    for column in subgroups:
        if column_of(patients, column).reindex(table.index).nunique() < 2:
            msg = f"subgroups: all patients have the same {column!r}, or none has one; leave it out"
            raise ValueError(msg)
    by_group = {
        column: subgroup_hazards(
            table["time"],
            table["event"],
            high,
            subgroups=column_of(patients, column).reindex(table.index).astype(object),
        )
        for column in subgroups
    }
    survival = None if horizon is None else table.get(f"survival_{horizon:g}")
    calibration = None
    if survival is not None and survival.notna().all():
        calibration = calibration_table(table["time"], table["event"], survival, horizon=float(horizon or 0))
    return Report(
        summary=_summary(rows),
        by_fold=_by_fold(table),
        curves=curves,
        test=test,
        groups=groups,
        multivariable=multivariable,
        calibration=calibration,
        subgroups=by_group,
    )


def _table(predictions: pd.DataFrame, patients: pd.DataFrame, endpoint: str) -> pd.DataFrame:
    """Predictions and follow-up of each patient."""
    if "network" in predictions and predictions["network"].nunique() > 1:
        names = sorted(predictions["network"].unique())
        msg = f"predictions are of {names}; evaluate one, such as predictions[predictions.network == {names[0]!r}]"
        raise ValueError(msg)
    table = predictions.set_index("patient") if "patient" in predictions else predictions.copy()
    absent = [name for name in ("risk", "group") if name not in table]
    if absent:
        msg = (
            f"predictions lack {absent}; they come from OutcomeModel.predict, which has a frozen cut-off. None is made "
            "of the patients who are reported"
        )
        raise KeyError(msg)
    if table.index.has_duplicates:
        msg = f"patients are predicted twice: {list(table.index[table.index.duplicated()].unique()[:5])}"
        raise ValueError(msg)
    if "seen" in table and table["seen"].any():
        msg = (
            f"the model was trained on {int(table['seen'].sum())} of the patients, whose risks flatter; leave them out"
        )
        raise ValueError(msg)
    unknown = table.index.difference(patients.index)
    if len(unknown):
        msg = f"{len(unknown)} patients have no clinical data: {list(unknown[:5])}"
        raise KeyError(msg)
    wanted = {"time": f"{endpoint}_time", "event": f"{endpoint}_event"}
    if endpoint in patients and wanted["time"] not in patients:
        wanted = {"event": endpoint}
    for name, column in wanted.items():
        table[name] = pd.to_numeric(column_of(patients, column), errors="coerce").reindex(table.index).astype(float)
    lost = table[list(wanted)].isna().any(axis=1)
    if lost.any():
        msg = f"{int(lost.sum())} patients have no {endpoint}: {list(table.index[lost][:5])}; leave them out"
        raise ValueError(msg)
    _check_values(table, wanted["event"])
    if "fold" not in table:
        table["fold"] = 0
    table["event"] = table["event"].astype(bool)
    return table


def _check_values(table: pd.DataFrame, event: str) -> None:
    """Raise unless risks are numbers, groups are high or low, events are 0 or 1, and patients were followed."""
    wrong = {
        "a risk that is missing or infinite": ~np.isfinite(pd.to_numeric(table["risk"], errors="coerce")),
        "a group other than 'high' and 'low'": ~table["group"].isin(["high", "low"]),
        f"{event} that is neither 0 nor 1": ~table["event"].isin([0, 1]),
    }
    if "time" in table:
        wrong["a follow-up that is zero, negative or infinite"] = ~np.isfinite(table["time"]) | (table["time"] <= 0)
    for what, rows in wrong.items():
        if rows.any():
            msg = f"{int(rows.sum())} of {len(table)} patients have {what}: {list(table.index[rows][:5])}"
            raise ValueError(msg)


def _add_baseline(table: pd.DataFrame, other: pd.DataFrame) -> None:
    """Put the risks of another model beside those of the same patients, in the same folds."""
    if sorted(other.index) != sorted(table.index):
        msg = "baseline holds other patients than predictions; give predictions of the same ones"
        raise ValueError(msg)
    table["baseline"] = other["risk"].reindex(table.index)
    if (table["fold"].astype(str) != other["fold"].reindex(table.index).astype(str)).any():
        msg = "baseline has other folds than predictions; predict both by the same split"
        raise ValueError(msg)


def _response(table: pd.DataFrame, rows: Rows, *, n_boot: int, seed: int) -> Report:
    from sklearn.metrics import average_precision_score, roc_auc_score

    def mean(score: Callable[..., float], column: str = "risk") -> Callable[[pd.DataFrame], float]:
        def over_folds(frame: pd.DataFrame) -> float:
            folds = [own for _, own in frame.groupby("fold", sort=False) if own["event"].nunique() == 2]
            return float(np.mean([score(own["event"], own[column]) for own in folds])) if folds else np.nan

        return over_folds

    if "baseline" in table:
        own, other = mean(roc_auc_score), mean(roc_auc_score, "baseline")
        rows["AUROC of the baseline"] = interval(other, table, n_boot=n_boot, seed=seed)
        rows["difference of AUROC"] = interval(lambda t: own(t) - other(t), table, n_boot=n_boot, seed=seed)

    rows["AUROC"] = interval(mean(roc_auc_score), table, n_boot=n_boot, seed=seed)
    rows["AUPRC"] = remark(
        interval(mean(average_precision_score), table, n_boot=n_boot, seed=seed),
        f"{table['event'].mean():.2f} by chance",
    )
    lost = left_out_folds(table, mean(roc_auc_score), lacking="responses of either kind")
    rows |= {name: remark(row, lost) for name, row in rows.items() if "AU" in name}
    return Report(summary=_summary(rows), by_fold=_by_fold(table))


def _by_fold(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for fold, own in table.groupby("fold"):
        row: dict[str, object] = {"fold": fold, "n": len(own), "n_events": int(own["event"].sum())}
        if "time" in own:
            row["c"] = mean_concordance(own)
        else:
            from sklearn.metrics import roc_auc_score

            row["auroc"] = roc_auc_score(own["event"], own["risk"]) if own["event"].nunique() == 2 else np.nan
        rows.append(row)
    return pd.DataFrame(rows).set_index("fold")


def _summary(rows: Rows) -> pd.DataFrame:
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=["value", "lower", "upper", "note"])
    return table.astype({"value": float, "lower": float, "upper": float}).fillna({"note": ""}).rename_axis("measure")
