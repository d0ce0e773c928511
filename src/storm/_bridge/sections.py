"""The sections of a call, and their results until they are written.

Each section is read as an object of its own, one at a time, so that nothing of a section can reach another one, and the
largest section decides about the memory. Results are gathered by table and written in the end, all of them or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.columns import merged, spread
from storm._bridge.keys import Keys
from storm._bridge.members import Member, plain
from storm._bridge.part import SECTIONS, part_of, section_facts
from storm._bridge.select import records_of
from storm._bridge.selection import Selection, select
from storm._bridge.workspace import Workspace, write_all
from storm._interrupt import says_how_to_go_on
from storm.data.journal import Journal, journal_of
from storm.data.rows import large_empty

if TYPE_CHECKING:
    from anndata import AnnData

    from storm._types import Wanted


@dataclass(eq=False)
class Section:
    """A section of a study.

    Attributes
    ----------
    name
        Its name, unique in the study.
    work
        The object that it is in.
    member
        Its rows; ``None`` where the whole table is this section.
    keys
        What the user asked for, of this section.
    image
        Whether an image is needed; see :func:`~storm._bridge.selection.select`.
    images
        Images that may be its own.
    """

    name: str
    work: Workspace
    member: Member | None
    keys: Keys
    image: Wanted
    images: list[str]

    def open(self, *, image: bool = True) -> Selection:
        """Select what is read of the section; where it shares its table, in an object of its own.

        Parameters
        ----------
        image
            Whether the image is read this time, if it is one of those that read it.

        Raises
        ------
        KeyError, ValueError, TypeError
            As :func:`~storm._bridge.selection.select`.
        """
        if self.member is None:
            return self.work.selection
        part = part_of(
            self.work.selection.data,
            self.work.table,
            self.member,
            table_key=self.work.selection.table_key,
            layer=self.keys.layer,
            images=self.images,
        )
        selection = select(part, self.keys, image=self.image if image else False, table=True)
        if selection.image_key is not None:
            # Chosen once, and said once: a study opens its sections several times.
            self.keys, self.images = replace(self.keys, image_key=selection.image_key), [selection.image_key]
        return selection

    def journal(self, whole: Journal) -> Journal:
        """Its part of the journal of the object that it is in."""
        return whole if self.member is None else whole.part(self.member.name)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let errors say which section they are about, where there are several."""
        try:
            yield
        except (KeyError, ValueError, TypeError) as error:
            if self.name and error.args and isinstance(error.args[0], str):
                error.args = (f"section {self.name!r}: {error.args[0]}", *error.args[1:])
            raise


@dataclass(eq=False)
class Study:
    """The sections of a call, and their results until they are written.

    Attributes
    ----------
    works
        The objects.
    sections
        Their sections; those of one table sorted by name.
    library_key
        Column that tells sections of a table apart, for the provenance.
    """

    works: list[Workspace]
    sections: list[Section]
    library_key: str | None = None
    _kept: dict[tuple[int, str, str], Any] = field(default_factory=dict, repr=False)
    _facts: dict[tuple[int, str], dict[str, dict[str, Any]]] = field(default_factory=dict, repr=False)
    _rows: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _layouts: dict[tuple[int, str, str], Mapping[str, int]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.sections)

    def __iter__(self) -> Iterator[Section]:
        return iter(self.sections)

    @contextmanager
    def journals(self, key: str) -> Iterator[list[Journal]]:
        """A journal for each section; see :func:`~storm.data.journal.journal_of`.

        They are removed when the block ends without an error. Until then no other process works on the stores.
        """
        with says_how_to_go_on(self._what_is_kept), ExitStack() as stack:
            by_work = {id(work): stack.enter_context(journal_of(work.store, key)) for work in self.works}
            yield [section.journal(by_work[id(section.work)]) for section in self.sections]

    def _what_is_kept(self) -> str:
        """What to say of an interruption while there are journals."""
        stores = list(dict.fromkeys(str(work.store) for work in self.works if work.store is not None))
        if not stores:
            return (
                "nothing was written; the same call starts again from the beginning (of an object in a zarr store, "
                "sdata.write(path), finished rows would be kept)"
            )
        listed = ", ".join(stores[:3]) + (f" and {len(stores) - 3} more" if len(stores) > 3 else "")
        return f"nothing was written, and finished rows are kept beside {listed}; the same call goes on from there"

    def keep(
        self,
        section: Section,
        *,
        uns: Mapping[str, Mapping[str, Any]] | None = None,
        layouts: Mapping[str, Mapping[str, int]] | None = None,
        **results: Mapping[str, np.ndarray],
    ) -> None:
        """Keep the results of a section until :meth:`write`.

        Parameters
        ----------
        section
            The section.
        uns
            Provenance by key.
        layouts
            By key, the parts of a matrix that another section of the table may not have, or have more of, with their
            number of columns: where a section lacks a part, its rows are zero.
        **results
            Matrices by slot (``"obsm"``, ``"layers"``) and key, shape (rows of the section, d).

        Raises
        ------
        ValueError
            If another section of the table has a result of another width, and no layout.
        """
        work = id(section.work)
        rows = None if section.member is None else section.member.rows
        n_obs = section.work.table.n_obs
        for slot, matrices in results.items():
            for key, values in matrices.items():
                place = (work, slot, key)
                whole, own = self._kept.get(place), dict((layouts or {}).get(key, {}))
                if rows is None:
                    self._kept[place] = values
                    continue
                if whole is None:
                    whole = large_empty((n_obs, values.shape[1]))
                    whole[:] = np.nan
                elif own:
                    before = self._layouts[place]
                    every = merged(before, own)
                    whole, values, own = spread(whole, before, every), spread(values, own, every), every
                self._kept[place], self._layouts[place] = whole, own
                if whole.shape[1] != values.shape[1]:
                    msg = (
                        f"section {section.name!r} gives {slot}[{key!r}] {values.shape[1]} columns, and the sections "
                        f"before it {whole.shape[1]}, so that they do not fit into one table; name what differs, "
                        f"such as modality= or readout="
                    )
                    raise ValueError(msg)
                whole[rows] = values
        if rows is not None:
            done = self._rows.setdefault(work, np.zeros(n_obs, dtype=bool))
            done[rows] = True
        for key, facts in (uns or {}).items():
            name = section.name if section.member is None else section.member.name
            self._facts.setdefault((work, key), {})[name] = dict(facts)

    def kept(self, work: Workspace, slot: str, key: str) -> np.ndarray:
        """A result of all sections of an object, shape (n_obs, d); NaN in rows of other sections."""
        return self._kept[id(work), slot, key]

    def rows(self, work: Workspace) -> np.ndarray | None:
        """Rows of an object that were computed, bool, shape (n_obs,); ``None`` for all."""
        return self._rows.get(id(work))

    def facts(self, work: Workspace, key: str, *, table: AnnData | None = None) -> dict[str, Any]:
        """Provenance of a result: what all sections share, and under ``"sections"`` what they do not, and all numbers.

        Parameters
        ----------
        work
            The object.
        key
            Key of the result.
        table
            Table with the provenance of an earlier call, whose other sections it is merged with; the object's own by
            default.
        """
        own = self._facts[id(work), key]
        if self.rows(work) is None:
            return next(iter(own.values()))
        rows = self.rows(work)
        # Where all rows are written anew, sections of another division are no more.
        whole = rows is None or rows.all()
        before = None if whole else records_of(work.table if table is None else table).get(key)
        named = before.get(SECTIONS, {}) if isinstance(before, Mapping) else {}
        earlier = {name: section_facts(before, name) or {} for name in named}
        every = earlier | {plain(name): facts for name, facts in own.items()}
        first = next(iter(every.values()))
        shared = {
            name: value
            for name, value in first.items()
            if all(_same(facts.get(name), value) for facts in every.values())
        }
        if self.library_key is not None:
            shared["library_key"] = self.library_key
        differing = {
            name: {entry: value for entry, value in facts.items() if entry not in shared or _measured(value)}
            for name, facts in sorted(every.items())
        }
        return shared | {SECTIONS: differing}

    def write(self) -> None:
        """Write what was kept into the tables, in the rows that were computed: the last step, all of it or nothing."""
        results = []
        for work in self.works:
            slots: dict[str, dict[str, Any]] = {}
            for (owner, slot, key), values in self._kept.items():
                if owner == id(work):
                    slots.setdefault(slot, {})[key] = values
            uns = {key: self.facts(work, key) for owner, key in self._facts if owner == id(work)}
            results.append((work, {**slots, "uns": uns, "rows": self.rows(work)}))
        write_all(results)

    def copies(self, data: Any) -> Any:
        """What ``copy=True`` returns: a list of objects where one was given, else the only one."""
        owners = [work.owner for work in self.works]
        return owners if isinstance(data, list | tuple) else owners[0]


def _measured(value: Any) -> bool:
    """Whether an entry of a provenance is a number or several: of each section it stands in the same place."""
    return not isinstance(value, Mapping) and np.asarray(value).dtype.kind in "iuf"


def _same(one: Any, other: Any) -> bool:
    """Whether two entries of a provenance, which may be arrays or lists, are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    return np.shape(one) == np.shape(other) and bool(np.all(np.asarray(one) == np.asarray(other)))
