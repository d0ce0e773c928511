"""Windows of a section, in its units and with what it is too small for."""

from __future__ import annotations

from storm.data.spots import Spots
from storm.data.windows import Windows, make_windows, small_bins


def section_windows(
    spots: Spots, *, kind: str = "auto", size: int | None = None, radius_um: float | None = None
) -> Windows:
    """Windows around each spot.

    Parameters
    ----------
    spots
        The section.
    kind, size
        As in :func:`~storm.data.windows.make_windows`. Bins of 2 µm are refused with ``"auto"`` only: who says what
        kind of window they shall have means it.
    radius_um
        Reach in µm.

    Raises
    ------
    ValueError
        If the section is made of bins that must be summed first, a radius is given and no scale is known, or there is
        no such window.
    """
    if radius_um is not None and not spots.um_known:
        msg = "radius_um needs coordinates in µm, and their scale is not known; give um_per_px, µm per unit of theirs"
        raise ValueError(msg)
    windows = make_windows(spots.centres, kind=kind, size=size, radius=radius_um)
    advice = small_bins(windows, um_known=spots.um_known)
    if advice and kind == "auto":
        raise ValueError(advice)
    return windows
