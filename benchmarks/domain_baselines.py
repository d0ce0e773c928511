"""Baselines for spatial domains: what STORM's embeddings of a section are compared with in ``domains.py``.

All of them see the counts and the places of the spots, never the labels nor the H&E image, and have one setting for all
sections. The genes are the 2,000 most variable ones of the section (scanpy, on log-normalised counts) but for Novae.

- ``hvg_pca``: the genes scaled, 30 principal components;
- ``smoothing``: the genes unscaled, averaged with Gaussian weights (σ = 0.7 pitch), 10 principal components;
- ``graph_attention``: a graph-attention auto-encoder fitted to the section, as STAGATE (:func:`graph_attention`);
- ``novae``: a Novae trained from scratch on other sections (:func:`train_novae`, :func:`novae_latent`).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scanpy as sc
import torch
from anndata import AnnData
from scipy.spatial import cKDTree
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
#: Novae's genes of a section, and the share of spots in which they are at least.
NOVAE_GENES, NOVAE_SEEN = 1000, 0.1
#: Distance in µm that Novae expects between neighbours: it gives its network the lengths of edges in multiples of it.
NOVAE_STEP = 20.0
#: Novae's spots per step, its epochs, and where they are cut off.
NOVAE_BATCH, NOVAE_EPOCHS, NOVAE_SECONDS = 64, 4, 480.0


@dataclass(frozen=True)
class Expression:
    """A section as the baselines see it.

    Attributes
    ----------
    values
        Log-normalised counts of the most variable genes, shape (n, genes).
    centres
        x and y of the spots, shape (n, 2).
    pitch
        Distance of neighbouring spots, in the unit of ``centres``.
    """

    values: np.ndarray
    centres: np.ndarray
    pitch: float


def log_normalised(sdata) -> AnnData:
    """The section's table with counts normalised to 10,000 and logged, and its variable genes marked."""
    adata = sdata.tables["table"].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=N_GENES)
    return adata


def read_expression(sdata) -> Expression:
    """What the baselines read of a section."""
    adata = log_normalised(sdata)
    centres = read_spots(sdata, image=False).centres
    values = adata[:, adata.var["highly_variable"]].X.toarray()
    return Expression(values.astype(np.float32), centres, make_windows(centres).pitch)


def hvg_pca(section: Expression) -> np.ndarray:
    """Each gene scaled, 30 principal components: no use of space."""
    x = section.values
    return PCA(30, random_state=0).fit_transform((x - x.mean(0)) / (x.std(0) + 1e-6))


def smoothing(section: Expression) -> np.ndarray:
    """Genes averaged over the neighbours with Gaussian weights (σ = 0.7 pitch), 10 principal components."""
    tree = cKDTree(section.centres)
    near = tree.sparse_distance_matrix(tree, 4 * section.pitch, output_type="coo_matrix").tocsr()
    near.data = np.exp(-((near.data / section.pitch) ** 2) / (2 * 0.7**2))
    near.setdiag(1.0)
    smooth = (near @ section.values) / np.asarray(near.sum(axis=1))
    return PCA(10, random_state=0).fit_transform(smooth)


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

    def forward(self, x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and rebuild.

        Parameters
        ----------
        x
            Expression, shape (n, genes).
        near
            Neighbours, a spot itself among them, bool, shape (n, n).

        Returns
        -------
        latent : Tensor
            Shape (n, latent).
        rebuilt : Tensor
            Shape (n, genes).
        """
        seen = x @ self.inner
        # of spot i to its neighbour j: the sigmoid bounds the scores, so that no neighbour takes all the weight
        scores = torch.sigmoid(seen @ self.towards + (seen @ self.away).T)
        attention = scores.masked_fill(~near, -torch.inf).softmax(dim=1)
        latent = nn.functional.elu(attention @ seen) @ self.outer
        rebuilt = nn.functional.elu(attention @ (latent @ self.outer.T)) @ self.inner.T
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
    distance = torch.cdist(*[torch.from_numpy(section.centres)] * 2)
    near = distance <= REACH * section.pitch
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = GraphAttentionAutoencoder(x.shape[1], HIDDEN, LATENT)
    optimiser = torch.optim.Adam(network.parameters(), lr=LR, weight_decay=1e-4)
    for _ in range(EPOCHS):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(x, near)[1], x)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
    if not math.isfinite(loss.item()):
        msg = f"the auto-encoder diverged: its loss is {loss.item()}"
        raise ValueError(msg)
    with torch.inference_mode():
        return network(x, near)[0].numpy()


#: Representations that are made of the section alone.
BASELINES: dict[str, Callable[[Expression], np.ndarray]] = {
    "hvg_pca": hvg_pca,
    "smoothing": smoothing,
    "graph_attention": graph_attention,
}


def train_novae(sections: Iterable) -> tuple[object, dict[str, float]]:
    """Train a Novae from scratch.

    Novae's own defaults (10 layers, 64 outputs, two hops, 512 prototypes, Adam at 5e-4), but for these:

    - batches of 64 spots instead of 256, which would be a whole section, and 4 epochs instead of at most 20, which is
      what fits into ``NOVAE_SECONDS`` on one core (its schedule ends with the last epoch; training is cut off there
      in any case);
    - of each section the 1,000 most variable genes among those seen in a tenth of its spots. Novae scales each gene to
      unit variance, and most of the genes that scanpy calls highly variable are seen in a few spots only;
    - the graph of the other baselines (spots within 1.5 pitches), because a Delaunay triangulation of a square lattice
      draws its diagonals at random, with a pitch shrunk to the 20 µm that Novae expects between neighbours.

    Parameters
    ----------
    sections
        Sections as SpatialData; genes of several species meet where their symbols differ in case only.

    Returns
    -------
    model : novae.Novae
        For :func:`novae_latent`.
    facts : dict
        ``"seconds"`` of all this, ``"epochs"``, ``"steps"``, ``"spots"``, ``"genes"`` of the vocabulary, and the last
        epoch's ``"loss"``.
    """
    lightning, novae = _novae()
    started = time.perf_counter()
    adatas = [_for_novae(sdata) for sdata in sections]
    lightning.seed_everything(SEED, verbose=False)
    model = novae.Novae(adatas, batch_size=NOVAE_BATCH)
    model.fit(
        max_epochs=NOVAE_EPOCHS,
        max_time={"seconds": NOVAE_SECONDS},
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    facts = {
        "seconds": round(time.perf_counter() - started, 1),
        "epochs": model.trainer.current_epoch,
        "steps": model.trainer.global_step,
        "spots": sum(adata.n_obs for adata in adatas),
        "genes": model.cell_embedder.voc_size,
        "loss": round(float(model.trainer.callback_metrics["train/loss_epoch"]), 3),
    }
    return model, facts


def novae_latent(model, sdata) -> np.ndarray:
    """Latent of a section by a trained Novae, of unit length as its prototypes are; shape (n, 64).

    Of the section's variable genes it reads those that the training sections had among theirs. A spot without
    neighbours of neighbours has no latent in Novae: its row is zero.
    """
    adata = _for_novae(sdata)
    model.compute_representations(adata)
    latent = adata.obsm["novae_latent"]
    return latent / np.maximum(np.linalg.norm(latent, axis=1, keepdims=True), 1e-8)


def _for_novae(sdata) -> AnnData:
    """A copy of the section's table as Novae wants it: logged, with its genes chosen and its graph."""
    _, novae = _novae()
    table = sdata.tables["table"].copy()
    sc.pp.normalize_total(table, target_sum=1e4)
    sc.pp.log1p(table)
    names = table.var_names.str.lower()
    table = table[:, ~names.duplicated()]
    centres = read_spots(sdata, image=False).centres
    adata = AnnData(table.X.tocsr(), obs=table.obs[[]].copy())
    adata.var_names = table.var_names.str.lower()
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    variance = np.asarray(adata.X.power(2).mean(axis=0)).ravel() - mean**2
    variance[np.asarray((adata.X > 0).mean(axis=0)).ravel() < NOVAE_SEEN] = -1.0
    chosen = np.argsort(-variance)[:NOVAE_GENES]
    adata.var["highly_variable"] = np.isin(np.arange(adata.n_vars), chosen[variance[chosen] >= 0])
    pitch = make_windows(centres).pitch
    adata.obsm["spatial"] = centres * (NOVAE_STEP / pitch)
    novae.spatial_neighbors(adata, delaunay=False, radius=REACH * NOVAE_STEP, verbose=False)
    return adata


def _novae():
    """The modules lightning and novae, quiet, and told that counts come logged and genes chosen."""
    # numba, which Novae's preprocessing starts, would set the threads of all OpenMP libraries, torch's too
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    import lightning
    import novae

    novae.settings.auto_preprocessing = False
    for name in ("novae", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return lightning, novae
