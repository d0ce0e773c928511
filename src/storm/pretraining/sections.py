"""Training sections as arrays: tokens from the frozen spot encoders, targets, windows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from storm.data.windows import Windows


@dataclass(frozen=True)
class TrainingSection:
    """One section with cached embeddings.

    Attributes
    ----------
    name
        Name of the section, for the record and for messages.
    windows
        Windows of its spots.
    he
        Standardised tile embeddings, shape (n, he_dim), or ``None`` without H&E. They are tokens and, at masked spots,
        the target: a target that the training could change might collapse.
    st
        Standardised expression embeddings, shape (n, st_dim), or ``None`` without expression.
    expression
        Targets over the vocabulary, shape (n, n_genes): log1p-normalised, or counts for the negative binomial;
        ``None`` without expression.
    measured
        Which genes of the vocabulary the section's panel has, bool, shape (n_genes,); ``None`` without expression.
    """

    name: str
    windows: Windows
    he: np.ndarray | None
    st: np.ndarray | None
    expression: np.ndarray | None
    measured: np.ndarray | None

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def target(self) -> np.ndarray:
        """Targets, for code that runs only where there is expression."""
        assert self.expression is not None
        return self.expression

    @property
    def panel(self) -> np.ndarray:
        """Which genes are measured, for code that runs only where there is expression."""
        assert self.measured is not None
        return self.measured

    def present(self, name: str) -> np.ndarray:
        """Which spots have a token of a modality, shape (n,)."""
        values = self.he if name == "he" else self.st
        return np.zeros(len(self), bool) if values is None else np.isfinite(values).all(axis=1)

    def only(self, keep: np.ndarray) -> TrainingSection:
        """The same section with some of its spots; the others are missing, in every window.

        Parameters
        ----------
        keep
            Spots that stay, bool, shape (n,).
        """
        index = self.windows.index
        stays = (index >= 0) & keep[index] & keep[:, None]
        windows = replace(self.windows, index=np.where(stays, index, -1).astype(index.dtype), order=None)
        return replace(self, windows=windows)


class WindowSource(Protocol):
    """Windows to compute a masked loss on: a section in memory, or a batch that was read from disk.

    Attributes
    ----------
    values
        Per modality: tokens of the spots, shape (n, dim); 0 where there is none.
    measured
        Which genes of the vocabulary are measured, bool, shape (n_genes,); ``None`` without expression.
    expression
        Targets, to be indexed by rows (T, 1) and genes (G,); ``None`` without expression.
    """

    values: dict[str, Tensor]
    measured: Any
    expression: Any

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Member rows (B, L), offsets (B, L, 2) and, per modality, which members have a token (B, L)."""
        ...


class SectionTensors:
    """A section's arrays as tensors, with windows gathered batch by batch."""

    def __init__(self, section: TrainingSection) -> None:
        self.section = section
        self.index = torch.from_numpy(section.windows.index).long()
        self.offsets = torch.from_numpy(section.windows.offsets)
        self.present = {name: torch.from_numpy(section.present(name)) for name in ("he", "st")}
        tokens = {"st": section.st, "he": section.he}
        self.values = {name: torch.from_numpy(np.nan_to_num(x)) for name, x in tokens.items() if x is not None}
        self.expression = None if section.st is None else torch.from_numpy(section.target)
        self.measured = None if section.st is None else torch.from_numpy(section.panel)

    def __len__(self) -> int:
        return len(self.section)

    def rows(self) -> Tensor:
        """Centres of the windows: spots with a place."""
        return (self.index[:, 0] >= 0).nonzero().squeeze(1)

    def rows_with(self, name: str) -> Tensor:
        """Centres of the windows that have a token of a modality themselves."""
        rows = self.rows()
        return rows[self.present[name][rows]]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Member rows (B, L), offsets (B, L, 2) and, per modality, which members have a token (B, L)."""
        index = self.index[rows]
        offsets = self.offsets.expand(len(rows), -1, 2) if self.offsets.ndim == 2 else self.offsets[rows]
        exists = index >= 0
        masks = {name: exists & self.present[name][index.clamp(min=0)] for name in self.values}
        return index, offsets, masks
