"""OME-Zarr (NGFF 0.4 and 0.5) images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storm.io._lazy import check_three

_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}


def open_omezarr(path: Path) -> tuple[list[Any], float | None, str]:
    """Levels of an OME-Zarr image as lazy arrays (3, y, x), µm per pixel and where they come from.

    Raises
    ------
    ValueError
        If the folder holds no such image, or one that is not 8-bit RGB.
    """
    import dask.array as da
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:  # zarr raises what its stores raise
        msg = f"zarr: {error}"
        raise ValueError(msg) from error
    told = dict(group.attrs)
    if "spatialdata_attrs" in told:
        msg = f"{path} is a SpatialData store: open it with spatialdata.read_zarr({str(path)!r})"
        raise ValueError(msg)
    told = told.get("ome", told)
    if "multiscales" not in told and "0" in group and isinstance(group["0"], zarr.Group):
        group = group["0"]  # as bioformats2raw nests it
        told = dict(group.attrs)
        told = told.get("ome", told)
    if "multiscales" not in told:
        msg = f"the zarr group holds no 'multiscales' (OME-Zarr), but {sorted(group.keys()) or 'nothing'}"
        raise ValueError(msg)
    image = told["multiscales"][0]
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in image["axes"]]
    arrays = [group[entry["path"]] for entry in image["datasets"]]
    sizes = dict(zip(axes, arrays[0].shape, strict=True))
    deep = [axis for axis in axes if axis not in "cyx" and sizes[axis] > 1]
    if deep or not {"y", "x"} <= set(axes):
        msg = f"{path} has the axes {sizes}; H&E is one flat image with c, y and x"
        raise ValueError(msg)
    check_three(sizes.get("c", 1), arrays[0].dtype, str(path))

    levels = []
    for array in arrays:
        lazy = da.from_zarr(array)
        if tuple(axes) != ("c", "y", "x"):
            flat = lazy[tuple(slice(None) if axis in "cyx" else 0 for axis in axes)]
            lazy = da.moveaxis(flat, [a for a in axes if a in "cyx"].index("c"), 0)
        levels.append(lazy if len(lazy) == 3 else lazy[:3])
    return levels, *_resolution(image, axes, path)


def _resolution(image: dict[str, Any], axes: list[str], path: Path) -> tuple[float | None, str]:
    units = {axis["name"]: axis.get("unit") for axis in image["axes"] if isinstance(axis, dict)}
    steps = np.ones(len(axes))
    for change in (
        *image["datasets"][0].get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        if change.get("type") == "scale":
            steps = steps * np.asarray(change["scale"], dtype=float)
    um = [steps[axes.index(axis)] * _UM[units[axis]] for axis in "yx" if units.get(axis) in _UM]
    if len(um) < 2:
        return None, ""
    if not np.isclose(*um, rtol=0.01):
        msg = f"{path} has pixels that are not square, {um[1]:g} × {um[0]:g} µm by its own scale; resample it"
        raise ValueError(msg)
    return float(np.mean(um)), "scale and unit of the OME-Zarr"
