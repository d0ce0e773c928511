"""The patient of each section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from storm._bridge.sections import Section, Study
from storm._checks import check_key


def patients_of(study: Study, groups: Sequence[Any] | None, group_key: str | None) -> list[str] | None:
    """The patient of each section: from a list, or from a column that holds one value in each section.

    Parameters
    ----------
    study
        The sections.
    groups
        Patient of each section, in their order.
    group_key
        Instead: column of ``obs``.

    Returns
    -------
    list of str or None
        ``None`` if neither is given.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If both are given, a patient is missing, or a section is of several.
    """
    if groups is not None and group_key is not None:
        msg = "groups= and group_key= both name patients; give one of them"
        raise ValueError(msg)
    if group_key is not None:
        return [_patient(section, group_key) for section in study]
    if groups is None:
        return None
    if any(section.member is not None for section in study):
        msg = "groups= lists patients in the order of data, and a table here holds several sections; name the column "
        msg += "of obs with the patient: group_key="
        raise ValueError(msg)
    return _groups(groups, len(study))


def _patient(section: Section, group_key: str) -> str:
    table = section.work.table
    check_key(group_key, list(table.obs.columns), name="group_key", where="obs")
    values = pd.Series(np.asarray(table.obs[group_key], dtype=object))
    own = values if section.member is None else values.iloc[section.member.rows]
    found = [str(value).strip() for value in own.dropna().unique()]
    if len(found) != 1 or own.isna().any() or not found[0]:
        listed = ", ".join(map(repr, found[:5])) or "none"
        gaps = f" and {int(own.isna().sum())} rows without one" if own.isna().any() else ""
        name = f"section {section.name!r}" if section.name else "the section"
        msg = f"group_key={group_key!r}: {name} has {len(found)} patients ({listed}){gaps}; a section is of one patient"
        raise ValueError(msg)
    return found[0]


def _groups(groups: Sequence[Any], n: int) -> list[str]:
    """The patient of each section, as text."""
    if isinstance(groups, str) or len(groups) != n:
        given = "a text" if isinstance(groups, str) else f"{len(groups)} groups"
        msg = f"groups={groups!r} is {given} for {n} sections; give a list with the patient of each section"
        raise ValueError(msg)
    values = pd.Series(list(groups), dtype=object)
    names = values.where(values.notna(), "").astype(str).str.strip()
    # numpy turns None and NaN in a list of texts into these words.
    if missing := [i for i, name in enumerate(names) if name.casefold() in ("", "nan", "none", "<na>", "nat")]:
        msg = f"groups has no patient for the sections at {missing}: {list(groups)}; give each section its patient"
        raise ValueError(msg)
    return names.tolist()
