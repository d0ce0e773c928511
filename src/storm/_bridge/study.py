"""Sections that a call works on: one object or several, each with one section or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from storm._bridge.counts import check_structure, named_layers
from storm._bridge.geometry import find_element
from storm._bridge.keys import Keys
from storm._bridge.members import images_of, members_of
from storm._bridge.remembered import Told, own_images, recalled_images, recalled_library, um_of_coordinates
from storm._bridge.sections import Section, Study
from storm._bridge.select import (
    annotated_regions,
    check_container,
    is_spatialdata,
    note_pictures,
    select_table,
)
from storm._bridge.selection import Selection
from storm._bridge.workspace import Workspace, copy_of, open_workspace
from storm._bridge.write import check_keys_added, check_writable

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm._types import Wanted


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
    label: str = "",
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
    label
        Name of a single object, where it is one of several that are opened one at a time.

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
    labels = labels_of(objects) if isinstance(data, list | tuple) else [label]
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
        work.scales = partial(_told_scales, own)
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
    # for the provenance; of several objects, each may have been told its own
    columns = [library_key, *(recalled_library(work.table, None) for work in works if work.selection.table is not None)]
    return Study(works, sections, next((column for column in columns if column is not None), None))


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
        f"{{{one.name!r}: image}} (modality='st' of storm.tl.embed reads none)"
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
    told = Told(
        table_key=keys.table_key,
        image_key=keys.image_key,
        coordinate_system=keys.coordinate_system,
        library_key=library_key,
    )
    given = image_keys
    if has_table:
        table_key, table = select_table(one, keys.table_key)
        library_key = recalled_library(table, library_key)
        recalled = recalled_images(one, table, image_keys or keys.image_key)
        image_keys = recalled if isinstance(recalled, dict) else None
        keys = replace(keys, image_key=recalled if isinstance(recalled, str) else None)
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
        work.told = told if given is None else replace(told, image_key=keys.image_key)
        return work, [Section(label, work, None, keys, image, [])]
    if writable:
        check_writable(table, table_key)
    check_keys_added(
        table, obs=keys_added.get("obs", ()), obsm=keys_added.get("obsm", ()), layers=keys_added.get("layers", ())
    )
    for name, matrix in (("X", table.X), *((f"layers[{key!r}]", table.layers[key]) for key in named_layers(table))):
        if sparse.issparse(matrix):
            check_structure(matrix, where=name)  # taking rows of a damaged one reads beyond its memory
    store = Path(one.path) if is_spatialdata(one) and one.is_backed() else None
    owner = copy_of(one) if copy else one
    table_key, table = select_table(owner, keys.table_key)
    work = Workspace(Selection(owner, keys, None, table_key, table), owner, store=store)
    chosen = image_keys if image_keys is not None else keys.image_key
    sections = []
    for member in members:
        name = f"{label}, {member.name}" if label else member.name
        images = images_of(owner, member, chosen, name=name) if is_spatialdata(owner) and image is not False else []
        own = replace(keys, image_key=images[0] if len(images) == 1 else None, shapes_key=member.region)
        sections.append(Section(name, work, member, own, image, images))
    if given is not None:
        called = [(member.name, _names(section)) for member, section in zip(members, sections, strict=True)]
        told = replace(told, image_key=own_images(given, called))
    work.told = told
    return work, sections


def _told_scales(sections: Sequence[Section]) -> list[tuple[np.ndarray | None, float]]:
    """Rows of the sections of an object, and their µm per unit of their coordinates as the call was told."""
    scales: list[tuple[np.ndarray | None, float]] = []
    for section in sections:
        um_per_px, selection = section.keys.um_per_px, section.work.selection
        if um_per_px is None:
            continue
        if section.member is None:
            shapes = None if selection.region is None else selection.region.element
            image, rows = selection.image, None
        elif section.images and section.keys.image_key is None:
            continue  # of several images, none was read: which one the number is about is not known
        else:
            region, key, rows = section.member.region, section.keys.image_key, section.member.rows
            shapes = None if region is None else find_element(selection.data, region)
            image = None if key is None else selection.data.images[key]
        um = um_of_coordinates(
            um_per_px,
            shapes=shapes,
            image=image,
            table=selection.table,
            coordinate_system=section.keys.coordinate_system,
        )
        scales.append((rows, um))
    return scales


def _check_own_images(sections: Sequence[Section]) -> None:
    """Raise if one of several images that fit a region fits another region as well: then it may be the other's."""
    for section in sections:
        others = {
            image for other in sections if other.keys.shapes_key != section.keys.shapes_key for image in other.images
        }
        if len(section.images) > 1 and others.intersection(section.images):
            msg = (
                f"section {section.name!r}: several images lie under its spots, {section.images}, and under those of "
                f"other sections; say which is whose with image_key={{{section.name!r}: {section.images[0]!r}, ...}} "
                f"(modality='st' of storm.tl.embed reads none)"
            )
            raise ValueError(msg)
