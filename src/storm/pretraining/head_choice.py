"""Choice of an expression head's penalty and epochs, by spots that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from storm.pretraining.head import HeadConfig, apply_head, train_head
from storm.pretraining.ridge import PENALTIES, RidgePath

#: Epochs of gradient training in the paper.
_EPOCHS = 10
#: Share of the best explained variance that is kept where the held-out spots are of the patients trained on.
_KEEP = 0.7


def choose_head(
    features: np.ndarray,
    expression: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    config: HeadConfig,
    *,
    patients: bool = False,
) -> tuple[HeadConfig, list[np.ndarray]]:
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
        log1p-normalised expression, shape (n, g); NaN marks a gene that a section did not measure.
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
    predictions : list of ndarray
        Expression of each fold's held-out rows by a head that was trained on its other rows.
    """
    paths = [RidgePath.fit(features[train], expression[train]) for train, _ in folds]
    held = [(features[test], expression[test]) for _, test in folds]
    total = [max(np.nansum(np.square(y - path.offset)), 1e-12) for path, (_, y) in zip(paths, held, strict=True)]
    keep = config.keep or (1.0 if patients else _KEEP)

    def explained(predictions: list[np.ndarray]) -> float:
        errors = [
            np.nansum(np.square(y - predicted)) / whole
            for (_, y), predicted, whole in zip(held, predictions, total, strict=True)
        ]
        return 1 - float(np.mean(errors))

    def linear(penalty: float, scale: float = 1.0) -> list[np.ndarray]:
        return [path.predict(x, penalty, scale=scale) for path, (x, _) in zip(paths, held, strict=True)]

    def scaled(penalty: float) -> float:
        """The factor on the weights by which they explain most, or 1 where none above 0 helps."""
        along, own = 0.0, 0.0
        for path, (_, y), predicted, whole in zip(paths, held, linear(penalty), total, strict=True):
            moved = np.where(np.isnan(y), 0, predicted - path.offset)
            along += float((moved * np.nan_to_num(y - path.offset)).sum()) / whole
            own += float(np.square(moved).sum()) / whole
        return along / own if along > 0 else 1.0

    def trained(chosen: HeadConfig) -> list[np.ndarray]:
        heads = [
            train_head(path, features[train], expression[train], chosen)
            for path, (train, _) in zip(paths, folds, strict=True)
        ]
        return [apply_head(head, x) for head, (x, _) in zip(heads, held, strict=True)]

    strongest_first = sorted(PENALTIES, reverse=True) if config.penalty is None else [config.penalty]
    if config.scale is None and config.penalty is None and patients:
        scales = [scaled(penalty) for penalty in strongest_first]
    else:
        scales = [1.0 if config.scale is None else config.scale] * len(strongest_first)
    gains = [explained(linear(*head)) for head in zip(strongest_first, scales, strict=True)]
    first = _first(gains, keep)
    penalty, scale = strongest_first[first], scales[first]
    plain = replace(config, penalty=penalty, scale=scale, epochs=0, keep=keep)
    bold = replace(plain, epochs=_EPOCHS if config.epochs is None else config.epochs)
    if not bold.epochs:
        return plain, linear(penalty, scale)
    predictions = trained(bold)
    if config.epochs is not None:
        return bold, predictions
    gains = [gains[first], max(gains), explained(predictions)]
    return (plain, linear(penalty, scale)) if _first(gains, keep) == 0 or gains[2] <= gains[0] else (bold, predictions)


def _first(gains: list[float], keep: float) -> int:
    """Position of the first gain that is near enough to the best; 0 where no gain is positive."""
    best = max(gains)
    return 0 if best <= 0 else next(i for i, gain in enumerate(gains) if gain >= keep * best)
