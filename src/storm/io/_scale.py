"""µm per pixel from an argument and from files, and whether an image is the one that the files describe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.scale import TOLERANCE
from storm._checks import check_positive
from storm._logging import logger

if TYPE_CHECKING:
    from storm.io._open import Opened

#: Share of spots beyond an image from which it is taken for another section's. Some may lie beyond: where an instrument
#: takes a picture of its own to place the spots, the microscope's image need not show all of the capture area.
BEYOND = 0.25
#: µm per pixel of an image of tissue: from the finest of light microscopes to pictures of a whole slide.
POSSIBLE_UM = (0.001, 1000.0)
_UNIT = "µm per pixel of the full-resolution image"
#: An image may be this much larger or smaller than the one on which the vendor's software was run.
_SAME_SIZE = 1.02


def choose_scale(sources: list[tuple[float | None, str]], *, of: str) -> tuple[float, str] | None:
    """First of several sources that has a value, in µm per pixel; all values must agree within 5 %.

    Parameters
    ----------
    sources
        µm per pixel (``None`` where a source has no value) and the name of the source, the most trusted first.
    of
        What is measured, for the error.

    Returns
    -------
    µm per pixel and the name of the source; ``None`` if no source has a value.

    Raises
    ------
    ValueError
        If two sources disagree.
    """
    known = [(float(um), source) for um, source in sources if um is not None]
    if not known:
        return None
    first, source = known[0]
    for other, other_source in known[1:]:
        if not 1 / TOLERANCE < other / first < TOLERANCE:
            msg = (
                f"two sources disagree about the µm per pixel of {of}: {first:.4g} from {source}, {other:.4g} from "
                f"{other_source}; correct the wrong one"
            )
            raise ValueError(msg)
    return first, source


def given_scale(um_per_px: float | None) -> tuple[float | None, str]:
    """The argument ``um_per_px`` and its name as a source.

    Raises
    ------
    TypeError, ValueError
        If it is not a number of µm per pixel that a microscope's image can have.
    """
    if um_per_px is not None:
        check_positive(um_per_px, name="um_per_px", unit=_UNIT)
        if not POSSIBLE_UM[0] <= um_per_px <= POSSIBLE_UM[1]:
            msg = (
                f"um_per_px={um_per_px!r} is not possible for a microscope's image ({POSSIBLE_UM[0]:g} to "
                f"{POSSIBLE_UM[1]:g} µm per pixel); give {_UNIT}: about 0.25 for a 40× objective, 0.5 for 20×"
            )
            raise ValueError(msg)
    return um_per_px, "the argument um_per_px"


def read_um(value: Any, *, unit: float = 1.0) -> float | None:
    """µm per pixel as a file's metadata give them, a number or text; ``None`` if that is not a scale.

    Programs on machines with a European locale write a decimal comma. Zero, other text, and sizes that no microscope's
    image has are not a scale.

    Parameters
    ----------
    value
        Number or text.
    unit
        µm in a unit of the value.
    """
    try:
        um = float(value.strip().replace(",", ".") if isinstance(value, str) else value) * unit
    except (TypeError, ValueError):
        return None
    return um if POSSIBLE_UM[0] <= um <= POSSIBLE_UM[1] else None


def square_um(sizes: Sequence[float | None], *, source: str, name: str) -> float | None:
    """µm per pixel from the sizes of a pixel along x and y; ``None`` if either is unknown.

    Raises
    ------
    ValueError
        If the two differ by more than 1 %.
    """
    width, height = sizes
    if width is None or height is None:
        return None
    if not math.isclose(width, height, rel_tol=0.01):
        msg = f"{name} has pixels that are not square: {width:g} × {height:g} µm from {source}; resample it"
        raise ValueError(msg)
    return (width + height) / 2


def image_scale(opened: Opened, um_per_px: float | None) -> tuple[float, str]:
    """µm per pixel of an image without a platform, and their source.

    Raises
    ------
    ValueError
        If neither the argument nor the file gives it, or they disagree by more than 5 %.
    """
    scale = choose_scale([given_scale(um_per_px), (opened.um_per_px, opened.source)], of=str(opened.path))
    if scale is None:
        msg = (
            f"{opened.path} does not tell its µm per pixel; pass um_per_px= (µm per pixel of the full-resolution "
            f"image, from the scanner's settings: about 0.25 for a 40× objective, 0.5 for 20×)"
        )
        raise ValueError(msg)
    return scale


def check_full_resolution(
    opened: Opened, centres_px: np.ndarray, *, reduced: dict[str, tuple[tuple[int, int], float]]
) -> None:
    """Raise if an image cannot be the full-resolution one in whose pixels the spots lie.

    Parameters
    ----------
    opened
        The image.
    centres_px
        x and y of the spots in pixels of the full-resolution image, (n, 2).
    reduced
        Reduced pictures of the same image that the vendor's software wrote: (width, height) and their scale.

    Raises
    ------
    ValueError
        If a quarter of the spots lie beyond the image, or the reduced pictures were made from one of another size.
    """
    width, height = opened.size
    low, high = centres_px.min(axis=0), centres_px.max(axis=0)
    name = opened.path.name
    beyond = share_beyond(opened, centres_px)
    for key, (size, _) in reduced.items():
        if size == (width, height) and beyond > 0:
            msg = (
                f"{name} ({width} × {height} px) has the size of {key}, the reduced picture, but the spots lie in "
                f"pixels of the full-resolution image and reach x = {high[0]:.0f}, y = {high[1]:.0f}: give the "
                f"microscope's image with image=, or image={_word(key)!r} if there is none"
            )
            raise ValueError(msg)
    if beyond > BEYOND:
        factor = float((high / (width, height)).max())
        hint = (
            f"it is too small by a factor of at least {factor:.3g}, a reduced copy of the full-resolution image"
            if factor > 1
            else "the two are not in one frame"
        )
        msg = (
            f"{beyond:.0%} of the spots lie beyond the image: {name} is {width} × {height} px, the spots span x "
            f"{low[0]:.0f} to {high[0]:.0f} and y {low[1]:.0f} to {high[1]:.0f} in pixels of the full-resolution "
            f"image; {hint}. Give the image that Space Ranger was run on"
        )
        raise ValueError(msg)
    for key, (size, scale) in reduced.items():
        expected = np.array(size) / scale
        ratio = np.array([width, height]) / expected
        if (np.abs(np.log(ratio)) > np.log(_SAME_SIZE) + 2 / min(size)).any():
            msg = (
                f"{name} is {width} × {height} px, but {key} ({size[0]} × {size[1]} px at a scale of {scale:.4g}) was "
                f"made from an image of about {expected[0]:.0f} × {expected[1]:.0f} px: it is another image, or one "
                f"that was resized, cropped or turned; give the one that Space Ranger was run on"
            )
            raise ValueError(msg)
    if beyond:
        logger.warning("%.1f %% of the spots lie beyond %s", 100 * beyond, name)


def share_beyond(opened: Opened, centres_px: np.ndarray) -> float:
    """Share of centres, x and y in pixels of an image, (n, 2), that do not lie on it."""
    return float(((centres_px < 0) | (centres_px > opened.size)).any(axis=1).mean())


def _word(key: str) -> str:
    return "hires" if "hires" in key else "lowres"


def note_image_scale(opened: Opened, um_per_px: float) -> None:
    """Log a warning if the scale in an image's own metadata differs from that in the platform's files."""
    own = opened.um_per_px
    if own is not None and not 1 / TOLERANCE < own / um_per_px < TOLERANCE:
        logger.warning(
            "%s has %.4g µm per pixel (%s), the platform's files give %.4g; the latter are used",
            opened.path.name,
            own,
            opened.source,
            um_per_px,
        )
