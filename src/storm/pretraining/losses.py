"""Densities of eq. 3. The paper does not name them; the choices are documented in the user guide.

Every loss is a mean over masked positions, each position being itself a mean over what was measured there, so that a
panel of 300 genes weighs as much per spot as a whole transcriptome.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_nll(prediction: Tensor, target: Tensor, measured: Tensor, masked: Tensor) -> Tensor:
    """Negative log-likelihood of a Gaussian with unit variance, up to its constant.

    Parameters
    ----------
    prediction, target
        Shape (..., D).
    measured
        Which of the D dimensions were measured, bool, broadcastable to ``target``.
    masked
        Which positions count, bool, shape (...).

    Returns
    -------
    Tensor
        A scalar; zero (with a gradient of zero) where no position counts.
    """
    keep = (masked.unsqueeze(-1) & measured).expand_as(target)
    error = torch.where(keep, prediction.float() - target.float(), 0.0)
    per_position = 0.5 * error.pow(2).sum(dim=-1) / keep.sum(dim=-1).clamp(min=1)
    return per_position.sum() / masked.sum().clamp(min=1)


def negative_binomial_nll(
    logits: Tensor, counts: Tensor, log_dispersion: Tensor, measured: Tensor, masked: Tensor
) -> Tensor:
    """Negative log-likelihood of counts; mean = library size × softmax over the measured genes.

    Parameters
    ----------
    logits
        Decoder's output, shape (..., G).
    counts
        Raw counts, shape (..., G); a position's library size is their sum over the measured genes.
    log_dispersion
        Logarithm of the inverse dispersion r of each gene (variance = mean + mean²/r), shape (G,).
    measured
        Bool, broadcastable to ``counts``.
    masked
        Which positions count, bool, shape (...).

    Returns
    -------
    Tensor
        A scalar. Equals ``-torch.distributions.NegativeBinomial(r, logits=log(mean / r)).log_prob(counts)`` averaged
        over the measured genes, then over the positions.
    """
    counts = torch.where(measured, counts.float(), 0.0)
    log_share = logits.float().masked_fill(~measured, -torch.inf).log_softmax(dim=-1)
    library = counts.sum(dim=-1, keepdim=True).clamp(min=1.0)
    log_mean = torch.where(measured, log_share + library.log(), 0.0)
    log_r = log_dispersion.float()
    r = log_r.exp()
    log_total = torch.logaddexp(log_r.expand_as(log_mean), log_mean)
    log_likelihood = (
        torch.lgamma(counts + r)
        - torch.lgamma(r)
        - torch.lgamma(counts + 1)
        + r * (log_r - log_total)
        + counts * (log_mean - log_total)
    )
    keep = (masked.unsqueeze(-1) & measured).expand_as(counts)
    per_position = -torch.where(keep, log_likelihood, 0.0).sum(dim=-1) / keep.sum(dim=-1).clamp(min=1)
    return per_position.sum() / masked.sum().clamp(min=1)
