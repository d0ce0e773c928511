"""Which spots of a window are visible (paper, Methods: *Decoders and pretraining*)."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_visible(
    present: Tensor, n_visible: int, *, generator: torch.Generator | None = None, score: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw the visible spots of each window for one modality.

    Parameters
    ----------
    present
        Which tokens exist, bool, shape (B, L).
    n_visible
        Visible spots per window; 5 of 25 in the paper. A window with fewer spots shows at most all but one, so that
        there is always something to reconstruct.
    generator
        Source of randomness, on the CPU.
    score
        Random numbers from 0 to 1 to draw by instead, shape (B, L): the spots with the lowest are visible.

    Returns
    -------
    index : Tensor
        Slots of the drawn spots, shape (B, min(n_visible, L)).
    shown : Tensor
        Which of the drawn slots hold a spot, bool, same shape.
    """
    if score is None:
        score = torch.rand(present.shape, generator=generator)
    score = score.to(present.device).masked_fill(~present, 2.0)
    k = min(n_visible, present.shape[1])
    index = score.topk(k, dim=1, largest=False).indices
    rank = torch.arange(k, device=present.device)
    limit = (present.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    shown = present.gather(1, index) & (rank < limit)
    return index, shown


def hidden_positions(present: Tensor, index: Tensor, shown: Tensor) -> Tensor:
    """Positions that exist and are not visible, bool, shape (B, L)."""
    visible = torch.zeros_like(present)
    visible.scatter_(1, index, shown)
    return present & ~visible
