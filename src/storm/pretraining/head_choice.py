"""Choice of an expression head's penalty and epochs, by spots that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from storm.pretraining.head import HeadConfig, apply_head, train_head
from storm.pretraining.ridge import PENALTIES, RidgePath

#: Epochs of gradient training in the paper.
_EPOCHS = 10


def choose_head(
    features: np.ndarray,
    expression: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    config: HeadConfig,
) -> tuple[HeadConfig, list[np.ndarray]]:
    """Choose the penalty and the number of epochs of a recipe.

    Of the heads in the order of their boldness (linear ones from the strongest penalty to the weakest, then the one
    that gradient training makes of the linear one) the first is chosen that explains ``config.keep`` of the held-out
    variance that the best explains: the mean over folds of 1 − squared error / squared error of the training spots'
    mean.

    Parameters
    ----------
    features
        Shape (n, f), finite.
    expression
        log1p-normalised expression, shape (n, g); NaN marks a gene that a section did not measure.
    folds
        Rows to train on and rows that are held out, of each fold.
    config
        Recipe; only the values that are ``None`` are chosen.

    Returns
    -------
    config : HeadConfig
        With numbers for ``penalty`` and ``epochs``.
    predictions : list of ndarray
        Expression of each fold's held-out rows by a head that was trained on its other rows.
    """
    paths = [RidgePath.fit(features[train], expression[train]) for train, _ in folds]
    held = [(features[test], expression[test]) for _, test in folds]

    def explained(predictions: list[np.ndarray]) -> float:
        errors = [
            np.nansum(np.square(y - predicted)) / max(np.nansum(np.square(y - path.offset)), 1e-12)
            for path, (_, y), predicted in zip(paths, held, predictions, strict=True)
        ]
        return 1 - float(np.mean(errors))

    def linear(penalty: float) -> list[np.ndarray]:
        return [path.predict(x, penalty) for path, (x, _) in zip(paths, held, strict=True)]

    def trained(chosen: HeadConfig) -> list[np.ndarray]:
        heads = [
            train_head(path, features[train], expression[train], chosen)
            for path, (train, _) in zip(paths, folds, strict=True)
        ]
        return [apply_head(head, x) for head, (x, _) in zip(heads, held, strict=True)]

    strongest_first = sorted(PENALTIES, reverse=True) if config.penalty is None else [config.penalty]
    gains = [explained(linear(penalty)) for penalty in strongest_first]
    penalty = strongest_first[_first(gains, config.keep)]
    plain = replace(config, penalty=penalty, epochs=0)
    bold = replace(plain, epochs=_EPOCHS if config.epochs is None else config.epochs)
    if not bold.epochs:
        return plain, linear(penalty)
    predictions = trained(bold)
    if config.epochs is not None:
        return bold, predictions
    gains = [gains[strongest_first.index(penalty)], max(gains), explained(predictions)]
    return (plain, linear(penalty)) if _first(gains, config.keep) == 0 or gains[2] <= gains[0] else (bold, predictions)


def _first(gains: list[float], keep: float) -> int:
    """Position of the first gain that is near enough to the best; 0 where no gain is positive."""
    best = max(gains)
    return 0 if best <= 0 else next(i for i, gain in enumerate(gains) if gain >= keep * best)
