"""How well a risk score ranks patients, and how well predicted probabilities of survival agree with what was seen.

A risk is higher where the outcome is worse, always; a score of the other sign is turned by who computes it, never here
by looking at the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_positive, check_whole
from storm.metrics._follow_up import follow_up, need_events, scores, uncensored

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "bootstrap_concordance",
    "brier",
    "concordance",
    "cumulative_auc",
    "integrated_brier",
    "uno_concordance",
]

#: Difference of two risks that is rounding: the same patient twice is tied, whatever a product's last bit says.
_TIED = 1e-8


def concordance(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> float:
    """Share of comparable pairs of patients that a risk orders rightly (Harrell's C); tied risks count a half.

    Two patients can be compared if one has an event while the other is still followed, or is censored at that time.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    risk
        Higher where the outcome is expected to be worse, shape (n,).

    Returns
    -------
    float
        0.5 for a risk that says nothing, 1 for one that orders all pairs.

    Raises
    ------
    ValueError
        If something is missing or invalid, or no two patients can be compared.

    References
    ----------
    Harrell et al., JAMA 247, 2543 (1982).

    Examples
    --------
    >>> import storm
    >>> storm.metrics.concordance(time=[2, 4, 6, 8], event=[1, 1, 0, 1], risk=[0.9, 0.5, 0.6, 0.1])
    0.8
    """
    times, events = follow_up(time, event)
    values = scores(risk, n=len(times))
    need_events(events, what="a concordance")
    right, comparable = _pairs(times, events, values)
    if comparable == 0:
        msg = "no two patients can be compared: nobody is followed beyond an event"
        raise ValueError(msg)
    return right / comparable


def _pairs(
    times: np.ndarray, events: np.ndarray, risk: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, float]:
    """Weight of the pairs that are ordered rightly, ties counting a half, and of those that can be compared.

    A pair has the weight of its patient with the event.
    """
    first = np.flatnonzero(events) if weight is None else np.flatnonzero(weight)
    weight = np.ones(len(times)) if weight is None else weight
    later = (times[None, :] > times[first, None]) | ((times[None, :] == times[first, None]) & ~events[None, :])
    apart = risk[first, None] - risk[None, :]
    right = np.where(np.abs(apart) <= _TIED, 0.5, apart > 0)
    return float(weight[first] @ (later * right).sum(axis=1)), float(weight[first] @ later.sum(axis=1))


def bootstrap_concordance(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    baseline: ArrayLike | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Harrell's C over resampled patients, and its paired difference to that of another risk.

    Parameters
    ----------
    time, event, risk
        As in :func:`concordance`.
    baseline
        Another risk of the same patients, which sees the same resamples.
    n_boot
        Resamples.
    seed
        Random seed of the resamples.

    Returns
    -------
    dict
        ``"c"``, and with a baseline ``"baseline"`` and ``"difference"``, each of shape (n_boot,); NaN where a resample
        has no comparable pair. Percentiles 2.5 and 97.5 are the 95 % interval.

    Raises
    ------
    ValueError
        As in :func:`concordance`.

    Examples
    --------
    Is the risk better than age alone? Both are judged on the same resamples of patients:

    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> risk, age = rng.normal(size=(2, 100))
    >>> time = rng.exponential(np.exp(-risk - 0.2 * age))
    >>> draws = storm.metrics.bootstrap_concordance(time, np.ones(100), risk, baseline=age, n_boot=200)
    >>> bool(np.nanpercentile(draws["difference"], 2.5) > 0)
    True
    """
    check_whole(n_boot, name="n_boot")
    times, events = follow_up(time, event)
    risks = {"c": scores(risk, n=len(times))}
    if baseline is not None:
        risks["baseline"] = scores(baseline, n=len(times), name="baseline")
    concordance(times, events, risks["c"])
    rng = np.random.default_rng(seed)
    drawn = {name: np.full(n_boot, np.nan) for name in risks}
    for i in range(n_boot):
        rows = rng.integers(0, len(times), len(times))
        for name, values in risks.items():
            right, comparable = _pairs(times[rows], events[rows], values[rows])
            drawn[name][i] = right / comparable if comparable else np.nan
    return drawn if baseline is None else drawn | {"difference": drawn["c"] - drawn["baseline"]}


def uno_concordance(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    tau: float | None = None,
    train: tuple[ArrayLike, ArrayLike] | None = None,
) -> float:
    """Concordance that does not depend on when patients were censored (Uno's C).

    Parameters
    ----------
    time, event, risk
        As in :func:`concordance`.
    tau
        Events after this time do not count; by default all count.
    train
        Times and events of the patients from whom censoring is estimated; by default these patients.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If something is missing or invalid, or no event counts.

    References
    ----------
    Uno et al., Statistics in Medicine 30, 1105 (2011).

    Examples
    --------
    >>> import storm
    >>> round(storm.metrics.uno_concordance(time=[2, 4, 6, 8], event=[1, 1, 0, 1], risk=[0.9, 0.5, 0.6, 0.1]), 3)
    0.8
    """
    times, events = follow_up(time, event)
    values = scores(risk, n=len(times))
    if tau is not None:
        check_positive(tau, name="tau")
    counted = events if tau is None else events & (times < tau)
    need_events(counted, what="Uno's C (before tau)")
    free = uncensored(*((times, events) if train is None else follow_up(*train)))(times)
    right, comparable = _pairs(
        times, events, values, np.where(counted & (free > 0), 1 / np.maximum(free, 1e-12) ** 2, 0)
    )
    if comparable == 0:
        msg = "no two patients can be compared: nobody is followed beyond an event that counts"
        raise ValueError(msg)
    return right / comparable


def cumulative_auc(
    time: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    *,
    times: ArrayLike,
    train: tuple[ArrayLike, ArrayLike] | None = None,
) -> np.ndarray:
    """Area under the ROC curve of events until some times against patients without one by then.

    Parameters
    ----------
    time, event, risk
        As in :func:`concordance`.
    times
        Times at which to judge, shape (k,).
    train
        As in :func:`uno_concordance`.

    Returns
    -------
    ndarray
        Shape (k,); NaN where no event has been, or nobody is left.

    Raises
    ------
    ValueError
        If something is missing or invalid.

    References
    ----------
    Hung & Chiang, Canadian Journal of Statistics 38, 8 (2010); Uno et al., JASA 102, 527 (2007).

    Examples
    --------
    >>> import storm
    >>> storm.metrics.cumulative_auc([1, 2, 3, 4], [1, 1, 1, 1], risk=[0.9, 0.3, 0.5, 0.1], times=[1.5, 2.5])
    array([1.  , 0.75])
    """
    followed, events = follow_up(time, event)
    values = scores(risk, n=len(followed))
    free = uncensored(*((followed, events) if train is None else follow_up(*train)))(followed)
    result = []
    for moment in np.atleast_1d(np.asarray(times, dtype=np.float64)):
        cases, controls = np.flatnonzero(events & (followed <= moment)), np.sort(values[followed > moment])
        weight = np.where(free[cases] > 0, 1 / np.maximum(free[cases], 1e-12), 0)
        below = np.searchsorted(controls, values[cases], side="left")
        tied = np.searchsorted(controls, values[cases], side="right") - below
        total = weight.sum() * len(controls)
        result.append((weight * (below + 0.5 * tied)).sum() / total if total > 0 else np.nan)
    return np.array(result)


def brier(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    *,
    times: ArrayLike,
    train: tuple[ArrayLike, ArrayLike] | None = None,
) -> np.ndarray:
    """Mean squared error of predicted survival probabilities, weighted for censoring.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    survival
        Predicted probability of no event until each time, shape (n, k).
    times
        These times, shape (k,).
    train
        As in :func:`uno_concordance`.

    Returns
    -------
    ndarray
        Shape (k,); 0.25 for a constant prediction of one half.

    Raises
    ------
    ValueError
        If something is missing or invalid, or a probability does not lie between 0 and 1.

    References
    ----------
    Graf et al., Statistics in Medicine 18, 2529 (1999).

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> time, event = [1, 2, 3, 4], [1, 1, 1, 1]
    >>> storm.metrics.brier(time, event, np.full((4, 1), 0.5), times=[2.5])  # one half for everybody
    array([0.25])
    >>> storm.metrics.brier(time, event, np.array([[0.1], [0.2], [0.8], [0.9]]), times=[2.5]).round(3)
    array([0.025])
    """
    followed, events = follow_up(time, event)
    moments, predicted = np.atleast_1d(np.asarray(times, dtype=np.float64)), np.asarray(survival, dtype=np.float64)
    if predicted.shape != (len(followed), len(moments)) or not ((predicted >= 0) & (predicted <= 1)).all():
        msg = (
            f"survival has shape {predicted.shape}; give probabilities from 0 to 1 of shape ({len(followed)}, "
            f"{len(moments)}), a column for each time"
        )
        raise ValueError(msg)
    still = uncensored(*((followed, events) if train is None else follow_up(*train)))
    # An event is weighted by the chance of being seen until it, a survivor by that of being seen until the time.
    free, free_then = still(followed), still(moments)
    result = []
    for j, moment in enumerate(moments):
        gone, left = events & (followed <= moment), followed > moment
        error = np.where(gone, np.square(predicted[:, j]) / np.where(gone, free, 1), 0)
        error += np.where(left, np.square(1 - predicted[:, j]) / (free_then[j] if free_then[j] > 0 else np.nan), 0)
        result.append(error.mean())
    return np.array(result)


def integrated_brier(
    time: ArrayLike,
    event: ArrayLike,
    survival: ArrayLike,
    *,
    times: ArrayLike,
    train: tuple[ArrayLike, ArrayLike] | None = None,
) -> float:
    """Brier score averaged over time, by the trapezoidal rule between the first and the last of some times.

    Parameters
    ----------
    time, event, survival, times, train
        As in :func:`brier`; two or more ``times``, ascending.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As in :func:`brier`, or if the times do not ascend.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> float(storm.metrics.integrated_brier([1, 2, 3, 4], [1, 1, 1, 1], np.full((4, 2), 0.5), times=[1.5, 2.5]))
    0.25
    """
    moments = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if len(moments) < 2 or not (np.diff(moments) > 0).all():
        msg = f"times={moments.tolist()}: give two or more, ascending"
        raise ValueError(msg)
    values = brier(time, event, survival, times=moments, train=train)
    return float(np.trapezoid(values, moments) / (moments[-1] - moments[0]))
