"""Whether a second model puts patients into better risk classes than a first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_positive, check_whole
from storm.metrics._follow_up import follow_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["NetReclassification", "bootstrap_reclassification", "net_reclassification"]


@dataclass(frozen=True, kw_only=True)
class NetReclassification:
    """Net reclassification improvement of a new model over an old one.

    Attributes
    ----------
    nri
        ``events + non_events``, from −2 to 2; NaN where it cannot be estimated.
    events
        Share of patients with the event that moved up, less the share that moved down.
    non_events
        Share of patients without it that moved down, less the share that moved up.
    n_up, n_down
        Patients that moved.
    remarks
        What limits the estimate, in words: a group nobody is in, or that was not followed until the horizon.
    """

    nri: float
    events: float
    non_events: float
    n_up: int
    n_down: int
    remarks: tuple[str, ...] = ()


def net_reclassification(
    time: ArrayLike,
    event: ArrayLike,
    predictions: tuple[ArrayLike, ArrayLike],
    *,
    horizon: float,
    cuts: Sequence[float] | None = None,
) -> NetReclassification:
    """Net reclassification improvement at a time, with censored patients.

    The share of patients with an event is estimated by Kaplan and Meier's method among those who moved up, those who
    moved down, and all. Leaving out patients who were censored before the horizon would bias it.

    Parameters
    ----------
    time, event
        As in :func:`kaplan_meier`.
    predictions
        Probability of an event until the horizon by the old and by the new model, each of shape (n,).
    horizon
        Time at which patients are judged, in the unit of ``time``.
    cuts
        Limits of the risk classes, ascending, above 0 and below 1; a probability equal to a limit belongs to the class
        above. By default any rise or fall counts (the continuous index).

    Returns
    -------
    NetReclassification
        Exchanging the models negates it exactly.

    Raises
    ------
    ValueError
        If the follow-up is invalid, a prediction is no probability, or the cuts do not rise from 0 to 1.

    Examples
    --------
    >>> import storm
    >>> time, event = [1, 2, 3, 4], [1, 1, 0, 0]
    >>> old, new = [0.3, 0.3, 0.3, 0.3], [0.8, 0.2, 0.1, 0.2]
    >>> round(storm.metrics.net_reclassification(time, event, (old, new), horizon=2.5).nri, 3)
    1.0

    References
    ----------
    Pencina, D'Agostino & Steyerberg, Statistics in Medicine 30, 11 (2011), equation 8.
    """
    times, events = follow_up(time, event)
    check_positive(horizon, name="horizon")
    old, new = (
        _probabilities(values, n=len(times), name=name)
        for values, name in zip(predictions, ("predictions[0]", "predictions[1]"), strict=True)
    )
    move = np.sign(_classes(new, cuts) - _classes(old, cuts))
    return _improvement(times, events, move, float(horizon))


def bootstrap_reclassification(
    time: ArrayLike,
    event: ArrayLike,
    predictions: tuple[ArrayLike, ArrayLike],
    *,
    horizon: float,
    cuts: Sequence[float] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Net reclassification improvement over resampled patients.

    Parameters
    ----------
    time, event, predictions, horizon, cuts
        As in :func:`net_reclassification`.
    n_boot
        Resamples.
    seed
        Random seed of the resamples.

    Returns
    -------
    ndarray
        Shape (n_boot,); NaN where a resample cannot be judged. Percentiles 2.5 and 97.5 are the 95 % interval, on the
        condition of both models as they are.

    Raises
    ------
    ValueError
        As in :func:`net_reclassification`.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> hazard = np.exp(rng.normal(size=120))
    >>> time = rng.exponential(1 / hazard)
    >>> old, new = np.full(120, 0.5), 1 - np.exp(-hazard)  # the probability of an event before time 1
    >>> draws = storm.metrics.bootstrap_reclassification(time, np.ones(120), (old, new), horizon=1.0, n_boot=100)
    >>> draws.shape, bool(np.nanpercentile(draws, 2.5) > 0)
    ((100,), True)
    """
    check_whole(n_boot, name="n_boot")
    net_reclassification(time, event, predictions, horizon=horizon, cuts=cuts)
    times, events = follow_up(time, event)
    old, new = (np.asarray(values, dtype=np.float64) for values in predictions)
    move = np.sign(_classes(new, cuts) - _classes(old, cuts))
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(times), len(times)) for _ in range(n_boot))
    return np.array([_improvement(times[rows], events[rows], move[rows], float(horizon)).nri for rows in draws])


def _improvement(time: np.ndarray, event: np.ndarray, move: np.ndarray, horizon: float) -> NetReclassification:
    remarks: list[str] = []
    shares, risks = {}, {}
    for name, rows in {"all": np.full(len(time), True), "up": move > 0, "down": move < 0}.items():
        shares[name] = float(rows.mean())
        if not rows.any():
            remarks.append(f"nobody moved {name}")
            risks[name] = 0.0
            continue
        risks[name] = _event_probability(time[rows], event[rows], horizon)
        if np.isnan(risks[name]):
            who = f"of {rows.sum()} patients {'in all' if name == 'all' else f'that moved {name}'}"
            remarks.append(f"{who} nobody is followed to {horizon:g} (last follow-up {time[rows].max():g})")
    had, had_not = risks["all"], 1 - risks["all"]
    up, down = shares["up"], shares["down"]
    if had == 0 or had_not == 0:
        remarks.append(f"{'nobody' if had == 0 else 'everybody'} has an event until {horizon:g}")
    events = (risks["up"] * up - risks["down"] * down) / had if had else np.nan
    non_events = ((1 - risks["down"]) * down - (1 - risks["up"]) * up) / had_not if had_not else np.nan
    return NetReclassification(
        nri=float(events + non_events),
        events=float(events),
        non_events=float(non_events),
        n_up=int((move > 0).sum()),
        n_down=int((move < 0).sum()),
        remarks=tuple(remarks),
    )


def _event_probability(time: np.ndarray, event: np.ndarray, horizon: float) -> float:
    """1 − Kaplan and Meier's survival at a time; NaN where the last patients are censored before it."""
    gone = np.sort(time[event & (time <= horizon)])
    if horizon > time.max() and not event[time == time.max()].all():
        return np.nan
    at, deaths = np.unique(gone, return_counts=True)
    at_risk = len(time) - np.searchsorted(np.sort(time), at, side="left")
    return float(1 - np.prod(1 - deaths / at_risk))


def _classes(probability: np.ndarray, cuts: Sequence[float] | None) -> np.ndarray:
    if cuts is None:
        return probability
    limits = np.atleast_1d(np.asarray(cuts, dtype=np.float64))
    if not len(limits) or limits.ndim != 1 or not ((limits > 0) & (limits < 1)).all() or (np.diff(limits) <= 0).any():
        msg = f"cuts={cuts!r}: give limits that rise between 0 and 1, such as (0.4, 0.6)"
        raise ValueError(msg)
    return np.searchsorted(limits, probability, side="right").astype(np.float64)


def _probabilities(values: ArrayLike, *, n: int, name: str) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (n,) or not ((found >= 0) & (found <= 1)).all():
        msg = f"{name} has shape {found.shape}; give one probability from 0 to 1 per patient, shape ({n},)"
        raise ValueError(msg)
    return found
