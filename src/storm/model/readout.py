"""From the network's tokens to one vector per spot."""

from __future__ import annotations

import torch
from torch import Tensor

from storm.model.batch import SharedBatch, StormOutput, WindowBatch, masked_mean
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
    return [(name, tokens, mask) for name, tokens, mask in pairs if tokens is not None]


def reconstruction_basis(network: Storm, name: str) -> Tensor:
    """Map from a decoder's last hidden state to coordinates in which distances are those of its reconstructions.

    The read-out is linear, so the singular vectors of its weights carry the geometry of thousands of genes in as many
    dimensions as the decoder is wide.

    Returns
    -------
    Tensor
        Shape (decoder width, min(decoder width, outputs)).
    """
    _, singular, vectors = torch.linalg.svd(network.decoders[name].out.weight.float(), full_matrices=False)
    return vectors.T * singular


def reconstruct_masked(
    network: Storm, batch: WindowBatch, *, n_visible: int, generator: torch.Generator, projected: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Reconstruct the spots of each window that one random draw leaves invisible.

    Parameters
    ----------
    network
        With decoders.
    batch
        Windows.
    n_visible
        Visible spots per window; the same spots are visible in both modalities, so that what is said of a spot comes
        from other spots alone.
    generator
        Source of randomness, on the CPU.
    projected
        The batch holds input tokens of the network instead of spot embeddings.

    Returns
    -------
    hidden : dict of str to Tensor
        Decoders' last hidden states at every position, shape (B, L, decoder width).
    masked : Tensor
        Positions that exist and were not visible, bool, shape (B, L).
    """
    present = torch.zeros_like(batch.he_mask if batch.he is not None else batch.st_mask)
    for name in ("he", "st"):
        if getattr(batch, name) is not None:
            present = present | getattr(batch, f"{name}_mask")
    score = torch.rand(present.shape, generator=generator).to(present.device).masked_fill(~present, 2.0)
    slots = score.topk(min(n_visible, present.shape[1]), dim=1, largest=False).indices
    # A window that shows all it has would leave nothing to reconstruct.
    rank = torch.arange(slots.shape[1], device=slots.device)
    shown = present.gather(1, slots) & (rank < (present.sum(dim=1, keepdim=True) - 1))
    offsets = batch.offsets.expand(len(present), -1, 2) if batch.offsets.ndim == 2 else batch.offsets
    at = offsets.gather(1, slots.unsqueeze(-1).expand(-1, -1, 2))
    visible = {}
    for name in ("he", "st"):
        values = getattr(batch, name)
        if values is not None:
            drawn = values.gather(1, slots.unsqueeze(-1).expand(-1, -1, values.shape[2]))
            visible[name] = (drawn, shown & getattr(batch, f"{name}_mask").gather(1, slots), at)
    hidden = network.reconstruct(visible, offsets, hidden=True, projected=projected)
    masked = present & ~torch.zeros_like(present).scatter_(1, slots, shown)
    # Without a single visible spot there is nothing to reconstruct from.
    return hidden, masked & shown.any(dim=1, keepdim=True)
