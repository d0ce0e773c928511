"""Patches of an image that is coarser than the input of a tile encoder: by how much they are enlarged."""

from __future__ import annotations

from storm._logging import warn
from storm.data.patches import PatchReader

#: Factor of enlargement beyond which a network is shown a blurred picture.
MOST_ENLARGED = 2.0


def enlargement(reader: PatchReader, *, field_um: float, out_px: int) -> float:
    """Pixels of a patch for each pixel of the image, along an edge; below 1 patches are reduced.

    Parameters
    ----------
    reader
        Reader of the image.
    field_um
        Edge of the field in µm.
    out_px
        Edge of the patches in pixels.
    """
    level = reader.levels[reader.level_for(field_um, out_px)]
    return out_px * level.um_per_px / field_um


def enlargement_advice(factor: float) -> str:
    """What enlarged patches mean and what to do about them; empty up to :data:`MOST_ENLARGED`."""
    if factor <= MOST_ENLARGED * (1 + 1e-6):  # exactly twice is common, and rounding must not decide
        return ""
    return (
        f"the image is {factor:.1f} times coarser than the tile encoder's input: nuclei are blurred or not seen. Use "
        "the full-resolution image if there is one (a 'hires' image of Space Ranger is a small copy), or check the "
        "scale"
    )


def warn_if_enlarged(reader: PatchReader, *, field_um: float, out_px: int) -> None:
    """Warn if patches are enlarged more than twice.

    Parameters
    ----------
    reader, field_um, out_px
        As for :func:`enlargement`.

    Warns
    -----
    UserWarning
        With the factor and what to do.
    """
    advice = enlargement_advice(enlargement(reader, field_um=field_um, out_px=out_px))
    if advice:
        warn(advice)
