"""Checks of how the image is stored: what a patch is made of, and what it costs to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm.data.enlarged import enlargement, enlargement_advice
from storm.data.kind import image_kind
from storm.data.resample import Resampler
from storm.data.scratch import ScratchSource
from storm.pp._report import Row

if TYPE_CHECKING:
    from storm.data.patches import PatchReader
    from storm.data.sources import Source

#: Factor of reduction beyond which a pyramid would spare most of the decoding.
_DOWN = 3.0
#: Bytes of the chunks that are held at a time beyond which one is warned.
_HELD = 2e9


def kind_row(reader: PatchReader, centres: np.ndarray, *, field_um: float) -> Row:
    """Whether the image looks like H&E: coloured, on a bright background.

    Parameters
    ----------
    reader
        Reader of the image.
    centres
        x and y in µm, shape (n, 2), inside the image.
    field_um
        Edge of the fields that are judged, in µm.
    """
    seen = image_kind(reader, centres, field_um=field_um)
    facts = {
        "kind": seen.kind, "dark": seen.dark, "brightness": seen.brightness, "colour": seen.colour,
        "stain": list(seen.stain),
    }  # fmt: skip
    numbers = f"brightness {seen.brightness:.0f} of 255 in the median, {100 * seen.dark:.0f} % dark pixels"
    if seen.kind == "dark":
        text = (
            "H&E is bright where there is no tissue; an image on a dark background is fluorescence, or inverted. Name "
            "the H&E image with image_key=, or use modality='st', which reads no image"
        )
        return Row("kind", f"on a dark background: {numbers}", "fail", text, facts)
    if seen.kind == "gray":
        text = (
            "the image has no colour, and H&E is told by its colours: use the image of the microscope as it was taken"
        )
        return Row("kind", f"gray: {numbers}", "fail", text, facts)
    if seen.kind == "empty":
        text = "the image shows nothing around the spots: is it the image of this section, and do they lie on it?"
        return Row("kind", f"empty: {numbers}", "warn", text, facts)
    return Row("kind", f"coloured, on a bright background: {numbers}", "ok", facts=facts)


def patch_row(reader: PatchReader, *, field_um: float, tile_px: int) -> Row:
    """Patch size at the chosen pyramid level, against what the tile encoder takes."""
    at = reader.level_for(field_um, tile_px)
    level = reader.levels[at]
    px = field_um / level.um_per_px
    factor = enlargement(reader, field_um=field_um, out_px=tile_px)
    facts = {"level": at, "px": px, "upsampling": factor}
    value = (
        f"{field_um:g} µm are {px:.0f} px at level {at} of {len(reader.levels)} ({level.um_per_px:.3g} µm/px), resized "
        f"to {tile_px} px: × {factor:.2f}"
    )
    advice = enlargement_advice(factor)
    if advice:
        return Row("patch", value, "warn", advice, facts)
    if factor * _DOWN < 1 and len(reader.levels) == 1:
        text = (
            f"the image has no pyramid, so that {(1 / factor) ** 2:.0f} times as many pixels are decoded as are used; "
            "store one: spatialdata.models.Image2DModel.parse(…, scale_factors=[2, 2, 2])"
        )
        return Row("patch", value, "warn", text, facts)
    return Row("patch", value, "ok", facts=facts)


def chunks_row(reader: PatchReader, centres: np.ndarray, *, field_um: float, tile_px: int, warned: list[str]) -> Row:
    """How the level that is read is cut into chunks, and what decoding them costs per patch.

    Parameters
    ----------
    reader
        Patch reader of the image.
    centres
        x and y in µm, shape (n, 2), inside the image.
    field_um, tile_px
        What is read.
    warned
        What was warned of while the image was opened: chunks too large, or decoded again and again.
    """
    level = reader.levels[reader.level_for(field_um, tile_px)]
    source = level.source.source if isinstance(level.source, ScratchSource) else level.source
    height, width = source.chunks_yx
    n, pixels = chunks_needed(source, reader, centres, field_um=field_um, tile_px=tile_px)
    per_patch = 3 * pixels / max(len(centres), 1)
    held = 3 * height * width * min(source.grid) * 2
    facts = {"chunk_height": height, "chunk_width": width, "n_chunks": n, "bytes_per_patch": per_patch}
    value = f"{width} × {height} px ({3e-6 * height * width:.3g} MB), {n} needed: {per_patch / 1e3:.3g} kB per patch"
    if source.in_memory:
        return Row("chunks", f"in memory, {value}", "ok", facts=facts)
    if warned:
        return Row("chunks", value, "warn", "; ".join(warned), facts)
    if held > _HELD:
        text = (
            f"about {held / 1e9:.2g} GB of decoded chunks are held at a time; store the image in smaller ones: "
            "spatialdata.models.Image2DModel.parse(…, chunks=(3, 512, 512)), then sdata.write(path)"
        )
        return Row("chunks", value, "warn", text, facts)
    return Row("chunks", value, "ok", facts=facts)


def chunks_needed(
    source: Source, reader: PatchReader, centres: np.ndarray, *, field_um: float, tile_px: int
) -> tuple[int, int]:
    """How many chunks some fields lie on, and the pixels of these."""
    level = reader.levels[reader.level_for(field_um, tile_px)]
    resample = Resampler(level.um_to_px, field_um=field_um, out_px=tile_px)
    rects = resample.rects(resample.boxes(centres))
    # How often a chunk is needed, by the corners of the rectangles of chunks: one more from here, one less from there.
    grid = np.zeros((source.grid[0] + 1, source.grid[1] + 1), dtype=np.int64)
    top, bottom = _chunks_at(source.y_edges, rects[:, 1]), _chunks_at(source.y_edges, rects[:, 3] - 1) + 1
    left, right = _chunks_at(source.x_edges, rects[:, 0]), _chunks_at(source.x_edges, rects[:, 2] - 1) + 1
    for rows, columns, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(grid, (rows, columns), sign)
    needed = grid.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    areas = np.diff(source.y_edges)[:, None] * np.diff(source.x_edges)
    return int(needed.sum()), int(areas[needed].sum())


def _chunks_at(edges: np.ndarray, px: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, px, side="right") - 1, 0, len(edges) - 2)
