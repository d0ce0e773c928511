"""Sections that a call works on: one object or several, each with one section or several.

Each section is read as an object of its own, one at a time, so that nothing of a section can reach another one, and the
largest section decides about the memory. Results are gathered by table and written in the end, all of them or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from storm._bridge.counts import check_structure
from storm._bridge.keys import Keys
from storm._bridge.members import Member, images_of, members_of
from storm._bridge.part import SECTIONS, part_of, plain, section_facts
from storm._bridge.select import (
    annotated_regions,
    check_container,
    is_spatialdata,
    note_pictures,
    records_of,
    select_table,
)
from storm._bridge.selection import Selection, select
from storm._bridge.workspace import Workspace, copy_of, open_workspace, write_all
from storm._bridge.write import check_keys_added, check_writable
from storm.data.journal import Journal, journal_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

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

    def open(self) -> Selection:
        """Select what is read of the section; where it shares its table, in an object of its own.

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
        return select(part, self.keys, image=self.image, table=True)

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

    def __len__(self) -> int:
        return len(self.sections)

    def __iter__(self) -> Iterator[Section]:
        return iter(self.sections)

    @contextmanager
    def journals(self, key: str) -> Iterator[list[Journal]]:
        """A journal for each section; see :func:`~storm.data.journal.journal_of`.

        They are removed when the block ends without an error. Until then no other process works on the stores.
        """
        with ExitStack() as stack:
            by_work = {id(work): stack.enter_context(journal_of(work.store, key)) for work in self.works}
            yield [
                by_work[id(section.work)] if section.member is None else by_work[id(section.work)].part(section.name)
                for section in self.sections
            ]

    def keep(
        self,
        section: Section,
        *,
        uns: Mapping[str, Mapping[str, Any]] | None = None,
        **results: Mapping[str, np.ndarray],
    ) -> None:
        """Keep the results of a section until :meth:`write`.

        Parameters
        ----------
        section
            The section.
        uns
            Provenance by key.
        **results
            Matrices by slot (``"obsm"``, ``"layers"``) and key, shape (rows of the section, d).

        Raises
        ------
        ValueError
            If another section of the table has a result of another width.
        """
        work = id(section.work)
        rows = None if section.member is None else section.member.rows
        n_obs = section.work.table.n_obs
        for slot, matrices in results.items():
            for key, values in matrices.items():
                whole = self._kept.get((work, slot, key))
                if rows is None:
                    self._kept[work, slot, key] = values
                    continue
                if whole is None:
                    whole = np.full((n_obs, values.shape[1]), np.nan, dtype=np.float32)
                    self._kept[work, slot, key] = whole
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
        before = records_of(work.table if table is None else table).get(key)
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


def open_study(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    keys: Keys,
    *,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    image: Wanted = "auto",
    field_um: float | None = None,
    stride_um: float | None = None,
    copy: bool = False,
    keys_added: Mapping[str, Iterable[str]] | None = None,
    writable: bool = True,
    mixed: bool = False,
) -> Study:
    """Find the sections that a call works on.

    Parameters
    ----------
    data
        One object or several.
    keys
        What the user asked for, of all sections.
    library_key
        Column of ``obs`` that names the section of each row; see :func:`~storm._bridge.members.members_of`.
    image_key
        The H&E image, or that of each section by its name; ``keys.image_key`` if it is ``None``.
    image, field_um, stride_um, copy, keys_added, writable
        As in :func:`~storm._bridge.workspace.open_workspace`.
    mixed
        Whether some sections may have an image where others have none.

    Returns
    -------
    Study

    Raises
    ------
    KeyError
        If there is no element, image or column of a given name.
    TypeError
        If something is neither a SpatialData nor an AnnData, or a key is not text.
    ValueError
        If no object is given, one is given twice, a section has no image while others have one, or something is
        ambiguous.
    """
    objects = given_once(data)
    labels = labels_of(objects) if isinstance(data, list | tuple) else [""]
    names = image_by_section(image_key)
    if names is None and isinstance(image_key, str):
        keys = replace(keys, image_key=image_key)
    works: list[Workspace] = []
    sections: list[Section] = []
    for one, label in zip(objects, labels, strict=True):
        try:
            work, own = _sections_of(
                one, keys, label=label, library_key=library_key, image_keys=names, image=image, field_um=field_um,
                stride_um=stride_um, copy=copy, keys_added=keys_added or {}, writable=writable,
            )  # fmt: skip
        except (KeyError, ValueError, TypeError) as error:
            if label and error.args and isinstance(error.args[0], str):
                error.args = (f"{label}: {error.args[0]}", *error.args[1:])
            raise
        works.append(work)
        sections += own
    if names is not None:
        _check_names(names, sections)
    for work in works:
        _check_own_images([section for section in sections if section.work is work])
    if image is not False and not mixed:
        _check_images(sections)
    if image == "auto":
        for work in works:
            note_pictures(work.owner)
    return Study(works, sections, library_key)


def labels_of(objects: Sequence[Any]) -> list[str]:
    """Names of the objects of a list: that of the store they lie in, and their place in the list."""
    labels = []
    for k, one in enumerate(objects):
        path = one.path if is_spatialdata(one) and one.is_backed() else getattr(one, "filename", None)
        labels.append(f"data[{k}]" if path is None else f"data[{k}] ({Path(path).name})")
    return labels


def given_once(data: Any) -> list[Any]:
    """The objects of a call, one or a list of them.

    Raises
    ------
    TypeError
        If one is neither a SpatialData nor an AnnData.
    ValueError
        If there is none, or one is there twice or was read twice from one store.
    """
    objects = list(data) if isinstance(data, list | tuple) else [data]
    if not objects:
        msg = "an empty list was given; give a SpatialData, an AnnData, or a list of them"
        raise ValueError(msg)
    seen: dict[Any, str] = {}
    for one, label in zip(objects, labels_of(objects), strict=True):
        check_container(one)
        store = Path(one.path).resolve() if is_spatialdata(one) and one.is_backed() else None
        for what in (id(one), store):
            if what is None:
                continue
            if what in seen:
                msg = f"{seen[what]} and {label} are the same object; give each section once"
                raise ValueError(msg)
            seen[what] = label
    return objects


def image_by_section(image_key: Any) -> dict[str, str] | None:
    """The image of each section; ``None`` where one key, or none, is given for all."""
    if image_key is not None and not isinstance(image_key, str | Mapping):
        msg = f"image_key={image_key!r} is a {type(image_key).__name__}; give one name as text, or one for each section"
        raise TypeError(msg)
    if not isinstance(image_key, Mapping):
        return None
    if wrong := [pair for pair in image_key.items() if not all(isinstance(name, str) for name in pair)]:
        msg = f"image_key={dict(image_key)!r} holds {wrong[0]!r}; it maps names of sections to names of images, as text"
        raise TypeError(msg)
    return dict(image_key)


def _check_names(image_keys: Mapping[str, str], sections: Sequence[Section]) -> None:
    known = {name for section in sections for name in _names(section)}
    if unknown := [name for name in image_keys if name not in known]:
        msg = f"image_key names the sections {unknown}, which are not there; there are {sorted(known)}"
        raise KeyError(msg)


def _names(section: Section) -> set[str]:
    """Names by which the user may call a section."""
    if section.member is not None:
        return {section.name, section.member.name, section.member.region or section.member.name}
    table = section.work.selection.table
    regions = None if table is None else annotated_regions(table)
    return {section.name, *(regions[0] if regions else ())} - {""}


def _check_images(sections: Sequence[Section]) -> None:
    """Raise if some sections have an image and others have none."""
    without = [section for section in sections if not _has_image(section)]
    if not without or (len(without) == len(sections) and without[0].image == "auto"):
        return
    if len(sections) == 1:
        return  # what is missing is said where the image is selected
    names = ", ".join(repr(section.name) for section in without)
    one = without[0]
    held = list(getattr(one.work.selection.data, "images", {}))
    msg = (
        f"of {len(sections)} sections {len(without)} have no H&E image: {names}. An image belongs to a section if they "
        f"share a coordinate system and overlap (the object's images: {held or 'none'}); name it with image_key="
        f"{{{one.name!r}: image}}, or use modality='st', which reads none"
    )
    raise ValueError(msg)


def _has_image(section: Section) -> bool:
    if section.member is not None:
        return bool(section.images)
    return bool(getattr(section.work.selection.data, "images", {}))


def _sections_of(
    one: SpatialData | AnnData,
    keys: Keys,
    *,
    label: str,
    library_key: str | None,
    image_keys: Mapping[str, str] | None,
    image: Wanted,
    field_um: float | None,
    stride_um: float | None,
    copy: bool,
    keys_added: Mapping[str, Iterable[str]],
    writable: bool,
) -> tuple[Workspace, list[Section]]:
    """The sections of one object."""
    has_table = not is_spatialdata(one) or bool(one.tables) or keys.table_key is not None
    if library_key is not None and not has_table:
        msg = f"library_key={library_key!r} names a column of a table, and the object holds no table"
        raise ValueError(msg)
    members = None
    if has_table:
        table_key, table = select_table(one, keys.table_key)
        members = members_of(one, table, library_key=library_key, shapes_key=keys.shapes_key)
    if members is None:
        regions = annotated_regions(table) if has_table else None
        if image_keys is not None:
            called = [label, *(regions[0] if regions else ())]
            keys = replace(keys, image_key=next((image_keys[name] for name in called if name in image_keys), None))
        work = open_workspace(
            one, keys, image=image, field_um=field_um, stride_um=stride_um, copy=copy, keys_added=keys_added,
            writable=writable,
        )  # fmt: skip
        return work, [Section(label, work, None, keys, image, [])]
    if writable:
        check_writable(table, table_key)
    check_keys_added(
        table, obs=keys_added.get("obs", ()), obsm=keys_added.get("obsm", ()), layers=keys_added.get("layers", ())
    )
    for name, matrix in (("X", table.X), *((f"layers[{key!r}]", table.layers[key]) for key in table.layers)):
        if sparse.issparse(matrix):
            check_structure(matrix, where=name)  # taking rows of a damaged one reads beyond its memory
    store = Path(one.path) if is_spatialdata(one) and one.is_backed() else None
    owner = copy_of(one) if copy else one
    table_key, table = select_table(owner, keys.table_key)
    work = Workspace(Selection(owner, keys, None, table_key, table), owner, store=store)
    chosen = image_keys if image_keys is not None else keys.image_key
    sections = []
    for member in members:
        images = images_of(owner, member, chosen) if is_spatialdata(owner) and image is not False else []
        own = replace(keys, image_key=images[0] if len(images) == 1 else None, shapes_key=member.region)
        name = f"{label}, {member.name}" if label else member.name
        sections.append(Section(name, work, member, own, image, images))
    return work, sections


def _check_own_images(sections: Sequence[Section]) -> None:
    """Raise if one of several images that fit a region fits another region as well: then it may be the other's."""
    for section in sections:
        others = {
            image for other in sections if other.keys.shapes_key != section.keys.shapes_key for image in other.images
        }
        if len(section.images) > 1 and others.intersection(section.images):
            msg = (
                f"section {section.name!r}: several images lie under its spots, {section.images}, and under those of "
                f"other sections; say which is whose with image_key={{{section.name!r}: {section.images[0]!r}, ...}}, "
                f"or use modality='st', which reads none"
            )
            raise ValueError(msg)


def _measured(value: Any) -> bool:
    """Whether an entry of a provenance is a number or several: of each section it stands in the same place."""
    return not isinstance(value, Mapping) and np.asarray(value).dtype.kind in "iuf"


def _same(one: Any, other: Any) -> bool:
    """Whether two entries of a provenance, which may be arrays or lists, are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    return np.shape(one) == np.shape(other) and bool(np.all(np.asarray(one) == np.asarray(other)))
