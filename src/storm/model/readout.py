"""From the network's tokens to one vector per spot."""

from __future__ import annotations

import torch
from torch import Tensor

from storm.model.batch import SharedBatch, StormOutput, WindowBatch, masked_mean
from storm.model.masking import hidden_positions
from storm.model.storm import Storm

#: Standard deviation, in pitches, of the Gaussian with which ``"window"`` weights a spot's neighbours.
BANDWIDTH = 0.7


def center(output: StormOutput) -> dict[str, Tensor]:
    """Centre tokens per modality, shape (B, width); NaN where the centre has none."""
    return {name: masked_mean([(tokens[:, :1], mask[:, :1])]) for name, tokens, mask in _named(output)}


def window(output: StormOutput, batch: WindowBatch | SharedBatch) -> dict[str, Tensor]:
    """Tokens averaged over the window with Gaussian weights of the distance from the centre.

    Returns
    -------
    dict of str to Tensor
        Per modality the output tokens under its name, shape (B, width), and the input tokens under ``"<name>_input"``,
        shape (B, dim): the context and what it was made of. NaN where the window has no token of the modality.
    """
    weight = torch.exp(-batch.offsets.square().sum(dim=-1) / (2 * BANDWIDTH**2))
    result = {}
    for name, tokens, mask in _named(output):
        share = weight * mask
        total = share.sum(dim=1, keepdim=True)
        share = share / torch.where(total > 0, total, torch.nan)
        result[name] = (tokens * share.unsqueeze(-1)).sum(dim=1)
        result[f"{name}_input"] = batch.average(name, share)
    return result


def _named(output: StormOutput) -> list[tuple[str, Tensor, Tensor]]:
    pairs = [("he", output.he, output.he_mask), ("st", output.st, output.st_mask)]
    return [(name, tokens, mask) for name, tokens, mask in pairs if tokens is not None and mask is not None]


def reconstruction_basis(network: Storm, name: str) -> Tensor:
    """Map from a decoder's last hidden state to coordinates in which distances are those of its reconstructions.

    The read-out is linear, so the singular vectors of its weights carry the geometry of thousands of genes in as many
    dimensions as the decoder is wide.

    Returns
    -------
    Tensor
        Shape (decoder width, min(decoder width, outputs)).
    """
    _, singular, vectors = torch.linalg.svd(network.decoder(name).out.weight.float(), full_matrices=False)
    return vectors.T * singular


def present_spots(batch: WindowBatch) -> Tensor:
    """Which spots of each window have a token of any modality, bool, shape (B, L)."""
    masks = [mask for mask in (batch.he_mask, batch.st_mask) if mask is not None]
    return torch.stack(masks).any(dim=0)


def reconstruct_masked(
    network: Storm, batch: WindowBatch, slots: Tensor, shown: Tensor, *, projected: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Reconstruct the spots of each window that one random draw leaves invisible.

    Parameters
    ----------
    network
        With decoders.
    batch
        Windows.
    slots, shown
        The draw, see :func:`~storm.model.masking.draw_visible`, shape (B, n_visible). The same spots are visible in
        both modalities, so that the reconstruction of a spot comes from other spots alone.
    projected
        The batch holds input tokens of the network instead of spot embeddings.

    Returns
    -------
    hidden : dict of str to Tensor
        Decoders' last hidden states at every position, shape (B, L, decoder width).
    masked : Tensor
        Positions that exist and were not visible, bool, shape (B, L).
    """
    present = present_spots(batch)
    offsets = batch.offsets.expand(len(present), -1, 2) if batch.offsets.ndim == 2 else batch.offsets
    at = offsets.gather(1, slots.unsqueeze(-1).expand(-1, -1, 2))
    visible = {}
    for name, values, mask in (("he", batch.he, batch.he_mask), ("st", batch.st, batch.st_mask)):
        if values is not None and mask is not None:
            drawn = values.gather(1, slots.unsqueeze(-1).expand(-1, -1, values.shape[2]))
            visible[name] = (drawn, shown & mask.gather(1, slots), at)
    hidden = network.reconstruct(visible, offsets, hidden=True, projected=projected)
    # Without a single visible spot there is nothing to reconstruct from.
    return hidden, hidden_positions(present, slots, shown) & shown.any(dim=1, keepdim=True)
