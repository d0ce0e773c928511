"""Domains of unequal depth: what that does to a comparison of ranks, and counts thinned until it does nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_matrix

#: Times as many genes per spot, on either side, from which depth alone makes many genes differ.
UNEVEN = 1.5


def depth_ratio(values: csr_matrix, domain: np.ndarray) -> float:
    """How many times as many genes a spot of the domain has, by the medians of both sides.

    Genes are counted rather than counts, as they can still be told after normalising.

    Parameters
    ----------
    values
        Expression of the spots of both sides, zero where a gene was not seen, shape (n, g).
    domain
        Which spots are the domain's, bool, shape (n,).
    """
    seen = np.diff(values.indptr) if (values.data != 0).all() else np.asarray((values != 0).sum(axis=1)).ravel()
    of_rest = float(np.median(seen[~domain]))
    return float(np.median(seen[domain])) / of_rest if of_rest else float("inf")


def uneven_depth(ratios: Mapping[str, float]) -> str | None:
    """What to warn of, if spots of a domain are much deeper than those of its reference, or shallower.

    Parameters
    ----------
    ratios
        What :func:`depth_ratio` returns for each domain.
    """
    uneven = [f"{name!r} {ratio:.2g}" for name, ratio in ratios.items() if not 1 / UNEVEN < ratio < UNEVEN]
    if not uneven:
        return None
    return (
        f"spots of some domains have many more genes, or fewer, than those that they are compared with, so that most "
        f"genes rank higher, or lower, for the depth alone (genes per spot over those of the reference: "
        f"{', '.join(uneven)}). Use match_depth=True, which thins counts to equal depth"
    )


def equal_depth(counts: csr_matrix, domain: np.ndarray, *, seed: int = 0) -> csr_matrix:
    """Thin counts until the spots of both sides have the same distribution of depth.

    The deepest spot of the domain is thinned to the depth of the deepest one of the reference if that has less, and so
    on down to the shallowest; of each count, a binomial share is kept. Then spots of both sides that hold the same
    share of a gene have the same distribution of its counts, and so of its ranks.

    Parameters
    ----------
    counts
        Raw counts of the spots of both sides, shape (n, g).
    domain
        Which spots are the domain's, bool, shape (n,); both sides have at least one.
    seed
        Random seed of the draw; it does not depend on the order of the rows.

    Returns
    -------
    csr_matrix
        float32, shape (n, g).
    """
    thinned = csr_matrix(counts, dtype=np.float32, copy=True)
    thinned.sort_indices()
    depth = np.asarray(thinned.sum(axis=1, dtype=np.float64)).ravel()
    wanted = depth.copy()
    for side in (domain, ~domain):
        rows = np.flatnonzero(side)
        rows = rows[np.argsort(depth[rows], kind="stable")]
        place = (np.arange(len(rows)) + 0.5) / len(rows)
        wanted[rows] = np.minimum(depth[rows], np.quantile(depth[~side], place, method="hazen"))
    keep = np.divide(wanted, depth, out=np.ones_like(depth), where=depth > 0)
    # Rows are drawn in an order that their own counts give, so that the user's order does not matter.
    order = np.lexsort((thinned @ np.random.default_rng(0).random(thinned.shape[1]), depth))
    ordered = thinned[order]
    share = np.repeat(keep[order], np.diff(ordered.indptr))
    ordered.data = (
        np.random.default_rng(seed).binomial(np.rint(ordered.data).astype(np.int64), share).astype(np.float32)
    )
    ordered.eliminate_zeros()
    return ordered[np.argsort(order)]
