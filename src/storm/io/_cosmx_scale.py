"""µm per pixel of CosMx: measured in the files, or the vendor's number where nothing in the files contradicts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storm._bridge.scale import TOLERANCE
from storm._logging import logger
from storm.io._cosmx_tables import AREA, LOCAL
from storm.io._scale import choose_scale, given_scale
from storm.io._vendor import check_scale, need_packed, numbers, read_table

#: Pixel of the CosMx SMI instrument, by the read-me of the vendor's public data ("0.120280945 µm per pixel").
COSMX_UM = 0.120280945
#: Width of its field of view in pixels. That of the prototype, of the very first data sets, was 5,472 at 0.18 µm.
_FOV_PX = 4256
_PROTOTYPE_FOV_PX = 5472
_PROTOTYPE_UM = 0.18
#: A centre may lie this far beyond a field of view, as a share of its width.
_SLACK = 1.02
#: Fields of view whose positions in px and in mm differ by more than this share of their extent do not fit one scale.
_MISFIT = 0.05
#: Area of a cell in µm², where the vendor gives it.
_AREA_UM2 = "Area.um2"


def cosmx_scale(
    folder: Path, run: str, cells: pd.DataFrame, *, cells_file: Path, um_per_px: float | None
) -> tuple[tuple[float, str], dict[str, Any]]:
    """µm per global pixel and its source, and facts about the positions of the fields of view.

    Parameters
    ----------
    folder, run
        The vendor's folder, and the name that its files begin with.
    cells, cells_file
        Table of the cells, and its file.
    um_per_px
        The user's number, or ``None``.

    Raises
    ------
    FileNotFoundError
        If the positions of the fields of view are missing and no other source gives the scale.
    ValueError
        If two sources disagree, or the vendor's number does not fit the size of the fields of view.
    """
    sources = [given_scale(um_per_px), _from_areas(cells, cells_file)]
    known = any(um is not None for um, _ in sources)
    facts: dict[str, Any] = {}
    positions = None
    try:
        file = need_packed(folder, f"{run}_fov_positions_file.csv", what="the table of positions of the fields of view")
        positions = _positions(file)
        sources.insert(1, _from_positions(positions, file))
        facts["positions"] = file.name
    except (FileNotFoundError, ValueError) as error:
        if not known:
            raise
        logger.warning("the positions of the fields of view are not used: %s", error)
    scale = choose_scale(sources, of=f"the global pixels of {folder.name}")
    if scale is None:
        _check_default(cells, positions, cells_file)
        scale = (COSMX_UM, "the vendor's statement for the instrument")
    check_scale(scale)
    return scale, facts


def _from_areas(cells: pd.DataFrame, path: Path) -> tuple[float | None, str]:
    """µm per pixel from the areas of the cells in pixels and in µm²."""
    if not {AREA, _AREA_UM2} <= set(cells.columns):
        return None, ""
    try:
        pixels, um2 = numbers(cells, [AREA, _AREA_UM2], path).T
    except ValueError as error:
        logger.warning("the areas of the cells are not used: %s", error)
        return None, ""
    usable = (pixels > 0) & (um2 > 0) & np.isfinite(pixels) & np.isfinite(um2)
    if not usable.any():
        return None, ""
    return float(np.sqrt(np.median(um2[usable] / pixels[usable]))), f"{AREA} and {_AREA_UM2} in {path.name}"


def _positions(path: Path) -> pd.DataFrame:
    frame = read_table(path)
    frame.columns = pd.Index([str(c).casefold() for c in frame.columns])
    return frame


def _from_positions(frame: pd.DataFrame, path: Path) -> tuple[float | None, str]:
    """µm per pixel from positions of the fields of view in pixels and in mm, where the file holds both."""
    pixels, mm = ["x_global_px", "y_global_px"], None
    for columns in (["x_global_mm", "y_global_mm"], ["x_mm", "y_mm"]):
        if set(columns) <= set(frame.columns):
            mm = columns
            break
    if mm is None or not set(pixels) <= set(frame.columns):
        return None, ""
    values = numbers(frame, [*pixels, *mm], path)
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < 2:
        return None, ""
    centred = values - values.mean(axis=0)
    px, um = centred[:, :2], 1e3 * centred[:, 2:]
    from_px, from_um = np.sqrt(np.square(px).sum()), np.sqrt(np.square(um).sum())
    if not (from_px > 0 and from_um > 0):
        return None, ""
    scale = float(from_um / from_px)
    # the distances from the middle are the same in both units, whichever way the axes run
    misfit = np.abs(np.linalg.norm(px, axis=1) * scale - np.linalg.norm(um, axis=1)).max()
    if misfit > _MISFIT * np.linalg.norm(um, axis=1).max():
        msg = f"{path}: the positions of the fields of view in pixels and in mm do not fit one scale; pass um_per_px="
        raise ValueError(msg)
    if len(values) == 2 and not any(1 / TOLERANCE < scale / um < TOLERANCE for um in (COSMX_UM, _PROTOTYPE_UM)):
        # nothing within two positions would show that one number of them is wrong
        msg = (
            f"{path}: the positions of two fields of view imply {scale:.4g} µm per pixel, which no instrument has "
            f"({COSMX_UM}; the prototype {_PROTOTYPE_UM}); correct the file, or pass um_per_px= without it"
        )
        raise ValueError(msg)
    return scale, f"{path.name}, in pixels and in mm"


def _check_default(cells: pd.DataFrame, positions: pd.DataFrame | None, path: Path) -> None:
    """Raise if the fields of view are not those of the instrument whose pixel the vendor states."""
    width = 0.0
    for column in (c for c in LOCAL if c in cells.columns):
        width = max(width, float(np.nanmax(numbers(cells, [column], path)[:, 0], initial=0.0)))
    evidence = f"cells lie up to {width:.0f} px from the corner of their field of view ({path.name})"
    if width <= _SLACK * _FOV_PX:
        if positions is None or "x_global_px" not in positions.columns:
            return
        x = np.unique(pd.to_numeric(positions["x_global_px"], errors="coerce").dropna().to_numpy().round())
        step = float(np.diff(x).min()) if len(x) > 1 else 0.0
        if abs(step - _PROTOTYPE_FOV_PX) > _PROTOTYPE_FOV_PX / 100:
            return
        evidence = f"fields of view are {step:.0f} px apart"
    msg = (
        f"the µm per pixel are unknown: {evidence}, but a field of view of the instrument with {COSMX_UM} µm per pixel "
        f"is {_FOV_PX} px wide; pass um_per_px= ({_PROTOTYPE_UM} for data of the prototype, whose fields of view are "
        f"{_PROTOTYPE_FOV_PX} px wide)"
    )
    raise ValueError(msg)
