"""One section of a table as an object of its own, so that whatever works on a section works on it unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.counts import RAW, layer_names, named_layers
from storm._bridge.members import Member, plain
from storm._bridge.select import annotated_regions, is_spatialdata, records_of, remembered_of
from storm._checks import check_key
from storm._keys import REMEMBERED, UNS

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Entry of a provenance with what differs between the sections of a table.
SECTIONS = "sections"


def part_of(
    data: SpatialData | AnnData,
    table: AnnData,
    member: Member,
    *,
    table_key: str | None,
    layer: str | None,
    images: Iterable[str],
) -> SpatialData | AnnData:
    """Make an object of one section. Its table is a copy of the section's rows; images and shapes are shared.

    Parameters
    ----------
    data, table, table_key
        The user's object, and its table.
    member
        The section.
    layer
        Layer with the counts, which is all that is taken over of the layers.
    images
        Images that may be the section's.

    Returns
    -------
    SpatialData or AnnData
        Of ``uns["spatial"]`` it holds the section's own entry, of STORM's provenance that of the section.

    Raises
    ------
    KeyError
        If there is no such layer.
    """
    part = _rows_of(table, member, layer)
    if not is_spatialdata(data):
        return part
    import spatialdata

    elements: dict[str, Any] = {kind: {} for kind in ("shapes", "points", "labels")}
    if member.region is not None:
        kind = next(kind for kind in elements if member.region in getattr(data, kind))
        elements[kind][member.region] = getattr(data, kind)[member.region]
        annotated = annotated_regions(table)
        assert annotated is not None  # the section was found by its region
        region_key, instance_key = annotated[1:]
        attrs = {"region": member.region, "region_key": region_key, "instance_key": instance_key}
        part.uns["spatialdata_attrs"] = attrs
        # As a category: an object's table may have been written by hand, and spatialdata insists on it here.
        part.obs[region_key] = part.obs[region_key].astype(str).astype("category")
    return spatialdata.SpatialData(
        images={key: data.images[key] for key in images},
        **elements,
        tables={str(table_key): part},
        attrs=dict(data.attrs),
    )


def section_facts(record: Any, name: str) -> dict[str, Any] | None:
    """What a provenance says of one section; ``None`` if it says nothing."""
    if not isinstance(record, Mapping):
        return None
    sections = record.get(SECTIONS)
    if not isinstance(sections, Mapping) or plain(name) not in sections:
        return None
    return {key: value for key, value in record.items() if key != SECTIONS} | dict(sections[plain(name)])


def _rows_of(table: AnnData, member: Member, layer: str | None) -> AnnData:
    from anndata import AnnData

    rows = member.rows
    if layer is not None:
        check_key(layer, layer_names(table), name="layer", where="layers of the table")
    obs = table.obs.to_memory() if hasattr(table.obs, "to_memory") else table.obs
    records = {key: section_facts(record, member.name) for key, record in records_of(table).items()}
    kept = {key: facts for key, facts in records.items() if facts is not None}
    # what else was told, such as the images of all sections, was used to find this one
    if system := remembered_of(table).get("coordinate_system"):
        kept[REMEMBERED] = {"coordinate_system": system}
    part = AnnData(
        X=_take(table.X, rows) if layer is None else None,
        obs=obs.iloc[rows].copy(),
        var=table.var.to_memory() if hasattr(table.var, "to_memory") else table.var.copy(),
        obsm={key: _take(table.obsm[key], rows) for key in table.obsm if key == "spatial" or key in kept},
        layers={layer: _take(table.layers[layer], rows)} if layer in named_layers(table) else {},
        uns={key: value for key, value in table.uns.items() if key not in ("spatial", UNS, "spatialdata_attrs")},
    )
    if layer == RAW and RAW not in table.layers:
        part.raw = AnnData(X=_take(table.raw.X, rows), obs=obs.iloc[rows], var=table.raw.var)
    if kept:
        part.uns[UNS] = kept
    libraries = table.uns.get("spatial")
    if isinstance(libraries, Mapping):
        own = {key: value for key, value in libraries.items() if str(key) in (member.library, member.region)}
        if own:
            part.uns["spatial"] = own
    return part


def _take(matrix: Any, rows: np.ndarray) -> Any:
    """Some rows of a matrix of any kind, or of a frame."""
    if matrix is None:
        return None
    return matrix.iloc[rows] if hasattr(matrix, "iloc") else matrix[rows]
