"""Survival of patients: curves and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm.metrics._arrays import as_labels
from storm.metrics._follow_up import follow_up, need_events, need_lifelines

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

__all__ = [
    "EmpiricalP",
    "KaplanMeier",
    "LogRank",
    "empirical_p",
    "kaplan_meier",
    "log_rank",
]


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
