"""Graph convolution and deep embedded clustering of one section, as SpaGCN without histology."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor, nn

from storm.benchmark._section import CountedSection, identity

#: Principal components, and what the others of a section weigh together, on average, where a spot itself weighs 1.
_N_COMPONENTS, _OTHERS = 50, 0.5
#: Weights further away than so many widths are below 1e-8 and left out.
_WIDTHS = 6.1
#: Steps of the clustering, their size, how often its target is renewed, and the share of spots that may still change.
_STEPS, _LR, _RENEWED, _CHANGED = 200, 0.05, 3, 5e-3
#: Random starts of the first centres.
_STARTS = 10


def convolved(section: CountedSection) -> np.ndarray:
    """Fifty principal components summed over the spots with weights exp(-d² / 2l²), shape (n, 50).

    The width l is such that the other spots weigh half of what a spot weighs itself, on average over the section.

    Raises
    ------
    ValueError
        If all spots lie in one place.
    """
    components = PCA(min(_N_COMPONENTS, *section.values.shape), random_state=0).fit_transform(section.values)
    return np.asarray(graph_weights(section.centres, section.pitch) @ components)


def graph_weights(centres: np.ndarray, pitch: float) -> csr_matrix:
    """Weights exp(-d² / 2l²) between spots, 1 of each to itself, sparse, shape (n, n).

    Parameters
    ----------
    centres
        Places, shape (n, 2).
    pitch
        Distance of neighbouring spots, from which the search for l starts.

    Raises
    ------
    ValueError
        If all spots lie in one place.
    """
    tree, n = cKDTree(centres), len(centres)
    widest = float(np.ptp(centres, axis=0).max())
    if widest <= 0:
        msg = "all spots lie in one place, so that there is no graph of neighbours"
        raise ValueError(msg)
    reach = 4 * pitch
    while True:
        near = tree.sparse_distance_matrix(tree, reach, output_type="coo_matrix")
        apart = near.row != near.col
        squared = np.square(near.data[apart])
        if _of_others(reach / _WIDTHS, squared, n) >= _OTHERS or reach > _WIDTHS * widest:
            break
        reach *= 2
    # places that several spots share weigh 1 for each other at any width
    least = 1e-3 * reach / _WIDTHS
    low, high = (_of_others(width, squared, n) - _OTHERS for width in (least, reach / _WIDTHS))
    width = (
        least if low >= 0 else reach / _WIDTHS if high <= 0 else brentq(_excess, least, reach / _WIDTHS, (squared, n))
    )
    weights = np.exp(-squared / (2 * width**2))
    kept = weights > 0
    pairs = near.row[apart][kept], near.col[apart][kept]
    return csr_matrix((weights[kept].astype(np.float32), pairs), shape=(n, n)) + identity(n)


def embedded_clustering(values: np.ndarray, known: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Domains by deep embedded clustering of a linear layer's output, shape (n,); -1 in rows that are not known.

    Written from the description of SpaGCN: a graph convolution without bias, whose sum over the neighbours
    :func:`convolved` has made, so that a layer of weights is left; first centres from k-means; then the layer and the
    centres are moved so that the shares of each spot in the domains by Student's t (one degree of freedom) come close
    to their own sharpened form, by the Kullback-Leibler divergence. Where this differs from the paper: principal
    components of 2,000 variable genes instead of all; k-means in place of Louvain, so that the number of domains is the
    one asked for; no histology, as with every other method here, and without the optional step that gives a spot the
    domain of most of its neighbours. Domains may become empty.

    Parameters
    ----------
    values
        What :func:`convolved` returns, shape (n, d).
    known
        Rows to cluster, bool, shape (n,).
    k
        Number of domains.
    seed
        Of the layer's first weights and of k-means.

    Raises
    ------
    ValueError
        If there are fewer rows than domains, or the fit diverges.

    References
    ----------
    Hu et al., SpaGCN: Integrating gene expression, spatial location and histology to identify spatial domains and
    spatially variable genes by graph convolutional network, Nature Methods 18, 1342 (2021), Methods; Xie, Girshick &
    Farhadi, Unsupervised deep embedding for clustering analysis, ICML 2016.
    """
    if (n := int(known.sum())) < k:
        msg = f"n_domains={k} is more than the {n} rows that have a place"
        raise ValueError(msg)
    x = torch.from_numpy(values[known].astype(np.float32))
    bound = x.shape[1] ** -0.5
    layer = torch.empty(x.shape[1], x.shape[1]).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    first = KMeans(k, n_init=_STARTS, random_state=seed).fit((x @ layer).numpy())
    layer, centres = nn.Parameter(layer), nn.Parameter(torch.from_numpy(first.cluster_centers_.astype(np.float32)))
    optimiser = torch.optim.Adam([layer, centres], lr=_LR)
    codes, target = torch.from_numpy(first.labels_.astype(np.int64)), torch.empty(0)
    for step in range(_STEPS):
        shares = student_shares(x @ layer, centres)
        if step % _RENEWED == 0:
            target = sharpened(shares.detach())
            before, codes = codes, shares.argmax(dim=1)
            if step and (codes != before).float().mean() < _CHANGED:
                break
        optimiser.zero_grad()
        loss = nn.functional.kl_div(shares.log(), target, reduction="batchmean")
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        shares = student_shares(x @ layer, centres)
    if not shares.isfinite().all():
        msg = "the clustering by graph convolution diverged; leave out the method 'graph_convolution'"
        raise ValueError(msg)
    found = np.full(len(values), -1)
    found[known] = shares.argmax(dim=1).numpy()
    return found


def student_shares(embedded: Tensor, centres: Tensor) -> Tensor:
    """Share of each spot in each domain by Student's t with one degree of freedom, shape (n, k)."""
    lengths = embedded.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    near = 1 / (1 + (lengths - 2 * embedded @ centres.T).clamp(min=0))
    return near / near.sum(dim=1, keepdim=True)


def sharpened(shares: Tensor) -> Tensor:
    """Squared shares over the size of each domain, as shares again: what the clustering is drawn to, shape (n, k)."""
    squared = shares.square() / shares.sum(dim=0)
    return squared / squared.sum(dim=1, keepdim=True)


def _of_others(width: float, squared: np.ndarray, n: int) -> float:
    """What all others weigh for a spot, on average."""
    return float(np.exp(-squared / (2 * width**2)).sum() / n)


def _excess(width: float, squared: np.ndarray, n: int) -> float:
    return _of_others(width, squared, n) - _OTHERS
