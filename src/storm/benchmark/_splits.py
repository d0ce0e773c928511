"""Which sections train and which are judged, so that no patient is on both sides unless that is what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from storm._checks import check_choice, check_key

#: The ways to split by a word.
PATIENTS, SECTIONS = "patients", "sections"


@dataclass(frozen=True)
class Split:
    """A way to divide sections into those that train and those that are judged.

    Attributes
    ----------
    name
        Its name in the table.
    folds
        Positions of the sections to train on and of those to judge, of each training.
    same_patient
        Whether the sections to train on are of the patients of those that are judged.
    """

    name: str
    folds: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    same_patient: bool

    @property
    def train(self) -> tuple[int, ...]:
        """Sections that train in some fold."""
        return tuple(dict.fromkeys(chain.from_iterable(train for train, _ in self.folds)))

    @property
    def test(self) -> tuple[int, ...]:
        """Sections that are judged."""
        return tuple(dict.fromkeys(chain.from_iterable(test for _, test in self.folds)))


def make_splits(
    splits: str | Mapping[str, tuple[Any, Any]], names: Sequence[str], patients: Sequence[str] | None
) -> list[Split]:
    """The splits of a comparison.

    Parameters
    ----------
    splits
        ``"patients"``, ``"sections"``, or names of sections to train on and to judge, by the name of the split.
    names
        Names of the sections.
    patients
        Patient of each section, if somebody said.

    Raises
    ------
    KeyError
        If a split names a section that is not there.
    ValueError
        If patients are not known, one would be on both sides, or there are too few patients or sections.
    """
    if isinstance(splits, str):
        check_choice(splits, (PATIENTS, SECTIONS), name="splits")
    if patients is None and splits != SECTIONS:
        msg = (
            "the patients of the sections are not known, and a patient on both sides would flatter every method; give "
            "group_key= (a column of obs) or groups=, or compare within patients with splits='sections'"
        )
        raise ValueError(msg)
    owner = list(patients) if patients is not None else ["all"] * len(names)
    by_patient = {who: tuple(i for i, own in enumerate(owner) if own == who) for who in dict.fromkeys(owner)}
    if isinstance(splits, Mapping):
        return [_named(name, pair, names, owner) for name, pair in splits.items()] or _nothing("splits is empty")
    if splits == PATIENTS:
        if len(by_patient) < 2:
            return _nothing(f"all sections are of patient {owner[0]!r}")
        everyone = range(len(names))
        return [
            Split(f"patient {who}", ((tuple(i for i in everyone if i not in own), own),), same_patient=False)
            for who, own in by_patient.items()
        ]
    within = [
        Split(
            "sections" if patients is None else f"sections of {who}",
            tuple((tuple(i for i in own if i != held), (held,)) for held in own),
            same_patient=True,
        )
        for who, own in by_patient.items()
        if len(own) > 1
    ]
    return within or _nothing("no patient has two sections")


def _nothing(why: str) -> list[Split]:
    msg = f"{why}: there is nothing to hold out; give more sections, or name those to train on and to judge in splits="
    raise ValueError(msg)


def _named(name: str, pair: Any, names: Sequence[str], owner: Sequence[str]) -> Split:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        msg = f"splits[{name!r}]={pair!r} must be a pair: names of sections to train on, and of those to judge"
        raise ValueError(msg)
    train, test = ([side] if isinstance(side, str) else list(side) for side in pair)
    for one in (*train, *test):
        check_key(one, names, name=f"splits[{name!r}]", where="the sections")
    if not train or not test:
        msg = f"splits[{name!r}] has {len(train)} sections to train on and {len(test)} to judge; give at least one each"
        raise ValueError(msg)
    rows = [tuple(dict.fromkeys(names.index(one) for one in side)) for side in (train, test)]
    if both := sorted({owner[i] for i in rows[0]} & {owner[i] for i in rows[1]}):
        msg = (
            f"splits[{name!r}] has patients {both} on both sides, which flatters every method; hold out whole "
            f"patients, or compare within patients with splits='sections'"
        )
        raise ValueError(msg)
    return Split(str(name), ((rows[0], rows[1]),), same_patient=False)
