"""Prediction intervals of an expression head: quantiles of its held-out errors, by sequencing depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storm._checks import check_positive


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals:
    """What to add to a prediction for the limits of its interval.

    Attributes
    ----------
    alpha
        Probability that a measurement lies outside, in a section that is like those of the training.
    depths
        Counts per spot of the measurements, ascending, shape (k,).
    lower, upper
        Signed quantiles of measurement − held-out prediction at each depth, float32, shape (k, genes).
    n_spots
        Measurements behind each depth, shape (k,).
    default_depth
        Median counts of the training spots: the depth of an interval for which none is given.
    n_sections, n_patients
        Sections and patients that were held out in turn.
    """

    alpha: float
    depths: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    n_spots: np.ndarray
    default_depth: float
    n_sections: int
    n_patients: int

    def at(self, depth: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Limits of a measurement at some depth, relative to the prediction.

        Parameters
        ----------
        depth
            Counts of the spot; between the depths of the table its logarithm is interpolated, beyond them the nearest
            is taken. ``None`` for the median of the training spots.

        Returns
        -------
        lower, upper : ndarray
            Shape (genes,).

        Raises
        ------
        ValueError
            If the depth is not positive.
        """
        depth = self.default_depth if depth is None else depth
        check_positive(depth, name="depth", unit="counts")
        place = np.interp(np.log(depth), np.log(self.depths), np.arange(len(self.depths)))
        low = int(np.floor(place))
        high = min(low + 1, len(self.depths) - 1)
        share = np.float32(place - low)
        return tuple((1 - share) * table[low] + share * table[high] for table in (self.lower, self.upper))
