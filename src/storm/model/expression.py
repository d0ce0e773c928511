"""Panel-agnostic expression encoder of the packaged model, which takes the place that Novae has in the paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FactorEncoder(nn.Module):
    """Posterior mean of probabilistic principal components, given whichever genes were measured.

    x = μ + V z + ε with orthonormal loadings V, factor variances s² and noise variance σ² (Tipping & Bishop 1999). For
    a panel m the posterior mean is (V_mᵀV_m + σ² diag(s)⁻²)⁻¹ V_mᵀ (x_m − μ_m): the same latent space for any panel,
    shrunk towards 0 the less informative the panel is. Each spot is encoded from its own expression alone.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    dim
        Number of factors.
    """

    def __init__(self, n_genes: int, dim: int) -> None:
        super().__init__()
        self.loadings: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.noise: Tensor
        self.register_buffer("loadings", torch.zeros(n_genes, dim))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("noise", torch.ones(()))

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.loadings.shape[1]

    def weights(self, measured: Tensor) -> Tensor:
        """Matrix that maps centred expression of the measured genes to factors.

        Parameters
        ----------
        measured
            Positions of the measured genes in the vocabulary, shape (m,).

        Returns
        -------
        Tensor
            Shape (m, dim).
        """
        v = self.loadings[measured].double()
        gram = v.T @ v + torch.diag(self.noise.double() / self.variance.double())
        return torch.linalg.solve(gram, v.T).T.float()

    def forward(self, x: Tensor, measured: Tensor) -> Tensor:
        """Factors of log1p-normalised expression ``x`` (n, m) over the measured genes: shape (n, dim)."""
        return (x - self.mean[measured]) @ self.weights(measured)
