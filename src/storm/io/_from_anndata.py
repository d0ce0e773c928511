"""AnnData with pictures, as scanpy and squidpy hold Visium: to a SpatialData."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storm._bridge.geometry import check_centres
from storm._bridge.one_section import library_columns
from storm._bridge.places import obsm_spatial
from storm._bridge.remembered import recalled_library
from storm._checks import check_key
from storm._keys import READ, storable
from storm._logging import warn
from storm.io._library import Library

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

    from storm.io._library import ImageSource

#: Columns of ``obs`` that link the table with its shapes.
_REGION, _INSTANCE = "region", "spot_id"
#: Name of the section of an AnnData that names none.
_UNNAMED = "spots"


def from_anndata(
    adata: AnnData,
    image: ImageSource | Mapping[str, ImageSource] = None,
    *,
    library_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    spot_um: float | None = None,
) -> SpatialData:
    """Make a SpatialData of a Visium AnnData and its pictures, as scanpy and squidpy hold them.

    Such an AnnData has x and y in pixels of the full-resolution image in ``obsm["spatial"]``, and reduced pictures with
    scale factors in ``uns["spatial"][library]``.

    Parameters
    ----------
    adata
        One section or several. It is copied, and never changed.
    image
        The full-resolution H&E: a path (see :func:`~storm.io.slide` for formats) or an array (height, width, 3). By
        default the finest picture in ``uns``, in which cells cannot be seen; ``"hires"`` or ``"lowres"`` takes that
        one, ``False`` none. For several libraries, a mapping from library to one of these.
    library_key
        Column of ``obs`` that names the library of each row; needed if ``uns["spatial"]`` holds several libraries.
    um_per_px
        µm per pixel of the full-resolution image, or a mapping from library to it. By default from the scale factors
        (``spot_diameter_fullres`` is 65 µm on Visium) or, where these hold none, from the array's pitch, or from the
        file of the image.
    spot_um
        Diameter of a spot in µm. By default ``spot_diameter_fullres``.

    Returns
    -------
    SpatialData
        Per library: ``shapes[library]`` (circles) and ``images["<library>_he"]`` (multiscale, uint8). Systems of
        coordinates are ``"global"`` (pixels of the full-resolution image) and ``"um"`` (µm), of several libraries
        ``"global-<library>"`` and ``"um-<library>"``. ``tables["table"]`` is the copy of ``adata``, with all that it
        holds and its rows in their order; it gets the columns ``region`` and ``spot_id``, which link it to the shapes
        (``storm_region`` and ``storm_spot_id``, with a number if need be, where it has columns of these names that hold
        something else). In names, characters that SpatialData does not store become ``_``. ``attrs["storm_io"]`` holds
        µm per pixel and their source, and what the image is.

    Raises
    ------
    TypeError
        If ``adata`` is not an AnnData, or an image is neither a path nor an array.
    KeyError
        If ``obs`` has no column ``library_key``, or a mapping names other libraries.
    FileNotFoundError
        If an image does not exist.
    ValueError
        If there are no coordinates, or NaN; there are several libraries and no ``library_key``; rows have no library;
        no row is of a library in ``uns``; a picture has no scale factor, is not 8-bit RGB, or does not lie under the
        spots; the scale is unknown or contradictory, for example because the coordinates are not pixels; or names of
        columns cannot be stored (``spatialdata.sanitize_table`` renames them).

    Warns
    -----
    UserWarning
        If there is no picture of some library, which then has expression only.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> adata = storm.datasets.toy("visium", n=150)["table"].copy()
    >>> del adata.uns["spatialdata_attrs"]
    >>> image = np.full((2000, 2000, 3), 240, dtype=np.uint8)
    >>> sdata = storm.io.from_anndata(adata, image, um_per_px=1.0, spot_um=55.0)
    >>> sorted(sdata.images), sorted(sdata.shapes)
    (['spots_he'], ['spots'])
    """
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    if not isinstance(adata, AnnData):
        msg = f"adata is a {type(adata).__name__}, not an AnnData; open a file with anndata.read_h5ad(path)"
        raise TypeError(msg)
    if adata.n_obs == 0:
        msg = f"the AnnData is empty: it holds 0 observations × {adata.n_vars} genes"
        raise ValueError(msg)
    centres = obsm_spatial(adata)
    entries = _entries(adata)
    names = _names(adata, recalled_library(adata, library_key), entries)
    order = [str(name) for name in pd.unique(names)]
    _check_mappings(order, image=image, um_per_px=um_per_px)
    _check_one_each(order, image, pictures={key for entry in entries.values() for key in entry.get("images") or ()})

    images: dict[str, Any] = {}
    shapes: dict[str, GeoDataFrame] = {}
    facts: dict[str, dict[str, Any]] = {}
    instances = np.arange(adata.n_obs)
    for name in order:
        rows = names == name
        where = "obsm['spatial']" if len(order) == 1 else f"obsm['spatial'] of library {name!r}"
        check_centres(centres[rows], adata.obs_names.to_numpy()[rows], where=where)
        library = Library(
            name,
            adata=adata,
            rows=np.flatnonzero(rows),
            centres=centres[rows],
            entry=entries.get(name, {}),
            image=image.get(name) if isinstance(image, Mapping) else image,
            um_per_px=um_per_px.get(name) if isinstance(um_per_px, Mapping) else um_per_px,
            spot_um=spot_um,
        )
        key, systems = storable(name), ("global", "um")
        if len(order) > 1:
            systems = (f"global-{key}", f"um-{key}")
        element, about = library.image(systems=systems)
        if element is not None:
            images[f"{key}_he"] = element
        shapes[key] = library.circles(instances[rows], systems=systems)
        facts[key] = about
    _warn_without_image(order, images, asked=image)

    table = adata.to_memory() if adata.isbacked else adata.copy()
    table.uns.pop("spatialdata_attrs", None)  # of an object that it was taken out of
    region_key = _link(table.obs, _REGION, pd.Categorical([storable(name) for name in names]))
    instance_key = _link(table.obs, _INSTANCE, instances)
    table = TableModel.parse(table, region=list(shapes), region_key=region_key, instance_key=instance_key)
    note = next(iter(facts.values())) if len(order) == 1 else {"libraries": facts}
    return SpatialData(
        images=images, shapes=shapes, tables={"table": table}, attrs={READ: {"reader": "from_anndata", **note}}
    )


def _link(obs: pd.DataFrame, name: str, values: Any) -> str:
    """Write a column that links the table to the shapes; return its name, which no other column has."""
    column = pd.Series(values, index=obs.index)
    for key in chain([name, f"storm_{name}"], (f"storm_{name}_{number}" for number in count(2))):
        if key not in obs or obs[key].equals(column):  # after a round trip the very column is there
            obs[key] = column
            return key
    raise AssertionError  # the names do not end


def _entries(adata: AnnData) -> dict[str, Mapping[str, Any]]:
    """What ``uns["spatial"]`` holds, by library."""
    spatial = adata.uns.get("spatial")
    if spatial is not None and not isinstance(spatial, Mapping):
        msg = f"uns['spatial'] holds {type(spatial).__name__}; scanpy and squidpy keep a dictionary of libraries there"
        raise ValueError(msg)
    return {str(name): entry for name, entry in (spatial or {}).items() if isinstance(entry, Mapping)}


def _names(adata: AnnData, library_key: str | None, entries: Mapping[str, Any]) -> np.ndarray:
    """Library of each row, object of str, shape (n_obs,)."""
    if library_key is None:
        if len(entries) > 1:
            columns = list(library_columns(adata, entries)) or "none of obs (name the library of each row in one)"
            msg = (
                f"uns['spatial'] holds several libraries, {list(entries)}: name with library_key= the column of obs "
                f"that tells which rows are of which; columns that do: {columns}"
            )
            raise ValueError(msg)
        return np.full(adata.n_obs, next(iter(entries), _UNNAMED), dtype=object)
    check_key(library_key, list(adata.obs.columns), name="library_key", where="obs")
    column = adata.obs[library_key]
    if column.isna().any():
        msg = (
            f"obs[{library_key!r}] is missing for {int(column.isna().sum())} of {adata.n_obs} rows; give each its "
            f"library, or leave them out: adata[adata.obs[{library_key!r}].notna()].copy()"
        )
        raise ValueError(msg)
    names = column.astype(str).to_numpy(dtype=object)
    libraries = sorted(set(names))
    keys = {storable(name).casefold() for name in libraries}
    if len(keys) < len(libraries):
        msg = (
            f"obs[{library_key!r}] holds {libraries}, some of which would have the same name in a SpatialData (letter "
            f"case does not count, and characters other than letters, digits, '_', '-' and '.' become '_'); rename them"
        )
        raise ValueError(msg)
    if entries and not set(libraries) & set(entries):
        msg = (
            f"obs[{library_key!r}] holds {libraries[:10]}, and uns['spatial'] the libraries {list(entries)}, none of "
            f"which is one of them: name them alike; columns that do: {list(library_columns(adata, entries)) or 'none'}"
        )
        raise ValueError(msg)
    return names


def _check_mappings(libraries: list[str], **arguments: Any) -> None:
    for name, value in arguments.items():
        if isinstance(value, Mapping) and not set(value) <= set(libraries):
            msg = f"{name} names {sorted(set(value) - set(libraries), key=str)}; the libraries are {libraries}"
            raise KeyError(msg)


def _check_one_each(libraries: list[str], image: Any, *, pictures: set[str]) -> None:
    """Raise if one image is to serve several libraries; the name of a picture may."""
    named = image is None or image is False or (isinstance(image, str) and image in {"hires", "lowres", *pictures})
    if len(libraries) > 1 and not named and not isinstance(image, Mapping):
        msg = f"one image was given for the libraries {libraries}; give each its own: image={{{libraries[0]!r}: …}}"
        raise ValueError(msg)


def _warn_without_image(libraries: list[str], images: Mapping[str, Any], *, asked: Any) -> None:
    """Warn of libraries without an image for which none was refused with ``False``."""
    without = [
        name
        for name in libraries
        if f"{storable(name)}_he" not in images
        and (asked.get(name) if isinstance(asked, Mapping) else asked) is not False
    ]
    if without:
        msg = (
            f"no picture of {without} in uns['spatial']: they have no H&E, only expression. Pass image= (the "
            f"microscope's full-resolution image), or image=False if that is intended"
        )
        warn(msg)
