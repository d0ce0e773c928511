"""From the parts of a read-out to one vector per spot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from storm.data.components import finite_rows
from storm.data.memory import large_array
from storm.data.normalise import row_blocks


def combine(
    parts: dict[str, np.ndarray],
    exists: Mapping[str, np.ndarray],
    weights: dict[str, float],
    *,
    means: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One vector per spot, its modalities side by side.

    Each part is centred over the section and scaled to unit length per spot: k-means then compares what a spot is made
    of, not how far it lies from the average. The section's own components keep their lengths, whose mean square is 1.
    Nothing as large as the result is held beside it.

    Parameters
    ----------
    parts
        Read-out; ``"<name>_input"`` and ``"<name>_own"`` belong to modality ``"<name>"``.
    exists
        Rows that have a token, bool, shape (n,), per modality.
    weights
        Factor of each modality.
    means
        Of some parts what they are centred by, shape (d,): the mean of a study. The others have the section's own.

    Returns
    -------
    whole
        Float32, shape (n, d). All NaN where a spot has no token at all; zeros, that is the mean, where only one
        modality has no token.
    by_modality
        Views of the same, per modality.
    """
    anything = np.any(list(exists.values()), axis=0)
    known = {key: finite_rows(part) for key, part in parts.items()}
    nothing = ~anything | ~np.any(list(known.values()), axis=0)
    whole = large_array((len(nothing), sum(part.shape[1] for part in parts.values())))
    by_modality: dict[str, np.ndarray] = {}
    begins: dict[str, int] = {}
    end = 0
    for key in in_order(parts):
        name = modality_of(key)
        begin, end = end, end + parts[key].shape[1]
        weight = np.float32(weights.get(name, 1.0))
        mean = None if means is None else means.get(key)
        _fill(whole[:, begin:end], parts[key], known[key], weight, mean=mean, unit=not key.endswith("_own"))
        by_modality[name] = whole[:, begins.setdefault(name, begin) : end]
    whole[nothing] = np.nan
    return whole, by_modality


def in_order(parts: Iterable[str]) -> list[str]:
    """Parts of a read-out as their columns follow each other: those of one modality side by side."""
    parts = list(parts)
    names = dict.fromkeys(map(modality_of, parts))
    return [key for name in names for key in parts if modality_of(key) == name]


def modality_of(key: str) -> str:
    """Modality to which a part of a read-out belongs."""
    return key.removesuffix("_input").removesuffix("_own")


def _fill(
    out: np.ndarray,
    part: np.ndarray,
    known: np.ndarray,
    weight: np.float32,
    *,
    mean: np.ndarray | None,
    unit: bool,
) -> None:
    """Rows around a mean, of unit length if asked for, times a weight; zeros where a row is not known."""
    if mean is None:
        total = np.zeros(part.shape[1])
        for rows in row_blocks(part.shape):
            total += part[rows][known[rows]].sum(axis=0, dtype=np.float64)
        mean = (total / max(known.sum(), 1)).astype(np.float32)
    for rows in row_blocks(part.shape):
        block = part[rows] - mean
        if unit:
            length = np.linalg.norm(block, axis=1, keepdims=True)
            block /= np.where(length > 1e-8, length, 1.0)
        block *= weight
        block[~known[rows]] = 0
        out[rows] = block
