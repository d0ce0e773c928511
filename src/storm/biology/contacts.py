"""How domains touch: shares of outward edges, and how far they are from labels in random places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Contacts:
    """Contacts between k domains.

    Attributes
    ----------
    edges
        Edges between each pair of domains, each edge counted once, shape (k, k), symmetric; within a domain on the
        diagonal.
    share
        Of the edges that leave domain i, the share that leads to domain j, shape (k, k); NaN on the diagonal, and for a
        domain without outward edges.
    log2_enrichment
        log2 of the outward edges of i that lead to j over what they are if the spots of the other domains of each
        section lie in random places (there, j's number of spots over that of all spots outside i), shape (k, k); −inf
        without an edge, NaN where the share is, and where no edge leaves i in a section of j.
    z
        Standard score of ``edges`` if the labels of each section are permuted, shape (k, k); NaN where no permutation
        changes them.
    """

    edges: np.ndarray
    share: np.ndarray
    log2_enrichment: np.ndarray
    z: np.ndarray

    def adjacent(self, *, min_share: float, min_edges: int) -> np.ndarray:
        """Which domains j are neighbours of domain i, bool, shape (k, k); not symmetric, as shares are not."""
        with np.errstate(invalid="ignore"):
            return (self.share >= min_share) & (self.edges >= min_edges)


def count_contacts(edges: np.ndarray, codes: np.ndarray, k: int, *, sections: np.ndarray | None = None) -> Contacts:
    """Count the contacts between domains.

    The score is that of squidpy's permutations, but mean and variance are the exact ones (moments of join counts under
    sampling without replacement), so that it needs neither a seed nor repetitions. Labels are permuted within their
    section.

    Parameters
    ----------
    edges
        Rows of the two spots of each edge, shape (m, 2), each edge once and within one section.
    codes
        Domain of each spot, 0 … k - 1, shape (n,); -1 for spots without one, whose edges do not count.
    k
        Number of domains.
    sections
        Section of each spot, shape (n,); ``None`` where all spots are of one.

    Returns
    -------
    Contacts

    References
    ----------
    Cliff and Ord, Spatial Processes: Models and Applications, 1981, chapter 2 (join counts).
    """
    codes = np.asarray(codes)
    edges = np.asarray(edges).reshape(-1, 2)
    edges = edges[(codes[edges] >= 0).all(axis=1)]
    groups = np.zeros(len(codes), dtype=int) if sections is None else np.asarray(sections)
    counts, mean, variance, by_size = (np.zeros((k, k)) for _ in range(4))
    for section in np.unique(groups[codes >= 0]):
        own = edges[groups[edges[:, 0]] == section]
        size = np.bincount(codes[(groups == section) & (codes >= 0)], minlength=k)
        pairs = _pairs(own, codes, k)
        counts += pairs
        leaving = pairs.sum(axis=1) - np.diag(pairs)
        # A domain that fills its section has no outward edge there.
        by_size += leaving[:, None] * size / np.maximum(size.sum() - size, 1)[:, None]
        expected, spread = _permuted(own, size)
        mean += expected
        variance += spread
    outward = counts.copy()
    np.fill_diagonal(outward, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = outward / outward.sum(axis=1, keepdims=True)
        np.fill_diagonal(share, np.nan)
        enrichment = np.log2(outward / by_size)
        np.fill_diagonal(enrichment, np.nan)
        z = np.where(variance > 1e-12 * np.maximum(mean, 1), (counts - mean) / np.sqrt(variance), np.nan)
    return Contacts(counts.astype(np.int64), share, enrichment, z)


def _pairs(edges: np.ndarray, codes: np.ndarray, k: int) -> np.ndarray:
    """Edges between each pair of domains, shape (k, k), symmetric."""
    one, other = codes[edges].T
    table = np.bincount(one * k + other, minlength=k * k).reshape(k, k)
    return table + table.T - np.diag(np.diag(table))


def _permuted(edges: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the edges between each pair of domains if labels are permuted, each of shape (k, k)."""
    n, m = float(size.sum()), float(len(edges))
    degree = np.unique(edges, return_counts=True)[1].astype(np.float64)
    # Ordered pairs of different edges that share a spot, and that share none.
    sharing = float((degree * (degree - 1)).sum())
    apart = m * (m - 1) - sharing
    a, b = np.meshgrid(size.astype(np.float64), size.astype(np.float64), indexing="ij")
    between = (2 * a * b, a * b * (a + b - 2), 4 * a * (a - 1) * b * (b - 1))
    within = tuple(_falling(a, j) for j in (2, 3, 4))
    diagonal = np.eye(len(size), dtype=bool)
    p1, p2, p3 = (
        np.where(diagonal, inside, across) / (_falling(n, j) or np.inf)
        for j, inside, across in zip((2, 3, 4), within, between, strict=True)
    )
    mean = m * p1
    return mean, mean + sharing * p2 + apart * p3 - mean**2


def _falling(x, count: int):
    """Product of ``count`` factors x (x - 1) …."""
    product = x * 1.0
    for step in range(1, count):
        product = product * (x - step)
    return product
