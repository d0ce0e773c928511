"""The sections of what was given, each as an object of its own, for those who only look: nothing can be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.members import Member, images_of, members_of
from storm._bridge.part import part_of
from storm._bridge.remembered import recalled_images, recalled_library
from storm._bridge.select import annotated_regions, is_spatialdata, select_table
from storm._bridge.study import given_once, image_by_section, labels_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True, eq=False)
class Standalone:
    """A section.

    Attributes
    ----------
    name
        Its name; empty for one object that is one section.
    called
        Names by which the user may call it, where each section has its own image.
    keys
        Which elements it consists of.
    source
        The user's object that it is in.
    rows
        Its rows of the table there; ``None`` for all.
    make
        Function that returns the object: the user's own, or one of the section's rows. The latter holds a copy of their
        counts, so that sections are best made one after the other.
    """

    name: str
    called: frozenset[str]
    keys: Keys
    source: SpatialData | AnnData
    rows: np.ndarray | None
    make: Callable[[], SpatialData | AnnData]


def standalone(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    keys: Keys,
    *,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    counts: bool = True,
) -> list[Standalone]:
    """Find the sections of one object or several.

    Parameters
    ----------
    data
        One object or several.
    keys
        What the user asked for, of all sections.
    library_key
        Column of ``obs`` that names the section of each row; see :func:`~storm._bridge.members.members_of`.
    image_key
        The H&E image, or that of each section by its name.
    counts
        Whether the objects hold counts, where they are made of a table of several sections.

    Returns
    -------
    list of Standalone

    Raises
    ------
    KeyError, ValueError, TypeError
        As :func:`~storm._bridge.study.open_study`.
    """
    by_section = image_by_section(image_key)
    if isinstance(image_key, str):
        keys = replace(keys, image_key=image_key)
    objects = given_once(data)
    labels = labels_of(objects) if isinstance(data, list | tuple) else [""]
    sections = [
        section
        for one, label in zip(objects, labels, strict=True)
        for section in _sections_of(one, keys, label, library_key=library_key, by_section=by_section, counts=counts)
    ]
    known = {name for section in sections for name in section.called}
    if unknown := [name for name in by_section or () if name not in known]:
        msg = f"image_key names the sections {unknown}, which are not there; there are {sorted(known)}"
        raise KeyError(msg)
    return sections


def _sections_of(
    one: SpatialData | AnnData,
    keys: Keys,
    label: str,
    *,
    library_key: str | None,
    by_section: Mapping[str, str] | None,
    counts: bool,
) -> list[Standalone]:
    if is_spatialdata(one) and not one.tables and keys.table_key is None and library_key is None:
        return [Standalone(label, frozenset({label}), keys, one, None, lambda: one)]
    table_key, table = select_table(one, keys.table_key)
    library_key = recalled_library(table, library_key)
    chosen = recalled_images(one, table, by_section or keys.image_key)
    by_section = chosen if isinstance(chosen, dict) else None
    keys = replace(keys, image_key=chosen if isinstance(chosen, str) else None)
    members = members_of(one, table, library_key=library_key, shapes_key=keys.shapes_key)
    if members is None:
        regions = annotated_regions(table)
        called = [label, *(regions[0] if regions else ())]
        if by_section is not None:
            keys = replace(keys, image_key=next((by_section[name] for name in called if name in by_section), None))
        return [Standalone(label, frozenset(called), keys, one, None, lambda: one)]
    source = table if counts else _without_counts(table)

    def maker(member: Member, images: list[str]) -> Callable[[], Any]:
        layer = keys.layer if counts else None
        return lambda: part_of(one, source, member, table_key=table_key, layer=layer, images=images)

    sections = []
    for member in members:
        name = f"{label}, {member.name}" if label else member.name
        images = images_of(one, member, by_section or keys.image_key, name=name) if is_spatialdata(one) else []
        own = replace(keys, image_key=images[0] if len(images) == 1 else None, shapes_key=member.region)
        names = frozenset({name, member.name, member.region or member.name})
        sections.append(Standalone(name, names, own, one, member.rows, maker(member, images)))
    return sections


def _without_counts(table: AnnData) -> AnnData:
    """Observations, places and notes of a table; nothing of it is copied but its index."""
    from anndata import AnnData

    places = {key: table.obsm[key] for key in ("spatial",) if key in table.obsm}
    return AnnData(obs=table.obs, obsm=places, uns=table.uns)
