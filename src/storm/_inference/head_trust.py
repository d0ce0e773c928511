"""What a head says about its own predictions: reliability and intervals of each gene, tiles unlike its training."""

from __future__ import annotations

import numpy as np

from storm._keys import VAR_ENDINGS
from storm._loading import ExpressionHead
from storm._logging import warn
from storm.data.novelty import FIVEFOLD, UNUSUAL


def useful_genes(head: ExpressionHead, columns: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Leave out genes whose predictions were no better than chance on held-out spots.

    Parameters
    ----------
    head
        The head.
    columns
        Positions of genes among its own.

    Returns
    -------
    columns : ndarray
        Those with a held-out r above 0, or without one.
    left_out : list of str
        Names of the others.
    """
    r = head.reliability[columns]
    useless = r <= 0  # a NaN compares as false: nothing was measured
    return columns[~useless], [head.genes[i] for i in columns[useless]]


def gene_columns(
    head: ExpressionHead, columns: np.ndarray, *, key_added: str, depth: float | None = None
) -> dict[str, np.ndarray]:
    """Columns of ``var`` that say how far to believe each gene.

    Parameters
    ----------
    head
        The head.
    columns
        Positions of genes among its own, shape (g,).
    key_added
        Key of the prediction.
    depth
        Counts per spot of the measurement that an interval is for; the median of the training spots by default.

    Returns
    -------
    dict of str to ndarray
        Float32, shape (g,), by name of the column: held-out r, its lowest in a section, the number of sections and
        patients behind it, whether it was above 0 in every section of two patients or more (1 or 0; NaN for one
        patient), and the limits of the interval relative to the prediction. What the head does not know is NaN.
    """
    n = len(columns)
    unknown = np.full(n, np.nan, dtype=np.float32)
    lowest = unknown if head.reliability_min is None else head.reliability_min[columns]
    several = np.where(np.isfinite(lowest), lowest > 0, np.nan) if head.n_patients > 1 else unknown
    lower, upper = (unknown, unknown) if head.intervals is None else (v[columns] for v in head.intervals.at(depth))
    values = (
        head.reliability[columns],
        lowest,
        np.full(n, head.n_sections),
        np.full(n, head.n_patients),
        several,
        lower,
        upper,
    )
    return {
        f"{key_added}{ending}": np.asarray(value, dtype=np.float32)
        for ending, value in zip(VAR_ENDINGS, values, strict=True)
    }


def limits(predicted: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Limits of the interval of each spot, shape of the prediction; expression is never below 0.

    Parameters
    ----------
    predicted
        Shape (n, g).
    lower, upper
        Relative to the prediction, shape (g,).
    """
    return np.maximum(predicted + lower, 0), np.maximum(predicted + upper, 0)


def unusual_tiles(head: ExpressionHead, tiles: np.ndarray, *, section: str = "") -> tuple[np.ndarray, float | None]:
    """How usual tiles are among those of the head's training, with a warning where many are not.

    Parameters
    ----------
    head
        The head.
    tiles
        Tile embeddings as the encoder gives them, shape (n, he_dim).
    section
        Name of the section, for the warning.

    Returns
    -------
    p : ndarray
        Shape (n,); NaN without a tile, or where the head has nothing to compare with.
    share : float or None
        Share of the tiles with a p of at most 0.05.
    """
    if head.novelty is None:
        return np.full(len(tiles), np.nan), None
    p = head.novelty.p(tiles)
    known = p[np.isfinite(p)]
    share = float((known <= UNUSUAL).mean()) if len(known) else 0.0
    if share > FIVEFOLD:
        of = f" of section {section!r}" if section else ""
        msg = (
            f"{share:.0%} of the tiles{of} are unlike those that the head was trained on (5 % are expected): another "
            f"tissue, species, stain or scanner? The reliability of its genes was not measured on such tiles"
        )
        warn(msg)
    return p, share
