"""``storm.io.to_qupath``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm import _keys
from storm._bridge.geometry import affine_of, apply, inverse
from storm._bridge.image import levels_of
from storm._bridge.keys import Keys
from storm._bridge.places import outside_tissue, read_places
from storm._bridge.scale import resolve_scale
from storm._bridge.selection import Selection, select
from storm._bridge.standalone import Standalone
from storm._bridge.view import read_outlines
from storm._checks import check_choice, check_positive
from storm.io._exported import Groups, read_groups, read_numbers, sections_of, write_each

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Corners of the polygon that stands for a circle, which GeoJSON lacks: its radius is off by less than 1 %.
_CORNERS = 32
#: The same spot has the same identity in every file that is written of it.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "storm.io.to_qupath")


@dataclass(frozen=True, eq=False)
class _Section:
    """What the file of a section is written from; rows follow the table."""

    ids: np.ndarray
    centres: np.ndarray
    outlines: np.ndarray | list[np.ndarray] | None
    groups: Groups
    scores: Mapping[str, np.ndarray]
    object_type: str


def to_qupath(
    data: SpatialData | AnnData,
    path: str | Path,
    key: str = _keys.DOMAIN,
    *,
    scores: str | Sequence[str] = (),
    object_type: Literal["detection", "annotation", "tile", "cell"] = "detection",
    pixel_um: float | None = None,
    n_classes: int = 5,
    overwrite: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
) -> list[Path]:
    """Write spots, bins, cells or tiles with their domains and scores as GeoJSON that QuPath imports.

    In QuPath: open the slide, drag the file onto it, or *File* → *Import objects from file*.

    Parameters
    ----------
    data
        The object.
    path
        File to write (``.geojson``). Of several sections, each has a file with its name added.
    key
        Column of ``obs`` with the classification. Measurements are divided into classes with about equally many rows
        each.
    scores
        Columns of ``obs`` with numbers, which become measurements: QuPath colours by them with *Measure* → *Show
        measurement maps*.
    object_type
        What the objects are in QuPath. Of many thousand objects, annotations are slow.
    pixel_um
        µm per pixel of the image in QuPath, where it is not the section's own: a finer or coarser version of it with
        the same top left corner. Needed where the section has no image; then the origin of its coordinates must be that
        corner. By default the pixels are those of the section's image at full resolution.
    n_classes
        Number of classes of a measurement.
    overwrite
        Replace files that exist.
    library_key, table_key
        Sections and table, as in :func:`to_loupe`.
    image_key, shapes_key, coordinate_system, um_per_px
        Elements and scale, as in :func:`storm.tl.embed`; needed only if there are several.

    Returns
    -------
    list of Path
        The files, in the order of the sections' names.

    Raises
    ------
    KeyError
        If there is no such column or element.
    ValueError
        If there is neither an image nor ``pixel_um``, the scale is not known where ``pixel_um`` needs it, or a column
        holds nothing.
    FileExistsError
        If a file exists and is not to be replaced.
    TypeError
        If ``data`` is something else, or a score is no number.

    Notes
    -----
    Coordinates are pixels from the image's top left corner, x to the right and y down; the first pixel reaches from 0
    to 1, in QuPath and in SpatialData alike. Circles are polygons of 32 corners; of an outline in several parts the
    largest is written, without holes; a row without an outline is a point. Rows without a place, and those with neither
    domain nor score, are left out. The properties ``objectType``, ``name``, ``classification`` (``name``, ``color`` as
    red, green, blue) and ``measurements`` are those that QuPath 0.4 and later reads (QuPath's source,
    ``qupath.lib.io.QuPathTypeAdapters``; manual, *Exporting annotations: GeoJSON*); the format is RFC 7946.

    Examples
    --------
    >>> import json, storm
    >>> sdata = storm.datasets.toy(n=50)
    >>> file, = storm.io.to_qupath(sdata, "truth.geojson", "domain", scores=["capture"])
    >>> len(json.loads(file.read_text())["features"])
    50
    """
    check_choice(object_type, ("detection", "annotation", "tile", "cell"), name="object_type")
    if pixel_um is not None:
        check_positive(pixel_um, name="pixel_um", unit="µm per pixel of the image in QuPath")
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    wanted = [scores] if isinstance(scores, str) else scores
    sections = sections_of(data, keys, library_key=library_key, image_key=image_key)

    def writer(section: Standalone) -> Callable[[Path], None]:
        read = _read(section, key, wanted, object_type=object_type, pixel_um=pixel_um, n_classes=n_classes)
        return partial(_write, read)

    return write_each(sections, path, writer, overwrite=overwrite)


def _read(
    section: Standalone,
    key: str,
    scores: Sequence[str],
    *,
    object_type: str,
    pixel_um: float | None,
    n_classes: int,
) -> _Section:
    selection = select(section.make(), section.keys, table=True)
    table = selection.table
    assert table is not None  # asked for
    groups = read_groups(table, key, n_classes=n_classes)
    measured = {name: _scores(table, name) for name in scores}
    ids, centres, to_px = _places(selection, pixel_um)
    off_tissue = outside_tissue(table)
    if off_tissue is not None:
        centres = np.where(off_tissue[:, None], np.nan, centres)
    outlines, diameters = read_outlines(selection, um_per_unit=1.0)
    if outlines is None and diameters is not None:
        outlines = _circles(centres, diameters)
    if outlines is not None:
        outlines = (
            apply(to_px, outlines.reshape(-1, 2)).reshape(outlines.shape)
            if isinstance(outlines, np.ndarray)
            else [apply(to_px, one) for one in outlines]
        )
    return _Section(ids, apply(to_px, centres), outlines, groups, measured, object_type)


def _scores(table: AnnData, name: str) -> np.ndarray:
    """A column of numbers, also of few whole ones, as float64."""
    values = read_numbers(table, name, option="scores")
    if values is None:
        column = table.obs[name]
        if isinstance(column.dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(column):
            msg = f"scores names {name!r}, and obs[{name!r}] holds {column.dtype}, not numbers"
            raise TypeError(msg)
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _places(selection: Selection, pixel_um: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names and centres of the rows, and the affine map (2, 3) of their coordinates into pixels."""
    ids, centres, sources = read_places(selection)
    if selection.image_key is None and pixel_um is None:
        msg = (
            "the section has no image, so that its pixels are not known; give pixel_um=, the µm per pixel of the image "
            "in QuPath, whose top left corner must be the origin of the section's coordinates"
        )
        raise ValueError(msg)
    scale = None
    if pixel_um is not None:
        scale = resolve_scale(
            sources,
            um_per_px=selection.keys.um_per_px,
            required=True,
            name="the coordinates" if selection.image_key is None else f"image {selection.image_key!r}",
        )
        assert scale is not None  # required
    if selection.image_key is None:
        assert scale is not None
        assert pixel_um is not None
        return ids, centres, np.array([[1.0, 0, 0], [0, 1.0, 0]]) * (scale.um_per_unit / pixel_um)
    full = levels_of(selection.image)[0]
    to_px = inverse(affine_of(full, selection.coordinate_system))
    if scale is not None:
        assert pixel_um is not None
        assert scale.um_per_px is not None  # there is an image
        to_px = to_px * (scale.um_per_px / pixel_um)
    return ids, centres, to_px


def _circles(centres: np.ndarray, diameters: np.ndarray) -> np.ndarray:
    """Polygons for circles, shape (n, corners, 2), closed."""
    angle = np.linspace(0, 2 * np.pi, _CORNERS + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    ring[-1] = ring[0]
    return centres[:, None] + diameters[:, None, None] / 2 * ring


def _write(section: _Section, path: Path) -> None:
    """Write one feature per line, so that a large file is never held as a whole."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [\n')
        for number, feature in enumerate(_features(section)):
            file.write(("" if number == 0 else ",\n") + json.dumps(feature, ensure_ascii=False, allow_nan=False))
        file.write("\n]}\n")


def _features(section: _Section) -> Iterator[dict[str, Any]]:
    classes = [
        {"name": name, "color": [int(colour[k : k + 2], 16) for k in (1, 3, 5)]}
        for name, colour in zip(section.groups.names, section.groups.colours, strict=True)
    ]
    placed = np.isfinite(section.centres).all(axis=1)
    unique = len(np.unique(section.ids)) == len(section.ids)
    for row in np.flatnonzero(placed).tolist():
        code = section.groups.codes[row]
        measured = {name: float(values[row]) for name, values in section.scores.items() if np.isfinite(values[row])}
        if code < 0 and not measured:
            continue
        name = str(section.ids[row])
        properties: dict[str, Any] = {"objectType": section.object_type, "name": name}
        if code >= 0:
            properties["classification"] = classes[code]
        if measured:
            properties["measurements"] = measured
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, name if unique else f"{name}, row {row}")),
            "geometry": _geometry(section, row),
            "properties": properties,
        }


def _geometry(section: _Section, row: int) -> dict[str, Any]:
    if section.outlines is not None:
        ring = np.round(section.outlines[row], 2)
        if np.isfinite(ring).all():
            return {"type": "Polygon", "coordinates": [ring.tolist()]}
    return {"type": "Point", "coordinates": np.round(section.centres[row], 2).tolist()}
