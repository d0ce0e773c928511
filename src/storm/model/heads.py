"""Task heads on the frozen network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ExpressionMLP(nn.Module):
    """Expression from the tokens of an H&E-only window (paper, Methods: *predicting Visium ST from H&E*).

    A linear map plus a hidden layer, both of whose outputs start at zero: the head begins at the mean of the training
    spots, and on few sections it need not go far beyond a linear probe.

    Parameters
    ----------
    in_dim
        Length of the feature vector.
    n_genes
        Number of genes.
    hidden
        Width of the hidden layer.
    dropout
        Dropout probability of the features and of the hidden layer during training.
    """

    def __init__(self, in_dim: int, n_genes: int, *, hidden: int = 256, dropout: float = 0.2) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.offset: Tensor
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("std", torch.ones(in_dim))
        self.register_buffer("offset", torch.zeros(n_genes))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_dim, n_genes)
        last = nn.Linear(hidden, n_genes)
        self.hidden = nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU(), nn.Dropout(dropout), last)
        for layer in (self.linear, last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """log1p-normalised expression (B, n_genes) from features (B, in_dim)."""
        x = self.dropout((x - self.mean) / self.std)
        return self.offset + self.linear(x) + self.hidden(x)


def expression_loss(prediction: Tensor, target: Tensor, *, l1: float = 1.0, l2: float = 1.0) -> Tensor:
    """Eq. 4: the mean over spots and genes of λ1·|y − ŷ| + λ2·(y − ŷ)².

    Parameters
    ----------
    prediction, target
        Shape (B, G); NaN in ``target`` marks a gene that was not measured.
    l1, l2
        λ1 and λ2; the paper does not state them, 1 and 1 are ours.
    """
    measured = ~torch.isnan(target)
    error = torch.where(measured, prediction - target, 0.0)
    return (l1 * error.abs() + l2 * error.square()).sum() / measured.sum().clamp(min=1)
