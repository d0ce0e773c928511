"""Input and output of the network."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        Which tokens exist, bool, shape (B, L); a token that does not exist is masked out of attention, and its value,
        which may be NaN, has no influence. Required with its modality.
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

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=non_blocking)

        return WindowBatch(
            offsets=self.offsets.to(device, non_blocking=non_blocking),
            he=move(self.he),
            he_mask=move(self.he_mask),
            st=move(self.st),
            st_mask=move(self.st_mask),
        )

    def average(self, name: str, share: Tensor) -> Tensor:
        """Sum of one modality's input tokens, each times its share (B, L): shape (B, dim)."""
        inputs = torch.where(getattr(self, f"{name}_mask").unsqueeze(-1), getattr(self, name), 0.0)
        return (inputs * share.unsqueeze(-1)).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class SharedBatch:
    """A batch of windows over a table of spots, each of which was projected once for all windows that hold it.

    Made by :meth:`storm.model.Storm.share`. The last of the m + 1 rows of every table stands for a spot that does not
    exist.

    Attributes
    ----------
    at
        Row of each member of the windows in the tables, int64, shape (B, L).
    offsets
        As in :class:`WindowBatch`.
    inputs
        Per modality, H&E first: spot embeddings, shape (m + 1, dim), zeros where a spot has none.
    exists
        Per modality: which spots have an embedding, bool, shape (m + 1,).
    projected
        Input tokens of all modalities, one table below the other, shape (modalities · (m + 1), width).
    """

    at: Tensor
    offsets: Tensor
    inputs: dict[str, Tensor]
    exists: dict[str, Tensor]
    projected: Tensor

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.at)

    def split(self, size: int) -> list[SharedBatch]:
        """The same windows, ``size`` at a time, over the same spots."""
        own = self.offsets.ndim == 3
        return [
            replace(self, at=self.at[k : k + size], offsets=self.offsets[k : k + size] if own else self.offsets)
            for k in range(0, len(self), size)
        ]

    def masks(self) -> dict[str, Tensor]:
        """Which tokens exist per modality, bool, shape (B, L)."""
        return {name: exists[self.at] for name, exists in self.exists.items()}

    def tokens(self, buffer: Tensor | None = None) -> Tensor:
        """Input tokens, H&E first, shape (B, T, width); in the memory of ``buffer``, (≥ B · T, width), if given."""
        size = len(self.projected) // len(self.exists)
        index = torch.cat([self.at + slot * size for slot in range(len(self.exists))], dim=1)
        out = None if buffer is None else buffer[: index.numel()]
        return torch.index_select(self.projected, 0, index.flatten(), out=out).view(*index.shape, -1)

    def average(self, name: str, share: Tensor) -> Tensor:
        """Sum of one modality's input tokens, each times its share (B, L): shape (B, dim)."""
        # Slot by slot: the windows' inputs (B, L, dim) are never held.
        inputs = self.inputs[name]
        total = torch.zeros(len(self.at), inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
        for slot in range(self.at.shape[1]):
            total.addcmul_(inputs[self.at[:, slot]], share[:, slot, None].to(inputs.dtype))
        return total


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
        """Tokens and mask of each modality that the batch has, H&E first."""
        pairs = [(self.he, self.he_mask), (self.st, self.st_mask)]
        return [(tokens, mask) for tokens, mask in pairs if tokens is not None and mask is not None]

    def window(self) -> Tensor:
        """Mean of all tokens of a window, shape (B, width); NaN where a window has none."""
        return masked_mean(self.modalities())


def masked_mean(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over modalities and positions of the tokens that exist; NaN where none does."""
    total = torch.stack([(tokens * mask.unsqueeze(-1)).sum(dim=1) for tokens, mask in pairs]).sum(dim=0)
    count = torch.stack([mask.sum(dim=1) for _, mask in pairs]).sum(dim=0)
    return total / torch.where(count > 0, count.to(total.dtype), torch.nan).unsqueeze(-1)
