"""What a comparison is made from, read and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.embedding import read_embedding
from storm._bridge.placed import read_labels
from storm._bridge.select import is_spatialdata
from storm._bridge.study import labels_of, open_study
from storm._checks import check_whole

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._bridge.keys import Keys
    from storm._bridge.sections import Section, Study
    from storm._types import Wanted

#: The word for as many domains as there are annotated classes.
CLASSES = "classes"


@dataclass(frozen=True, eq=False)
class LabelledSection:
    """A section and its annotation.

    Attributes
    ----------
    name
        Its name in the table.
    section
        What is read.
    rows
        Its rows in the table of the object, shape (n,).
    truth
        Class of each row, shape (n,), int; -1 for none.
    n_classes
        Number of classes that occur.
    """

    name: str
    section: Section
    rows: np.ndarray
    truth: np.ndarray
    n_classes: int


def named_sections(
    data: SpatialData | AnnData | Sequence[Any] | Mapping[str, Any],
    keys: Keys,
    *,
    library_key: str | None,
    image: Wanted,
    mixed: bool = False,
) -> tuple[Study, list[tuple[str, Section, np.ndarray]]]:
    """The sections of a comparison: each one's name in the table, itself, and its rows in the table of its object.

    Raises
    ------
    KeyError
        If there is no such element or library.
    ValueError
        If something is ambiguous.
    """
    named = isinstance(data, Mapping) and not is_spatialdata(data)
    objects: Any = list(data.values()) if isinstance(data, Mapping) and named else data
    study = open_study(objects, keys, library_key=library_key, image=image, writable=False, mixed=mixed)
    given = objects if isinstance(objects, list | tuple) else [objects]
    labels = [str(name) for name in data] if isinstance(data, Mapping) and named else labels_of(given)
    by_work = dict(zip(map(id, study.works), labels, strict=True))
    result = []
    for section in study:
        label = by_work[id(section.work)]
        own = section.member
        name = label if own is None else own.name if len(given) == 1 else f"{label}, {own.name}"
        rows = np.arange(section.work.table.n_obs) if own is None else own.rows
        result.append((name, section, rows))
    return study, result


def labelled_sections(
    data: SpatialData | AnnData | Sequence[Any] | Mapping[str, Any],
    keys: Keys,
    *,
    truth: str,
    unlabelled: Collection[str],
    library_key: str | None,
    image: Wanted,
) -> list[LabelledSection]:
    """The sections of a comparison.

    Raises
    ------
    KeyError
        If there is no such column, element or library.
    ValueError
        If a section has fewer than two classes, or something is ambiguous.
    """
    _, named = named_sections(data, keys, library_key=library_key, image=image, mixed=image == "auto")
    result = []
    for name, section, rows in named:
        column = read_labels(section.work.table, truth, option="truth")
        codes = np.where(np.isin(column.codes, [column.names.index(n) for n in unlabelled if n in column.names]), -1,
                         column.codes)[rows]  # fmt: skip
        classes = np.unique(codes[codes >= 0])
        if len(classes) < 2:
            listed = [column.names[k] for k in classes] or "none"
            msg = f"obs[{truth!r}] of section {name!r} has fewer than two classes ({listed}): there is nothing to find"
            raise ValueError(msg)
        result.append(LabelledSection(name, section, rows, codes, len(classes)))
    return result


def given_embeddings(
    embeddings: Mapping[str, Any], sections: Sequence[LabelledSection], *, taken: Collection[str]
) -> dict[str, list[np.ndarray]]:
    """The user's embeddings by name, an array for each section.

    Raises
    ------
    KeyError
        If a table has no such key.
    ValueError
        If a name is one of a method, or the arrays do not fit the sections.
    """
    result: dict[str, list[np.ndarray]] = {}
    for name, given in embeddings.items():
        if name in taken:
            msg = f"embeddings has the name {name!r}, which is that of a method; give it another one"
            raise ValueError(msg)
        if isinstance(given, str):
            arrays = [np.asarray(read_embedding(one.section.work.table, given))[one.rows] for one in sections]
        else:
            several = isinstance(given, list | tuple)
            arrays = [np.asarray(one, dtype=np.float64) for one in (given if several else [given])]
            if len(arrays) != len(sections):
                msg = (
                    f"embeddings[{name!r}] has {len(arrays)} array(s) for {len(sections)} section(s); give one for each"
                )
                raise ValueError(msg)
        for values, one in zip(arrays, sections, strict=True):
            if values.ndim != 2 or len(values) != len(one.rows) or values.shape[1] == 0:
                msg = (
                    f"embeddings[{name!r}] has shape {values.shape} in section {one.name!r}, "
                    f"which has {len(one.rows)} rows; give shape (rows, d)"
                )
                raise ValueError(msg)
        result[name] = arrays
    return result


def numbers_of(n_domains: int | str | Iterable[int], sections: Sequence[LabelledSection]) -> list[list[int]]:
    """Numbers of domains to look for in each section.

    Raises
    ------
    ValueError
        If one is not a whole number of at least 2, or there is none.
    """
    if isinstance(n_domains, str):
        if n_domains != CLASSES:
            msg = f"n_domains={n_domains!r} is neither a number, nor several, nor {CLASSES!r}"
            raise ValueError(msg)
        return [[one.n_classes] for one in sections]
    wanted = list(n_domains) if isinstance(n_domains, Iterable) else [n_domains]
    numbers = sorted({check_whole(k, name="n_domains", least=2) for k in wanted})
    if not numbers:
        msg = f"n_domains is empty; give numbers, for example range(3, 11), or {CLASSES!r}"
        raise ValueError(msg)
    return [numbers for _ in sections]
