"""Spatial coherence of domains. No function builds an n × n matrix, so that 700,000 bins can be scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from storm._checks import check_choice, check_whole
from storm.metrics._arrays import codes, coordinates, place_order
from storm.metrics._silhouette import silhouette

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from storm.metrics._arrays import Labels

__all__ = ["asw", "chaos", "fide", "jsd", "pas"]

#: Relative difference below which two distances are a tie: far above rounding, far below the jitter of coordinates.
_TIE = 1e-9

#: Neighbours held at once during a search, which bounds the memory at any number of spots.
_BLOCK = 2_000_000
#: Neighbours searched beyond k, to see the ties at the end; on both lattices those of k = 10 end within four more.
_BEYOND = 4


def chaos(coords: ArrayLike, labels: Labels, *, convention: Literal["sdmbench", "spatialpca"] = "sdmbench") -> float:
    """CHAOS: mean distance of a spot to the nearest other spot of its own domain; low where domains are continuous.

    Coordinates are standardised per axis, the distances to the nearest neighbour *within the domain* are summed over
    all domains, and the sum is divided by the number of spots.

    Parameters
    ----------
    coords
        Positions, shape (n, 2), any unit.
    labels
        Domain of each spot, shape (n,), without missing labels.
    convention
        ``"sdmbench"`` standardises by the population standard deviation and leaves out domains of one or two spots;
        ``"spatialpca"`` standardises by the sample standard deviation and leaves out domains of one spot.

    Returns
    -------
    float
        At least 0, without a unit.

    Raises
    ------
    ValueError
        If a label is missing, a coordinate is not finite, lengths differ or the convention is unknown.

    References
    ----------
    Shang and Zhou, SpatialPCA, Nat. Commun. 2022 (definition); Yuan et al., SDMBench, Nat. Methods 2024.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> coords = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 100.0
    >>> halves = (coords[:, 0] > 350).astype(int)
    >>> checkers = (coords.sum(axis=1) // 100 % 2).astype(int)
    >>> round(storm.metrics.chaos(coords, halves), 2), round(storm.metrics.chaos(coords, checkers), 2)
    (0.44, 0.62)
    """
    from scipy.spatial import cKDTree

    check_choice(convention, ("sdmbench", "spatialpca"), name="convention")
    domain, levels = codes(labels, name="labels")
    xy = coordinates(coords, n=len(domain))
    if len(xy) == 1:
        return 0.0
    ddof, smallest = (0, 3) if convention == "sdmbench" else (1, 2)
    spread = xy.std(axis=0, ddof=ddof)
    xy = (xy - xy.mean(axis=0)) / np.where(spread > 0, spread, 1.0)

    total = 0.0
    ends = np.cumsum(np.bincount(domain, minlength=len(levels)))
    for members in np.split(np.argsort(domain, kind="stable"), ends[:-1]):
        if len(members) >= smallest:
            own = xy[members]
            own = own[place_order(own)]
            tree, step = cKDTree(own), _BLOCK // 2
            total += sum(float(tree.query(own[i : i + step], k=2)[0][:, 1].sum()) for i in range(0, len(own), step))
    return total / len(xy)


def pas(coords: ArrayLike, labels: Labels, *, k: int = 10) -> float:
    """PAS: share of abnormal spots, whose domain differs from that of more than half of their k nearest neighbours.

    Where several neighbours tie for the last of the k places, as on a lattice, the places left are shared equally among
    them. The score therefore depends on the positions alone, and not on the order of the spots. Without ties it is the
    usual definition.

    Parameters
    ----------
    coords
        Positions, shape (n, 2), any unit; they are not standardised.
    labels
        Domain of each spot, shape (n,), without missing labels.
    k
        Number of neighbours, without the spot itself.

    Returns
    -------
    float
        Between 0 and 1; low where the domains are smooth.

    Raises
    ------
    ValueError
        If a label is missing, a coordinate is not finite, lengths differ, or there are not more than k spots.

    References
    ----------
    Shang and Zhou, SpatialPCA, Nat. Commun. 2022.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> coords = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 100.0
    >>> halves = (coords[:, 0] > 350).astype(int)
    >>> random = np.random.default_rng(0).integers(2, size=64)
    >>> round(storm.metrics.pas(coords, halves), 2), round(storm.metrics.pas(coords, random), 2)
    (0.0, 0.34)
    """
    from scipy.spatial import cKDTree

    domain, _ = codes(labels, name="labels")
    xy = coordinates(coords, n=len(domain))
    k = check_whole(k, name="k")
    if len(xy) <= k:
        msg = f"k={k} neighbours need at least {k + 1} spots, there are {len(xy)}; give a smaller k"
        raise ValueError(msg)
    order = place_order(xy)
    xy, domain = xy[order], domain[order]
    tree = cKDTree(xy)
    pending, width, abnormal = np.arange(len(xy)), min(k + _BEYOND, len(xy)), 0
    while pending.size:
        unsettled = []
        for start in range(0, pending.size, max(1, _BLOCK // width)):
            rows = pending[start : start + max(1, _BLOCK // width)]
            distance, index = tree.query(xy[rows], k=width)
            differing, settled = _differing(distance, index, rows, domain=domain, k=k)
            settled |= width == len(xy)
            abnormal += int((differing[settled] > k / 2 + 1e-9).sum())
            unsettled.append(rows[~settled])
        pending, width = np.concatenate(unsettled), min(2 * width, len(xy))
    return abnormal / len(xy)


def _differing(
    distance: np.ndarray, index: np.ndarray, rows: np.ndarray, *, domain: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count the k nearest neighbours of another domain, and tell whether all ties were seen.

    Returns
    -------
    differing : ndarray
        Neighbours of another domain among the k nearest of each spot, ties shared, shape (m,).
    settled : ndarray
        Whether the search went beyond the last tie, bool, shape (m,).
    """
    is_self = index == rows[:, None]
    # The spot itself takes one place, unless so many spots lie on the same point that the search did not return it.
    before = is_self[:, :k].any(axis=1)
    kth = np.where(before, distance[:, k], distance[:, k - 1])
    edge = kth * (1 + _TIE)
    nearer = (distance < (kth * (1 - _TIE))[:, None]) & ~is_self
    tied = (distance <= edge[:, None]) & ~nearer & ~is_self
    other = domain[index] != domain[rows][:, None]
    places = k - nearer.sum(axis=1)
    share = places / np.maximum(tied.sum(axis=1), 1)
    return (nearer & other).sum(axis=1) + share * (tied & other).sum(axis=1), distance[:, -1] > edge


def asw(coords: ArrayLike, labels: Labels, *, max_n: int = 20_000, seed: int = 0) -> float:
    """Average silhouette width of the domains on the coordinates; the value of :func:`silhouette`.

    Parameters
    ----------
    coords
        Positions, shape (n, 2), any unit.
    labels
        Domain of each spot, shape (n,), without missing labels.
    max_n
        Up to this many spots the score is exact; beyond, it is an unbiased estimate from random spots.
    seed
        Random seed for the choice of these spots.

    Returns
    -------
    float
        Between -1 and 1.

    Raises
    ------
    ValueError
        If a label is missing, a coordinate is not finite, lengths differ, or there are fewer than two domains.

    Examples
    --------
    >>> import numpy as np
    >>> import storm
    >>> coords = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) * 100.0
    >>> halves = (coords[:, 0] > 350).astype(int)
    >>> round(storm.metrics.asw(coords, halves), 2)
    0.34
    """
    return silhouette(coords, labels, max_n=max_n, seed=seed).value


def fide(edges: ArrayLike, labels: Labels, *, n_domains: int | None = None) -> float:
    """FIDE: F1 score of intra-domain edges, macro-averaged over domains; high where domains are continuous.

    For each domain it is the F1 score of predicting the domain of one end of an edge from that of the other end.

    Parameters
    ----------
    edges
        Pairs of spots, shape (e, 2), integers; an undirected graph lists each edge in both directions.
    labels
        Domain of each spot, shape (n,), without missing labels.
    n_domains
        Number of domains to average over, where those that do not occur count as 0; ``None`` for those that occur.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If there is no edge, an edge names a spot beyond the last one, or more than ``n_domains`` domains occur.

    References
    ----------
    Blampey et al., Novae, Nat. Methods 2025.

    Examples
    --------
    Six spots in a row, of which the first three are one domain:

    >>> import numpy as np
    >>> import storm
    >>> edges = np.array([(i, i + 1) for i in range(5)])
    >>> round(storm.metrics.fide(edges, ["a", "a", "a", "b", "b", "b"]), 3)
    0.8
    """
    domain, _ = codes(labels, name="labels")
    ends = np.asarray(edges)
    if ends.ndim != 2 or ends.shape[1] != 2 or len(ends) == 0:
        msg = f"edges have shape {ends.shape}, expected (e, 2) with e > 0: pairs of spots"
        raise ValueError(msg)
    if ends.dtype.kind not in "iu":
        msg = f"edges hold {ends.dtype}, expected integers: each edge is a pair of spots, numbered from 0"
        raise ValueError(msg)
    if ends.min() < 0 or ends.max() >= len(domain):
        msg = f"edges name spots {ends.min()}…{ends.max()}, but there are {len(domain)} (numbered from 0)"
        raise ValueError(msg)
    one, two = domain[ends[:, 0]], domain[ends[:, 1]]
    size = int(domain.max()) + 1
    degree = np.bincount(one, minlength=size) + np.bincount(two, minlength=size)
    inside = np.bincount(one[one == two], minlength=size)
    f1 = 2 * inside[degree > 0] / degree[degree > 0]
    if n_domains is not None and check_whole(n_domains, name="n_domains") < len(f1):
        msg = f"n_domains={n_domains}, but the edges touch {len(f1)} domains; give at least that many"
        raise ValueError(msg)
    return float(f1.sum() / (n_domains or len(f1)))


def jsd(labels: Labels, slides: Labels) -> float:
    """Jensen-Shannon divergence between the domain proportions of slides; 0 where all slides have the same mixture.

    Parameters
    ----------
    labels
        Domain of each spot, shape (n,), without missing labels.
    slides
        Slide of each spot, shape (n,), without missing entries. All slides have the same weight, whatever their size.

    Returns
    -------
    float
        In bits, between 0 and log2 of the number of slides (as in Novae).

    Raises
    ------
    ValueError
        If a label or slide is missing or the lengths differ.

    References
    ----------
    Lin, IEEE Trans. Inf. Theory 1991; used between slides by Blampey et al., Novae, Nat. Methods 2025.

    Examples
    --------
    Domains that both slides have in equal shares, and domains of one slide each:

    >>> import storm
    >>> round(storm.metrics.jsd(["a", "b", "a", "b"], ["slide 1", "slide 1", "slide 2", "slide 2"]), 3)
    0.0
    >>> round(storm.metrics.jsd(["a", "a", "b", "b"], ["slide 1", "slide 1", "slide 2", "slide 2"]), 3)
    1.0
    """
    domain, levels = codes(labels, name="labels")
    slide, slide_levels = codes(slides, name="slides")
    n_domains, n_slides = len(levels), len(slide_levels)
    if len(domain) != len(slide):
        msg = f"labels has {len(domain)} entries and slides {len(slide)}; they describe the same spots"
        raise ValueError(msg)
    counts = np.bincount(slide * n_domains + domain, minlength=n_slides * n_domains).reshape(n_slides, n_domains)
    shares = counts / counts.sum(axis=1, keepdims=True)
    # It is at least 0 by definition; rounding can take equal mixtures just below.
    return max(0.0, float(_entropy(shares.mean(axis=0)) - np.mean([_entropy(row) for row in shares])))


def _entropy(shares: np.ndarray) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())
