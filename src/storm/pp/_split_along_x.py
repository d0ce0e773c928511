"""``storm.pp.split_along_x``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.keys import Keys
from storm._bridge.read import read_spots
from storm._bridge.select import check_container, select_table
from storm._bridge.standalone import standalone
from storm._checks import check_between
from storm._inference.neighbourhoods import section_windows
from storm.data.windows import Windows

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def split_along_x(
    data: SpatialData | AnnData,
    *,
    share: float = 0.5,
    field_um: float = 112.0,
    gap_um: float | None = None,
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a section into a left part to train on and a right part to judge on, with a gap between them.

    Random spots of a section are not held out: their neighbours are in the training, with the same tissue in their
    windows. With the gap no spot and no pixel belongs to the windows of both parts. (They remain of one section of one
    patient: for what a new patient would give, hold out patients.)

    Parameters
    ----------
    data
        A section, or a table of several, each of which is divided for itself.
    share
        Share of the spots that lie left of the middle of the gap, above 0 and below 1.
    field_um
        Edge of the H&E field around each spot, in µm; 0 for expression alone.
    gap_um
        Width of the gap, in µm; by default one window and one field.
    library_key, image_key, table_key, shapes_key, coordinate_system, um_per_px
        As in :func:`storm.tl.embed`.

    Returns
    -------
    train, test : ndarray
        Masks of the rows of the table, bool, shape (n_obs,). A spot in the gap, or without a place, is in neither.

    Raises
    ------
    TypeError
        If ``data`` is a list, or not a SpatialData or AnnData.
    ValueError
        If a share or width is out of range, no scale is known, or a part is left without spots.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> train, test = storm.pp.split_along_x(sdata)
    >>> bool((train & test).any())
    False

    References
    ----------
    Nine cells a window, a contiguous split along x and a gap of one window are the protocol of SPATCH for platforms
    with single cells (``field_um=0``).
    """
    if not 0 < check_between(share, name="share", low=0, high=1) < 1:
        msg = f"share={share!r} must lie between 0 and 1, such as 0.5 for halves"
        raise ValueError(msg)
    check_between(field_um, name="field_um", low=0, high=float("inf"))
    if gap_um is not None:
        check_between(gap_um, name="gap_um", low=0, high=float("inf"))
    check_container(data)
    keys = Keys(
        table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=um_per_px
    )  # fmt: skip
    parts: list[tuple[np.ndarray | None, np.ndarray, np.ndarray]] = []
    for section in standalone(data, keys, library_key=library_key, image_key=image_key, counts=False):
        own = section.keys
        spots = read_spots(
            section.make(),
            table_key=own.table_key,
            shapes_key=own.shapes_key,
            coordinate_system=own.coordinate_system,
            um_per_px=own.um_per_px,
            image=False,
            table=False,
        )
        if not spots.um_known:
            msg = "the width of the gap is in µm, and the scale of the places is not known; give um_per_px"
            raise ValueError(msg)
        gap = _width(section_windows(spots)) + field_um if gap_um is None else gap_um
        x = spots.centres[:, 0]
        middle = float(np.nanquantile(x, share))
        with np.errstate(invalid="ignore"):
            train, test = x < middle - gap / 2, x > middle + gap / 2
        if not train.any() or not test.any():
            of = f"section {section.name!r}" if section.name else "the section"
            width = np.nanmax(x) - np.nanmin(x)
            msg = (
                f"{of} is {width:.0f} µm wide, so that a gap of {gap:.0f} µm at {share:.0%} of its spots leaves "
                f"{int(train.sum())} on the left and {int(test.sum())} on the right; give another share, or a gap_um"
            )
            raise ValueError(msg)
        parts.append((section.rows, train, test))
    if parts[0][0] is None:
        return parts[0][1], parts[0][2]
    out = np.zeros((2, select_table(data, table_key)[1].n_obs), dtype=bool)
    for rows, *masks in parts:
        out[:, rows] = masks
    return out[0], out[1]


def _width(windows: Windows) -> float:
    """Width of a window, in the units of the centres."""
    return 2 * float(np.abs(windows.offsets[..., 0]).max()) * windows.pitch
