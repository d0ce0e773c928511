"""Decoders that reconstruct masked spots: an MLP, two Transformer blocks, a linear read-out (paper, Methods)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from storm.model.config import StormConfig
from storm.model.fusion import MoMEBlock
from storm.model.positions import alibi_slopes, distance_bias


class SpotDecoder(nn.Module):
    """Reconstructs one modality at any position of a window from the encoded visible tokens of both.

    Only visible tokens are attended to. The reconstruction of one position therefore does not depend on which other
    positions are queried, and a masked spot cannot influence it.
    """

    def __init__(self, config: StormConfig, out_dim: int) -> None:
        super().__init__()
        width = config.decoder_width
        self.embed = nn.Sequential(nn.Linear(config.width, width), nn.GELU(), nn.Linear(width, width))
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.blocks = nn.ModuleList(
            MoMEBlock(width, config.decoder_heads, mlp_ratio=config.mlp_ratio, dropout=config.dropout, experts=1)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, out_dim)
        self.slopes: Tensor
        self.register_buffer("slopes", alibi_slopes(config.decoder_heads) * config.slope_scale, persistent=False)

    def hidden(self, tokens: Tensor, mask: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        """Last hidden state at the queried positions.

        Parameters
        ----------
        tokens
            Encoded tokens, shape (B, T, width of the encoder).
        mask
            Which of them are visible, bool, shape (B, T).
        positions
            Their positions in pitches, shape (B, T, 2) or (T, 2).
        queries
            Positions to reconstruct, shape (B, Q, 2) or (Q, 2).

        Returns
        -------
        Tensor
            Shape (B, Q, decoder width).
        """
        batch, n_queries = len(tokens), queries.shape[-2]
        x = torch.cat([self.embed(tokens), self.mask_token.to(tokens.dtype).expand(batch, n_queries, -1)], dim=1)
        if positions.ndim != queries.ndim:
            positions, queries = positions.expand(batch, -1, 2), queries.expand(batch, -1, 2)
        bias = distance_bias(torch.cat([positions, queries], dim=-2), self.slopes)
        keys = torch.cat([mask, mask.new_zeros(batch, n_queries)], dim=1)
        for block in self.blocks:
            x = block(x, bias, keys, (x.shape[1],))
        return self.norm(x[:, -n_queries:])

    def forward(self, tokens: Tensor, mask: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        """Reconstruction at the queried positions, shape (B, Q, out_dim)."""
        return self.out(self.hidden(tokens, mask, positions, queries))
