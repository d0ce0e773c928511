"""Reading as much of a section as can be read, and noting what cannot."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storm._bridge.geometry import systems_of
from storm._bridge.read import read_spots
from storm._bridge.scale import ScaleError
from storm._bridge.select import check_container, is_spatialdata, select_image, select_table
from storm._bridge.workspace import open_workspace
from storm._checks import check_key
from storm.pp._report import Row

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from storm.data.spots import Spots

#: What is wrong with a section, as opposed to with a call.
_BAD = (ValueError, KeyError, TypeError, OSError)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What to read, as the user said it; the names are those of :func:`storm.tl.embed`."""

    image_key: str | None = None
    table_key: str | None = None
    shapes_key: str | None = None
    coordinate_system: str | None = None
    um_per_px: float | None = None
    layer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What could be read.

    Attributes
    ----------
    data
        The object that was read: the user's, or a grid of tiles over an image that has no table.
    keys
        What was read of it.
    spots
        Without counts, image or both where these cannot be read; ``None`` where not even the places can be.
    problems
        What could not be read.
    warned
        Texts of STORM's warnings while reading.
    tiled
        Whether the spots are tiles that were laid over the image.
    """

    data: SpatialData | AnnData
    keys: Keys
    spots: Spots | None
    problems: tuple[Row, ...]
    warned: tuple[str, ...]
    tiled: bool


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

    Raises
    ------
    KeyError, ValueError, TypeError
        For mistakes of the call: a key that does not exist, a choice that must be made, an object of another kind.
    """
    _check_call(data, keys)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"storm(\.|$)")
        tiled = is_spatialdata(data) and not data.tables and not data.shapes and bool(data.images)
        problems: list[Row] = []
        spots = None
        try:
            if tiled:
                data, keys = _tiled(data, keys, field_um)
        except _BAD as error:
            problems.append(Row(_name_of(error), "cannot be read", "fail", text_of(error)))
        else:
            spots = _read(data, keys, problems)
    warned = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    return Reading(data=data, keys=keys, spots=spots, problems=tuple(problems), warned=warned, tiled=tiled)


def text_of(error: BaseException) -> str:
    """Text of an error in one line."""
    # A KeyError's str() is the repr of its text.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def _check_call(data: Any, keys: Keys) -> None:
    check_container(data)
    if not is_spatialdata(data):
        select_image(data, keys.image_key, image="auto")
        select_table(data, keys.table_key)
        table = data
    else:
        select_image(data, keys.image_key, image="auto")
        wanted = data.tables or keys.table_key is not None
        table = select_table(data, keys.table_key)[1] if wanted else None
        places = {**data.shapes, **data.points, **data.labels}
        if keys.shapes_key is not None:
            check_key(keys.shapes_key, places, name="shapes_key", where="the object's shapes, points and labels")
        systems = {s for element in (*data.images.values(), *places.values()) for s in systems_of(element)}
        if keys.coordinate_system is not None:
            check_key(keys.coordinate_system, sorted(systems), name="coordinate_system", where="the object")
    if keys.layer is not None and table is not None:
        check_key(keys.layer, list(table.layers), name="layer", where="layers of the table")


def _tiled(data: SpatialData, keys: Keys, field_um: float) -> tuple[SpatialData, Keys]:
    where = {"coordinate_system": keys.coordinate_system, "um_per_px": keys.um_per_px}
    work = open_workspace(data, image_key=keys.image_key, field_um=field_um, **where)
    return work.data, Keys(image_key=work.image_key, table_key=work.table_key, **where)


def _read(data: SpatialData | AnnData, keys: Keys, problems: list[Row]) -> Spots | None:
    """Read all, or all but the counts, but the image, but both: whatever works first."""
    errors: dict[tuple[Any, Any], BaseException] = {}
    for image, table in (("auto", "auto"), ("auto", False), (False, "auto"), (False, False)):
        how = {name: value for name, value in vars(keys).items() if name != "image_key" or image is not False}
        if image is False and is_spatialdata(data):
            how["um_per_px"] = None  # it is said of the image
        try:
            spots = read_spots(data, **how, image=image, table=table, overlap=False)
        except _BAD as error:
            errors[image, table] = error
            continue
        # What still fails when the other thing is left out is to blame for itself.
        if table is False:
            counts = errors.get((False, "auto"), errors.get(("auto", "auto")))
            problems.append(Row("counts", "cannot be read", "fail", text_of(counts)))
        if image is False:
            error = errors["auto", False]
            problems.append(Row(_name_of(error), "cannot be read", "fail", text_of(error)))
        return spots
    said = {text_of(error): None for error in reversed(errors.values())}
    problems.append(Row("places", "cannot be read", "fail", next(iter(said))))
    return None


def _name_of(error: BaseException) -> str:
    return "scale" if isinstance(error, ScaleError) else "image"
