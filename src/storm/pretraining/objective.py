"""The masked multimodal objective of one batch of windows (paper, eq. 3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from storm.model.masking import draw_visible, hidden_positions
from storm.model.storm import Storm
from storm.pretraining.losses import gaussian_nll, negative_binomial_nll
from storm.pretraining.sections import WindowSource

if TYPE_CHECKING:
    from storm.model.decoder import SpotDecoder


@dataclass(frozen=True)
class Masking:
    """How a window is masked.

    Attributes
    ----------
    n_visible
        Visible spots per modality, drawn independently; 5 of 25 in the paper.
    he_only
        Share of the batches of sections with H&E that see the whole window's H&E and no expression at all: the
        situation of predicting genes from H&E (ours: the paper does not describe a preparation for it).
    genes_per_step
        Genes drawn for each step's ST loss, an unbiased estimate of the mean over all measured genes; ``None`` for all.
    """

    n_visible: int = 5
    he_only: float = 0.0
    genes_per_step: int | None = None


@dataclass(frozen=True)
class Draw:
    """The visible and the hidden spots of some windows.

    Attributes
    ----------
    index
        Rows of the windows' members in the section or batch, -1 for none, shape (B, L).
    offsets
        Their places in pitches, shape (B, L, 2).
    visible
        Per modality that is shown: slots of the visible spots (B, K), and which of them exist (B, K).
    hidden
        Per modality: positions to reconstruct, bool, shape (B, L).
    """

    index: Tensor
    offsets: Tensor
    visible: dict[str, tuple[Tensor, Tensor]]
    hidden: dict[str, Tensor]

    def rows(self, name: str) -> Tensor:
        """Rows that are visible in one of the windows, sorted, shape (u,)."""
        if name not in self.visible:
            return self.index.new_empty(0)
        slots, shown = self.visible[name]
        return self.index.gather(1, slots)[shown].unique()


def draw_masks(section: WindowSource, rows: Tensor, *, masking: Masking, generator: torch.Generator) -> Draw:
    """Draw the visible spots; :func:`masked_loss` does this first with its generator.

    Parameters
    ----------
    section, rows, masking, generator
        See :func:`masked_loss`.

    Returns
    -------
    Draw
    """
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
        if not (only_he and name == "st"):
            visible[name] = (slots, shown)
    return Draw(index, offsets, visible, hidden)


def masked_loss(
    network: Storm,
    section: WindowSource,
    rows: Tensor,
    *,
    masking: Masking,
    generator: torch.Generator,
    modalities: Collection[str] = ("he", "st"),
    inputs: Mapping[str, Tensor] | None = None,
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
        Decoders to run; that of a modality that no section has would predict what is not scored.
    inputs
        Tokens of a modality by row, shape (rows of the section, dim), where the visible spots' are not the section's
        own values; those stay the target. Rows that are visible nowhere may hold anything.

    Returns
    -------
    dict of str to Tensor
        One scalar per modality that could be scored; eq. 3 is their sum.
    """
    device = next(network.parameters()).device
    draw = draw_masks(section, rows, masking=masking, generator=generator)
    visible: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name, (slots, shown) in draw.visible.items():
        table = (inputs or {}).get(name, section.values[name])
        tokens = table[draw.index.gather(1, slots).clamp(min=0).to(table.device)]
        at = draw.offsets.gather(1, slots.unsqueeze(-1).expand(-1, -1, 2))
        visible[name] = (tokens.to(device), shown.to(device), at.to(device))
    states = network.reconstruct(visible, draw.offsets.to(device), hidden=True, decoders=modalities)
    losses = {}
    for name, mask in draw.hidden.items():
        if name not in states or not mask.any():
            continue
        state, targets = states[name][mask.to(device)], draw.index[mask]
        if name == "he":
            losses["he"] = _he_loss(network, state, section.values["he"][targets].to(device))
        else:
            losses["st"] = _st_loss(network, state, section, targets, masking.genes_per_step, generator)
    return losses


def _he_loss(network: Storm, state: Tensor, target: Tensor) -> Tensor:
    everything = torch.ones((), dtype=torch.bool, device=state.device)
    return gaussian_nll(
        cast("SpotDecoder", network.decoders["he"]).out(state), target, everything, everything.expand(len(state))
    )


def _st_loss(
    network: Storm,
    state: Tensor,
    section: WindowSource,
    targets: Tensor,
    n_genes: int | None,
    generator: torch.Generator,
) -> Tensor:
    out, device = cast("SpotDecoder", network.decoders["st"]).out, state.device
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
