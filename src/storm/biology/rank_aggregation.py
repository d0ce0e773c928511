"""One ranking of genes from many slides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import betainc


def rho(ranks: np.ndarray) -> np.ndarray:
    """How unlikely it is that items rank so high in so many lists by chance.

    Parameters
    ----------
    ranks
        Rank of an item in each list divided by the list's length, from 0 to 1, shape (..., lists); NaN where a list
        does not hold it.

    Returns
    -------
    ndarray
        The smallest of the beta-distributed probabilities of its k-th best rank, times the number of lists (a
        Bonferroni bound), at most 1; shape (...). NaN where no list holds an item.

    References
    ----------
    Kolde et al., Bioinformatics 28, 573 (2012), section 2.
    """
    ordered = np.sort(np.asarray(ranks, dtype=np.float64), axis=-1)
    number = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    k = np.arange(1, ordered.shape[-1] + 1)
    inside = k <= number
    p = betainc(k, np.where(inside, number - k + 1, 1), np.where(inside, ordered, 1.0))
    best = np.where(inside, p, 1.0).min(axis=-1)
    return np.where(number[..., 0] > 0, np.minimum(best * number[..., 0], 1), np.nan)


def aggregate_ranks(lists: Sequence[Sequence[str]], *, universe: int | None = None) -> dict[str, float]:
    """Robust rank aggregation of lists of genes, best first.

    An item that a list does not name has the worst rank there.

    Parameters
    ----------
    lists
        Names, best first, no name twice in a list.
    universe
        How many genes could have been named; by default those that any list names.

    Returns
    -------
    dict
        :func:`rho` of each name, best first; equal ones in the order of names.

    Raises
    ------
    ValueError
        If there is no list, one is empty or names a gene twice, or the universe is smaller than the names.
    """
    if not lists or not all(len(one) for one in lists):
        msg = f"{len(lists)} lists of lengths {[len(one) for one in lists]}; give one or more, none of them empty"
        raise ValueError(msg)
    for i, one in enumerate(lists):
        if len(set(one)) != len(one):
            twice = sorted({name for name in one if list(one).count(name) > 1})
            msg = f"list {i} names {twice[:5]} more than once"
            raise ValueError(msg)
    names = sorted({name for one in lists for name in one})
    total = len(names) if universe is None else universe
    if total < len(names):
        msg = f"universe={universe}: the lists name {len(names)} genes"
        raise ValueError(msg)
    at = {name: i for i, name in enumerate(names)}
    ranks = np.ones((len(names), len(lists)))
    for j, one in enumerate(lists):
        for rank, name in enumerate(one, start=1):
            ranks[at[name], j] = rank / total
    values = rho(ranks)
    return {names[i]: float(values[i]) for i in np.argsort(values, kind="stable")}
