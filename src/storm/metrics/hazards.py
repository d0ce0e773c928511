"""Proportional hazards of patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm._logging import warn
from storm.metrics._follow_up import follow_up, need_events, need_lifelines

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

__all__ = ["CoxModel", "cox"]

#: Events per covariate below which estimates of a Cox model are unreliable (Peduzzi et al. 1995).
_EVENTS_PER_COVARIATE = 10


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
