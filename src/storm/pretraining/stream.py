"""Batches of windows from packed sections, of which only the spots of the batch are read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from storm.data.normalise import log_normalise
from storm.pretraining.augment import Augmentation
from storm.pretraining.objective import Masking, draw_masks
from storm.pretraining.shards import Shard

#: Turns the seed of a batch's masks into that of its crops and flips.
_AUGMENTATION = 0x5A17


@dataclass(frozen=True)
class StreamedSection:
    """A packed section with the tokens of one training run.

    Attributes
    ----------
    shard
        The packed section.
    folder
        Folder of the run's arrays: ``he.npy`` and ``st.npy`` (standardised tokens, NaN where there is none),
        ``columns.npy`` (place of every column of the counts in the vocabulary, -1 for none), ``mean.npy`` (mean
        expression of each gene of the vocabulary), ``train.npy`` and ``validate.npy`` (centres of windows), and
        ``library.npy`` (which columns of the counts belong to the library, where these are not all).
    relative
        Whether expression targets are relative to the section's mean.
    counted
        Whether targets are raw counts, for the negative binomial.
    """

    shard: Shard
    folder: Path
    relative: bool = True
    counted: bool = False

    @property
    def name(self) -> str:
        """Name of the section."""
        return self.shard.name

    def _load(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @cached_property
    def tokens(self) -> dict[str, np.ndarray]:
        """Tokens of the modalities that the section has, each of shape (n, dim)."""
        return {name: self._load(name) for name in ("st", "he") if (self.folder / f"{name}.npy").is_file()}

    @cached_property
    def columns(self) -> np.ndarray:
        """Place in the vocabulary of each column of the counts, shape (g,)."""
        return np.array(self._load("columns"))

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean of each gene of the vocabulary, log1p-normalised, shape (n_genes,)."""
        return np.array(self._load("mean"))

    @cached_property
    def library(self) -> np.ndarray | None:
        """Columns of the counts that add up to the library size, bool, shape (g,); ``None`` for all of them."""
        return np.array(self._load("library")) if (self.folder / "library.npy").is_file() else None

    @cached_property
    def train(self) -> np.ndarray:
        """Centres of the windows to train on."""
        return np.array(self._load("train"))

    @cached_property
    def validate(self) -> np.ndarray:
        """Centres of the windows that are held out."""
        return np.array(self._load("validate"))

    @cached_property
    def with_tiles(self) -> np.ndarray:
        """Spots with H&E on which a tile encoder can be trained, bool, shape (n,)."""
        if not (self.shard.has("patches") and "he" in self.tokens):
            return np.zeros(len(self.shard), dtype=bool)
        return np.isfinite(self.tokens["he"]).all(axis=1)

    def measured(self) -> np.ndarray:
        """Which genes of the vocabulary the section measures, bool, shape (n_genes,)."""
        measured = np.zeros(len(self.mean), dtype=bool)
        measured[self.columns[self.columns >= 0]] = True
        return measured

    def take(self, rows: np.ndarray) -> StreamedBatch:
        """Windows around some centres."""
        return StreamedBatch(self, np.asarray(rows))


@dataclass(frozen=True)
class Tiles:
    """Pixels of the spots of a batch whose H&E is visible in one of its windows.

    Attributes
    ----------
    rows
        Their rows within the batch, shape (u,).
    pixels
        uint8, shape (u, p, p, 3).
    maps
        Crops and flips, shape (u, 2, 3), or ``None`` for the tiles as they are.
    """

    rows: Tensor
    pixels: Tensor
    maps: Tensor | None = None


class StreamedBatch:
    """Windows of one section in memory.

    For :func:`storm.pretraining.objective.masked_loss` it replaces
    :class:`~storm.pretraining.sections.SectionTensors`, which is a section in memory; ``rows`` are counted within the
    batch.

    Parameters
    ----------
    section
        Section that they are from.
    rows
        Their centres, shape (B,).
    """

    def __init__(self, section: StreamedSection, rows: np.ndarray) -> None:
        self.section = section
        members = np.asarray(section.shard.index[rows])
        #: Rows of the section that are in the batch, in order.
        self.spots = np.unique(members[members >= 0])
        local = np.where(members >= 0, np.searchsorted(self.spots, members), -1)
        self.index = torch.from_numpy(local).long()
        offsets = section.shard.offsets
        self.offsets = torch.from_numpy(np.array(offsets if offsets.ndim == 2 else offsets[rows]))
        self.values, self.present = {}, {}
        for name, tokens in section.tokens.items():
            own = np.asarray(tokens[self.spots], dtype=np.float32)
            self.present[name] = torch.from_numpy(np.isfinite(own).all(axis=1))
            self.values[name] = torch.from_numpy(np.nan_to_num(own))
        self.measured = torch.from_numpy(section.measured())
        if "st" in self.values:
            counts = section.shard.counts(self.spots)
            mean = section.mean if section.relative and not section.counted else None
            expression = counts if section.counted else log_normalise(counts, library=section.library)
            self.expression = Targets(expression, section.columns, n_genes=len(section.mean), mean=mean)
        #: Pixels of visible spots, where the tile encoder is trained.
        self.tiles: Tiles | None = None

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Member rows (B, L), offsets (B, L, 2) and, per modality, which members have a token (B, L)."""
        index = self.index[rows]
        offsets = self.offsets.expand(len(rows), -1, 2) if self.offsets.ndim == 2 else self.offsets[rows]
        exists = index >= 0
        masks = {name: exists & present[index.clamp(min=0)] for name, present in self.present.items()}
        return index, offsets, masks

    def read_tiles(self, masking: Masking, seed: int, *, augmentation: Augmentation | None) -> StreamedBatch:
        """Read the pixels of the spots that will be visible, and no others.

        Parameters
        ----------
        masking, seed
            How windows are masked, and the seed of the batch's masks.
        augmentation
            Crops and flips, drawn for every tile by itself; ``None`` for the tiles as they are.

        Returns
        -------
        StreamedBatch
            The same, with :attr:`tiles`.
        """
        if "he" not in self.values:
            return self
        generator = torch.Generator().manual_seed(seed)
        rows = draw_masks(self, torch.arange(len(self)), masking=masking, generator=generator).rows("he")
        pixels = torch.from_numpy(np.asarray(self.section.shard.array("patches")[self.spots[rows.numpy()]]))
        maps = None
        if augmentation is not None and augmentation.changes:
            # The masks' generator goes on to draw the genes of the step.
            maps = augmentation.draw(len(rows), generator=torch.Generator().manual_seed(seed ^ _AUGMENTATION))
        self.tiles = Tiles(rows, pixels, maps)
        return self


class Targets:
    """Expression over the vocabulary, sparse until some of it is indexed.

    Parameters
    ----------
    expression
        Shape (m, g), over the section's own genes.
    columns
        Place of each column in the vocabulary, -1 for none, shape (g,).
    n_genes
        Size of the vocabulary.
    mean
        Mean that is subtracted, shape (n_genes,).
    """

    def __init__(
        self, expression: csr_matrix, columns: np.ndarray, *, n_genes: int, mean: np.ndarray | None = None
    ) -> None:
        self.expression, self.columns, self.n_genes, self.mean = expression, columns, n_genes, mean

    def __getitem__(self, at: tuple[Tensor, Tensor]) -> Tensor:
        """Values of rows (T, 1) and genes (G,), float32, shape (T, G)."""
        wanted, genes = at[0].reshape(-1).numpy(), at[1].numpy()
        rows, inverse = np.unique(wanted, return_inverse=True)
        slot = np.full(self.n_genes + 1, -1)
        slot[genes] = np.arange(len(genes))
        part = self.expression[rows].tocoo()
        # The last slot is for columns whose gene is not in the vocabulary.
        column = slot[self.columns[part.col]]
        kept = column >= 0
        dense = np.zeros((len(rows), len(genes)), dtype=np.float32)
        dense[part.row[kept], column[kept]] = part.data[kept]
        if self.mean is not None:
            dense -= self.mean[genes].astype(np.float32)
        return torch.from_numpy(dense)[torch.from_numpy(inverse)]


def split_windows(shard: Shard, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split the windows into those to train on and those that are held out; no spot is in a window of both.

    Held out are the windows of a strip at the end of the section's longer side. A window that has a spot in common with
    one of them is in neither.

    Parameters
    ----------
    shard
        A packed section.
    share
        Share of the windows that are held out.

    Returns
    -------
    train, validate : ndarray
        Rows, in order.
    """
    has = np.flatnonzero(shard.index[:, 0] >= 0)
    n = round(len(has) * share)
    if n == 0:
        return has, has[:0]
    centres = np.asarray(shard.centres[has])
    axis = int(np.argmax(np.ptp(centres, axis=0)))
    validate = np.sort(has[np.argsort(centres[:, axis], kind="stable")[len(has) - n :]])
    touched = np.zeros(len(shard) + 1, dtype=bool)  # the last one stands for missing members
    for rows in np.array_split(validate, -(-len(validate) // 65_536)):
        touched[np.asarray(shard.index[rows]).ravel()] = True
    touched[-1] = False
    clean = [
        rows[~touched[np.asarray(shard.index[rows])].any(axis=1)]
        for rows in np.array_split(has, -(-len(has) // 65_536))
    ]
    return np.concatenate(clean), validate
