"""Checks of how the section lies on its image: the right way round, and not beside itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm.data.orientation import LEAST_FIT, MARGIN, TURNS, Placement, Section, is_better, is_shifted, turned
from storm.data.tissue import section_maps
from storm.pp._report import Row, Verdict

if TYPE_CHECKING:
    from storm.data.spots import Spots
    from storm.data.windows import Windows

#: What a user did who made the mistake.
_LOOKS = {
    "x mirrored": "x looks mirrored",
    "y mirrored": "y looks mirrored (counted from below instead of from above?)",
    "half turn": "the section looks upside down, x and y both mirrored",
    "x and y swapped": "x and y look swapped (row and column taken for x and y?)",
    "quarter turn": "the image looks turned by a quarter",
    "quarter turn back": "the image looks turned by a quarter",
    "swapped and half turn": "x and y look swapped, and both mirrored",
}


def orientation_rows(spots: Spots, windows: Windows) -> list[Row]:
    """Rows about orientation and shift."""
    placed = spots.placed
    maps = section_maps(spots.reader, nuclei=windows.kind == "knn")
    total = None if spots.counts is None else np.asarray(spots.counts.sum(axis=1)).ravel()[placed]
    section = Section(
        maps, maps.place(spots.centres[placed]), total=total, pitch_um=windows.pitch, cells=windows.kind == "knn"
    )
    given, best, *_ = section.orientations()
    facts = {"score": given.score, "tissue": given.tissue, "other": best.turn, "other_score": best.score}
    facts |= {"counts": given.counts, "nuclei": given.nuclei}
    if not section.informed:
        text = "look at it: storm.pl.check"
        return [Row("orientation", "cannot be told: too few spots, or no counts", "info", text, facts)]
    if is_better(best, given):
        px = maps.size_um[0] / spots.reader.levels[0].source.width
        value = f"another one fits clearly better: {_scores(best)}; as given: {_scores(given)}"
        text = f"{_LOOKS[best.turn]}: {_fix(section, best, px=px)}. Look at it: storm.pl.check"
        # Twice the margin is beyond all doubt that real sections leave.
        verdict: Verdict = "fail" if best.score - given.score >= 2 * MARGIN else "warn"
        return [Row("orientation", value, verdict, text, facts)]
    shift = _shift(section, given)
    if given.fit < LEAST_FIT and shift.verdict == "warn":
        value = f"no other one fits better, but a shift does: {_scores(given)}"
        return [Row("orientation", value, "info", "see the shift", facts), shift]
    if given.fit < LEAST_FIT:
        text = (
            "neither this orientation nor any other stands out: counts and stain have little to do with each other "
            "here (or the image is of another section). Look at it: storm.pl.check"
        )
        return [Row("orientation", f"cannot be told: {_scores(given)}", "info", text, facts)]
    value = f"no other one fits clearly better: {_scores(given)}; the next, {best.turn}: {_scores(best)}"
    return [Row("orientation", value, "ok", facts=facts), shift]


def _shift(section: Section, given: Placement) -> Row:
    best = section.shifted()
    # Said of the coordinates in µm, not of the image's own frame: an image may be turned against them.
    x, y = (np.linalg.solve(section.maps.to_frame[:, :2], best.shift_um).round(6) + 0.0).tolist()
    facts = {"x_um": x, "y_um": y, "gain": best.score - given.score}
    if not is_shifted(best, given):
        return Row("shift", "none that would fit clearly better", "ok", facts=facts)
    text = (
        f"counts and stain agree better if {x:+.0f} µm are added to x and {y:+.0f} µm to y: check the alignment of "
        "image and spots (a crop of the image that the coordinates do not know of?)"
    )
    value = f"x {x:+.0f} µm, y {y:+.0f} µm: {_scores(best)}; as given: {_scores(given)}"
    return Row("shift", value, "warn", text, facts)


def _scores(placement: Placement) -> str:
    scores = [f"{placement.tissue:.0%} on tissue"]
    if np.isfinite(placement.counts):
        scores.append(f"counts follow nuclei with r = {placement.counts:.2f}")
    if np.isfinite(placement.nuclei):
        scores.append(f"{(placement.nuclei + 1) / 2:.0%} of cells on a nucleus")
    return ", ".join(scores)


def _fix(section: Section, best: Placement, *, px: float) -> str:
    """How to get from the coordinates as they are to the better ones, in pixels of the full-resolution image."""
    middle = section.middle if best.about == "spots" else None
    size_um = section.maps.size_um[::-1] if best.about == "sides" else section.maps.size_um
    origin = turned(np.zeros((1, 2)), size_um, turn=best.turn, middle=middle)[0] / px
    x, y = (_term(row, at) for row, at in zip(TURNS[best.turn], origin, strict=True))
    if (x, y) == ("y", "x"):
        return "exchange the two columns of the coordinates, or transpose the image"
    frame = {"image": "", "sides": "", "spots": ", which turns the spots about their own middle"}[best.about]
    changes = " and ".join(f"replace {old} by {new}" for old, new in (("x", x), ("y", y)) if old != new)
    return f"in pixels of the image, {changes}{frame}; or turn the image instead"


def _term(row: tuple[int, int], offset: float) -> str:
    name, sign = ("x", row[0]) if row[0] else ("y", row[1])
    if sign < 0:
        return f"{offset:.0f} − {name}"
    return name if abs(offset) < 0.5 else f"{name} {'+' if offset > 0 else '−'} {abs(offset):.0f}"
