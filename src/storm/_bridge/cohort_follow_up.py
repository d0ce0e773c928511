"""Follow-up of a cohort's patients: who can be used for an endpoint, and why others cannot."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from storm._bridge.cohort_tables import names
from storm._logging import logger


def endpoints_of(patients: pd.DataFrame) -> tuple[str, ...]:
    """Names of the pairs of columns ``<name>_time`` and ``<name>_event``."""
    ends = [str(column).removesuffix("_time") for column in patients if str(column).endswith("_time")]
    return tuple(name for name in ends if f"{name}_event" in patients)


def usable_follow_up(patients: pd.DataFrame, name: str, *, with_slides: Collection[str]) -> pd.DataFrame:
    """Time and event of those who can be used; see :meth:`storm.prognosis.Cohort.endpoint`.

    Parameters
    ----------
    patients
        Table of patients.
    name
        Name of the endpoint.
    with_slides
        Patients of whom features are there.
    """
    time, event = _follow_up(patients, name)
    missing = time.isna() | event.isna()
    reasons = {
        "no time or no event": missing,
        "a time of 0": ~missing & (time == 0),
        "no slide with features": ~missing & (time > 0) & ~patients.index.isin(with_slides),
    }
    left_out = {reason: list(patients.index[rows]) for reason, rows in reasons.items() if rows.any()}
    keep = ~np.logical_or.reduce([rows.to_numpy() for rows in reasons.values()])
    if not keep.any():
        listed = ", ".join(f"{len(who)} have {reason}" for reason, who in left_out.items())
        msg = f"no patient can be used for endpoint {name!r}: {listed or 'there are no patients'}"
        raise ValueError(msg)
    for reason, who in left_out.items():
        logger.warning("endpoint %s: %d patients are left out, with %s: %s", name, len(who), reason, names(who))
    table = pd.DataFrame({"time": time[keep].astype(float), "event": event[keep].astype(bool)})
    table.index.name = "patient"
    table.attrs["left_out"] = left_out
    return table


def _follow_up(patients: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series]:
    wanted = (f"{name}_time", f"{name}_event")
    if absent := [column for column in wanted if column not in patients]:
        msg = (
            f"endpoint {name!r} needs the columns {list(absent)} of patients; there are {list(endpoints_of(patients))}"
        )
        raise KeyError(msg)
    time, event = (_numbers(patients[column]) for column in wanted)
    if len(wrong := list(time.index[(time < 0) | np.isinf(time)])):
        msg = (
            f"{wanted[0]} is negative or infinite for {len(wrong)} patients, so that dates are out of order: "
            f"{names(wrong)}; mend them, or set them to NaN to leave them out"
        )
        raise ValueError(msg)
    if len(wrong := list(event.index[event.notna() & ~event.isin([0, 1])])):
        msg = f"{wanted[1]} is neither 0 nor 1 for {len(wrong)} patients: {names(wrong)}; 1 is an event"
        raise ValueError(msg)
    return time, event


def _numbers(column: pd.Series) -> pd.Series:
    """A column as float; text that is no number is an error that names it."""
    values = pd.to_numeric(column, errors="coerce").astype("Float64").astype(float)
    if len(wrong := list(column.index[column.notna() & values.isna()])):
        msg = (
            f"{column.name} is no number for {len(wrong)} patients: {names(wrong)}; leave unknown ones empty (of an "
            f"event, 1 is one and 0 is none)"
        )
        raise ValueError(msg)
    return values
