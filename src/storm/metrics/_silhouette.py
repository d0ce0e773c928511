"""Silhouette of labels on coordinates, at any number of spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm.metrics._arrays import codes, coordinates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["Silhouette", "silhouette"]

#: Distances held at once (float64): 8 MB, so that they are summed while the cache still holds them.
_BLOCK = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """Average silhouette width, and how it was found.

    Attributes
    ----------
    value
        The average over the spots used, between -1 and 1.
    exact
        Whether all spots were used.
    n_queries
        Number of spots used.
    stderr
        Standard error of ``value`` as an estimate of the average over all spots; 0 where it is exact.
    """

    value: float
    exact: bool
    n_queries: int
    stderr: float


def silhouette(
    coords: ArrayLike, labels: ArrayLike, *, max_n: int = 20_000, n_queries: int = 2_000, seed: int = 0
) -> Silhouette:
    """Average silhouette width of domains on the coordinates (ASW).

    Per spot (b - a) / max(a, b), a being the mean distance to the other spots of its domain and b the smallest mean
    distance to another domain; 0 for the only spot of a domain. Up to ``max_n`` spots it is the exact average, in
    chunks. Beyond, it is the average over ``n_queries`` seeded spots, each against *all* spots: an unbiased estimate
    (thinning the spots themselves would not be), and the result says so.

    Parameters
    ----------
    coords
        Positions, shape (n, 2), any unit.
    labels
        Domains, shape (n,), none missing.
    max_n
        Largest number of spots for the exact average.
    n_queries
        Spots of the estimate beyond it.
    seed
        Seed of the estimate.

    Returns
    -------
    The average and how it was found.

    Raises
    ------
    ValueError
        If a label is missing, a coordinate is not finite, lengths differ, or there are fewer than two domains.

    References
    ----------
    Rousseeuw, Silhouettes, J. Comput. Appl. Math. 1987.
    """
    domain, n_domains = codes(labels, name="labels")
    xy = coordinates(coords, n=len(domain))
    n = len(xy)
    if n_domains < 2:
        msg = f"a silhouette needs at least two domains; the {n} labels hold {n_domains}"
        raise ValueError(msg)
    exact = n <= max_n or n <= n_queries
    queries = np.arange(n) if exact else np.sort(np.random.default_rng(seed).choice(n, n_queries, replace=False))
    widths = _widths(xy, domain, queries)
    # Sampled without replacement: hence the finite-population factor.
    stderr = 0.0 if exact else float(widths.std(ddof=1) / np.sqrt(n_queries) * np.sqrt(1 - n_queries / n))
    return Silhouette(value=float(widths.mean()), exact=exact, n_queries=len(queries), stderr=stderr)


def _widths(xy: np.ndarray, domain: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Silhouette width of each query against all spots, shape (q,)."""
    from scipy.spatial.distance import cdist

    order = np.argsort(domain, kind="stable")  # each domain one run of columns, so that a domain's sum is one reduceat
    by_domain = xy[order]
    size = np.bincount(domain)
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    widths = np.empty(len(queries))
    step = max(1, _BLOCK // len(xy))
    for begin in range(0, len(queries), step):
        rows = queries[begin : begin + step]
        sums = np.add.reduceat(cdist(xy[rows], by_domain), starts, axis=1)
        own, at = domain[rows], np.arange(len(rows))
        a = sums[at, own] / np.maximum(size[own] - 1, 1)
        means = sums / size
        means[at, own] = np.inf
        b = means.min(axis=1)
        larger = np.maximum(a, b)
        defined = (size[own] > 1) & (larger > 0)
        widths[begin : begin + step] = np.where(defined, (b - a) / np.where(larger > 0, larger, 1.0), 0.0)
    return widths
