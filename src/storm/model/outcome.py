"""From the bag of tiles of a patient to a risk (paper, Methods: *clinical outcome prediction*)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from storm._checks import check_choice, check_whole

#: Networks for :class:`Outcome`: the paper's, attention-based pooling (Ilse et al. 2018), and the mean of a bag.
NETWORKS = ("perceiver", "abmil", "mean")


@dataclass(frozen=True, kw_only=True)
class OutcomeConfig:
    """Sizes of an outcome network.

    Attributes
    ----------
    dims
        Length of a tile's vector for each modality, such as ``{"he": 768, "st": 1196}``.
    network
        One of ``"perceiver"``, ``"abmil"`` and ``"mean"``.
    width
        Width of tokens.
    n_latents, depth, heads
        Latents, self-attention blocks and heads of a Perceiver.
    dropout
        Dropout probability.
    outputs
        Outputs: 1 for a risk or a logit, or the number of time bins.
    """

    dims: dict[str, int] = field(default_factory=dict)
    network: str = "perceiver"
    width: int = 128
    n_latents: int = 16
    depth: int = 1
    heads: int = 4
    dropout: float = 0.25
    outputs: int = 1

    def __post_init__(self) -> None:
        check_choice(self.network, NETWORKS, name="network")
        for name in ("width", "n_latents", "depth", "heads", "outputs"):
            check_whole(getattr(self, name), name=name)
        if not self.dims or not all(dim > 0 for dim in self.dims.values()):
            msg = f"dims={self.dims}: give the length of a tile's vector for one modality or more"
            raise ValueError(msg)
        if self.width % self.heads:
            msg = f"width={self.width} is no multiple of heads={self.heads}"
            raise ValueError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"dropout={self.dropout}: give a probability from 0 up to, not including, 1"
            raise ValueError(msg)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> OutcomeConfig:
        """From json.

        Raises
        ------
        ValueError, TypeError
            If a field is unknown, missing or impossible.
        """
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """For json."""
        return asdict(self)


class Outcome(nn.Module):
    """A risk, a logit or hazards per patient from bags of tiles.

    In the network of the paper a Perceiver compresses the tiles of each modality to latents, the latents of the
    modalities attend to each other, each modality is pooled by gated attention, and an MLP reads the result. Without
    latents (``"abmil"``) tiles are pooled directly, or averaged (``"mean"``).

    Parameters
    ----------
    config
        Sizes.
    """

    def __init__(self, config: OutcomeConfig) -> None:
        super().__init__()
        self.config = config
        width, names = config.width, list(config.dims)
        self.tokens = nn.ModuleDict(
            {
                name: nn.Sequential(Standardise(dim), nn.Linear(dim, width), nn.GELU(), nn.Dropout(config.dropout))
                for name, dim in config.dims.items()
            }
        )
        perceiver = config.network == "perceiver"
        self.perceivers = nn.ModuleDict({name: Perceiver(config) for name in names} if perceiver else {})
        crossed = perceiver and len(names) == 2
        self.fusion = nn.ModuleDict(
            {name: Attend(width, config.heads, config.dropout) for name in names} if crossed else {}
        )
        pools = {} if config.network == "mean" else {name: GatedPool(width, config.dropout) for name in names}
        self.pools = nn.ModuleDict(pools)
        self.head = nn.Sequential(
            nn.LayerNorm(width * len(names)),
            nn.Linear(width * len(names), width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, config.outputs),
        )

    def standard(self, name: str) -> Standardise:
        """Mean and spread by which the vectors of a modality are standardised."""
        layer = self.tokens[name]
        assert isinstance(layer, nn.Sequential)
        assert isinstance(layer[0], Standardise)
        return layer[0]

    def forward(self, bags: dict[str, Tensor], mask: Tensor) -> Tensor:
        """Outputs for a batch of bags.

        Parameters
        ----------
        bags
            Vectors of the tiles per modality, shape (B, n, d); NaN where a value is not known.
        mask
            Which of the n tiles there are, bool, shape (B, n); at least one per bag.

        Returns
        -------
        Tensor
            Shape (B, outputs).
        """
        tokens = {name: layer(bags[name]) for name, layer in self.tokens.items()}
        there = dict.fromkeys(tokens, mask)
        if self.perceivers:
            tokens = {name: perceiver(tokens[name], mask) for name, perceiver in self.perceivers.items()}
            there = {name: torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
                     for name, values in tokens.items()}  # fmt: skip
        if self.fusion:
            first, second = tokens
            tokens = {
                first: self.fusion[first](tokens[first], tokens[second]),
                second: self.fusion[second](tokens[second], tokens[first]),
            }
        pooled = [
            self.pools[name](values, there[name]) if self.pools else _mean(values, there[name])
            for name, values in tokens.items()
        ]
        return self.head(torch.cat(pooled, dim=-1))


class Standardise(nn.Module):
    """Values around the mean of the training patients, in units of their spread; unknown ones are the mean."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised (..., d)."""
        return torch.where(torch.isnan(x), 0.0, (x - self.mean) / self.std)


class Perceiver(nn.Module):
    """Latents that attend to a set of tokens, and then to each other (Jaegle et al. 2021)."""

    def __init__(self, config: OutcomeConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.n_latents, config.width) * 0.02)
        self.read = Attend(config.width, config.heads, config.dropout)
        self.blocks = nn.ModuleList(Attend(config.width, config.heads, config.dropout) for _ in range(config.depth))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Latents (B, n_latents, width) of tokens (B, n, width), of which ``mask`` (B, n) are there."""
        latents = self.read(self.latents.expand(len(tokens), -1, -1), tokens, mask)
        for block in self.blocks:
            latents = block(latents, latents)
        return latents


class Attend(nn.Module):
    """Attention of queries to a context and an MLP, both residual, normalised first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm, self.context_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key_value, self.out = (
            nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width),
        )  # fmt: skip
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Queries (B, q, width) after reading the context (B, n, width), of which ``mask`` (B, n) is there."""
        batch, number, width = queries.shape
        query = self.query(self.query_norm(queries))
        key, value = self.key_value(self.context_norm(context)).chunk(2, dim=-1)
        query, key, value = (
            part.reshape(batch, -1, self.heads, width // self.heads).transpose(1, 2) for part in (query, key, value)
        )
        read = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=None if mask is None else mask[:, None, None, :]
        )
        queries = queries + self.out(read.transpose(1, 2).reshape(batch, number, width))
        return queries + self.mlp(self.norm(queries))


class GatedPool(nn.Module):
    """Weighted mean of tokens, whose weights are learned (Ilse, Tomczak & Welling 2018, eq. 9)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(width // 2, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Mean (B, width) of tokens (B, n, width), of which ``mask`` (B, n) are there."""
        score = self.score(self.dropout(torch.tanh(self.value(tokens)) * torch.sigmoid(self.gate(tokens))))
        weight = score.masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        return (weight * tokens).sum(dim=1)


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    keep = mask[..., None]
    return (tokens * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
