"""Checks of where the spots are: scale, pitch, on the image, on tissue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._bridge.scale import VISIUM_PITCH_UM, ScaleSources, declared_platform
from storm._bridge.select import annotated_regions, is_spatialdata
from storm._bridge.view import read_outlines
from storm._keys import READ
from storm.data.tissue import tissue_share
from storm.pp._report import Row, Verdict

if TYPE_CHECKING:
    from storm.data.patches import PatchReader
    from storm.data.spots import Spots
    from storm.data.windows import Windows
    from storm.pp._reading import Reading

#: Pitches that platforms have, in µm, by the kind of their lattice.
PITCHES: dict[str, dict[float, str]] = {
    "hex": {VISIUM_PITCH_UM: "Visium"},
    "square": {200.0: "legacy ST", 2.0: "Visium HD, 2 µm", 8.0: "Visium HD, 8 µm", 16.0: "Visium HD, 16 µm"},
}
#: How far a pitch may be off, and how large cells are (diameter, in µm).
_TOLERANCE, _CELL_UM = 1.05, (4.0, 40.0)
#: Share of centres inside the image, and on tissue, below which one is warned, and below which the check fails.
_INSIDE, _ON_TISSUE = (0.98, 0.5), (0.75, 0.5)
#: Share of the area around a centre that is tissue if the centre is on tissue; largest such area, in µm.
_SHARE, _AREA_UM = 0.25, 110.0


def place_rows(reading: Reading, windows: Windows | None) -> list[Row]:
    """Rows about scale, pitch and places."""
    spots, rows = reading.spots, []
    failed = {row.name for row in reading.problems}
    if "scale" not in failed:
        rows.append(_scale(spots))
    if not reading.tiled:
        rows.append(_placed(spots))
        rows += _off_tissue(spots)
        if windows is not None:
            rows.append(_pitch(reading, windows, failed="scale" in failed))
        rows += _elements(reading)
    return rows


def image_rows(spots: Spots, windows: Windows | None, *, diameter_um: float) -> list[Row]:
    """Rows about the centres and the image under them."""
    inside = _inside(spots)
    rows = [inside]
    if inside.facts["share"] > 0:
        rows.append(_tissue(spots, area_um=min(max(diameter_um, 8.0), _AREA_UM)))
    return rows


def _scale(spots: Spots) -> Row:
    if spots.scale is None:
        text = (
            "the coordinates are taken in their own units; give um_per_px= (µm per unit of theirs) where distances in "
            "µm are asked for (radius_um), or to let the pitch be checked"
        )
        return Row("scale", "unknown, and not needed without an image", "info", text)
    scale = spots.scale
    number = scale.um_per_unit if scale.um_per_px is None else scale.um_per_px
    unit = "µm per unit of the coordinates" if scale.um_per_px is None else "µm/px"
    facts = {"um_per_px": float(number), "source": scale.source}
    return Row("scale", f"{number:.4g} {unit}, from {scale.source}", "ok", facts=facts)


def _placed(spots: Spots) -> Row:
    n, placed = len(spots), int(spots.placed.sum())
    if spots.off_tissue is not None:
        n -= int(spots.off_tissue.sum())
    verdict: Verdict = "ok" if placed == n else "warn" if placed >= 0.5 * n else "fail"
    text = (
        "rows whose instance has no geometry in the element that is annotated stay NaN: compare the instance column of "
        "the table with the index of the element (barcodes with and without '-1'? numbers stored as text?)"
    )
    return Row(
        "places", f"{placed:,} of {n:,} rows have a place, no place is taken twice", verdict,
        text if placed < n else "", {"n": n, "placed": placed},
    )  # fmt: skip


def _off_tissue(spots: Spots) -> list[Row]:
    """Spots that Space Ranger found on glass."""
    if spots.off_tissue is None:
        return []
    n = int(spots.off_tissue.sum())
    text = "they are left out of every neighbourhood and statistic, and their rows in results are NaN"
    value = f"{n:,} of {len(spots):,} spots lie outside the tissue (in_tissue is 0)"
    return [Row("in_tissue", value, "info", text, {"outside": n})]


def _pitch(reading: Reading, windows: Windows, *, failed: bool) -> Row:
    """Whether the distance of neighbours is one that platforms have."""
    spots, kind, pitch = reading.spots, windows.kind, windows.pitch
    known = spots.um_known
    unit = "µm" if known else "units of the coordinates"
    facts: dict[str, Any] = {"kind": kind, "pitch": float(pitch), "um": known}
    expected, platform = _expected(reading)
    if kind == "knn":
        return _cells(reading, facts)
    name = {"hex": "hexagonal", "square": "square"}[kind]
    value = f"{name} lattice, {pitch:.4g} {unit}"
    fits = {um: who for um, who in PITCHES[kind].items() if expected is None or um == expected}
    if not known or spots.scale is None:
        guess = "; ".join(f"{um / pitch:.4g} if this is {who} ({um:g} µm)" for um, who in PITCHES[kind].items())
        text = f"µm per unit of the coordinates would be {guess}; give um_per_px= if you know that it is"
        return Row("pitch", value, "info", text if failed or guess else "", facts)
    near = [who for um, who in fits.items() if 1 / _TOLERANCE < pitch / um < _TOLERANCE]
    if near:
        return Row("pitch", f"{value}, as {near[0]} has", "ok", facts=facts)
    number = spots.scale.um_per_unit if spots.scale.um_per_px is None else spots.scale.um_per_px
    options = fits or ({expected: platform} if expected and platform else PITCHES[kind])
    best = min(options, key=lambda um: abs(np.log(um / pitch)))
    text = (
        f"{options[best]} has {best:g} µm: then the scale is off by a factor of {best / pitch:.3g}, and um_per_px "
        f"would be {number * best / pitch:.4g} instead of {number:.4g} (from {spots.scale.source})"
    )
    if expected is None:
        text = f"no platform known here has that; if the spots are of one, the scale is wrong: {text}"
    return Row("pitch", value, "warn" if expected is None else "fail", text, facts)


def _expected(reading: Reading) -> tuple[float | None, str | None]:
    """Pitch in µm and name of the platform that the object declares."""
    table, attrs = reading.selection.table, reading.selection.attrs
    if table is None:
        return None, None
    platform = declared_platform(ScaleSources(uns=table.uns, attrs=attrs))
    annotated = annotated_regions(table)
    region = reading.selection.keys.shapes_key or (annotated[0][0] if annotated and len(annotated[0]) == 1 else "")
    bins = re.search(r"square_(\d{3})um", region)
    if bins:
        return float(bins.group(1)), "Visium HD"
    note = attrs.get(READ)
    read = (
        note.get("bin_size") if isinstance(note, Mapping) else None
    )  # by storm.io.visium_hd, which names its shapes "bins"
    if platform == "visium_hd" and isinstance(read, int):
        return float(read), "Visium HD"
    return (VISIUM_PITCH_UM, "Visium") if platform == "visium" else (None, None)


def _cells(reading: Reading, facts: dict[str, Any]) -> Row:
    spots, pitch = reading.spots, facts["pitch"]
    value = f"no lattice (cells), {pitch:.3g} {'µm' if spots.um_known else 'units'} to the nearest in the median"
    diameter = diameter_of(reading)
    if spots.scale is None or diameter is None:
        return Row("pitch", value, "info" if spots.scale is None else "ok", facts=facts)
    facts["diameter"] = diameter
    value += f", {diameter:.3g} µm across"
    if _CELL_UM[0] <= diameter <= _CELL_UM[1]:
        return Row("pitch", value, "ok", facts=facts)
    text = (
        f"cells are {_CELL_UM[0]:g} to {_CELL_UM[1]:g} µm across: either these are not cells, or the scale is off by a "
        f"factor of about {10 / diameter:.2g} ({spots.scale.um_per_unit:.4g} µm per unit, from {spots.scale.source})"
    )
    return Row("pitch", value, "warn", text, facts)


def diameter_of(reading: Reading) -> float | None:
    """Median diameter of the shapes in µm (of the coordinates' unit where that is unknown), ``None`` without any."""
    scale = reading.spots.scale
    _, diameters = read_outlines(reading.selection, um_per_unit=1.0 if scale is None else scale.um_per_unit)
    return None if diameters is None else float(np.nanmedian(diameters))


def _elements(reading: Reading) -> list[Row]:
    """Name the shapes that are not used, such as nuclei beside cells, so that none is mistaken for another."""
    data, table = reading.selection.data, reading.selection.table
    if not is_spatialdata(data) or table is None or len(data.shapes) < 2:
        return []
    annotated = annotated_regions(table)
    used = reading.selection.keys.shapes_key or (annotated[0][0] if annotated else None)
    others = [key for key in data.shapes if key != used]
    if used is None or not others:
        return []
    text = f"the table annotates {used!r}; {', '.join(map(repr, others))} are not used"
    return [Row("shapes", f"{used!r} of {len(data.shapes)}", "info", text, {"used": used})]


def _inside(spots: Spots) -> Row:
    placed = spots.placed
    share = float(spots.reader.inside(spots.centres[placed]).mean()) if placed.any() else 0.0
    facts = {"share": share}
    value = f"{share:.1%} of {int(placed.sum()):,} centres lie on the image"
    if share >= _INSIDE[0]:
        return Row("inside", value, "ok", facts=facts)
    low, high = spots.centres[placed].min(axis=0), spots.centres[placed].max(axis=0)
    x0, y0, x1, y1 = spots.reader.extent_um
    text = (
        f"in µm the centres span x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}; the image x "
        f"{x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}. {_why_outside(spots.reader, low, high)}"
    )
    return Row("inside", value, "warn" if share >= _INSIDE[1] else "fail", text, facts)


def _why_outside(patches: PatchReader, low: np.ndarray, high: np.ndarray) -> str:
    x0, y0, x1, y1 = patches.extent_um
    factor = float(max((high[0] - x0) / (x1 - x0), (high[1] - y0) / (y1 - y0)))
    if factor > 1.5:
        width, height = patches.levels[0].source.width, patches.levels[0].source.height
        return (
            f"The spots reach {factor:.3g} times as far as the image: an image of {width} × {height} px may be a "
            "low-resolution copy that is taken for the one the coordinates were measured in; read that one, or scale "
            "the copy with spatialdata.transformations.set_transformation(image, Scale(…)) by full / low resolution"
        )
    swapped = (high[::-1] <= (x1, y1)).all() and (low[::-1] >= (x0, y0)).all()
    if swapped:
        return "With x and y exchanged all centres would lie on the image: they may be row and column"
    return (
        "Check the transformations of image and shapes, or choose another coordinate_system=; centres outside of the "
        "image get no embedding"
    )


def _tissue(spots: Spots, *, area_um: float) -> Row:
    rows = np.flatnonzero(spots.placed)
    rows = rows[spots.reader.inside(spots.centres[rows])]
    on = np.zeros(len(spots), dtype=bool)
    if len(rows) > 20_000:
        rows = np.sort(np.random.default_rng(0).choice(rows, 20_000, replace=False))
    on[rows] = tissue_share(spots.reader, spots.centres[rows], field_um=area_um) >= _SHARE
    share = float(on[rows].mean()) * float(spots.reader.inside(spots.centres[spots.placed]).mean())
    facts, rich = {"share": share}, share
    value = f"{share:.0%} of the centres lie on tissue"
    if spots.counts is not None:
        total = np.asarray(spots.counts.sum(axis=1)).ravel()[rows]
        rich = float(on[rows][total >= np.median(total)].mean())
        facts["share_rich"] = rich
        value += f", {rich:.0%} of the half with most counts"
    best = max(share, rich)
    if best >= _ON_TISSUE[0]:
        return Row("tissue", value, "ok", facts=facts)
    text = (
        "spots with counts lie on glass: the section may be flipped, turned, shifted or of another scale, or it is "
        "pale (look at it: storm.pl.check)"
    )
    return Row("tissue", value, "warn" if best >= _ON_TISSUE[1] else "fail", text, facts)
