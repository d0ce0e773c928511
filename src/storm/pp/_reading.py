"""Reading as much of a section as can be read, and noting what cannot."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.counts import layer_names
from storm._bridge.geometry import systems_of
from storm._bridge.keys import Keys
from storm._bridge.read import spots_of
from storm._bridge.scale import ScaleError
from storm._bridge.select import is_spatialdata
from storm._bridge.selection import Selection, select
from storm._bridge.workspace import is_slide, open_workspace
from storm._checks import check_key
from storm._keys import TILES
from storm._logging import is_ours
from storm.pp._report import Row

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm.data.spots import Spots

#: What is wrong with a section, as opposed to with a call.
_BAD = (ValueError, KeyError, TypeError, OSError)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What could be read.

    Attributes
    ----------
    selection
        The elements that were read, of the user's object or of a grid of tiles over an image that has no table; without
        the image where that cannot be read.
    content
        Spots without counts, image or both where these cannot be read; ``None`` where not even the places can be.
    problems
        What could not be read.
    warned
        Texts of STORM's warnings while reading.
    tiled
        Whether the spots are tiles that STORM laid over the image, now or in an earlier call that stored them.
    """

    selection: Selection
    content: Spots | None
    problems: tuple[Row, ...]
    warned: tuple[str, ...]
    tiled: bool

    @property
    def spots(self) -> Spots:
        """What was read, for the rows that are made only where something was."""
        assert self.content is not None
        return self.content


def read_section(data: SpatialData | AnnData, keys: Keys, *, field_um: float) -> Reading:
    """Read a section; what is wrong with it becomes rows of the report.

    Parameters
    ----------
    data
        The section.
    keys
        What to read.
    field_um
        Edge of the tiles for an image without a table, in µm.

    Returns
    -------
    Reading

    Raises
    ------
    KeyError, ValueError, TypeError
        For mistakes of the call: a key that does not exist, a choice that must be made, an object of another kind.
    """
    selection = select(data, keys)
    _check_call(selection)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiled = is_slide(data)
        problems: list[Row] = []
        spots = None
        try:
            if tiled:
                selection = open_workspace(data, keys, image=True, field_um=field_um).selection
        except _BAD as error:
            problems.append(Row(_name_of(error), "cannot be read", "fail", text_of(error)))
        else:
            selection, spots = _read(selection, problems)
    tiled = tiled or _holds_tiles(selection)
    warned = tuple(dict.fromkeys(str(w.message) for w in caught if is_ours(w.message)))
    return Reading(selection=selection, content=spots, problems=tuple(problems), warned=warned, tiled=tiled)


def _holds_tiles(selection: Selection) -> bool:
    """Whether the table is that of tiles which an earlier call laid, so that distance and places are STORM's own."""
    attrs = None if selection.table is None else selection.table.uns.get("spatialdata_attrs")
    return isinstance(attrs, Mapping) and np.array_equal(np.ravel(attrs.get("region", "")), [TILES])


def text_of(error: BaseException) -> str:
    """Text of an error in one line."""
    # A KeyError's str() is the repr of its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def _check_call(selection: Selection) -> None:
    """Raise for keys that do not exist; a section whose keys exist can be checked."""
    data, keys = selection.data, selection.keys
    if is_spatialdata(data):
        places = {**data.shapes, **data.points, **data.labels}
        if keys.shapes_key is not None:
            check_key(keys.shapes_key, places, name="shapes_key", where="the object's shapes, points and labels")
        systems = {s for element in (*data.images.values(), *places.values()) for s in systems_of(element)}
        if keys.coordinate_system is not None:
            check_key(keys.coordinate_system, sorted(systems), name="coordinate_system", where="the object")
    if keys.layer is not None and selection.table is not None:
        check_key(keys.layer, layer_names(selection.table), name="layer", where="layers of the table")


def _read(selection: Selection, problems: list[Row]) -> tuple[Selection, Spots | None]:
    """Read all, or all but the counts, but the image, but both: whatever works first."""
    errors: dict[tuple[bool, bool], BaseException] = {}
    bare = selection.without_image() if is_spatialdata(selection.data) else selection
    for with_image, with_counts in ((True, True), (True, False), (False, True), (False, False)):
        part = selection if with_image else bare
        try:
            spots = spots_of(part, counts="auto" if with_counts else False, overlap=False)
        except _BAD as error:
            errors[with_image, with_counts] = error
            continue
        # What still fails when the other thing is left out is to blame for itself.
        if not with_counts:
            uncounted = errors.get((False, True), errors[True, True])
            problems.append(Row("counts", "cannot be read", "fail", text_of(uncounted)))
        if not with_image:
            broken = errors[True, False]
            problems.append(Row(_name_of(broken), "cannot be read", "fail", text_of(broken)))
        return part, spots
    texts = {text_of(error): None for error in reversed(errors.values())}
    problems.append(Row("places", "cannot be read", "fail", next(iter(texts))))
    return selection, None


def _name_of(error: BaseException) -> str:
    return "scale" if isinstance(error, ScaleError) else "image"
