"""Principal components of a section's genes: as they are, smoothed, and beside those of neighbours."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

from storm.benchmark._section import CountedSection, identity

#: Width of the smoothing in pitches, and its reach.
_SIGMA, _CUT = 0.7, 4
#: Spatially variable genes.
_N_SPATIAL = 500
#: Neighbours of the neighbour-augmented genes: for their mean, and for their gradient.
_N_MEAN, _N_GRADIENT = 15, 30
#: Components and rings of neighbours that are aggregated.
_N_AGGREGATED, _RINGS = 10, 4


def hvg(section: CountedSection) -> np.ndarray:
    """The log-normalised counts of the most variable genes as they are: no encoder, no use of space."""
    return section.values


def hvg_pca(section: CountedSection) -> np.ndarray:
    """Each gene scaled, 30 principal components: no use of space."""
    return _pca(_scaled(section.values), 30)


def svg_pca(section: CountedSection) -> np.ndarray:
    """Of the variable genes the 500 of largest Moran's I over a spot's neighbours, scaled, 30 principal components."""
    x = _scaled(section.values)
    near = section.neighbours().astype(np.float32)
    # Moran's I of genes of unit variance: the mean product over pairs of neighbours
    moran = np.einsum("ng,ng->g", x, np.asarray(near @ x)) / near.sum()
    return _pca(x[:, np.sort(np.argsort(-moran, kind="stable")[:_N_SPATIAL])], 30)


def smoothing(section: CountedSection) -> np.ndarray:
    """Genes averaged over the neighbours with Gaussian weights (σ = 0.7 pitch), 10 principal components."""
    return _pca(_smoothed(section, section.values), 10)


def smoothing_unit(section: CountedSection) -> np.ndarray:
    """The same of the 300 genes of largest variance, scaled to unit length per spot."""
    scores = _pca(_smoothed(section, section.strongest), 10)
    return scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-8)


def neighbour_augmented(section: CountedSection, *, weight: float) -> np.ndarray:
    """Scaled genes beside the mean and the gradient of the neighbours, 20 principal components.

    Written from the description of BANKSY: the mean of the 15 nearest and the size of an azimuthal Gabor filter over
    the 30 nearest, both with Gaussian weights of the distance whose width is the median distance to the last neighbour;
    each scaled to unit variance per gene; weights √(1 − λ), √(2λ/3) and √(λ/3). The paper clusters a graph of
    neighbours (Leiden); here it is k-means, as for every other method.

    Parameters
    ----------
    section
        The section.
    weight
        λ: 0.2 for cell types, 0.8 for domains in the paper.

    References
    ----------
    Singhal et al., BANKSY unifies cell typing and tissue domain segmentation for scalable spatial omics data analysis,
    Nature Genetics 56, 431 (2024), Methods.
    """
    x = section.values
    mean = _around(section, _N_MEAN, 0) @ x
    turned = _around(section, _N_GRADIENT, 1)
    gradient = np.abs(turned @ x - np.asarray(turned.sum(axis=1)) * mean)
    parts = zip((x, mean, gradient), (1 - weight, weight * 2 / 3, weight / 3), strict=True)
    return _pca(np.hstack([np.sqrt(share) * _scaled(part) for part, share in parts]), 20)


def aggregated(section: CountedSection) -> np.ndarray:
    """Ten principal components of the genes beside their means over four rings of neighbours, shape (n, 50).

    Written from the description of CellCharter, with principal components in place of its variational auto-encoder:
    means over the spots that are one, two … steps away in the graph. The paper clusters them by a Gaussian mixture.
    Components unscaled, ten and four rings were the best of five choices by the labels of four sections (three to five
    rings, 10 or 20 components, scaled or not).

    References
    ----------
    Varrone et al., CellCharter reveals spatial cell niches associated with tissue remodeling and cell plasticity,
    Nature Genetics 56, 74 (2024), Methods.
    """
    scores = _pca(section.values, _N_AGGREGATED)
    graph = section.neighbours().astype(np.float32)
    ring = seen = identity(len(scores))
    parts = [scores]
    for _ in range(_RINGS):
        wider = (seen + ring @ graph).astype(bool).astype(np.float32)
        ring, seen = wider - seen, wider
        ring.eliminate_zeros()
        parts.append((ring @ scores) / np.maximum(np.asarray(ring.sum(axis=1)), 1))
    return np.hstack(parts)


def _pca(values: np.ndarray, most: int) -> np.ndarray:
    return PCA(min(most, *values.shape), random_state=0).fit_transform(values)


def _scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(0)) / (values.std(0) + 1e-6)


def _smoothed(section: CountedSection, values: np.ndarray) -> np.ndarray:
    tree = cKDTree(section.centres)
    near = tree.sparse_distance_matrix(tree, _CUT * section.pitch, output_type="coo_matrix").tocsr()
    near.data = np.exp(-((near.data / section.pitch) ** 2) / (2 * _SIGMA**2))
    near.setdiag(1.0)
    return np.asarray((near @ values) / np.asarray(near.sum(axis=1)))


def _around(section: CountedSection, k: int, turns: int) -> csr_matrix:
    """Weights of the k nearest, whose sizes add up to 1, times a phase that turns so often around the spot."""
    n = len(section.centres)
    k = min(k, n - 1)
    distance, near = (nearest[:, 1:] for nearest in cKDTree(section.centres).query(section.centres, k + 1))
    size = np.exp(-np.square(distance / np.median(distance[:, -1])))
    size /= size.sum(axis=1, keepdims=True)
    offset = section.centres[near] - section.centres[:, None]
    phase = np.exp(1j * turns * np.arctan2(offset[..., 1], offset[..., 0])) if turns else 1.0
    return csr_matrix(((size * phase).ravel(), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
