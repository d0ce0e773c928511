"""µm per pixel from what a user and a vendor's files say, and whether an image is the one that they speak of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.scale import TOLERANCE
from storm._checks import check_positive
from storm._logging import logger

if TYPE_CHECKING:
    from storm.io._open import Opened

#: With this share of spots beyond an image, it is not that of the section. Some may be: where an instrument takes a
#: picture of its own to place the spots, the microscope's image need not show all of the capture area.
_BEYOND = 0.25
#: An image may be this much larger or smaller than the one that the vendor's software has seen.
_SAME_SIZE = 1.02


def choose_scale(said: list[tuple[float | None, str]], *, of: str) -> tuple[float, str] | None:
    """First of several sources that speaks, in µm per pixel; all that speak must agree within 5 %.

    Parameters
    ----------
    said
        µm per pixel (``None`` where a source is silent) and who says so, the most trusted first.
    of
        What is measured, for the error.

    Raises
    ------
    ValueError
        If two sources disagree.
    """
    found = [(float(um), source) for um, source in said if um is not None]
    if not found:
        return None
    first, source = found[0]
    for other, other_source in found[1:]:
        if not 1 / TOLERANCE < other / first < TOLERANCE:
            msg = (
                f"two sources disagree about the µm per pixel of {of}: {first:.4g} from {source}, {other:.4g} from "
                f"{other_source}; correct the wrong one"
            )
            raise ValueError(msg)
    return first, source


def given_scale(um_per_px: float | None) -> tuple[float | None, str]:
    """What the user says, checked."""
    if um_per_px is not None:
        check_positive(um_per_px, name="um_per_px", unit="µm per pixel of the full-resolution image")
    return um_per_px, "the argument um_per_px"


def image_scale(opened: Opened, um_per_px: float | None) -> tuple[float, str]:
    """µm per pixel of an image that is by itself.

    Raises
    ------
    ValueError
        If neither the user nor the file says it, or they disagree by more than 5 %.
    """
    found = choose_scale([given_scale(um_per_px), (opened.um_per_px, opened.source)], of=str(opened.path))
    if found is None:
        msg = (
            f"{opened.path} does not tell its µm per pixel; pass um_per_px= (µm per pixel of the full-resolution "
            f"image, from the scanner's settings: about 0.25 for a 40× objective, 0.5 for 20×)"
        )
        raise ValueError(msg)
    return found


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
    beyond = float(((centres_px < 0) | (centres_px > (width, height))).any(axis=1).mean())
    for key, (size, _) in reduced.items():
        if size == (width, height) and beyond > 0:
            msg = (
                f"{name} ({width} × {height} px) has the size of {key}, the reduced picture, but the spots lie in "
                f"pixels of the full-resolution image and reach x = {high[0]:.0f}, y = {high[1]:.0f}: give the "
                f"microscope's image with image=, or image={_word(key)!r} if there is none"
            )
            raise ValueError(msg)
    if beyond > _BEYOND:
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
        wanted = np.array(size) / scale
        off = np.array([width, height]) / wanted
        if (np.abs(np.log(off)) > np.log(_SAME_SIZE) + 2 / min(size)).any():
            msg = (
                f"{name} is {width} × {height} px, but {key} ({size[0]} × {size[1]} px at a scale of {scale:.4g}) was "
                f"made from an image of about {wanted[0]:.0f} × {wanted[1]:.0f} px: it is another image, or one that "
                f"was resized, cropped or turned; give the one that Space Ranger was run on"
            )
            raise ValueError(msg)
    if beyond:
        logger.warning("%.1f %% of the spots lie beyond %s", 100 * beyond, name)


def _word(key: str) -> str:
    return "hires" if "hires" in key else "lowres"


def note_image_scale(opened: Opened, um_per_px: float) -> None:
    """Log where an image's own metadata says something else than the vendor's."""
    own = opened.um_per_px
    if own is not None and not 1 / TOLERANCE < own / um_per_px < TOLERANCE:
        logger.warning(
            "%s tells %.4g µm per pixel (%s), the platform's files %.4g; the latter are used",
            opened.path.name, own, opened.source, um_per_px,
        )  # fmt: skip
