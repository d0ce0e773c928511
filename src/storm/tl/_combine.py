"""From the parts of a read-out to one vector per spot."""

from __future__ import annotations

import numpy as np

from storm.data.normalise import row_blocks
from storm.tl._components import finite_rows


def combine(
    parts: dict[str, np.ndarray], tokens: dict[str, np.ndarray], weights: dict[str, float]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One vector per spot, its modalities side by side.

    Each part is centred over the section and scaled to unit length per spot: k-means then compares what a spot is made
    of, not how far it lies from the average. Nothing as large as the result is held beside it.

    Parameters
    ----------
    parts
        Read-out; ``"<name>_input"`` belongs to modality ``"<name>"``.
    tokens
        Spot tokens per modality, which tell where a spot has any.
    weights
        Factor of each modality.

    Returns
    -------
    whole
        Float32, shape (n, d). All NaN where a spot has no token at all; zeros, that is the mean, where only one
        modality says nothing.
    by_modality
        Views of the same, per modality.
    """
    anything = np.any([finite_rows(values) for values in tokens.values()], axis=0)
    known = {key: finite_rows(part) for key, part in parts.items()}
    nothing = ~anything | ~np.any(list(known.values()), axis=0)
    names = dict.fromkeys(key.removesuffix("_input") for key in parts)
    ordered = [(name, key) for name in names for key in parts if key.removesuffix("_input") == name]
    whole = np.empty((len(nothing), sum(part.shape[1] for part in parts.values())), dtype=np.float32)
    by_modality, end, begins = {}, 0, {}
    for name, key in ordered:
        begin, end = end, end + parts[key].shape[1]
        _fill(whole[:, begin:end], parts[key], known[key], np.float32(weights.get(name, 1.0)))
        by_modality[name] = whole[:, begins.setdefault(name, begin) : end]
    whole[nothing] = np.nan
    return whole, by_modality


def _fill(out: np.ndarray, part: np.ndarray, known: np.ndarray, weight: np.float32) -> None:
    """Rows of unit length around the section's mean, times a weight; zeros where a row is not known."""
    total = np.zeros(part.shape[1])
    for rows in row_blocks(part.shape):
        total += part[rows][known[rows]].sum(axis=0, dtype=np.float64)
    mean = (total / max(known.sum(), 1)).astype(np.float32)
    for rows in row_blocks(part.shape):
        centred = part[rows] - mean
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        unit = centred / np.where(length > 1e-8, length, 1.0) * weight
        out[rows] = np.where(known[rows, None], unit, 0)
