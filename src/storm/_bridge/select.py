"""Which table, image and shapes of an object are meant."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.pictures import finest_of_one
from storm._checks import check_key
from storm._keys import REMEMBERED, UNS, predicted_table
from storm._logging import logger

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def is_spatialdata(data: Any) -> bool:
    """Whether ``data`` is a SpatialData (without importing the package for those who only use AnnData)."""
    module = sys.modules.get("spatialdata")
    return module is not None and isinstance(data, module.SpatialData)


def check_container(data: Any) -> None:
    """Raise unless ``data`` is a SpatialData or an AnnData."""
    from anndata import AnnData

    if not is_spatialdata(data) and not isinstance(data, AnnData):
        if isinstance(data, list | tuple):
            todo = "give one of them: what was found over a list of sections lies in each of its objects"
        elif isinstance(data, Mapping):
            todo = f"give an object, or a list of them in place of the dictionary with {list(data)[:5]}"
        else:
            todo = "open a stored object with spatialdata.read_zarr(path) or anndata.read_h5ad(path)"
        msg = f"expected a SpatialData or an AnnData, got {type(data).__name__}; {todo}"
        raise TypeError(msg)


def select_table(data: SpatialData | AnnData, table_key: str | None = None) -> tuple[str | None, AnnData]:
    """Return the table to work on and its key.

    Parameters
    ----------
    data
        Object with a table, or a table.
    table_key
        Which table; not needed if there is only one, beside which its tables of predicted genes do not count, or a call
        was told which: the last that was told counts.

    Returns
    -------
    The key (``None`` for an AnnData) and the table itself, not a copy.

    Raises
    ------
    KeyError
        If there is no table of that name.
    ValueError
        If there is none at all, or several and no key.
    TypeError
        If ``data`` is something else.
    """
    check_container(data)
    if not is_spatialdata(data):
        if table_key is not None:
            msg = f"table_key={table_key!r} was given, but an AnnData is itself the table; leave table_key out"
            raise ValueError(msg)
        return None, data
    if table_key is None:
        if not data.tables:
            msg = "the object holds no table; add one: sdata.tables[name] = spatialdata.models.TableModel.parse(...)"
            raise ValueError(msg)
        # A table of predicted genes stands beside the one it was predicted for, and does not compete with it.
        mine = [key for key in data.tables if not any(_predicted_for(data, key, other) for other in data.tables)]
        table_key = mine[0] if len(mine) == 1 else _last_chosen(data)
        if table_key is None:
            msg = f"the object holds several tables; choose one with table_key= out of {sorted(data.tables)}"
            raise ValueError(msg)
    check_key(table_key, data.tables, name="table_key", where="sdata.tables")
    return table_key, data.tables[table_key]


def _last_chosen(data: SpatialData) -> str | None:
    """The table that a call was told last; ``None`` if none was."""
    orders = {key: remembered_of(table).get(CHOSEN, 0) for key, table in data.tables.items()}
    last = max(orders, key=lambda key: orders[key])
    return last if orders[last] else None


#: Entry of what is remembered with the number of a choice of a table: of several, the last counts.
CHOSEN = "chosen"


def remembered_of(data: SpatialData | AnnData) -> Mapping[str, Any]:
    """What calls were told of a table, or of a SpatialData without one; empty if nothing."""
    records = data.attrs.get(UNS) if is_spatialdata(data) else data.uns.get(UNS)
    own = records.get(REMEMBERED) if isinstance(records, Mapping) else None
    return own if isinstance(own, Mapping) else {}


def records_of(table: AnnData) -> Mapping[str, Any]:
    """Provenance of everything that STORM wrote into a table, by key; empty if it wrote nothing.

    Raises
    ------
    ValueError
        If ``uns["storm"]`` holds something else.
    """
    records = table.uns.get(UNS, {})
    if not isinstance(records, Mapping):
        msg = (
            f"uns[{UNS!r}] holds {type(records).__name__}, and STORM keeps a dictionary with the provenance of its "
            f"results there; rename or remove that entry"
        )
        raise ValueError(msg)
    return records


def _predicted_for(sdata: SpatialData, key: str, other: str) -> bool:
    """Whether one table is the prediction that :func:`storm.tl.predict_expression` put beside another.

    The default name is enough. Under a name of the user's choice its provenance must say so, and both must annotate the
    same elements.
    """
    if key == predicted_table(other):
        return True
    table = sdata.tables[key]
    named = any(key == predicted_table(other, key_added) for key_added in records_of(table))
    places, others = annotated_regions(table), annotated_regions(sdata.tables[other])
    return named and places is not None and others is not None and set(places[0]) == set(others[0])


def select_image(
    data: SpatialData | AnnData,
    image_key: str | None,
    *,
    image: bool | str,
    places: Any | None = None,
    coordinate_system: str | None = None,
) -> str | None:
    """Return the key of the image to read, or ``None``.

    Parameters
    ----------
    data
        Object that may hold images.
    image_key
        Which image; not needed if there is only one, or all are the same picture at different resolutions.
    image
        ``True``: there must be one; ``False``: none is wanted; ``"auto"``: the image if there is one.
    places
        Element with the spots, in whose coordinates several images are compared.
    coordinate_system
        The system that the user asked for.
    """
    if image is False:
        return None
    if not is_spatialdata(data):
        _check_no_image(data, image_key, image=image)
        return None
    if image_key is not None:
        check_key(image_key, data.images, name="image_key", where="sdata.images")
        return image_key
    if len(data.images) > 1:
        finest = finest_of_one(data.images, places, coordinate_system=coordinate_system)
        if finest is not None:
            return finest
        listed = ", ".join(_describe(key, data.images[key]) for key in sorted(data.images))
        msg = (
            f"the object holds several images; choose the H&E image with image_key= out of {listed} "
            f"(modality='st' of storm.tl.embed reads none)"
        )
        raise ValueError(msg)
    if not data.images:
        if image == "auto":
            return None
        msg = "the object holds no image; add one with sdata.images[name] = spatialdata.models.Image2DModel.parse(...)"
        raise ValueError(msg)
    return next(iter(data.images))


#: How pictures of an AnnData come to be read.
_FROM_ANNDATA = "storm.io.from_anndata(adata) makes a SpatialData of it and of the pictures in its uns['spatial']"


def _check_no_image(table: AnnData, image_key: str | None, *, image: bool | str) -> None:
    """Raise if an image is asked for of an AnnData; say how the pictures that it may hold can be used."""
    if image is True or image_key is not None:
        other = "pass a SpatialData (storm.io.from_anndata(adata, 'HE.tif') makes one)"
        advice = _FROM_ANNDATA if _has_pictures(table) else other
        msg = (
            f"an AnnData holds no H&E image to read patches from; {advice}; expression alone needs none (modality='st' "
            f"of storm.tl.embed)"
        )
        raise ValueError(msg)


def note_pictures(data: SpatialData | AnnData) -> None:
    """Log how the pictures of an AnnData, which nothing reads, can be used."""
    if not is_spatialdata(data) and _has_pictures(data):
        logger.warning("the pictures in uns['spatial'] of the AnnData are not used; %s", _FROM_ANNDATA)


def _has_pictures(table: AnnData) -> bool:
    spatial = table.uns.get("spatial")
    libraries = spatial.values() if isinstance(spatial, Mapping) else ()
    return any(isinstance(library, Mapping) and bool(library.get("images")) for library in libraries)


def _describe(key: str, element: Any) -> str:
    from spatialdata import get_pyramid_levels
    from xarray import DataTree

    full = get_pyramid_levels(element, n=0) if isinstance(element, DataTree) else element
    return f"{key!r} ({' × '.join(f'{n} {d}' for d, n in full.sizes.items())}, {full.dtype})"


def annotated_regions(table: AnnData) -> tuple[list[str], str, str] | None:
    """Elements that a table annotates, with the names of its region and instance columns; ``None`` if it does not."""
    attrs = table.uns.get("spatialdata_attrs")
    if attrs is not None and not isinstance(attrs, Mapping):
        msg = (
            f"uns['spatialdata_attrs'] holds {type(attrs).__name__}, not a dictionary with region, region_key and "
            f"instance_key; write it anew with sdata.set_table_annotates_spatialelement"
        )
        raise ValueError(msg)
    if not attrs or not attrs.get("region_key") or not attrs.get("instance_key"):
        return None
    region = attrs.get("region")
    regions = [region] if isinstance(region, str) else region
    regions = regions.tolist() if isinstance(regions, np.ndarray) else [] if regions is None else regions
    columns = [attrs["region_key"], attrs["instance_key"]]
    if not isinstance(regions, list | tuple) or not all(isinstance(name, str) for name in [*regions, *columns]):
        msg = (
            f"uns['spatialdata_attrs'] holds region={region!r}, region_key={columns[0]!r} and instance_key="
            f"{columns[1]!r}; region is one name or a list of names, the others name columns of obs; write them "
            f"anew with sdata.set_table_annotates_spatialelement"
        )
        raise ValueError(msg)
    return list(regions), columns[0], columns[1]


def select_region(
    sdata: SpatialData, table: AnnData, *, table_key: str | None, shapes_key: str | None
) -> tuple[str, np.ndarray, np.ndarray]:
    """Find the element whose instances the rows of a table are.

    Returns
    -------
    key
        Name of the element.
    rows
        Which rows of the table belong to it, bool (n,).
    instances
        Their instance ids, in the order of the rows.
    """
    annotated = annotated_regions(table)
    available = _annotatable(sdata)
    if annotated is None:
        msg = (
            f"table {table_key!r} annotates no element, so its rows have no place; link it with "
            f"sdata.set_table_annotates_spatialelement({table_key!r}, region=..., region_key=..., instance_key=...), "
            f"region being one of {available or 'nothing (the object holds no shapes)'}"
        )
        raise ValueError(msg)
    regions, region_key, instance_key = annotated
    for column in (region_key, instance_key):
        check_key(column, list(table.obs.columns), name="spatialdata_attrs", where=f"obs of table {table_key!r}")
    if shapes_key is not None and shapes_key not in regions:
        msg = f"table {table_key!r} does not annotate shapes_key={shapes_key!r}; it annotates {regions}"
        raise ValueError(msg)
    if shapes_key is None and len(regions) != 1:
        msg = f"table {table_key!r} annotates several elements; choose one with shapes_key= out of {regions}"
        raise ValueError(msg)
    key = shapes_key if shapes_key is not None else regions[0]
    if key not in available:
        msg = f"table {table_key!r} annotates {key!r}, which is not in the object; it holds {available or 'no shapes'}"
        raise ValueError(msg)
    rows = (table.obs[region_key].astype(str) == key).to_numpy()
    if not rows.any():
        seen = sorted(set(table.obs[region_key].astype(str)))
        msg = f"no row of table {table_key!r} has obs[{region_key!r}] == {key!r}; the column holds {seen[:10]}"
        raise ValueError(msg)
    return key, rows, table.obs[instance_key].to_numpy()[rows]


def _annotatable(sdata: SpatialData) -> list[str]:
    return [*sdata.shapes, *sdata.points, *sdata.labels]


def only_shapes(sdata: SpatialData, shapes_key: str | None) -> str:
    """Return the key of the shapes of an object without a table.

    Raises
    ------
    ValueError
        If there are none, or several and no ``shapes_key``.
    """
    if shapes_key is not None:
        return shapes_key
    if len(sdata.shapes) != 1:
        available = sorted(sdata.shapes)
        msg = (
            "the object holds neither a table nor shapes to read around"
            if not available
            else f"the object holds no table and several shapes; choose one with shapes_key= out of {available}"
        )
        raise ValueError(msg)
    return next(iter(sdata.shapes))


def match_instances(wanted: np.ndarray, index: pd.Index, *, table_key: str | None, shapes_key: str) -> np.ndarray:
    """Position of each wanted instance in an element's index, -1 where it is not in there.

    Raises
    ------
    ValueError
        If the index or those wanted hold an instance twice, or the index none of those wanted.
    """
    if not index.is_unique:
        twice = list(index[index.duplicated()].unique()[:5])
        msg = f"{shapes_key!r} holds the same instance more than once, e.g. {twice}; make its index unique"
        raise ValueError(msg)
    own = pd.Index(wanted)
    if not own.is_unique:
        twice = list(own[own.duplicated()].unique()[:5])
        msg = (
            f"table {table_key!r} annotates the same instance of {shapes_key!r} more than once, e.g. {twice}; keep one "
            f"row for each, or give each section a region of its own"
        )
        raise ValueError(msg)
    at = index.get_indexer(own)
    if (at < 0).all():
        msg = (
            f"table {table_key!r} annotates other instances than {shapes_key!r} holds: the table's are like "
            f"{list(wanted[:3])!r}, the index of {shapes_key!r} is like {list(index[:3])!r} (types count: 1 is not '1')"
        )
        raise ValueError(msg)
    return at
