"""Whether predicted risks are as large as what was seen, in all patients and in groups of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._checks import check_positive, check_whole
from storm.metrics._arrays import as_labels
from storm.metrics._follow_up import follow_up, scores
from storm.metrics.hazards import cox
from storm.metrics.survival import LogRank, kaplan_meier

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

__all__ = ["Slope", "Subgroups", "calibration_slope", "calibration_table", "subgroup_hazards"]


@dataclass(frozen=True)
class Slope:
    """Slope of a calibration.

    Attributes
    ----------
    slope
        1 where log hazards are as far apart as predicted; below 1 they were predicted too far apart (overfitting).
    se
        Its standard error.
    """

    slope: float
    se: float


@dataclass(frozen=True)
class Subgroups:
    """Hazard ratios of the same two groups in parts of a cohort.

    Attributes
    ----------
    table
        A row per part: ``n``, ``n_events``, ``n_high``, ``hr``, ``hr_lower``, ``hr_upper``, ``p``, and ``remark`` where
        they could not be estimated (then NaN).
    interaction
        Likelihood-ratio test of whether the hazard ratio differs between the parts; ``None`` where it could not be
        tested.
    """

    table: pd.DataFrame
    interaction: LogRank | None


def calibration_slope(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> Slope:
    """Slope of a log hazard that was predicted elsewhere, in a Cox model of these patients.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    risk
        Predicted log hazard, shape (n,): the linear predictor of a Cox model, never its exponential or its rank.

    Returns
    -------
    Slope

    Raises
    ------
    ValueError
        As in :func:`cox`.
    ImportError
        Without lifelines.

    References
    ----------
    van Houwelingen, Statistics in Medicine 19, 3401 (2000).

    Examples
    --------
    A risk that is twice as large as it should be has a slope of about one half:

    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> risk = rng.normal(size=500)
    >>> time = rng.exponential(np.exp(-risk))
    >>> round(storm.metrics.calibration_slope(time, np.ones(500), 2 * risk).slope, 1)
    0.5
    """
    import pandas as pd

    times, _ = follow_up(time, event)
    table = cox(time, event, pd.DataFrame({"risk": scores(risk, n=len(times))})).table
    return Slope(*table[["coef", "se"]].to_numpy(dtype=float)[0].tolist())


def calibration_table(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    *,
    horizon: float,
    n_groups: int = 5,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Predicted beside observed survival in groups of patients of rising risk.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    survival
        Predicted probability of no event until ``horizon``, shape (n,).
    horizon
        Time at which patients are judged, in the unit of ``time``.
    n_groups
        Groups of equal size; equal predictions stay together.
    alpha
        1 − the level of the confidence intervals.

    Returns
    -------
    DataFrame
        A row per group: ``n``, ``predicted`` (mean), ``observed`` (Kaplan–Meier), ``lower``, ``upper``; ``observed`` is
        NaN where nobody is followed to the horizon.

    Raises
    ------
    ValueError
        If something is missing or invalid.
    ImportError
        Without lifelines.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> hazard = np.exp(rng.normal(size=500))
    >>> time = rng.exponential(1 / hazard)
    >>> table = storm.metrics.calibration_table(time, np.ones(500), np.exp(-hazard), horizon=1.0, n_groups=4)
    >>> table[["n", "predicted", "observed"]].round(2)
         n  predicted  observed
    0  125       0.74      0.69
    1  125       0.50      0.51
    2  125       0.26      0.22
    3  125       0.05      0.04
    """
    import pandas as pd

    times, events = follow_up(time, event)
    predicted = scores(survival, n=len(times), name="survival")
    if ((predicted < 0) | (predicted > 1)).any():
        msg = f"survival lies between {predicted.min():.3g} and {predicted.max():.3g}; give probabilities from 0 to 1"
        raise ValueError(msg)
    check_positive(horizon, name="horizon")
    check_whole(n_groups, name="n_groups")
    groups = np.asarray(pd.qcut(-predicted, n_groups, labels=False, duplicates="drop"), dtype=int)
    rows = []
    for group in np.unique(groups):
        own = groups == group
        curve = kaplan_meier(times[own], events[own], alpha=alpha)
        last = max(int(np.searchsorted(curve.time, horizon, side="right")) - 1, 0)
        known = horizon <= curve.time[-1] or curve.survival[-1] == 0
        observed, lower, upper = (
            float(values[last]) if known else np.nan for values in (curve.survival, curve.lower, curve.upper)
        )
        row = {"n": int(own.sum()), "predicted": float(predicted[own].mean())}
        rows.append(row | {"observed": observed, "lower": lower, "upper": upper})
    return pd.DataFrame(rows)


def subgroup_hazards(time: ArrayLike, event: ArrayLike, high: ArrayLike, *, subgroups: Labels) -> Subgroups:
    """Hazard ratio of a high-risk group in each part of a cohort, and whether it differs between them.

    An effect that is "significant" in one part and not in another is no difference between them; the interaction test
    is.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    high
        Whether a patient is in the high-risk group, bool, shape (n,).
    subgroups
        Part of each patient, such as a stage, shape (n,); patients without one are left out.

    Returns
    -------
    Subgroups

    Raises
    ------
    ValueError
        If something is invalid, or fewer than two parts are named.
    ImportError
        Without lifelines.

    References
    ----------
    Assmann et al., The Lancet 355, 1064 (2000).

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> high = rng.integers(2, size=200).astype(bool)
    >>> stage = rng.choice(["I", "II"], size=200)
    >>> time = rng.exponential(np.where(high, 0.5, 1.0))
    >>> result = storm.metrics.subgroup_hazards(time, np.ones(200), high, subgroups=stage)
    >>> result.table["hr"].round(1).to_dict()
    {'I': 1.9, 'II': 2.1}
    """
    import pandas as pd
    from scipy.stats import chi2

    times, events = follow_up(time, event)
    labels = as_labels(subgroups, name="subgroups")
    is_high = np.asarray(high)
    if is_high.shape != times.shape or len(labels) != len(times) or not np.isin(is_high, (0, 1)).all():
        msg = f"high has shape {is_high.shape} and subgroups {len(labels)} labels for {len(times)} patients"
        raise ValueError(msg)
    known = np.array([label is not None for label in labels])
    names = sorted({str(label) for label in labels[known]})
    if len(names) < 2:
        msg = f"subgroups names {names}; give two or more parts of the cohort"
        raise ValueError(msg)
    parts = {name: known & (labels.astype(str) == name) for name in names}
    rows = {name: _hazard(times[own], events[own], is_high[own].astype(float)) for name, own in parts.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("subgroup")
    usable = [name for name in names if not table.loc[name, "remark"]]
    if len(usable) < 2:
        return Subgroups(table, None)
    inside = np.any([parts[name] for name in usable], axis=0)
    base = {"high": is_high.astype(float)} | {name: parts[name].astype(float) for name in usable[1:]}
    crossed = {f"high × {name}": base["high"] * base[name] for name in usable[1:]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*events for .* covariates", category=UserWarning)
        additive = cox(times[inside], events[inside], pd.DataFrame(base)[inside])
        full = cox(times[inside], events[inside], pd.DataFrame(base | crossed)[inside])
    statistic = 2 * (full.log_likelihood - additive.log_likelihood)
    return Subgroups(table, LogRank(float(statistic), float(chi2.sf(statistic, len(crossed))), len(crossed)))


def _hazard(time: np.ndarray, event: np.ndarray, high: np.ndarray) -> dict[Any, Any]:
    import pandas as pd

    row: dict[Any, Any] = {"n": len(time), "n_events": int(event.sum()), "n_high": int(high.sum())}
    remark = ""
    if not event.any():
        remark = "no events"
    elif high.all() or not high.any():
        remark = f"all patients are {'high' if high.all() else 'low'}"
    elif not event[high == 1].any() or not event[high == 0].any():
        remark = f"no events among {'low' if event[high == 1].any() else 'high'}"
    if remark:
        return row | dict.fromkeys(("hr", "hr_lower", "hr_upper", "p"), np.nan) | {"remark": remark}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*events for .* covariates", category=UserWarning)
        table = cox(time, event, pd.DataFrame({"high": high})).table
    return row | table[["hr", "hr_lower", "hr_upper", "p"]].iloc[0].to_dict() | {"remark": ""}
