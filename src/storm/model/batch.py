"""What goes into the network and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """A batch of B windows of L positions each; position 0 is the centre.

    Attributes
    ----------
    he
        Tile embeddings, shape (B, L, he_dim), or ``None`` when the whole batch has no H&E.
    st
        Expression embeddings, shape (B, L, st_dim), or ``None``.
    he_mask, st_mask
        Which tokens exist, bool, shape (B, L); a token that does not exist is masked out of attention and may hold
        anything, NaN included. Required with its modality.
    offsets
        x and y of each position relative to the centre in units of the window's pitch, shape (L, 2) where the batch
        shares one lattice block, else (B, L, 2).
    """

    offsets: Tensor
    he: Tensor | None = None
    he_mask: Tensor | None = None
    st: Tensor | None = None
    st_mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.he is None and self.st is None:
            msg = "a window batch needs tokens of at least one modality"
            raise ValueError(msg)
        length = self.offsets.shape[-2]
        for name in ("he", "st"):
            tokens, mask = getattr(self, name), getattr(self, f"{name}_mask")
            if tokens is None:
                continue
            if mask is None or mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
                msg = f"{name}_mask must be bool of shape {tuple(tokens.shape[:2])}"
                raise ValueError(msg)
            if tokens.shape[1] != length:
                msg = f"{name} has {tokens.shape[1]} positions, the offsets have {length}"
                raise ValueError(msg)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> WindowBatch:
        """The same batch on another device."""
        move = {
            name: None if value is None else value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
        }
        return WindowBatch(**move)


@dataclass(frozen=True, kw_only=True)
class StormOutput:
    """Output tokens of the spatial encoder.

    Attributes
    ----------
    he, st
        Tokens of each modality, shape (B, L, width), or ``None``; zero where a token does not exist.
    he_mask, st_mask
        Which tokens exist, shape (B, L), or ``None``.
    """

    he: Tensor | None
    he_mask: Tensor | None
    st: Tensor | None
    st_mask: Tensor | None

    def modalities(self) -> list[tuple[Tensor, Tensor]]:
        """Tokens and mask of each modality that is there."""
        pairs = [(self.he, self.he_mask), (self.st, self.st_mask)]
        return [(tokens, mask) for tokens, mask in pairs if tokens is not None]

    def centre(self) -> Tensor:
        """Mean of the centre's tokens over the modalities present, shape (B, width); NaN where there is none."""
        return masked_mean([(tokens[:, :1], mask[:, :1]) for tokens, mask in self.modalities()])

    def window(self) -> Tensor:
        """Mean of all tokens of a window, shape (B, width); NaN where there is none."""
        return masked_mean(self.modalities())


def masked_mean(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over modalities and positions of the tokens that exist; NaN where none does."""
    total = sum((tokens * mask.unsqueeze(-1)).sum(dim=1) for tokens, mask in pairs)
    count = sum(mask.sum(dim=1) for _, mask in pairs)
    return total / torch.where(count > 0, count.to(total.dtype), torch.nan).unsqueeze(-1)
