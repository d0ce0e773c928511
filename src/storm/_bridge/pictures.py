"""Several images of one section: which is the finest, where they are reductions of one and the same picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from storm._bridge.geometry import affine_of, apply, common_system, compose, inverse, length_scale
from storm._bridge.image import check_image, levels_of
from storm._logging import logger
from storm.data.same_picture import same_picture
from storm.data.sources import HUGE_CHUNK_PX, ZarrSource, as_source

#: Corners of reductions of one picture differ by rounded sizes: less than this many pixels of the coarser one.
_ROUNDED_PX = 2.0
#: The finest has pixels smaller than the next by at least this factor; images of one resolution are different images.
_FINER = 1.2


def finest_of_one(images: Mapping[str, Any], places: Any | None, *, coordinate_system: str | None) -> str | None:
    """Key of the finest of several images, if all of them are the same picture at different resolutions.

    They are if all are 8-bit RGB, have the same corners, have pixels of different sizes, and show the same colours in
    32 × 32 blocks. Such are the full-resolution image and the reduced pictures that ``spatialdata_io.visium`` reads.

    Parameters
    ----------
    images
        Image elements by key.
    places
        Element with the spots, in whose own coordinates the images are compared: each reduced picture may have a
        coordinate system of its own, which it shares with the spots alone. Without it, the images are compared in one
        system that all have.
    coordinate_system
        The system that the user asked for.

    Returns
    -------
    str or None
        ``None`` where the images are not all the same picture, or where comparing them would decode a large image that
        is not stored in pieces.
    """
    try:
        frames = _frames(images, places, coordinate_system=coordinate_system)
        pixels = {key: length_scale(frame) for key, frame in frames.items()}
        keys = sorted(images, key=lambda key: pixels[key])
        channels = {key: check_image(images[key], key) for key in keys}
    except (ValueError, TypeError):  # no common frame, or not H&E: these images are not the same picture
        return None
    if any(coarse < _FINER * fine for fine, coarse in pairwise(pixels[key] for key in keys)):
        return None
    corners = {key: _corners(images[key], frames[key]) for key in keys}
    if any(np.abs(corners[key] - corners[keys[0]]).max() > _ROUNDED_PX * pixels[key] for key in keys):
        return None
    shown = [_coarsest(images[key], channels[key]) for key in keys]
    if any(one is None or other is None or not same_picture(one, other) for one, other in pairwise(shown)):
        return None
    logger.warning(
        "images %s are one picture at different resolutions: the finest, %r, is used; image_key= chooses another",
        ", ".join(map(repr, keys)),
        keys[0],
    )
    return keys[0]


def _frames(images: Mapping[str, Any], places: Any | None, *, coordinate_system: str | None) -> dict[str, np.ndarray]:
    """Affine map of the pixels of each image into the coordinates in which they are compared."""
    if places is None:
        system = common_system({f"image {key!r}": image for key, image in images.items()}, wanted=coordinate_system)
        return {key: affine_of(image, system) for key, image in images.items()}
    frames = {}
    for key, image in images.items():
        system = common_system({f"image {key!r}": image, "shapes": places}, wanted=coordinate_system)
        frames[key] = compose(affine_of(image, system), inverse(affine_of(places, system)))
    return frames


def _corners(image: Any, frame: np.ndarray) -> np.ndarray:
    """Top left, top right and bottom left corner of an image, shape (3, 2): flips and turns tell themselves apart."""
    full = levels_of(image)[0]
    width, height = full.sizes["x"], full.sizes["y"]
    return apply(frame, np.array([[0.0, 0.0], [width, 0.0], [0.0, height]]))


def _coarsest(image: Any, channels: tuple[int, int, int]) -> np.ndarray | None:
    """Pixels of the coarsest level, shape (y, x, 3); ``None`` where that would take long to read."""
    import dask

    levels = [level.transpose("c", "y", "x") for level in levels_of(image)]
    coarsest = levels[-1].data
    source = as_source(coarsest, channels=channels)
    stored = source.in_memory or isinstance(source, ZarrSource)
    decoded = source.height * source.width if stored else levels[0].sizes["y"] * levels[0].sizes["x"]
    if decoded > HUGE_CHUNK_PX:
        return None
    with dask.config.set(scheduler="synchronous"):
        return np.moveaxis(np.asarray(coarsest)[list(channels)], 0, -1)
