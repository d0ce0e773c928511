"""Baselines for spatial domains: what STORM's embeddings of a section are compared with in ``domains.py``.

All of them see the counts and the places of the spots, never the labels nor the H&E image, and have one setting for all
sections. The genes are the 2,000 most variable ones of the section (scanpy, on log-normalised counts) unless stated.

- ``hvg_pca``: the genes scaled, 30 principal components;
- ``smoothing``: the genes unscaled, averaged with Gaussian weights (σ = 0.7 pitch), 10 principal components;
- ``smoothing_unit``: the same of the 300 genes of largest variance, scaled to unit length per spot;
- ``neighbour_augmented_0.2`` and ``_0.8``: the genes beside the mean and the gradient of the neighbours, as BANKSY
  (:func:`neighbour_augmented`);
- ``aggregated`` and ``aggregated_mixture``: principal components beside their means over rings of neighbours, as
  CellCharter (:func:`aggregated`), clustered by k-means and by a Gaussian mixture;
- ``graph_attention``: a graph-attention auto-encoder fitted to the section, as STAGATE (:func:`graph_attention`);
- ``novae``: a Novae trained from scratch (``domain_novae.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData
from domain_sections import Section
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay, cKDTree
from sklearn.decomposition import PCA
from torch import Tensor, nn

from storm._bridge import read_spots
from storm.data.windows import make_windows

N_GENES = 2000
#: Of every network's weights, batches and noise.
SEED = 0
#: Spots within so many pitches are neighbours in a graph: the 8 around a spot of a square lattice.
REACH = 1.5
#: Layers, epochs and step size of the graph-attention auto-encoder.
HIDDEN, LATENT, EPOCHS, LR = 512, 30, 500, 1e-3
#: Neighbours of the neighbour-augmented genes: for their mean, and for their gradient.
N_MEAN, N_GRADIENT = 15, 30
#: Components and rings of neighbours that are aggregated.
N_AGGREGATED, RINGS = 10, 4


@dataclass(frozen=True)
class Expression:
    """A section as the baselines see it.

    Attributes
    ----------
    values
        Log-normalised counts of the most variable genes, shape (n, genes).
    centres
        x and y of the spots, shape (n, 2).
    strongest
        The same of the 300 genes of largest variance, shape (n, ≤ 300).
    pitch
        Distance of neighbouring spots, in the unit of ``centres``.
    lattice
        Whether they lie on a lattice.
    """

    values: np.ndarray
    strongest: np.ndarray
    centres: np.ndarray
    pitch: float
    lattice: bool


def log_normalised(table: AnnData) -> AnnData:
    """A table with counts normalised to 10,000 and logged, and its variable genes marked."""
    adata = table.copy()
    adata.X = adata.X.astype(np.float32)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=N_GENES)
    return adata


def read_expression(section: Section) -> Expression:
    """What the baselines read of a section."""
    adata = log_normalised(section.table)
    centres = read_spots(section.data, image=False).centres
    values = adata[:, adata.var["highly_variable"]].X.toarray()
    variance = adata.X.power(2).mean(axis=0).A1 - np.square(adata.X.mean(axis=0).A1)
    strongest = adata.X[:, np.sort(np.argsort(-variance)[:300])].toarray()
    windows = make_windows(centres)
    return Expression(values.astype(np.float32), strongest, centres, windows.pitch, windows.kind != "knn")


def neighbours(section: Expression) -> csr_matrix:
    """Which spots are next to which, without themselves, bool, shape (n, n).

    On a lattice those within 1.5 pitches; for cells those of a Delaunay triangulation but for its longest 1 % of edges.
    """
    n = len(section.centres)
    if section.lattice:
        pairs = cKDTree(section.centres).query_pairs(REACH * section.pitch, output_type="ndarray")
    else:
        corners = Delaunay(section.centres).simplices
        pairs = np.unique(np.sort(np.vstack([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])), axis=0)
        length = np.linalg.norm(section.centres[pairs[:, 0]] - section.centres[pairs[:, 1]], axis=1)
        pairs = pairs[length <= np.quantile(length, 0.99)]
    rows, columns = np.vstack([pairs, pairs[:, ::-1]]).T
    return csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))


def hvg_pca(section: Expression) -> np.ndarray:
    """Each gene scaled, 30 principal components: no use of space."""
    x = section.values
    return PCA(30, random_state=0).fit_transform((x - x.mean(0)) / (x.std(0) + 1e-6))


def smoothing(section: Expression) -> np.ndarray:
    """Genes averaged over the neighbours with Gaussian weights (σ = 0.7 pitch), 10 principal components."""
    return PCA(10, random_state=0).fit_transform(_smoothed(section, section.values))


def smoothing_unit(section: Expression) -> np.ndarray:
    """The same of the 300 genes of largest variance, scaled to unit length per spot."""
    scores = PCA(10, random_state=0).fit_transform(_smoothed(section, section.strongest))
    return scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-8)


def _smoothed(section: Expression, values: np.ndarray) -> np.ndarray:
    tree = cKDTree(section.centres)
    near = tree.sparse_distance_matrix(tree, 4 * section.pitch, output_type="coo_matrix").tocsr()
    near.data = np.exp(-((near.data / section.pitch) ** 2) / (2 * 0.7**2))
    near.setdiag(1.0)
    return np.asarray((near @ values) / np.asarray(near.sum(axis=1)))


def neighbour_augmented(section: Expression, *, weight: float) -> np.ndarray:
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
    mean = _around(section, N_MEAN, 0) @ x
    turned = _around(section, N_GRADIENT, 1)
    gradient = np.abs(turned @ x - np.asarray(turned.sum(axis=1)) * mean)
    parts = zip((x, mean, gradient), (1 - weight, weight * 2 / 3, weight / 3), strict=True)
    stacked = np.hstack([np.sqrt(w) * (part - part.mean(0)) / (part.std(0) + 1e-6) for part, w in parts])
    return PCA(20, random_state=0).fit_transform(stacked)


def _around(section: Expression, k: int, turns: int) -> csr_matrix:
    """Weights of the k nearest, whose sizes add up to 1, times a phase that turns so often around the spot."""
    n = len(section.centres)
    distance, near = (found[:, 1:] for found in cKDTree(section.centres).query(section.centres, k + 1))
    size = np.exp(-np.square(distance / np.median(distance[:, -1])))
    size /= size.sum(axis=1, keepdims=True)
    offset = section.centres[near] - section.centres[:, None]
    phase = np.exp(1j * turns * np.arctan2(offset[..., 1], offset[..., 0])) if turns else 1.0
    return csr_matrix(((size * phase).ravel(), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def aggregated(section: Expression) -> np.ndarray:
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
    x = section.values
    scores = PCA(N_AGGREGATED, random_state=0).fit_transform(x)
    graph = neighbours(section).astype(np.float32)
    ring = seen = _identity(len(x))
    parts = [scores]
    for _ in range(RINGS):
        wider = (seen + ring @ graph).astype(bool).astype(np.float32)
        ring, seen = wider - seen, wider
        ring.eliminate_zeros()
        parts.append((ring @ scores) / np.maximum(np.asarray(ring.sum(axis=1)), 1))
    return np.hstack(parts)


def _identity(n: int) -> csr_matrix:
    return csr_matrix((np.ones(n, dtype=np.float32), (np.arange(n), np.arange(n))), shape=(n, n))


class GraphAttentionAutoencoder(nn.Module):
    """Auto-encoder whose first and last layers average over a spot's neighbours by attention.

    Encoder: genes → ``hidden`` with graph attention and ELU, → ``latent`` linearly. Decoder: back by the transposed
    weights, and the last layer averages with the attention of the first.

    Parameters
    ----------
    genes, hidden, latent
        Widths of the layers.
    """

    def __init__(self, genes: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.empty(genes, hidden))
        self.outer = nn.Parameter(torch.empty(hidden, latent))
        self.towards = nn.Parameter(torch.empty(hidden, 1))
        self.away = nn.Parameter(torch.empty(hidden, 1))
        for weight in self.parameters():
            nn.init.xavier_normal_(weight, gain=1.414)

    def forward(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and rebuild.

        Parameters
        ----------
        x
            Expression, shape (n, genes).
        edges
            Pairs of neighbours, each spot and itself among them, shape (2, pairs).

        Returns
        -------
        latent : Tensor
            Shape (n, latent).
        rebuilt : Tensor
            Shape (n, genes).
        """
        seen = x @ self.inner
        # of spot i to its neighbour j: the sigmoid bounds the scores, so that no neighbour takes all the weight
        rows, columns = edges
        scores = torch.sigmoid((seen @ self.towards)[rows] + (seen @ self.away)[columns]).squeeze(1).exp()
        share = scores / torch.zeros(len(x)).index_add(0, rows, scores)[rows]
        attention = torch.sparse_coo_tensor(edges, share, (len(x), len(x)))
        latent = nn.functional.elu(torch.sparse.mm(attention, seen)) @ self.outer
        rebuilt = nn.functional.elu(torch.sparse.mm(attention, latent @ self.outer.T)) @ self.inner.T
        return latent, rebuilt


def graph_attention(section: Expression) -> np.ndarray:
    """Latent of a graph-attention auto-encoder fitted to the section, shape (n, 30).

    Written from the description of STAGATE: layers of 512 and 30, graph attention with sigmoid scores in the first,
    ELU, a decoder of transposed weights that shares the attention, squared error, Adam with weight decay 1e-4. Where
    this differs from the paper: 2,000 genes instead of 3,000; 500 epochs with a step of 1e-3 (there 1e-4) and
    gradients clipped at a norm of 5; no cell-type-aware graph. The paper clusters the latent with mclust; here it is
    k-means, as for every other method.

    References
    ----------
    Dong & Zhang, Deciphering spatial domains from spatially resolved transcriptomics with an adaptive graph attention
    auto-encoder, Nature Communications 13, 1739 (2022).
    """
    x = torch.from_numpy(section.values)
    near = (neighbours(section) + _identity(len(x)).astype(bool)).tocoo()
    edges = torch.from_numpy(np.vstack([near.row, near.col]).astype(np.int64))
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = GraphAttentionAutoencoder(x.shape[1], HIDDEN, LATENT)
    optimiser = torch.optim.Adam(network.parameters(), lr=LR, weight_decay=1e-4)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(x, edges)[1], x)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    if not math.isfinite(loss.item()):
        msg = f"the auto-encoder diverged: its loss is {loss.item()}"
        raise ValueError(msg)
    with torch.inference_mode():
        return network(x, edges)[0].numpy()


#: Representations that are made of the section alone.
BASELINES: dict[str, Callable[[Expression], np.ndarray]] = {
    "hvg_pca": hvg_pca,
    "smoothing": smoothing,
    "smoothing_unit": smoothing_unit,
    "neighbour_augmented_0.2": partial(neighbour_augmented, weight=0.2),
    "neighbour_augmented_0.8": partial(neighbour_augmented, weight=0.8),
    "aggregated": aggregated,
    "graph_attention": graph_attention,
}
