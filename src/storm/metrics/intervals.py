"""Conformal prediction: quantiles of held-out errors that give intervals their coverage, and how much they cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["conformal_p", "conformal_quantile", "hierarchical_quantile", "interval_coverage"]


def conformal_quantile(scores: ArrayLike, *, alpha: float = 0.1) -> np.ndarray:
    """Bound that a new score exceeds with a probability of at most ``alpha``.

    It is the ⌈(n + 1)(1 − α)⌉-th smallest of n calibration scores. The promise holds for a new score that is
    exchangeable with them: another spot of the same sections, not a spot of another patient.

    Parameters
    ----------
    scores
        Calibration scores, such as signed or absolute errors, shape (n,) or (n, g) for g genes; NaN ones do not count.
    alpha
        Probability of exceeding the bound, between 0 and 1.

    Returns
    -------
    ndarray
        Shape () or (g,); infinite where there are too few scores for this ``alpha``.

    Raises
    ------
    ValueError
        If ``alpha`` does not lie between 0 and 1.

    References
    ----------
    Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005); Lei et al., Journal of the American
    Statistical Association 113, 1094 (2018).

    Examples
    --------
    Absolute errors on 99 calibration spots; nine spots are too few to promise 95 %:

    >>> import numpy as np
    >>> import storm
    >>> float(storm.metrics.conformal_quantile(np.arange(99.0), alpha=0.1))
    89.0
    >>> float(storm.metrics.conformal_quantile(np.arange(9.0), alpha=0.05))
    inf
    """
    _check_alpha(alpha)
    # NaN is sorted to the end.
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=0)
    n = np.isfinite(ordered).sum(axis=0)
    # (n + 1)(1 − α) may miss a whole number by its last bit.
    rank = np.ceil(np.round((n + 1) * (1 - alpha), 9)).astype(int)
    if not len(ordered):
        return np.full(ordered.shape[1:], np.inf)
    at = np.minimum(rank, np.maximum(n, 1)) - 1
    bound = np.take_along_axis(ordered, np.expand_dims(np.asarray(at), 0), axis=0)[0]
    return np.where(rank <= n, bound, np.inf)


def hierarchical_quantile(groups: Sequence[ArrayLike], *, alpha: float = 0.1) -> np.ndarray:
    """Bound that a score of a new group exceeds with a probability of at most ``alpha``.

    Each of K groups has the weight 1 / (K + 1), shared evenly by its scores, and the group to come has the rest, at
    infinity: at an ``alpha`` of 0.1 the bound is finite from nine groups on.

    Parameters
    ----------
    groups
        Calibration scores of each group, such as a patient, shape (n_i,) or (n_i, g) for g genes, finite.
    alpha
        Probability of exceeding the bound, between 0 and 1.

    Returns
    -------
    ndarray
        Shape () or (g,); infinite where there are too few groups for this ``alpha``.

    Raises
    ------
    ValueError
        If ``alpha`` does not lie between 0 and 1, there is no group, or a group has no score.

    References
    ----------
    Lee, Barber & Willett, Distribution-free inference with hierarchical data, arXiv:2306.06342.

    Examples
    --------
    Errors on the spots of twenty patients; from three patients nothing can be promised for a fourth:

    >>> import numpy as np
    >>> import storm
    >>> rng = np.random.default_rng(0)
    >>> patients = [rng.exponential(size=50) for _ in range(20)]
    >>> bool(np.isfinite(storm.metrics.hierarchical_quantile(patients, alpha=0.1)))
    True
    >>> float(storm.metrics.hierarchical_quantile(patients[:3], alpha=0.1))
    inf
    """
    _check_alpha(alpha)
    values = [np.asarray(group, dtype=np.float64) for group in groups]
    if not values or any(not np.size(group) or not np.isfinite(group).all() for group in values):
        msg = f"there are {len(values)} groups, and every one needs a finite score or more; leave those without any out"
        raise ValueError(msg)
    scores = np.concatenate(values)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in values]) / (len(values) + 1)
    order = np.argsort(scores, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0) >= 1 - alpha - 1e-9
    bound = np.take_along_axis(scores, order, axis=0)
    first = np.take_along_axis(bound, np.expand_dims(np.asarray(reached.argmax(axis=0)), 0), axis=0)[0]
    return np.where(reached.any(axis=0), first, np.inf)


def conformal_p(scores: ArrayLike, calibration: ArrayLike) -> np.ndarray:
    """Share of calibration scores that are at least as large as a score, itself counted among them.

    A small value says that the score is unusual: below ``alpha`` with a probability of at most ``alpha`` for scores
    that are exchangeable with the calibration scores.

    Parameters
    ----------
    scores
        Shape (m,); NaN stays NaN.
    calibration
        Shape (n,), finite.

    Returns
    -------
    ndarray
        (1 + #{calibration ≥ score}) / (n + 1), shape (m,).

    Raises
    ------
    ValueError
        If there is no calibration score, or one is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> storm.metrics.conformal_p([1.5, 99.5], np.arange(100)).round(3)
    array([0.98, 0.01])
    """
    known = np.sort(np.asarray(calibration, dtype=np.float64))
    if known.ndim != 1 or not len(known) or not np.isfinite(known).all():
        msg = f"calibration has shape {known.shape}; give finite scores, shape (n,) with n > 0"
        raise ValueError(msg)
    values = np.asarray(scores, dtype=np.float64)
    p = (1 + len(known) - np.searchsorted(known, values, side="left")) / (len(known) + 1)
    return np.where(np.isnan(values), np.nan, p)


def interval_coverage(truth: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> np.ndarray:
    """Share of spots whose measurement lies within its interval, per gene.

    Parameters
    ----------
    truth
        Measured expression, shape (n, g); NaN where it was not measured.
    lower, upper
        Limits, of a shape that fits (n, g). A spot where one is NaN has no interval, and does not count.

    Returns
    -------
    ndarray
        Shape (g,); NaN for a gene without a measurement.

    Raises
    ------
    ValueError
        If shapes differ, or a lower limit lies above its upper one.

    Examples
    --------
    >>> import storm
    >>> storm.metrics.interval_coverage([[1.0, 5.0], [2.0, 6.0]], lower=[[0.0, 0.0]] * 2, upper=[[3.0, 5.5]] * 2)
    array([1. , 0.5])
    """
    measured, low, high = (np.asarray(values, dtype=np.float64) for values in (truth, lower, upper))
    if measured.ndim != 2:
        msg = f"truth has shape {measured.shape}, expected (spots, genes)"
        raise ValueError(msg)
    try:
        low, high = np.broadcast_to(low, measured.shape), np.broadcast_to(high, measured.shape)
    except ValueError as error:
        msg = f"lower has shape {low.shape} and upper {high.shape}; they must fit truth, {measured.shape}"
        raise ValueError(msg) from error
    if (low > high).any():
        msg = f"{(low > high).sum()} lower limits lie above their upper ones; are the two exchanged?"
        raise ValueError(msg)
    known = ~(np.isnan(measured) | np.isnan(low) | np.isnan(high))
    inside = (known & (measured >= low) & (measured <= high)).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, inside / np.maximum(count, 1), np.nan)


def _check_alpha(alpha: float) -> None:
    if check_between(alpha, name="alpha", low=0, high=1) in (0, 1):
        msg = f"alpha={alpha!r} must lie between 0 and 1, such as 0.1 for intervals of 90 %"
        raise ValueError(msg)
