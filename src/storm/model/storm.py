"""The STORM network: spot tokens of two modalities in, contextual spot tokens out."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from storm.model.batch import SharedBatch, StormOutput, WindowBatch
from storm.model.config import StormConfig
from storm.model.decoder import SpotDecoder
from storm.model.fusion import MoMEBlock
from storm.model.positions import alibi_slopes, distance_bias


class Storm(nn.Module):
    """Spatial encoder over a window of spots, with decoders where the configuration asks for them.

    Tokens of H&E come first, tokens of ST second. Either modality may be absent from a batch, or masked out spot by
    spot; nothing is ever filled in for it (paper, Methods: *Spatial encoder*, eqs. 1 and 2).

    Parameters
    ----------
    config
        Shape of the network.
    """

    def __init__(self, config: StormConfig) -> None:
        super().__init__()
        self.config = config
        self.project = nn.ModuleDict(
            {"he": nn.Linear(config.he_dim, config.width), "st": nn.Linear(config.st_dim, config.width)}
        )
        self.modality = nn.ParameterDict({name: nn.Parameter(torch.empty(config.width)) for name in ("he", "st")})
        for embedding in self.modality.values():
            nn.init.normal_(embedding, std=0.02)
        self.blocks = nn.ModuleList(
            MoMEBlock(config.width, config.heads, mlp_ratio=config.mlp_ratio, dropout=config.dropout)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.slopes: Tensor
        self.register_buffer("slopes", alibi_slopes(config.heads) * config.slope_scale, persistent=False)
        self.decoders = nn.ModuleDict()
        if config.decoder_depth:
            self.decoders["he"] = SpotDecoder(config, config.he_dim)
            if config.n_genes:
                self.decoders["st"] = SpotDecoder(config, config.n_genes)
        if config.st_likelihood == "nb" and config.n_genes:
            self.log_dispersion = nn.Parameter(torch.zeros(config.n_genes))

    def tokens(self, name: str, values: Tensor, mask: Tensor) -> Tensor:
        """Input tokens of one modality (eq. 1).

        Absent tokens are set to zero *before* the projection: their values, which may be NaN, have no influence.

        Parameters
        ----------
        name
            ``"he"`` or ``"st"``.
        values
            Spot embeddings, shape (…, dim).
        mask
            Tokens that exist, bool, shape (…).

        Returns
        -------
        Tensor
            Shape (…, width).
        """
        values = torch.where(mask.unsqueeze(-1), values, torch.zeros((), dtype=values.dtype, device=values.device))
        return self.project[name](values) + self.modality[name]

    def decoder(self, name: str) -> SpotDecoder:
        """The decoder of a modality that the network has one for.

        Parameters
        ----------
        name
            ``"he"`` or ``"st"``.
        """
        return cast("SpotDecoder", self.decoders[name])

    def encode(self, tokens: Tensor, mask: Tensor, positions: Tensor, *, lengths: tuple[int, int]) -> Tensor:
        """Run the blocks (eq. 2).

        Parameters
        ----------
        tokens
            Projected tokens, H&E first, shape (B, T, width).
        mask
            Tokens that exist, bool, shape (B, T).
        positions
            Their positions in pitches, shape (T, 2) or (B, T, 2).
        lengths
            Number of tokens of H&E and of ST.

        Returns
        -------
        Tensor
            Shape (B, T, width); zero where a token does not exist.
        """
        bias = distance_bias(positions, self.slopes)
        for block in self.blocks:
            tokens = block(tokens, bias, mask, lengths)
        return self.norm(tokens) * mask.unsqueeze(-1)

    def forward(self, batch: WindowBatch) -> StormOutput:
        """Contextual tokens of every position of every window.

        Parameters
        ----------
        batch
            Windows.

        Returns
        -------
        StormOutput
        """
        parts: list[Tensor] = []
        masks: list[Tensor] = []
        for name, values, mask in (("he", batch.he, batch.he_mask), ("st", batch.st, batch.st_mask)):
            if values is not None and mask is not None:
                parts.append(self.tokens(name, values, mask))
                masks.append(mask)
        length = batch.offsets.shape[-2]
        lengths = (length if batch.he is not None else 0, length if batch.st is not None else 0)
        positions = torch.cat([batch.offsets] * len(parts), -2)
        out = self.encode(torch.cat(parts, 1), torch.cat(masks, 1), positions, lengths=lengths)
        he, st = torch.split(out, list(lengths), dim=1)
        return StormOutput(
            he=None if batch.he is None else he,
            he_mask=batch.he_mask,
            st=None if batch.st is None else st,
            st_mask=batch.st_mask,
        )

    def share(self, inputs: dict[str, Tensor], exists: dict[str, Tensor]) -> Tensor:
        """Project spots once for all windows that hold them; see :class:`~storm.model.batch.SharedBatch`.

        Parameters
        ----------
        inputs, exists
            Per modality, H&E first: spot embeddings, shape (m + 1, dim), and which exist, bool, shape (m + 1,).

        Returns
        -------
        Tensor
            Input tokens, shape (modalities · (m + 1), width).
        """
        return torch.cat([self.tokens(name, values, exists[name]) for name, values in inputs.items()])

    def forward_shared(self, batch: SharedBatch, *, buffer: Tensor | None = None) -> StormOutput:
        """Contextual tokens of windows over projected spots, equal to those of :meth:`forward` for the same windows.

        Parameters
        ----------
        batch
            Windows.
        buffer
            Memory for the input tokens, shape (at least B · T, width), of the projected spots' dtype and device.

        Returns
        -------
        StormOutput
        """
        masks, length = batch.masks(), batch.at.shape[1]
        positions = torch.cat([batch.offsets] * len(masks), -2)
        lengths = (length if "he" in masks else 0, length if "st" in masks else 0)
        out = self.encode(batch.tokens(buffer), torch.cat(list(masks.values()), 1), positions, lengths=lengths)
        parts = dict(zip(masks, out.split(length, dim=1), strict=True))
        return StormOutput(
            he=parts.get("he"),
            he_mask=masks.get("he"),
            st=parts.get("st"),
            st_mask=masks.get("st"),
        )

    def reconstruct(
        self,
        visible: dict[str, tuple[Tensor, Tensor, Tensor]],
        queries: Tensor,
        *,
        hidden: bool = False,
        projected: bool = False,
        decoders: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Encode visible spots only and reconstruct both modalities at the queried positions (eq. 3).

        Parameters
        ----------
        visible
            Per modality: tokens (B, K, dim) of the visible spots, their mask (B, K) and positions (B, K, 2).
        queries
            Positions to reconstruct, shape (Q, 2) or (B, Q, 2).
        hidden
            Whether to return the decoders' last hidden states instead of their output.
        projected
            Whether the visible spots' tokens are input tokens already, shape (B, K, width).
        decoders
            Modalities to reconstruct; by default all that the network has a decoder for.

        Returns
        -------
        dict of str to Tensor
            ``"he"``: shape (B, Q, he_dim); ``"st"``: (B, Q, n_genes); for the decoders that the network has.
        """
        names = [name for name in ("he", "st") if name in visible]
        parts = [visible[name][0] if projected else self.tokens(name, *visible[name][:2]) for name in names]
        mask = torch.cat([visible[name][1] for name in names], dim=1)
        positions = torch.cat([visible[name][2] for name in names], dim=1)
        he, st = (visible[name][0].shape[1] if name in visible else 0 for name in ("he", "st"))
        encoded = self.encode(torch.cat(parts, 1), mask, positions, lengths=(he, st))
        result = {}
        for name in self.decoders:
            if decoders is None or name in decoders:
                decoder = self.decoder(name)
                decode = decoder.hidden if hidden else decoder
                result[name] = decode(encoded, mask, positions, queries)
        return result
