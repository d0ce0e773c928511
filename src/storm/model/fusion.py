"""Blocks of the spatial encoder: shared self-attention, one feed-forward expert per modality (paper, eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with an additive bias and a mask over keys.

    With some fifty tokens per window, the products QKᵀ and AV are about one percent of the cost: plain matrix products,
    with an exact treatment of empty windows, are faster here than a fused kernel.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, keys: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        x
            Tokens, shape (B, T, width).
        bias
            Shape (1 or B, heads, T, T).
        keys
            Which tokens may be attended to, bool, shape (B, T).

        Returns
        -------
        Tensor
            Shape (B, T, width); where a window has no key at all, only the projection's bias.
        """
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # In place, and the scaling on the smaller tensor: with short windows, passes over the scores dominate the cost.
        scores = ((q * (width // self.heads) ** -0.5) @ k.transpose(-1, -2)).float()
        scores += bias
        scores.masked_fill_(~keys[:, None, None, :], torch.finfo(scores.dtype).min)
        mixed = self.dropout(scores.softmax(dim=-1)).to(v.dtype) @ v
        # An excluded key underflows to a weight of exactly zero, unless no key is left at all.
        mixed = mixed * keys.any(dim=1)[:, None, None, None]
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


def feed_forward(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class MoMEBlock(nn.Module):
    """Pre-LN Transformer block with a mixture of modality experts.

    Tokens come sorted by modality, so that routing is slicing. One expert makes it a plain Transformer block.
    """

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float = 4.0, dropout: float = 0.0, experts: int = 2
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm_ffn = nn.LayerNorm(width)
        self.experts = nn.ModuleList(feed_forward(width, int(width * mlp_ratio), dropout) for _ in range(experts))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, keys: Tensor, lengths: Sequence[int]) -> Tensor:
        """Update tokens (B, T, width); ``lengths`` is the number of tokens of each expert, in order."""
        x = x + self.dropout(self.attention(self.norm_attention(x), bias, keys))
        parts = torch.split(self.norm_ffn(x), list(lengths), dim=1)
        routed = [expert(part) for expert, part in zip(self.experts, parts, strict=True) if part.shape[1]]
        return x + self.dropout(torch.cat(routed, dim=1))
