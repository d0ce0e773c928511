"""From an image element to a detached patch reader."""

from __future__ import annotations

from tempfile import gettempdir
from typing import Any

import numpy as np

from storm._bridge.geometry import affine_of, compose, inverse
from storm._logging import warn
from storm.data.channels import rgb_order
from storm.data.patches import ImageLevel, PatchReader
from storm.data.scratch import ScratchSource
from storm.data.sources import HUGE_CHUNK_PX, DaskSource, Source, ZarrSource, as_source
from storm.data.stored import check_stored


def levels_of(element: Any) -> list[Any]:
    """Levels of an image element as DataArrays, the finest first."""
    from spatialdata import get_pyramid_levels
    from xarray import DataTree

    return list(get_pyramid_levels(element)) if isinstance(element, DataTree) else [element]


def check_image(element: Any, image_key: str) -> tuple[int, int, int]:
    """Raise unless an image is 8-bit RGB, and return the positions of its red, green and blue channels.

    Raises
    ------
    ValueError
        If it is three-dimensional, has other than three channels, or channels with other names.
    TypeError
        If its pixels are not uint8.
    """
    full = levels_of(element)[0]
    if "z" in full.dims:
        msg = f"image {image_key!r} has a z axis; STORM reads flat H&E images: select one plane"
        raise ValueError(msg)
    names = channel_names(element)
    if len(names) < 3:
        msg = (
            f"image {image_key!r} has {len(names)} channel{'s' if len(names) > 1 else ''} {names}, and H&E has three: "
            f"it is another picture, such as a stain or a mask; name the H&E image with image_key="
        )
        raise ValueError(msg)
    if len(names) > 3:
        order = rgb_order(names[:3])
        what = f"image {image_key!r} has {len(names)} channels {names}, and H&E has three"
        if order is None:  # a stack of stains would become a picture in colours that mean nothing
            msg = f"{what}, red, green and blue: it is another picture; name the H&E image with image_key="
            raise ValueError(msg)
        select = f".isel(c={list(order)})"
        msg = f"{what}; select them: {_parse(element, image_key, select)}, or name the H&E image with image_key="
        raise ValueError(msg)
    if full.dtype != np.uint8:
        convert = {
            "u": " // 257).astype('uint8')",  # the whole range of 16 bits
            "f": " * 255).round().astype('uint8')",  # the range from 0 to 1
        }.get(full.dtype.kind, ").astype('uint8')")
        msg = (
            f"image {image_key!r} holds {full.dtype}, and H&E is read as uint8; convert it, by its range, e.g. "
            f"{_parse(element, image_key, convert)}"
        )
        raise TypeError(msg)
    order = rgb_order(names)
    if order is None:
        msg = (
            f"image {image_key!r} has the channels {names}, which are not r, g, b: if it is H&E, name them with "
            f"sdata.set_channel_names({image_key!r}, ['r', 'g', 'b']); else name the H&E image with image_key="
        )
        raise ValueError(msg)
    return order


def channel_names(element: Any) -> list[str]:
    """Names of the channels of an image; empty where it has none."""
    full = levels_of(element)[0]
    return [str(c) for c in full.coords["c"].to_numpy()] if "c" in full.coords else [""] * full.sizes["c"]


def _parse(element: Any, image_key: str, change: str = "", options: str = "") -> str:
    """Code that parses an image again: transformations are kept, pyramids and names of channels are made anew."""
    here = f"sdata.images[{image_key!r}]"
    full = here if len(levels_of(element)) == 1 else f"spatialdata.get_pyramid_levels({here}, n=0)"
    full = f"({full}{change}" if change.count(")") > change.count("(") else f"{full}{change}"
    return (
        f"{here} = spatialdata.models.Image2DModel.parse({full}, c_coords=['r', 'g', 'b'], "
        f"scale_factors=[2, 2, 2]{options})"
    )


def make_reader(element: Any, *, image_key: str, coordinate_system: str, um_per_unit: float) -> PatchReader:
    """Detach an image element into a patch reader in µm.

    Parameters
    ----------
    element
        Image, single- or multiscale. Each level brings its own transformation.
    image_key
        Name of the image, for messages.
    coordinate_system
        System in which positions are given.
    um_per_unit
        µm per unit of that system.

    Raises
    ------
    ValueError, TypeError
        If the image is not 8-bit RGB (see :func:`check_image`), or chunks are missing from its store where another
        level shows a picture.

    Warns
    -----
    UserWarning
        If a chunk of the finest level is so large (over 64 Mpx, 192 MB decoded) that it cannot be held, or if its
        blocks are cut lazily from fewer, larger pieces, each of which would be decoded again and again. Such a level is
        read by way of a scratch file, see :class:`~storm.data.scratch.ScratchSource`. Also if chunks are missing from
        the store and no other level shows whether they are empty.
    """
    channels = check_image(element, image_key)
    units_to_um = np.array([[um_per_unit, 0.0, 0.0], [0.0, um_per_unit, 0.0]])
    arrays = levels_of(element)
    sources = [as_source(array.transpose("c", "y", "x").data, channels=channels) for array in arrays]
    _warn_if_slow(sources[0], element, image_key)
    stored = [source.array for source in sources if isinstance(source, ZarrSource)]
    if len(stored) == len(sources):
        check_stored(stored, axes=(1, 2), name=f"image {image_key!r}")
    levels: list[ImageLevel] = []
    for k, (array, source) in enumerate(zip(arrays, sources, strict=True)):
        source.name = f"image {image_key!r} (level {k})"
        px_to_um = compose(affine_of(array, coordinate_system), units_to_um)
        levels.append(ImageLevel(_in_pieces(source), inverse(px_to_um)))
    return PatchReader(levels)


def _is_huge(source: Source) -> bool:
    height, width = source.chunks_yx
    return height * width > HUGE_CHUNK_PX and not source.in_memory


def _in_pieces(source: Source) -> Source:
    """The source, or one that decodes its chunks once into a scratch file if they are too large or decoded together."""
    if isinstance(source, DaskSource) and source.shared_leaves:
        return ScratchSource(source.as_one_block())
    return ScratchSource(source) if _is_huge(source) else source


def _warn_if_slow(source: Source, element: Any, image_key: str) -> None:
    height, width = source.chunks_yx
    size = f"{3 * source.height * source.width / 1e9:.2g} GB"
    fix = (
        f"to spare that, write it once in smaller chunks and read it back: "
        f"{_parse(element, image_key, options=', chunks=(3, 512, 512)')}; "
        f"sdata.write(path); sdata = spatialdata.read_zarr(path)"
    )
    if _is_huge(source):
        msg = (
            f"image {image_key!r} is stored in chunks of {width} × {height} pixels, each of which takes "
            f"{3 * height * width / 1e6:.0f} MB when it is decoded; reading decodes them once into a scratch file of "
            f"up to {size} ({gettempdir()}); {fix}"
        )
        warn(msg)
    elif isinstance(source, DaskSource) and source.shared_leaves:
        msg = (
            f"the {source.grid[0]} × {source.grid[1]} blocks of image {image_key!r} are cut lazily from fewer pieces, "
            f"each of which would be decoded again for every block; reading decodes the image at once, in memory, into "
            f"a scratch file of {size} ({gettempdir()}); {fix}"
        )
        warn(msg)
