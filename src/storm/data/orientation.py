"""Whether spots lie on their image the right way round: counts against nuclei over flips, quarter turns and shifts.

Where there is tissue there are counts, and where nuclei are dense there are more of them. Both hold on the section as
it is, and on its mirror images only by chance. Three numbers measure how well a placement fits:

- the share of the spots' area that is tissue,
- Spearman's correlation of total counts with haematoxylin over the spots, or over squares of 100 µm that hold bins or
  cells,
- for cells, how many centres are darker in haematoxylin than their surroundings (they are nuclei), scaled to −1…1.

The fit is the better of the last two, the score of a placement is tissue plus fit. Margins come from real sections:
``docs/checking.md`` has the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter
from scipy.stats import rankdata

from storm.data.tissue import SectionMaps

#: The seven ways to lay a section down wrongly, and the right one: x', y' in terms of x, y.
TURNS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "as given": ((1, 0), (0, 1)),
    "x mirrored": ((-1, 0), (0, 1)),
    "y mirrored": ((1, 0), (0, -1)),
    "half turn": ((-1, 0), (0, -1)),
    "x and y swapped": ((0, 1), (1, 0)),
    "quarter turn": ((0, -1), (1, 0)),
    "quarter turn back": ((0, 1), (-1, 0)),
    "swapped and half turn": ((0, -1), (-1, 0)),
}
#: Difference in score from which another orientation is called the right one.
MARGIN = 0.25
#: Fit that another orientation must reach to be called the right one.
LEAST_FIT = 0.5
#: Difference in score from which a section is called shifted.
SHIFT_MARGIN = 0.1
#: Edge of the squares over which bins and cells are summed, in µm.
_SQUARE_UM = 100.0
#: Bins or cells that the median square must hold for sums to be used.
_PER_SQUARE = 5
#: Places without which orientations are not compared.
_LEAST = 30
#: Share of the pitch over which the image is averaged around a spot.
_SPOT = 0.6
#: Cells whose nuclei are looked up, at most.
_MOST_CELLS = 5000
#: Scores that differ by less are taken as equal.
_TIE = 0.02
#: Step of the search for the shift of cells, in µm.
_FINE_STEP_UM = 2.5


@dataclass(frozen=True)
class Placement:
    """How well one placement fits.

    Attributes
    ----------
    turn
        Key of :data:`TURNS`.
    about
        ``"image"``: in the frame of the image, as if its axes had been mistaken; ``"sides"``: the same, with its width
        and height mistaken for each other; ``"spots"``: about the middle of the spots' own extent.
    shift_um
        x and y added after that, in µm.
    tissue
        Share of the spots' area on tissue.
    counts
        Rank correlation of counts with haematoxylin; NaN where there is too little to correlate.
    nuclei
        Twice the share of centres that are darker than their surroundings, less one; NaN except for cells.
    """

    turn: str
    about: str
    shift_um: tuple[float, float]
    tissue: float
    counts: float
    nuclei: float

    @property
    def fit(self) -> float:
        """The better of ``counts`` and ``nuclei``; NaN if neither is known."""
        known = [value for value in (self.counts, self.nuclei) if np.isfinite(value)]
        return max(known) if known else float("nan")

    @property
    def score(self) -> float:
        """Tissue plus fit."""
        return self.tissue + (self.fit if np.isfinite(self.fit) else 0.0)


class Section:
    """Spots over the maps of their image, ready to be placed in other ways.

    Parameters
    ----------
    maps
        Maps of the image.
    points
        Centres in the frame of the image, in µm, shape (n, 2), finite.
    total
        Total counts, shape (n,), or ``None``.
    pitch_um
        Distance between neighbouring spots in µm.
    cells
        Whether the spots are cells, whose centres are nuclei.
    """

    def __init__(
        self, maps: SectionMaps, points: np.ndarray, *, total: np.ndarray | None, pitch_um: float, cells: bool
    ) -> None:
        self.maps, self.points = maps, points
        self.middle = (points.min(axis=0) + points.max(axis=0)) / 2
        self.cells = _some(points) if cells and maps.nuclei is not None else None
        spots = not cells and pitch_um >= _SQUARE_UM / 2
        total = None if total is None else np.asarray(total, dtype=np.float64)
        if spots:
            self.places, self.step_um, area_um = points, pitch_um, _SPOT * pitch_um
        else:
            self.places, total, per_square = _in_squares(points, total)
            self.step_um = area_um = _SQUARE_UM
            if per_square < _PER_SQUARE:
                self.places, total, area_um = points, None, _SPOT * min(pitch_um, _SQUARE_UM)
        self.ranks: np.ndarray | None = None
        if total is not None and len(self.places) >= _LEAST and np.ptp(total) > 0:
            self.ranks = _ranks(total)
        width = max(1, round(area_um / maps.step_um))
        self._tissue, self._stain = (
            uniform_filter(plane, width, mode="constant") for plane in (maps.tissue, maps.haematoxylin)
        )

    @property
    def informed(self) -> bool:
        """Whether there is enough to tell orientations apart."""
        return self.ranks is not None or (self.cells is not None and len(self.cells) >= _LEAST)

    def place(self, turn: str, *, about: str = "image", shift_um: tuple[float, float] = (0.0, 0.0)) -> Placement:
        """Measure how well the section fits if it is turned, then shifted.

        Parameters
        ----------
        turn
            Key of :data:`TURNS`.
        about
            ``"image"``, ``"sides"`` or ``"spots"``, see :class:`Placement`.
        shift_um
            x and y, in µm.

        Returns
        -------
        Placement
        """
        width, height = self.maps.size_um
        size_um = (height, width) if about == "sides" else (width, height)
        middle = self.middle if about == "spots" else None
        at = turned(self.places, size_um, turn=turn, middle=middle, shift_um=shift_um)
        counts = nuclei = float("nan")
        if self.ranks is not None:
            stain = _ranks(_at(self._stain, at, self.maps.step_um))
            counts = 0.0 if stain is None else float(stain @ self.ranks)
        if self.cells is not None and self.maps.nuclei is not None:
            cells = turned(self.cells, size_um, turn=turn, middle=middle, shift_um=shift_um)
            contrast = _at(self.maps.nuclei, cells, self.maps.fine_um)
            nuclei = float(2 * (contrast > 0).mean() - 1)
        tissue = float(_at(self._tissue, at, self.maps.step_um).mean())
        return Placement(turn, about, shift_um, tissue, counts, nuclei)

    def orientations(self) -> list[Placement]:
        """As given, then every other way round, the best score first."""
        ways = [(turn, about) for about in ("image", "spots") for turn in TURNS if turn != "as given"]
        ways += [(turn, "sides") for turn in ("quarter turn", "quarter turn back", "swapped and half turn")]
        others = [self.place(turn, about=about) for turn, about in ways]
        # Where the spots are in the middle of the image, it matters little about what they are turned.
        return [self.place("as given"), *sorted(others, key=lambda p: -p.score - _TIE * (p.about == "image"))]

    def shifted(self) -> Placement:
        """The shift that scores best: up to four pitches to each side, for cells also within 20 µm; or none at all."""
        best = self.place("as given")
        if self.cells is not None and self.maps.nuclei is not None:
            # The darkest place is a peak, where the share of cells on a nucleus is a plateau.
            dark = [_at(self.maps.nuclei, self.cells + s, self.maps.fine_um).mean() for s in _steps(_FINE_STEP_UM)]
            best = self._better(best, _steps(_FINE_STEP_UM)[[int(np.argmax(dark))]])
        return self._better(best, _steps(self.step_um / 2))

    def _better(self, best: Placement, shifts: np.ndarray) -> Placement:
        for dx, dy in shifts.tolist():
            tried = self.place("as given", shift_um=(dx, dy))
            best = tried if tried.score > best.score else best
        return best


def is_better(other: Placement, given: Placement) -> bool:
    """Whether another orientation fits so clearly better that the given one is called wrong."""
    return other.fit >= LEAST_FIT and other.score - given.score >= MARGIN


def is_shifted(other: Placement, given: Placement) -> bool:
    """Whether a shift fits so clearly better that the section is called shifted.

    If a section does not fit as it is, one of many shifts might fit by chance: then the margin is that of the
    orientations.
    """
    margin = SHIFT_MARGIN if given.fit >= LEAST_FIT else MARGIN
    return other.fit >= LEAST_FIT and other.score - given.score >= margin


def turned(
    points: np.ndarray,
    size_um: tuple[float, float],
    *,
    turn: str,
    middle: np.ndarray | None = None,
    shift_um: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Points as they lie after a turn and a shift.

    In the frame of the image a mirrored axis is counted from its other end (x becomes width − x), and swapped axes are
    swapped about the corner, as happens to coordinates whose columns or whose image were mistaken.

    Parameters
    ----------
    points
        x and y, shape (n, 2).
    size_um
        Width and height of the image in µm.
    turn
        Key of :data:`TURNS`.
    middle
        Point about which to turn, x and y in µm; by default the frame of the image.
    shift_um
        x and y in µm, added in the end.

    Returns
    -------
    ndarray
        x and y in µm, shape (n, 2).
    """
    matrix = np.array(TURNS[turn], dtype=np.float64)
    if middle is not None:
        return (points - middle) @ matrix.T + middle + shift_um
    return points @ matrix.T + np.where(matrix.sum(axis=1) < 0, size_um, 0.0) + shift_um


def _steps(step_um: float) -> np.ndarray:
    """Shifts to try, up to eight steps to each side, shape (289, 2)."""
    line = np.arange(-8, 9) * step_um
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def _at(plane: np.ndarray, points: np.ndarray, step_um: float) -> np.ndarray:
    """Values of a map at points, between pixels by interpolation; 0 beyond its edge."""
    px = points / step_um - 0.5
    return map_coordinates(plane, [px[:, 1], px[:, 0]], order=1, mode="constant", cval=0.0)


def _ranks(values: np.ndarray) -> np.ndarray | None:
    """Ranks of mean 0 and length 1; ``None`` if all values are equal."""
    ranks = rankdata(values)
    ranks -= ranks.mean()
    length = np.sqrt((ranks**2).sum())
    return None if length == 0 else ranks / length


def _in_squares(points: np.ndarray, total: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Middles and total counts of squares that are at least a quarter as full as the median one, and the median."""
    square = np.floor((points - points.min(axis=0)) / _SQUARE_UM).astype(np.int64)
    _, of = np.unique(square[:, 0] * (square[:, 1].max() + 1) + square[:, 1], return_inverse=True)
    size = np.bincount(of)
    middles = np.column_stack([np.bincount(of, weights=points[:, axis]) / size for axis in (0, 1)])
    full = size >= 0.25 * np.median(size)
    summed = None if total is None else np.bincount(of, weights=total)[full]
    return middles[full], summed, float(np.median(size))


def _some(points: np.ndarray) -> np.ndarray:
    """Points spread over the section, a few thousand at most."""
    if len(points) <= _MOST_CELLS:
        return points
    return points[np.random.default_rng(0).choice(len(points), _MOST_CELLS, replace=False)]
