"""How far to believe an expression head: intervals around its predictions, and tiles unlike those of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from storm._checks import check_positive
from storm._loading.fields import Fields
from storm.data.novelty import distances
from storm.metrics.intervals import conformal_p
from storm.model.weights import read_weights, save_state

#: File beside those of the head.
CALIBRATION = "head_calibration.safetensors"
_TABLE, _TILES = ("depths", "lower", "upper", "n_spots"), ("tile_mean", "tile_std", "reference", "distances")


@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals:
    """What to add to a prediction for the limits of its interval.

    Attributes
    ----------
    alpha
        Probability that a measurement lies outside.
    holds_for
        ``"section"``: for another section of the training patients; for a new patient the level is nominal.
        ``"patient"``: for a section of a new patient.
    depths
        Counts per spot of the measurements, ascending, shape (k,).
    lower, upper
        Signed quantiles of measurement − held-out prediction at each depth, float32, shape (k, genes).
    n_spots
        Measurements behind each depth, shape (k,).
    default_depth
        Median counts of the training spots: the depth of an interval for which none is given.
    """

    alpha: float
    holds_for: Literal["section", "patient"]
    depths: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    n_spots: np.ndarray
    default_depth: float

    @property
    def promise(self) -> dict[str, Any]:
        """Their level, and what it holds for."""
        return {"interval_level": 1 - self.alpha, "interval_holds_for": self.holds_for}

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
            Float32, shape (genes,).

        Raises
        ------
        ValueError
            If the depth is not positive.
        """
        depth = self.default_depth if depth is None else depth
        check_positive(depth, name="depth", unit="counts")
        place = float(np.interp(np.log(depth), np.log(self.depths), np.arange(len(self.depths))))
        low = int(place)
        high, share = min(low + 1, len(self.depths) - 1), np.float32(place - low)
        lower, upper = ((1 - share) * table[low] + share * table[high] for table in (self.lower, self.upper))
        return lower, upper


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Tiles of the training, with which others are compared.

    Attributes
    ----------
    mean, std
        Of the tile embeddings of the training spots, by which tiles are standardised, float32, shape (he_dim,).
    reference
        Standardised embeddings of some of them, float32, shape (m, he_dim).
    distances
        Distance of training tiles to reference tiles of other sections (or parts of the only one), shape (n,).
    """

    mean: np.ndarray
    std: np.ndarray
    reference: np.ndarray
    distances: np.ndarray

    def p(self, tiles: np.ndarray) -> np.ndarray:
        """How usual tiles are.

        Parameters
        ----------
        tiles
            Tile embeddings as the encoder gives them, shape (n, he_dim).

        Returns
        -------
        ndarray
            Share of training tiles that lie at least as far from tiles of other sections, shape (n,): 0.05 and less for
            a twentieth of the tiles of a section like those of the training. NaN for a spot without a tile.
        """
        return conformal_p(distances((tiles - self.mean) / self.std, self.reference), self.distances)


def save_calibration(path: Path, intervals: Intervals | None, novelty: Novelty | None) -> dict[str, Any] | None:
    """Write what there is into a folder; returns the fields that go into the head's configuration.

    Parameters
    ----------
    path
        The folder.
    intervals, novelty
        What there is.
    """
    state: dict[str, np.ndarray] = {}
    fields: dict[str, Any] = {}
    if intervals is not None:
        state |= {name: getattr(intervals, name) for name in _TABLE}
        fields |= {name: getattr(intervals, name) for name in ("alpha", "holds_for", "default_depth")}
    if novelty is not None:
        arrays = (novelty.mean, novelty.std, novelty.reference, novelty.distances)
        state |= dict(zip(_TILES, arrays, strict=True))
    if not state:
        return None
    tensors = {name: torch.from_numpy(np.asarray(values, dtype=np.float32)) for name, values in state.items()}
    return fields | {"sha256": save_state(tensors, path / CALIBRATION)}


def read_calibration(path: Path, fields: Fields, *, n_genes: int) -> tuple[Intervals | None, Novelty | None]:
    """Read what :func:`save_calibration` wrote.

    Parameters
    ----------
    path
        The folder.
    fields
        Its fields.
    n_genes
        Genes of the head.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, does not match its checksum, or its arrays do not fit each other.
    """
    state = {name: t.numpy() for name, t in read_weights(path / CALIBRATION, expected=fields.sha256("sha256")).items()}
    intervals, novelty = None, None
    if "alpha" in fields:
        depths, lower, upper, n_spots = _arrays(state, _TABLE)
        k = len(depths)
        fits = lower.shape == upper.shape == (k, n_genes) and n_spots.shape == (k,) and depths.shape == (k,) and k > 0
        if not fits or (np.diff(depths) <= 0).any() or (depths <= 0).any() or (lower > upper).any():
            msg = f"the intervals in {CALIBRATION!r} do not fit a head of {n_genes} genes; copy the folder again"
            raise ValueError(msg)
        if fields.text("holds_for") not in ("section", "patient"):
            fields.refuse("holds_for", "'section' or 'patient'")
        if not 0 < fields.number("alpha") < 1:
            fields.refuse("alpha", "a number between 0 and 1")
        if fields.number("default_depth") <= 0:
            fields.refuse("default_depth", "a number above 0")
        intervals = Intervals(
            alpha=fields.number("alpha"),
            holds_for=fields.raw("holds_for"),
            depths=depths,
            lower=lower,
            upper=upper,
            n_spots=n_spots.astype(int),
            default_depth=fields.number("default_depth"),
        )
    if _TILES[0] in state:
        mean, std, reference, apart = _arrays(state, _TILES)
        fits = mean.shape == std.shape == reference.shape[1:] and apart.ndim == 1 and len(apart) > 0
        if not fits or (std <= 0).any():
            msg = f"the reference tiles in {CALIBRATION!r} do not fit each other; copy the folder again"
            raise ValueError(msg)
        novelty = Novelty(mean=mean, std=std, reference=reference, distances=apart)
    return intervals, novelty


def _arrays(state: dict[str, np.ndarray], names: tuple[str, ...]) -> list[np.ndarray]:
    missing = [name for name in names if name not in state]
    if missing:
        msg = f"{CALIBRATION!r} lacks {missing}; it holds {sorted(state)}; copy the folder again"
        raise ValueError(msg)
    return [state[name] for name in names]
