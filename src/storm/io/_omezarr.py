"""OME-Zarr (NGFF 0.4 and 0.5) images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storm.data.stored import check_stored
from storm.io._channels import omero_channels, order_of
from storm.io._declared import check_declared
from storm.io._lazy import check_three
from storm.io._scale import read_um, square_um

#: Units of NGFF in µm.
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}


def open_omezarr(path: Path) -> tuple[list[Any], float | None, str]:
    """Levels of an OME-Zarr image as lazy arrays (3, y, x), µm per pixel and their source.

    Raises
    ------
    ValueError
        If the folder holds no such image, or one that is not 8-bit RGB, or parts of it are missing.
    """
    import dask.array as da
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:  # zarr raises what its stores raise
        msg = f"zarr: {error}"
        raise ValueError(msg) from error
    metadata, omero, arrays = _multiscale(group, path)
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in metadata["axes"]]
    sizes = dict(zip(axes, arrays[0].shape, strict=True))
    deep = [axis for axis in axes if axis not in "cyx" and sizes[axis] > 1]
    if deep or not {"y", "x"} <= set(axes):
        msg = f"{path} has the axes {sizes}; H&E is one flat image with c, y and x"
        raise ValueError(msg)
    check_declared(path, (sizes["x"], sizes["y"]))
    check_three(sizes.get("c", 1), arrays[0].dtype, str(path))
    order = list(order_of(omero_channels(omero), sizes["c"], str(path)))
    check_stored(arrays, axes=(axes.index("y"), axes.index("x")), name=str(path))

    kept = [axis for axis in axes if axis in "cyx"]
    levels = []
    for array in arrays:
        lazy = da.from_zarr(array)
        if axes != ["c", "y", "x"]:
            flat = lazy[tuple(slice(None) if axis in "cyx" else 0 for axis in axes)]
            lazy = flat.transpose([kept.index(axis) for axis in "cyx"])
        levels.append(lazy if order == [0, 1, 2] else lazy[order])
    return levels, *_resolution(metadata, axes, path)


def _multiscale(group: Any, path: Path) -> tuple[dict[str, Any], Any, list[Any]]:
    """Metadata of the image, its ``omero`` metadata, and its arrays, the finest first."""
    import zarr

    attrs: dict[str, Any] = dict(group.attrs)
    if "spatialdata_attrs" in attrs:
        msg = f"{path} is a SpatialData store: open it with spatialdata.read_zarr({str(path)!r})"
        raise ValueError(msg)
    attrs = attrs.get("ome", attrs)
    if "multiscales" not in attrs and "0" in group and isinstance(group["0"], zarr.Group):
        group = group["0"]  # as bioformats2raw nests it
        attrs = dict(group.attrs)
        attrs = attrs.get("ome", attrs)
    if "multiscales" not in attrs:
        msg = f"the zarr group holds no 'multiscales' (OME-Zarr), but {sorted(group.keys()) or 'nothing'}"
        raise ValueError(msg)
    metadata = attrs["multiscales"][0]
    arrays = [group[entry["path"]] for entry in metadata["datasets"]]
    return metadata, attrs.get("omero"), arrays


def _resolution(metadata: dict[str, Any], axes: list[str], path: Path) -> tuple[float | None, str]:
    units = {axis["name"]: axis.get("unit") for axis in metadata["axes"] if isinstance(axis, dict)}
    steps = np.ones(len(axes))
    for change in (
        *metadata["datasets"][0].get("coordinateTransformations", ()),
        *metadata.get("coordinateTransformations", ()),
    ):
        if change.get("type") == "scale":
            steps = steps * np.asarray(change["scale"], dtype=float)
    source = "scale and unit of the OME-Zarr"
    sizes: list[float | None] = []
    for axis in "xy":
        unit = _UM.get(str(units.get(axis)))
        sizes.append(None if unit is None else read_um(float(steps[axes.index(axis)]), unit=unit))
    return square_um(sizes, source=source, name=str(path)), source
