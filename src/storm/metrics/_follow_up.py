"""Checks of the follow-up of patients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_extra

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike


def need_lifelines() -> None:
    """Raise with the pip command unless lifelines is installed."""
    check_extra("lifelines", extra="survival", purpose="a survival curve, test or model")


def follow_up(time: ArrayLike, event: ArrayLike, *, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Times of follow-up as float64 and events as bool, each of shape (n,).

    Raises
    ------
    ValueError
        If lengths differ, a time is missing, zero or negative, or an event is something else than 0 and 1.
    """
    times, events = np.asarray(time), np.asarray(event)
    try:
        times, events = times.astype(np.float64), events.astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"time holds {times.dtype} and event {events.dtype}; give numbers, and 1 where the event was seen, else 0"
        raise ValueError(msg) from error
    if times.ndim != 1 or times.shape != events.shape or not len(times) or (n is not None and len(times) != n):
        msg = f"time has shape {times.shape} and event {events.shape}; give one of each per patient, ({n or 'n'},)"
        raise ValueError(msg)
    bad = ~np.isfinite(times) | (times <= 0)
    if bad.any():
        msg = (
            f"{bad.sum()} of {len(times)} patients have a time that is missing, zero or negative (rows "
            f"{np.flatnonzero(bad)[:10].tolist()}); leave patients without follow-up out"
        )
        raise ValueError(msg)
    if not np.isin(events, (0, 1)).all():
        rows = np.flatnonzero(~np.isin(events, (0, 1)))[:10].tolist()
        msg = f"event is 1 where the event was seen and 0 where a patient was censored; rows {rows} hold something else"
        raise ValueError(msg)
    return times, events.astype(bool)


def need_events(event: np.ndarray, *, what: str) -> None:
    """Raise if there is no event."""
    if not event.any():
        msg = f"none of the {len(event)} patients has an event, and {what} needs some"
        raise ValueError(msg)


def scores(risk: ArrayLike, *, n: int, name: str = "risk") -> np.ndarray:
    """One finite number per patient, float64, shape (n,).

    Raises
    ------
    ValueError
        If the length differs or a number is missing.
    """
    values = np.asarray(risk, dtype=np.float64)
    if values.shape != (n,):
        msg = f"{name} has shape {values.shape}; give one number per patient, shape ({n},)"
        raise ValueError(msg)
    if not np.isfinite(values).all():
        msg = f"{name} is missing or infinite for {(~np.isfinite(values)).sum()} of {n} patients; leave them out"
        raise ValueError(msg)
    return values


def uncensored(time: np.ndarray, event: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Probability of not being censored by some times: Kaplan and Meier's estimate with censoring as the event.

    Patients with an event are taken to leave just before those who are censored at the same time.
    """
    times, place = np.unique(time, return_inverse=True)
    leave = np.bincount(place, minlength=len(times))
    gone = np.concatenate([[0], np.cumsum(leave)[:-1]]) + np.bincount(place, event, minlength=len(times))
    censored = np.bincount(place, ~event, minlength=len(times))
    at_risk = np.maximum(len(time) - gone, 1)
    curve = np.concatenate([[1.0], np.cumprod(1 - censored / at_risk)])
    return lambda at: curve[np.searchsorted(times, at, side="right")]
