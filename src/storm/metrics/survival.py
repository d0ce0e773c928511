"""Survival of patients: curves, tests and models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm._logging import warn
from storm.metrics._arrays import as_labels
from storm.metrics._follow_up import follow_up, need_events, need_lifelines

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

__all__ = [
    "CoxModel",
    "EmpiricalP",
    "KaplanMeier",
    "LogRank",
    "cox",
    "empirical_p",
    "kaplan_meier",
    "log_rank",
]

#: Events per covariate below which estimates of a Cox model are unreliable (Peduzzi et al. 1995).
_EVENTS_PER_COVARIATE = 10


@dataclass(frozen=True, kw_only=True)
class KaplanMeier:
    """A survival curve.

    Attributes
    ----------
    time
        0 and the different times of follow-up, ascending, shape (k,).
    survival
        Probability of no event until each of them, shape (k,).
    lower, upper
        Limits of the pointwise confidence interval (exponential Greenwood), shape (k,).
    at_risk
        Patients followed up to just before each of them, shape (k,).
    """

    time: np.ndarray
    survival: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    at_risk: np.ndarray

    def __repr__(self) -> str:
        median = self.time[np.argmax(self.survival <= 0.5)] if (self.survival <= 0.5).any() else np.inf
        return f"KaplanMeier({self.at_risk[0]} patients, median {median:g}, followed to {self.time[-1]:g})"

    def at(self, times: ArrayLike) -> np.ndarray:
        """Survival at some times, shape of the times; NaN beyond the last follow-up."""
        wanted = np.asarray(times, dtype=np.float64)
        place = np.searchsorted(self.time, wanted, side="right") - 1
        return np.where((wanted < 0) | (wanted > self.time[-1]), np.nan, self.survival[place])


@dataclass(frozen=True)
class LogRank:
    """A log-rank test.

    Attributes
    ----------
    statistic
        χ² statistic.
    p
        Its p-value.
    df
        Degrees of freedom, groups − 1.
    """

    statistic: float
    p: float
    df: int


@dataclass(frozen=True, kw_only=True)
class CoxModel:
    """A proportional-hazards model.

    Attributes
    ----------
    table
        A row per covariate: ``coef``, ``se``, ``hr``, ``hr_lower``, ``hr_upper`` (95 %), ``p``, and ``p_ph``, the test
        of proportional hazards on scaled Schoenfeld residuals against ranked times.
    log_likelihood
        Partial log-likelihood (Efron's ties).
    lr_statistic, lr_p
        Likelihood-ratio test of all covariates together.
    concordance
        Harrell's C on the patients that the model was fitted to: optimistic.
    n, n_events
        Patients and events.
    means
        Mean of each covariate over these patients, around which risks are given.
    baseline
        Survival of a patient with these means: a series with the times as its index (Breslow's estimate).
    """

    table: pd.DataFrame
    log_likelihood: float
    lr_statistic: float
    lr_p: float
    concordance: float
    n: int
    n_events: int
    means: pd.Series
    baseline: pd.Series

    def __repr__(self) -> str:
        return f"CoxModel of {self.n} patients, {self.n_events} events\n{self.table.to_string()}"

    def risk(self, covariates: pd.DataFrame) -> np.ndarray:
        """Log hazard of patients relative to one with mean covariates, higher is worse, shape (n,).

        Raises
        ------
        KeyError
            If a covariate of the model is missing.
        ValueError
            If a value is missing or no number.
        """
        lacking = [str(name) for name in self.table.index if name not in covariates]
        if lacking:
            msg = f"the model has the covariates {lacking}, which are missing; there are {list(covariates)}"
            raise KeyError(msg)
        frame = _numbers(covariates[list(self.table.index)])
        return (frame - self.means).to_numpy() @ self.table["coef"].to_numpy()

    def survival(self, covariates: pd.DataFrame, times: ArrayLike) -> np.ndarray:
        """Predicted probability of no event until some times, shape (n, times); NaN beyond the last one seen.

        Raises
        ------
        KeyError, ValueError
            As :meth:`risk`.
        """
        wanted = np.atleast_1d(np.asarray(times, dtype=np.float64))
        at = self.baseline.index.to_numpy(dtype=np.float64)
        place = np.searchsorted(at, wanted, side="right") - 1
        curve = np.where(place < 0, 1.0, self.baseline.to_numpy()[np.maximum(place, 0)])
        curve = np.where(wanted > at[-1], np.nan, curve)
        return curve[None, :] ** np.exp(self.risk(covariates))[:, None]


@dataclass(frozen=True)
class EmpiricalP:
    """A statistic beside its distribution under a null that was drawn.

    Attributes
    ----------
    statistic
        Of what is tested.
    null
        Of the draws, shape (n,).
    p
        (1 + draws with a statistic at least as large) / (1 + draws).
    """

    statistic: float
    null: np.ndarray
    p: float

    def __repr__(self) -> str:
        return f"EmpiricalP(statistic={self.statistic:.4g}, p={self.p:.3g} of {len(self.null)} draws)"


def kaplan_meier(time: ArrayLike, event: ArrayLike, *, alpha: float = 0.05) -> KaplanMeier:
    """Estimate a survival curve.

    Parameters
    ----------
    time
        Time to the event or to the end of follow-up, above 0, shape (n,).
    event
        1 where the event was seen, 0 where a patient was censored, shape (n,).
    alpha
        1 − the level of the confidence interval.

    Returns
    -------
    KaplanMeier

    Raises
    ------
    ValueError
        If lengths differ, a time is missing, zero or negative, or an event is not 0 or 1.
    ImportError
        Without lifelines.

    References
    ----------
    Kaplan & Meier, Journal of the American Statistical Association 53, 457 (1958).

    Examples
    --------
    >>> import storm
    >>> curve = storm.metrics.kaplan_meier(time=[2, 4, 6, 8], event=[1, 0, 1, 1])
    >>> curve.time, curve.survival.round(3), curve.at_risk
    (array([0., 2., 4., 6., 8.]), array([1.   , 0.75 , 0.75 , 0.375, 0.   ]), array([4, 4, 3, 2, 1]))
    """
    times, events = follow_up(time, event)
    need_lifelines()
    from lifelines import KaplanMeierFitter

    fitter = KaplanMeierFitter(alpha=alpha).fit(times, events)
    limits = fitter.confidence_interval_survival_function_.to_numpy()
    at = fitter.survival_function_.index.to_numpy(dtype=np.float64)
    at_risk = (times[None, :] >= at[:, None]).sum(axis=1)
    return KaplanMeier(
        time=at,
        survival=fitter.survival_function_.to_numpy()[:, 0],
        lower=limits[:, 0],
        upper=limits[:, 1],
        at_risk=at_risk,
    )


def log_rank(time: ArrayLike, event: ArrayLike, groups: Labels) -> LogRank:
    """Test whether groups of patients survive alike.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    groups
        Group of each patient, shape (n,); two or more groups.

    Returns
    -------
    LogRank

    Raises
    ------
    ValueError
        If the follow-up is invalid, a group is missing, there is only one, or there is no event.
    ImportError
        Without lifelines.

    References
    ----------
    Mantel, Cancer Chemotherapy Reports 50, 163 (1966).

    Examples
    --------
    >>> import storm
    >>> test = storm.metrics.log_rank([2, 3, 4, 10, 12, 14], [1, 1, 1, 1, 1, 0], ["high"] * 3 + ["low"] * 3)
    >>> round(test.p, 3)
    0.025
    """
    times, events = follow_up(time, event)
    labels = as_labels(groups, name="groups")
    lost = sum(label is None for label in labels)
    if len(labels) != len(times) or lost:
        msg = f"groups has {len(labels)} labels, {lost} of them missing, for {len(times)} patients; give one for each"
        raise ValueError(msg)
    names = {str(label) for label in labels}
    if len(names) < 2:
        msg = f"all patients are in group {next(iter(names))!r}; a log-rank test compares two or more"
        raise ValueError(msg)
    need_events(events, what="a log-rank test")
    need_lifelines()
    from lifelines.statistics import multivariate_logrank_test

    test = multivariate_logrank_test(times, labels.astype(str), events)
    return LogRank(float(test.test_statistic), float(test.p_value), len(names) - 1)


def cox(time: ArrayLike, event: ArrayLike, covariates: pd.DataFrame, *, alpha: float = 0.05) -> CoxModel:
    """Fit a proportional-hazards model.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    covariates
        Numbers, a column per covariate, n rows; categories as columns of 0 and 1.
    alpha
        1 − the level of the confidence intervals.

    Returns
    -------
    CoxModel

    Raises
    ------
    ValueError
        If the follow-up is invalid, there is no event, or a covariate is no number, missing somewhere, or constant.
    ImportError
        Without lifelines.

    Warns
    -----
    UserWarning
        If there are fewer than ten events per covariate.

    References
    ----------
    Cox, Journal of the Royal Statistical Society B 34, 187 (1972); Grambsch & Therneau, Biometrika 81, 515 (1994);
    Peduzzi et al., Journal of Clinical Epidemiology 48, 1503 (1995).

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> covariates = pd.DataFrame({"risk": rng.normal(size=200), "age": rng.normal(60, 10, size=200)})
    >>> time = rng.exponential(np.exp(-covariates["risk"]))
    >>> model = storm.metrics.cox(time, np.ones(200), covariates)
    >>> model.table.columns.tolist()
    ['coef', 'se', 'hr', 'hr_lower', 'hr_upper', 'p', 'p_ph']
    """
    times, events = follow_up(time, event, n=len(covariates))
    need_events(events, what="a Cox model")
    frame = _numbers(covariates)
    constant = [str(name) for name in frame if frame[name].nunique() == 1]
    if constant:
        msg = f"covariates {constant} are the same for all patients; leave them out"
        raise ValueError(msg)
    per_covariate = events.sum() / frame.shape[1]
    if per_covariate < _EVENTS_PER_COVARIATE:
        msg = (
            f"{events.sum()} events for {frame.shape[1]} covariates are {per_covariate:.1f} each; below "
            f"{_EVENTS_PER_COVARIATE} the hazard ratios are unreliable"
        )
        warn(msg)
    need_lifelines()
    from lifelines import CoxPHFitter
    from lifelines.statistics import proportional_hazard_test

    fitter = CoxPHFitter(alpha=alpha)
    fitter.fit(frame.assign(_time=times, _event=events), "_time", "_event")
    summary, likelihood_ratio = fitter.summary, fitter.log_likelihood_ratio_test()
    hazards = proportional_hazard_test(fitter, frame.assign(_time=times, _event=events), time_transform="rank")
    limits = np.exp(fitter.confidence_intervals_.to_numpy())
    table = summary[["coef", "se(coef)", "exp(coef)", "p"]].set_axis(["coef", "se", "hr", "p"], axis=1)
    table = table.assign(hr_lower=limits[:, 0], hr_upper=limits[:, 1], p_ph=hazards.summary["p"].to_numpy())
    table = table[["coef", "se", "hr", "hr_lower", "hr_upper", "p", "p_ph"]].rename_axis(columns=None)
    return CoxModel(
        table=table,
        log_likelihood=float(fitter.log_likelihood_),
        lr_statistic=float(likelihood_ratio.test_statistic),
        lr_p=float(likelihood_ratio.p_value),
        concordance=float(fitter.concordance_index_),
        n=len(times),
        n_events=int(events.sum()),
        means=frame.mean(),
        baseline=fitter.baseline_survival_.iloc[:, 0].rename("survival").rename_axis("time"),
    )


def _numbers(covariates: pd.DataFrame) -> pd.DataFrame:
    if not covariates.shape[1]:
        msg = "there are no covariates; give a column for each"
        raise ValueError(msg)
    text = [str(name) for name in covariates if np.asarray(covariates[name]).dtype.kind not in "biuf"]
    if text:
        msg = f"covariates {text} hold no numbers; code categories as columns of 0 and 1 (pandas.get_dummies)"
        raise ValueError(msg)
    frame = covariates.astype(np.float64).reset_index(drop=True)
    lost = {str(name): int(n) for name, n in (~np.isfinite(frame)).sum().items() if n}
    if lost:
        msg = f"covariates are missing for some patients: {lost}; leave these patients out, or the covariates"
        raise ValueError(msg)
    return frame


def empirical_p(statistic: float, null: ArrayLike) -> EmpiricalP:
    """Where a statistic lies among those of random draws of the same kind.

    A gene set "predicts" survival in many cohorts whatever it holds: 18 to 32 % of random sets of 40 genes do so with
    p < 0.05 in clear-cell renal carcinoma. The p-value that counts is the one against random sets of the same size and
    expression (Venet et al. 2011).

    Parameters
    ----------
    statistic
        Larger where the effect is stronger, such as a log-rank χ².
    null
        The same of the draws, shape (n,).

    Returns
    -------
    EmpiricalP

    Raises
    ------
    ValueError
        If there is no draw, or a number is missing.

    References
    ----------
    Venet, Dumont & Detours, PLoS Computational Biology 7, e1002240 (2011); Phipson & Smyth, Statistical Applications in
    Genetics and Molecular Biology 9, 39 (2010).

    Examples
    --------
    A statistic that none of 999 random sets of genes reaches:

    >>> import numpy as np
    >>> import storm
    >>> storm.metrics.empirical_p(4.0, np.random.default_rng(0).normal(size=999)).p
    0.001
    """
    draws = np.asarray(null, dtype=np.float64)
    if draws.ndim != 1 or not len(draws) or not np.isfinite(draws).all() or not np.isfinite(statistic):
        msg = f"null has shape {draws.shape}; give one finite number per draw, and a finite statistic"
        raise ValueError(msg)
    return EmpiricalP(float(statistic), draws, float((1 + (draws >= statistic).sum()) / (1 + len(draws))))
