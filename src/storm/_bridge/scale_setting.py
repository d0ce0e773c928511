"""Writing down how long a pixel is: by row in each table, or beside an image that has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from storm._bridge.geometry import affine_of, length_scale
from storm._bridge.image import levels_of
from storm._bridge.keys import Keys
from storm._bridge.part import section_facts
from storm._bridge.places import read_places
from storm._bridge.remembered import Told, meeting_system, own_images, remembering
from storm._bridge.scale import TOLERANCE, ScaleSources, check_um_per_px, resolve_scale
from storm._bridge.select import (
    annotated_regions,
    is_spatialdata,
    records_of,
    remembered_of,
    select_image,
    select_table,
)
from storm._bridge.selection import Selection, select
from storm._bridge.standalone import Standalone, standalone
from storm._bridge.study import given_once, image_by_section, labels_of
from storm._bridge.workspace import copy_of
from storm._bridge.write import check_writable, write_results
from storm._keys import REMEMBERED, UNS
from storm._logging import warn

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def set_scales(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    um_per_px: float | Mapping[str, float] | None,
    keys: Keys,
    *,
    library_key: str | None,
    image_key: str | Mapping[str, str] | None,
    copy: bool,
) -> list[SpatialData | AnnData]:
    """Write the scale of all sections of some objects into them, or into copies; see :func:`storm.pp.set_scale`.

    Returns
    -------
    list
        The objects that were changed.
    """
    numbers = um_per_px.values() if isinstance(um_per_px, Mapping) else [um_per_px]
    for number in numbers:
        if number is not None:
            check_um_per_px(number)
    objects = given_once(data)
    labels = labels_of(objects) if isinstance(data, list | tuple) else [""]
    owners = [copy_of(one) for one in objects] if copy else objects
    writes: list[Callable[[], Callable[[], None]]] = []
    known: set[str] = set()
    for owner, label in zip(owners, labels, strict=True):
        tables = _tables(owner, keys.table_key)
        for name in tables:
            table_key, table = select_table(owner, name)
            check_writable(table, table_key)
            own = replace(keys, table_key=name)
            sections = standalone(owner, own, library_key=library_key, image_key=image_key, counts=False)
            known |= {called for section in sections for called in _called(section, label)}
            scales = [(one, um) for one in sections if (um := _scale(one, um_per_px, label)) is not None]
            told = _told(keys, library_key, image_key, sections, label=label)
            by_rows = [(one.rows, um) for one, (um, _) in scales]
            slots = remembering(owner, table, told, table_key=table_key, scales=by_rows)
            _warn_others(table, [(_own_name(one, label), px) for one, (_, px) in scales], table_key=table_key)
            writes.append(partial(write_results, table, **slots))
        if not tables:
            known.add(label)
            writes.append(_beside_image(owner, um_per_px, keys, image_key))
    if isinstance(um_per_px, Mapping) and (unknown := [name for name in um_per_px if name not in known]):
        msg = f"um_per_px names the sections {unknown}, which are not there; there are {sorted(known - {''})}"
        raise KeyError(msg)
    undo: list[Callable[[], None]] = []
    try:
        for write in writes:
            undo.append(write())
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    return owners


def _tables(owner: SpatialData | AnnData, table_key: str | None) -> list[str | None]:
    """Tables that get the scale: the one that is named, else all whose rows have a place."""
    if not is_spatialdata(owner) or table_key is not None:
        return [table_key]
    if len(owner.tables) == 1:
        return list(owner.tables)
    present = {*owner.shapes, *owner.points, *owner.labels}
    annotated = {key: annotated_regions(table) for key, table in owner.tables.items()}
    placed: list[str | None] = [key for key, one in annotated.items() if one and present.intersection(one[0])]
    if owner.tables and not placed:
        msg = (
            f"no table of the object annotates an element that it holds; choose one of {sorted(owner.tables)} with "
            f"table_key="
        )
        raise ValueError(msg)
    return placed


def _called(section: Standalone, label: str) -> set[str]:
    return {*section.called, *(f"{label}, {name}" for name in section.called if label)} - {""} | {label}


def _own_name(section: Standalone, label: str) -> str:
    """Its name among the sections of its table."""
    return section.name.removeprefix(f"{label}, ")


def _scale(
    section: Standalone, um_per_px: float | Mapping[str, float] | None, label: str
) -> tuple[float, float | None] | None:
    """µm per unit of the coordinates of a section, and per pixel of its image; ``None`` where nothing is said of it."""
    if isinstance(um_per_px, Mapping):
        number = next((um_per_px[name] for name in um_per_px if name in _called(section, label)), None)
        if number is None:
            return None
    else:
        number = um_per_px
    selection = _selected(section)
    sources = read_places(selection, recall=False)[2]
    name = f"section {section.name!r}" if section.name else "the object"
    scale = resolve_scale(sources, um_per_px=number, name=name)
    assert scale is not None  # it is required
    if selection.region is None:
        return scale.um_per_unit, scale.um_per_px
    own = length_scale(affine_of(selection.region.element, selection.coordinate_system))
    return scale.um_per_unit * own, scale.um_per_px


def _selected(section: Standalone) -> Selection:
    return select(section.make(), section.keys, image="auto", table=True)


def _told(keys: Keys, library_key: str | None, image_key: Any, sections: Sequence[Standalone], *, label: str) -> Told:
    by_section = image_by_section(image_key)
    own: Any = image_key
    if by_section is not None:
        images = own_images(by_section, [(_own_name(one, label), _called(one, label)) for one in sections])
        own = images if sections[0].rows is not None else next(iter(images.values()), None)
    return Told(
        table_key=keys.table_key, image_key=own, coordinate_system=keys.coordinate_system, library_key=library_key
    )


def _warn_others(table: AnnData, scales: Sequence[tuple[str, float | None]], *, table_key: str | None) -> None:
    """Warn of results in a table that were computed at another scale than some sections have now, in µm per pixel."""
    others: dict[str, float] = {}
    for key, record in records_of(table).items():
        facts = record if isinstance(record, Mapping) else {}
        for name, new in scales:
            used = (section_facts(facts, name) or facts).get("um_per_px")
            if new is not None and used is not None and not 1 / TOLERANCE < new / float(used) < TOLERANCE:
                others.setdefault(key, float(used))
    if others:
        listed = ", ".join(f"{key!r} at {used:.4g}" for key, used in others.items())
        of = "the table" if table_key is None else f"table {table_key!r}"
        msg = f"{of} holds results that were computed at another scale, in µm per pixel: {listed}; compute them again"
        warn(msg)


def _beside_image(
    owner: SpatialData, um_per_px: Any, keys: Keys, image_key: str | Mapping[str, str] | None
) -> Callable[[], Callable[[], None]]:
    """Note the scale of an image without a table in the attributes of its object."""
    if isinstance(um_per_px, Mapping) or isinstance(image_key, Mapping):
        msg = "the object holds no table, and so no sections that could be named; give one um_per_px and one image_key"
        raise ValueError(msg)
    key = select_image(owner, image_key, image=True)
    assert key is not None  # it is required
    image = levels_of(owner.images[key])[0]
    system = meeting_system({f"image {key!r}": image}, keys.coordinate_system, source=owner)
    sources = ScaleSources(coordinate_system=system, image=image, attrs=owner.attrs)
    scale = resolve_scale(sources, um_per_px=um_per_px, name=f"image {key!r}")
    assert scale is not None  # it is required
    before = dict(remembered_of(owner))
    numbers = {**before.get("um_per_px", {}), key: scale.um_per_px}
    names = {"image_key": image_key, "coordinate_system": keys.coordinate_system}
    new = before | {"um_per_px": numbers} | {name: value for name, value in names.items() if value is not None}
    old = owner.attrs
    attrs = {**old, UNS: {**old.get(UNS, {}), REMEMBERED: new}}

    def take_back() -> None:
        owner.attrs = old

    def write() -> Callable[[], None]:
        # a new dictionary: objects made by a query share the old one
        owner.attrs = attrs
        return take_back

    return write
