"""Attention with linear biases by distance (ALiBi, Press et al. 2022; paper, eq. 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alibi_slopes(heads: int) -> Tensor:
    """The geometric slopes of the ALiBi paper, shape (heads,).

    For a power of two they are 2^(-8/heads), 2^(-16/heads), …; other numbers of heads interleave the slopes of the
    next larger power of two.
    """

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    lower = 2 ** math.floor(math.log2(heads))
    slopes = geometric(lower)
    if lower < heads:
        slopes += geometric(2 * lower)[0::2][: heads - lower]
    # On the CPU whatever the default device is: a network may be built on the meta device, and slopes are not stored.
    return torch.tensor(slopes, device="cpu")


def distance_bias(offsets: Tensor, slopes: Tensor) -> Tensor:
    """Additive attention bias −m_h · ‖r_i − r_j‖.

    Parameters
    ----------
    offsets
        Positions in units of the window's pitch, shape (T, 2) or (B, T, 2).
    slopes
        Shape (heads,).

    Returns
    -------
    Tensor
        Shape (1 or B, heads, T, T). Two tokens of one spot have distance 0.
    """
    if offsets.ndim == 2:
        offsets = offsets.unsqueeze(0)
    offsets = offsets.to(slopes.dtype)
    distance = (offsets.unsqueeze(2) - offsets.unsqueeze(1)).pow(2).sum(dim=-1).sqrt()
    return -slopes.view(1, -1, 1, 1) * distance.unsqueeze(1)
