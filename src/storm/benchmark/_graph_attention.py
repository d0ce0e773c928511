"""A graph-attention auto-encoder that is fitted to one section, as STAGATE."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from storm.benchmark._section import CountedSection, identity

#: Of the network's weights.
_SEED = 0
#: Layers, epochs and step size.
_HIDDEN, _LATENT, _EPOCHS, _LR = 512, 30, 500, 1e-3


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
        attention = torch.sparse_coo_tensor(edges, share, (len(x), len(x)), check_invariants=False)
        latent = nn.functional.elu(torch.sparse.mm(attention, seen)) @ self.outer
        rebuilt = nn.functional.elu(torch.sparse.mm(attention, latent @ self.outer.T)) @ self.inner.T
        return latent, rebuilt


def graph_attention(section: CountedSection) -> np.ndarray:
    """Latent of a graph-attention auto-encoder fitted to the section, shape (n, 30).

    Written from the description of STAGATE: layers of 512 and 30, graph attention with sigmoid scores in the first,
    ELU, a decoder of transposed weights that shares the attention, squared error, Adam with weight decay 1e-4. Where
    this differs from the paper: 2,000 genes instead of 3,000; 500 epochs with a step of 1e-3 (there 1e-4) and
    gradients clipped at a norm of 5; no cell-type-aware graph. The paper clusters the latent with mclust; here it is
    k-means, as for every other method.

    Raises
    ------
    ValueError
        If the training diverges.

    References
    ----------
    Dong & Zhang, Deciphering spatial domains from spatially resolved transcriptomics with an adaptive graph attention
    auto-encoder, Nature Communications 13, 1739 (2022).
    """
    x = torch.from_numpy(section.values)
    near = (section.neighbours() + identity(len(x)).astype(bool)).tocoo()
    edges = torch.from_numpy(np.vstack([near.row, near.col]).astype(np.int64))
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        network = GraphAttentionAutoencoder(x.shape[1], _HIDDEN, _LATENT)
    optimiser = torch.optim.Adam(network.parameters(), lr=_LR, weight_decay=1e-4)
    loss = math.nan
    for _ in range(_EPOCHS):
        optimiser.zero_grad()
        error = nn.functional.mse_loss(network(x, edges)[1], x)
        error.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        loss = error.item()
    if not math.isfinite(loss):
        msg = f"the graph-attention auto-encoder diverged: its loss is {loss}; leave out the method 'graph_attention'"
        raise ValueError(msg)
    with torch.inference_mode():
        return network(x, edges)[0].numpy()
