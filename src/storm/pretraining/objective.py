"""The masked multimodal objective of one batch of windows (paper, eq. 3)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from storm.model.storm import Storm
from storm.pretraining.losses import gaussian_nll, negative_binomial_nll
from storm.pretraining.masking import draw_visible, hidden_positions
from storm.pretraining.sections import SectionTensors


@dataclass(frozen=True)
class Masking:
    """How a window is masked.

    Attributes
    ----------
    n_visible
        Visible spots per modality, drawn independently; 5 of 25 in the paper.
    he_only
        Share of the batches of sections with H&E that see the whole window's H&E and no expression at all: the
        situation of predicting genes from H&E (ours, the paper does not say how it prepares for it).
    genes_per_step
        Genes drawn for each step's ST loss, an unbiased estimate of the mean over all measured genes; ``None`` for all.
    """

    n_visible: int = 5
    he_only: float = 0.0
    genes_per_step: int | None = None


def masked_loss(
    network: Storm,
    section: SectionTensors,
    rows: Tensor,
    *,
    masking: Masking,
    generator: torch.Generator,
    modalities: Collection[str] = ("he", "st"),
) -> dict[str, Tensor]:
    """Reconstruction loss of each modality on the masked spots of some windows.

    Parameters
    ----------
    network
        With decoders.
    section
        Where the windows come from.
    rows
        Their centres, shape (B,).
    masking
        How to mask.
    generator
        Source of randomness, on the CPU.
    modalities
        Decoders to run; those of a modality that no section has would say what nobody asks.

    Returns
    -------
    dict of str to Tensor
        One scalar per modality that could be scored; eq. 3 is their sum.
    """
    device = next(network.parameters()).device
    index, offsets, masks = section.batch(rows)
    only_he = {"he", "st"} <= masks.keys() and torch.rand((), generator=generator).item() < masking.he_only
    visible, hidden = {}, {}
    for name, present in masks.items():
        if only_he:
            slots = torch.arange(present.shape[1]).expand_as(index)
            shown = present if name == "he" else torch.zeros_like(present)
            hidden[name] = present & ~shown
        else:
            slots, shown = draw_visible(present, masking.n_visible, generator=generator)
            hidden[name] = hidden_positions(present, slots, shown)
        if only_he and name == "st":
            continue
        tokens = section.values[name][index.gather(1, slots).clamp(min=0)]
        at = offsets.gather(1, slots.unsqueeze(-1).expand(-1, -1, 2))
        visible[name] = tuple(t.to(device) for t in (tokens, shown, at))
    states = network.reconstruct(visible, offsets.to(device), hidden=True, decoders=modalities)
    losses = {}
    for name, mask in hidden.items():
        if name not in states or not mask.any():
            continue
        state, targets = states[name][mask.to(device)], index[mask]
        if name == "he":
            losses["he"] = _he_loss(network, state, section.values["he"][targets].to(device))
        else:
            losses["st"] = _st_loss(network, state, section, targets, masking.genes_per_step, generator)
    return losses


def _he_loss(network: Storm, state: Tensor, target: Tensor) -> Tensor:
    everything = torch.ones((), dtype=torch.bool, device=state.device)
    return gaussian_nll(network.decoders["he"].out(state), target, everything, everything.expand(len(state)))


def _st_loss(network, state, section, targets, n_genes, generator) -> Tensor:
    out, device = network.decoders["st"].out, state.device
    genes = section.measured.nonzero().squeeze(1)
    if n_genes is not None and n_genes < len(genes):
        genes = genes[torch.randperm(len(genes), generator=generator)[:n_genes]]
    # Only the drawn genes' rows of the read-out are used: most of a step would otherwise go into genes.
    prediction = torch.nn.functional.linear(state, out.weight[genes], out.bias[genes])
    truth = section.expression[targets.unsqueeze(1), genes].to(device)
    measured = torch.ones((), dtype=torch.bool, device=device)
    counted = measured.expand(len(state))
    if network.config.st_likelihood == "nb":
        return negative_binomial_nll(
            prediction, truth, network.log_dispersion[genes], measured.expand_as(truth), counted
        )
    return gaussian_nll(prediction, truth, measured, counted)
