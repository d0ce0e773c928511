"""Silhouette of labels on coordinates, at any number of spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_whole
from storm.metrics._arrays import codes, coordinates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

__all__ = ["Silhouette", "silhouette"]

#: Distances held at once (float64): 8 MB, small enough to be summed while they are still in the cache.
_BLOCK = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """Average silhouette width, and how it was computed.

    Attributes
    ----------
    value
        Average over the spots used, between -1 and 1.
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
    coords: ArrayLike, labels: Labels, *, max_n: int = 20_000, n_queries: int = 2_000, seed: int = 0
) -> Silhouette:
    """Average silhouette width of domains on the coordinates (ASW).

    The width of a spot is (b - a) / max(a, b), where a is the mean distance to the other spots of its domain and b the
    smallest mean distance to the spots of another domain; it is 0 for the only spot of a domain. Up to ``max_n`` spots
    the average is exact and computed in chunks. Beyond, it is the average over ``n_queries`` random spots, each against
    *all* spots, which is an unbiased estimate (one from a random subset of the section would not be).

    Parameters
    ----------
    coords
        Positions, shape (n, 2), any unit.
    labels
        Domains, shape (n,), none missing.
    max_n
        Largest number of spots for the exact average.
    n_queries
        Number of spots of the estimate, at least 2.
    seed
        Random seed for the choice of these spots.

    Returns
    -------
    Silhouette
        The average, without a unit, whether it is exact, and its standard error.

    Raises
    ------
    ValueError
        If a label is missing, a coordinate is not finite, lengths differ, or there are fewer than two domains.

    References
    ----------
    Rousseeuw, Silhouettes, J. Comput. Appl. Math. 1987.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> coords = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 100.0
    >>> score = storm.metrics.silhouette(coords, (coords[:, 0] > 350).astype(int))
    >>> round(score.value, 2), score.exact
    (0.34, True)
    """
    domain, levels = codes(labels, name="labels")
    xy = coordinates(coords, n=len(domain))
    n = len(xy)
    max_n = check_whole(max_n, name="max_n", least=0)
    n_queries = check_whole(n_queries, name="n_queries", least=2)
    seed = check_whole(seed, name="seed", least=0)
    if len(levels) < 2:
        msg = f"a silhouette needs at least two domains; the {n} labels hold {len(levels)}"
        raise ValueError(msg)
    exact = n <= max_n or n <= n_queries
    queries = np.arange(n) if exact else np.sort(np.random.default_rng(seed).choice(n, n_queries, replace=False))
    widths = _widths(xy, domain, queries)
    # The finite-population factor, because the spots are drawn without replacement.
    stderr = 0.0 if exact else float(widths.std(ddof=1) / np.sqrt(n_queries) * np.sqrt(1 - n_queries / n))
    return Silhouette(value=float(widths.mean()), exact=exact, n_queries=len(queries), stderr=stderr)


def _widths(xy: np.ndarray, domain: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Silhouette width of each query against all spots, shape (q,)."""
    from scipy.spatial.distance import cdist

    # Each domain is one run of columns, so that one reduceat gives the sums over all domains.
    order = np.argsort(domain, kind="stable")
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
