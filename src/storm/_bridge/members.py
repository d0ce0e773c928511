"""Which rows of a table belong to which section: by the elements that it annotates, or by a column of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.geometry import affine_of, apply, centres_of, common_system, inverse, systems_of
from storm._bridge.image import levels_of
from storm._bridge.select import annotated_regions, is_spatialdata
from storm._checks import check_key

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: An image that holds less than this share of the spots that another one holds is not the section's.
_MUCH_LESS = 0.5


@dataclass(frozen=True, eq=False)
class Member:
    """A section that shares its table with others.

    Attributes
    ----------
    name
        Name of the section, unique in its table.
    rows
        Numbers of its rows, ascending.
    region
        Element that these rows annotate; ``None`` for a table whose ``obsm["spatial"]`` places them.
    library
        Its value of the column of names; ``None`` without such a column.
    """

    name: str
    rows: np.ndarray
    region: str | None
    library: str | None


def members_of(
    data: SpatialData | AnnData, table: AnnData, *, library_key: str | None, shapes_key: str | None
) -> list[Member] | None:
    """Sections of a table, sorted by name.

    Parameters
    ----------
    data
        The user's object.
    table
        Its table.
    library_key
        Column of ``obs`` that names the section of each row. In a SpatialData whose table annotates several elements,
        each element is a section by itself, and the column divides these further.
    shapes_key
        The only element of interest.

    Returns
    -------
    list of Member or None
        ``None`` where the table as a whole is one section.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a row has no name, two sections would have the same name, or the table does not annotate ``shapes_key``.
    """
    regions = _regions(data, table, shapes_key, alone=library_key is None)
    if regions is None and library_key is None:
        return None
    everything: dict[str | None, np.ndarray] = {None: np.ones(table.n_obs, dtype=bool)}
    by_region = everything if regions is None else regions
    names = None if library_key is None else _library_names(table, library_key)
    if names is None or (regions is not None and _is_region_column(table, library_key)):
        return [
            Member(str(region), np.flatnonzero(rows), region, None)
            for region, rows in sorted(by_region.items(), key=str)
            if rows.any()
        ]
    pairs = [(region, str(library)) for region, rows in by_region.items() for library in np.unique(names[rows])]
    alone = len({library for _, library in pairs}) == len(pairs)
    named = {(library if alone else f"{region}, {library}"): (region, library) for region, library in pairs}
    if len({plain(name) for name in named}) < len(pairs):
        msg = (
            f"library_key={library_key!r}: the sections {sorted(named)} have names that are the same, or differ by a "
            f"slash only, under which their results are kept apart; rename them"
        )
        raise ValueError(msg)
    return [
        Member(name, np.flatnonzero(by_region[region] & (names == library)), region, library)
        for name, (region, library) in sorted(named.items())
    ]


def plain(name: str) -> str:
    """A section's name as a key of ``uns``, which a slash would divide."""
    return name.replace("/", "_") or "_"


def _regions(data: Any, table: AnnData, shapes_key: str | None, *, alone: bool) -> dict[str | None, np.ndarray] | None:
    """Rows of each annotated element; ``None`` for a table without such, and, if ``alone``, with a single one."""
    annotated = annotated_regions(table) if is_spatialdata(data) else None
    if annotated is None:
        return None
    regions, region_key, instance_key = annotated
    present = {*data.shapes, *data.points, *data.labels}
    if len(regions) < 1 + alone or not present.intersection(regions):
        return None
    for column in (region_key, instance_key):
        check_key(column, list(table.obs.columns), name="spatialdata_attrs", where="obs of the table")
    if shapes_key is not None:
        check_choice_of_region(shapes_key, regions)
        regions = [shapes_key]
    if missing := [name for name in regions if name not in present]:
        msg = (
            f"the table annotates {', '.join(map(repr, missing))}, which is not in the object; it holds "
            f"{sorted(present)}. Add these elements, or choose one that is there with shapes_key="
        )
        raise ValueError(msg)
    column = table.obs[region_key].astype(str)
    return {name: (column == name).to_numpy() for name in regions}


def check_choice_of_region(shapes_key: str, regions: list[str]) -> None:
    """Raise unless the table annotates an element of that name."""
    if shapes_key not in regions:
        msg = f"the table does not annotate shapes_key={shapes_key!r}; it annotates {regions}"
        raise ValueError(msg)


def _is_region_column(table: AnnData, library_key: str | None) -> bool:
    annotated = annotated_regions(table)
    return annotated is not None and annotated[1] == library_key


def _library_names(table: AnnData, library_key: str) -> np.ndarray:
    """Name of each row's section, shape (n_obs,), str."""
    check_key(library_key, list(table.obs.columns), name="library_key", where="obs")
    column = pd.Series(np.asarray(table.obs[library_key], dtype=object))
    missing = column.isna().to_numpy()
    if missing.any():
        rows = ", ".join(repr(str(name)) for name in table.obs_names[missing][:3])
        msg = (
            f"library_key={library_key!r}: {int(missing.sum())} of {len(column)} rows have no value there, e.g. "
            f"{rows}; a row belongs to a section or is left out: give each its section, or remove these rows"
        )
        raise ValueError(msg)
    names = column.map(str)
    if names.nunique() < column.nunique():
        msg = (
            f"library_key={library_key!r} holds different values that read the same, such as 1 and '1': "
            f"{sorted(map(repr, column.unique()))[:10]}; write them in one way"
        )
        raise ValueError(msg)
    return names.to_numpy(dtype=str)


def images_of(data: SpatialData, member: Member, chosen: str | Mapping[str, str] | None, *, name: str) -> list[str]:
    """Images that may be the H&E of a section: the chosen one, or those that share a coordinate system with it.

    Parameters
    ----------
    data
        The object.
    member
        The section.
    chosen
        The user's ``image_key``: one for all sections, or one for each by the section's name.
    name
        Name of the section in the study, which says of which object it is.

    Returns
    -------
    list of str
        Empty if there is none.

    Raises
    ------
    KeyError
        If there is no image of a chosen name.
    """
    if isinstance(chosen, Mapping):
        called = [name, member.name, plain(member.name), *([] if member.region is None else [member.region])]
        chosen = next((chosen[one] for one in called if one in chosen), None)
    if chosen is not None:
        check_key(chosen, data.images, name="image_key", where="sdata.images")
        return [chosen]
    if member.region is None:
        return list(data.images)
    element = next(group[member.region] for group in (data.shapes, data.points, data.labels) if member.region in group)
    here = set(systems_of(element))
    near = [key for key, image in data.images.items() if here.intersection(systems_of(image))]
    if len(near) < 2:
        return near
    inside = {key: _share_inside(element, data.images[key]) for key in near}
    return [key for key in near if inside[key] > 0 and inside[key] >= _MUCH_LESS * max(inside.values())]


def _share_inside(element: Any, image: Any) -> float:
    """Share of an element's instances whose centres lie on an image, in the system in which both have a place."""
    system = common_system({"shapes": element, "image": image})
    full = levels_of(image)[0]
    _, centres = centres_of(element, system)
    px = apply(inverse(affine_of(full, system)), centres)
    size = (full.sizes["x"], full.sizes["y"])
    with np.errstate(invalid="ignore"):
        return float(((px >= 0) & (px <= size)).all(axis=1).mean()) if len(px) else 0.0
