"""How well a number of domains comes back when the clustering is repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from sklearn.metrics import adjusted_rand_score

from storm._progress import progress

#: Label of a row that a run did not cluster.
LEFT_OUT = -1


@dataclass(frozen=True)
class Stability:
    """Agreement of the runs at one number of domains.

    Attributes
    ----------
    ari
        Mean adjusted Rand index of each run with the other runs, shape (runs,).
    ari_next
        Mean adjusted Rand index of each run with all runs at one domain more, shape (runs,); NaN at the last number.
    """

    ari: np.ndarray
    ari_next: np.ndarray


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Adjusted Rand index over the rows that both runs clustered; 0 on average for unrelated labels.

    Parameters
    ----------
    one, other
        Labels, shape (n,), whole numbers; ``LEFT_OUT`` in rows that were left out.
    """
    both = (one != LEFT_OUT) & (other != LEFT_OUT)
    return float(adjusted_rand_score(one[both], other[both])) if both.any() else float("nan")


def mean_agreement(runs: Iterable[np.ndarray]) -> float:
    """Mean adjusted Rand index of all pairs of runs."""
    return float(np.mean([agreement(one, other) for one, other in combinations(list(runs), 2)]))


def repeated_runs(
    cluster: Callable[[np.ndarray, int, int], np.ndarray],
    n: int,
    numbers: Iterable[int],
    *,
    runs: int,
    fraction: float,
    seed: int,
) -> dict[int, np.ndarray]:
    """Cluster random parts of the rows, again and again.

    Parameters
    ----------
    cluster
        Function of row numbers, number of domains and seed that returns the labels of these rows.
    n
        Number of rows.
    numbers
        Numbers of domains.
    runs
        Runs at each number. Run r takes the same rows at all numbers.
    fraction
        Share of the rows in a run.
    seed
        Random seed.

    Returns
    -------
    dict
        Labels of the runs at each number, shape (runs, n).
    """
    size = max(2, round(fraction * n))
    parts = [np.sort(np.random.default_rng([seed, run]).permutation(n)[:size]) for run in range(runs)]
    labels = {k: np.full((runs, n), LEFT_OUT) for k in numbers}
    for k, run in progress(list(product(labels, range(runs))), desc="clusterings", unit="run"):
        labels[k][run, parts[run]] = cluster(parts[run], k, seed + run)
    return labels


def stability(labels: dict[int, np.ndarray]) -> dict[int, Stability]:
    """Agreement of the runs at each number of domains, and with the runs at the next number.

    Unlike the Fowlkes-Mallows index that is used for this elsewhere, the adjusted Rand index is corrected for chance
    and favours no number: unrelated labels give 0 at any.

    Parameters
    ----------
    labels
        Labels of the runs at each number, shape (runs, n).
    """
    result = {}
    for k, own in labels.items():
        runs = len(own)
        pairs = np.full((runs, runs), np.nan)
        for one, other in combinations(range(runs), 2):
            pairs[one, other] = pairs[other, one] = agreement(own[one], own[other])
        following = labels.get(k + 1)
        to_next = np.full(runs, np.nan)
        if following is not None:
            to_next = np.array([np.mean([agreement(run, other) for other in following]) for run in own])
        result[k] = Stability(np.nanmean(pairs, axis=1), to_next)
    return result
