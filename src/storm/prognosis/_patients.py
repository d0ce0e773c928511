"""Patients whom a call names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storm._bridge.cohort import Cohort


def named_patients(patients: Iterable[str], cohort: Cohort) -> list[str]:
    """The names as a list.

    Raises
    ------
    TypeError
        If they are no names.
    ValueError
        If one is given twice.
    KeyError
        If one is not in the cohort.
    """
    if isinstance(patients, str) or not isinstance(patients, Iterable):
        msg = f"patients={patients!r} is a {type(patients).__name__}; give a list of names, as in cohort.patients.index"
        raise TypeError(msg)
    names = list(patients)
    known = set(cohort.patients.index)
    unknown = [name for name in names if not isinstance(name, str) or name not in known]
    if unknown:
        msg = f"{len(unknown)} patients are not in the cohort: {unknown[:5]}; cohort.patients has {len(known)}"
        raise KeyError(msg)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        msg = f"patients are named twice: {twice[:5]}"
        raise ValueError(msg)
    return names
