"""Choice of an expression head's penalty and epochs, by spots that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from storm._progress import progress
from storm.data.normalise import row_blocks
from storm.data.rows import large_empty
from storm.pretraining.head import HeadConfig, apply_head, train_head
from storm.pretraining.ridge import PENALTIES, HeldOut, RidgePath

#: Epochs of gradient training in the paper.
_EPOCHS = 10
#: Share of the best explained variance that is kept where the held-out spots are of the patients trained on.
_KEEP = 0.7


def choose_head(
    features: np.ndarray,
    expression: np.ndarray | csr_matrix,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    config: HeadConfig,
    *,
    patients: bool = False,
) -> tuple[HeadConfig, np.ndarray]:
    """Choose the penalty, the scale and the number of epochs of a recipe.

    Of the heads in the order of their boldness (linear ones from the strongest penalty to the weakest, then the one
    that gradient training makes of the linear one) the first is chosen that explains ``config.keep`` of the held-out
    variance that the best explains: the mean over folds of 1 − squared error / squared error of the training spots'
    mean. Where patients are held out, each linear head is judged at the scale that suits them best: a penalty shrinks
    the predictions as it changes their direction, and the error alone would trade the one against the other.

    Parameters
    ----------
    features
        Shape (n, f), finite.
    expression
        log1p-normalised expression, shape (n, g); only some rows at a time are made dense.
    folds
        Rows to train on and rows that are held out, of each fold.
    config
        Recipe; only the values that are ``None`` are chosen.
    patients
        Whether each fold holds out a patient, who is as new to its head as the patients to come are.

    Returns
    -------
    config : HeadConfig
        With numbers for ``penalty``, ``scale``, ``epochs`` and ``keep``.
    predictions : ndarray
        Expression of each row by a head that was trained on the other rows of its fold, float32, shape (n, g), in a
        scratch file where it is large; NaN in rows that no fold holds out.
    """
    y = csr_matrix(expression)
    paths = [RidgePath.fit(features[train], y[train]) for train, _ in folds]
    held = [HeldOut(path, features[test], y[test]) for path, (_, test) in zip(paths, folds, strict=True)]
    keep = config.keep or (1.0 if patients else _KEEP)
    penalties = sorted(PENALTIES, reverse=True) if config.penalty is None else [config.penalty]
    own_scale = config.scale is None and config.penalty is None and patients
    scales, gains = [], []
    for penalty in progress(penalties, desc="penalties tried", unit="penalty"):
        moments = [one.moments(path.weights(penalty)) for path, one in zip(paths, held, strict=True)]
        along, own = np.sum(moments, axis=0)
        # The factor on the weights by which they explain most, or 1 where none above 0 helps.
        scale = along / own if own_scale and along > 0 else config.scale or 1.0
        scales.append(float(scale))
        gains.append(float(np.mean([2 * scale * a - scale**2 * o for a, o in moments])))
    first = _first(gains, keep)
    penalty, scale = penalties[first], scales[first]
    plain = replace(config, penalty=penalty, scale=scale, epochs=0, keep=keep)
    bold = replace(plain, epochs=_EPOCHS if config.epochs is None else config.epochs)
    predictions = large_empty(y.shape)
    predictions[:] = np.nan
    if bold.epochs:
        errors = []
        parts = list(zip(paths, held, folds, strict=True))
        for path, one, (train, test) in progress(parts, desc="folds", unit="fold"):
            head = train_head(path, features[train], y[train], bold)
            error = 0.0
            for rows in np.array_split(test, _blocks(len(test), y.shape[1])):
                predictions[rows] = apply_head(head, features[rows])
                error += float(np.square(y[rows].toarray() - predictions[rows], dtype=np.float64).sum())
            errors.append(error / one.total)
        gain = 1 - float(np.mean(errors))
        if config.epochs is not None or (_first([gains[first], max(gains), gain], keep) > 0 and gain > gains[first]):
            return bold, predictions
    for path, (_, test) in zip(paths, folds, strict=True):
        weights = scale * path.weights(penalty)
        for rows in np.array_split(test, _blocks(len(test), y.shape[1])):
            predictions[rows] = path.predict(features[rows], weights)
    return plain, predictions


def _blocks(n: int, n_genes: int) -> int:
    """Number of blocks of rows whose values are dense at a time."""
    return sum(1 for _ in row_blocks((n, n_genes)))


def _first(gains: list[float], keep: float) -> int:
    """Position of the first gain that is near enough to the best; 0 where no gain is positive."""
    best = max(gains)
    return 0 if best <= 0 else next(i for i, gain in enumerate(gains) if gain >= keep * best)
