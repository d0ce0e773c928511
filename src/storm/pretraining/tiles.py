"""The tile encoder inside the step: pixels of visible spots in, tokens out, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from storm.encoders import EncoderInfo
from storm.pretraining.augment import sample
from storm.pretraining.moments import moments, pooled, standardisers
from storm.pretraining.stream import StreamedSection, Tiles

#: Standard deviations beyond which a tile feature is an artefact; as in :func:`storm.tl.embed`.
CLIP = 6.0
#: Tiles at once where no gradient is wanted.
_BATCH = 64


class TileTokens(nn.Module):
    """A tile encoder with what makes tokens of its embeddings.

    The encoder stays in evaluation mode while its weights are trained: without dropout, and with the published
    statistics of a batch norm. What it says of a tile then depends on nothing but that tile, as at inference, and no
    masked spot can reach a visible one through a batch's statistics.

    Tokens are standardised by section, as inference does it with the finished encoder, or by the training sections'
    statistics. These numbers are constants to the gradient; those of sections follow the encoder, see :meth:`refresh`.

    Parameters
    ----------
    info
        The tile encoder, whose module has its weights.
    module
        The module.
    names
        Sections.
    mean, std
        Mean and standard deviation over the training sections, shape (dim,).
    chunk
        Tiles whose activations are held at a time, the others being computed again for the gradient; 0 for all.
    """

    def __init__(
        self, info: EncoderInfo, module: nn.Module, names: Sequence[str], *, mean: Tensor, std: Tensor, chunk: int = 0
    ) -> None:
        super().__init__()
        self.info, self.module, self.chunk, self.dim = info, module, chunk, info.dim
        self._at = {name: i for i, name in enumerate(names)}
        self.register_buffer("mean", mean.clone().float())
        self.register_buffer("std", std.clone().float())
        self.register_buffer("centre", self.mean.repeat(len(names), 1))
        self.register_buffer("scale", self.std.clamp(min=1e-6).repeat(len(names), 1))

    def train(self, mode: bool = True) -> TileTokens:
        """As of any module, but the encoder itself stays in evaluation mode."""
        super().train(mode)
        self.module.eval()
        return self

    def embed(self, pixels: Tensor, maps: Tensor | None = None) -> Tensor:
        """Embeddings of tiles, float32, shape (u, dim).

        Parameters
        ----------
        pixels
            uint8, shape (u, p, p, 3), or float in [0, 255].
        maps
            Crops and flips, shape (u, 2, 3).
        """
        x = pixels.to(self.centre.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        if maps is not None:
            x = sample(x, maps)
        x = self.info.normalise(x)
        if not (self.chunk and torch.is_grad_enabled()):
            return self.module(x).float()
        how = {"use_reentrant": False, "preserve_rng_state": False}
        return torch.cat([checkpoint(self.module, part, **how).float() for part in x.split(self.chunk)])

    def forward(self, tiles: Tiles, size: int, section: str) -> Tensor:
        """Tokens by row of a batch, shape (size, dim); zeros for spots that are not visible.

        Parameters
        ----------
        tiles
            Pixels of visible spots.
        size
            Spots of the batch.
        section
            Name of their section.
        """
        table = self.centre.new_zeros(size, self.dim)
        if not len(tiles.rows):
            return table
        at = self._at[section]
        tokens = (self.embed(tiles.pixels, tiles.maps) - self.centre[at]) / self.scale[at]
        return table.index_copy(0, tiles.rows.to(table.device), tokens.clamp(-CLIP, CLIP))

    def start(self, sections: Sequence[StreamedSection]) -> None:
        """Statistics of every section under the encoder as it starts, from the embeddings that were packed.

        Parameters
        ----------
        sections
            In the order of their names.
        """
        overall = self.mean.double().numpy(), self.std.double().numpy()
        for at, section in enumerate(sections):
            if section.shard.has("he"):
                found = moments(_blocks(section.shard.array("he")), self.dim)
                self._set([at], *(np.array([x]) for x in found), overall=overall)

    def refresh(
        self, sections: Sequence[StreamedSection], *, number: int, seed: int, rank: int, world: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:  # fmt: skip
        """Statistics of every section under the encoder as it is now, from some of its tiles as they are.

        Parameters
        ----------
        sections
            In the order of their names.
        number
            Tiles of each section that are looked at: the same every time.
        seed
            Of their choice.
        rank, world
            This process, and how many there are; each looks at its share of the sections.
        total
            Sum over the processes.
        """
        size = np.array([_tiles(section) for section in sections])
        found = torch.zeros(2, len(sections), self.dim)
        with torch.no_grad():
            for at in range(rank, len(sections), world):
                if size[at]:
                    blocks = self._look(sections[at], number, seed=[seed, at])
                    _, mean, variance = moments(blocks, self.dim)
                    found[:, at] = torch.from_numpy(np.stack([mean, variance])).float()
        mean, variance = total(found).cpu().double().numpy()
        trained = np.array([n > 0 and len(s.train) > 0 for n, s in zip(size, sections, strict=True)])
        overall = pooled(size[trained], mean[trained], variance[trained])
        self.mean.copy_(torch.from_numpy(overall[0]).float())
        self.std.copy_(torch.from_numpy(overall[1]).float())
        there = np.flatnonzero(size)
        self._set(there, size[there], mean[there], variance[there], overall=overall)

    def _look(self, section: StreamedSection, number: int, *, seed: list[int]) -> Iterator[np.ndarray]:
        rows = np.flatnonzero(section.with_tiles)
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:number])
        pixels = section.shard.array("patches")
        for start in range(0, len(rows), _BATCH):
            block = torch.from_numpy(np.asarray(pixels[rows[start : start + _BATCH]]))
            yield self.embed(block).cpu().numpy()

    def _set(self, at, n, mean, variance, *, overall: tuple[np.ndarray, np.ndarray]) -> None:
        centre, scale = standardisers(n, mean, variance, overall=overall)
        rows = torch.as_tensor(at, device=self.centre.device)
        for buffer, values in ((self.centre, centre), (self.scale, scale)):
            buffer[rows] = torch.from_numpy(values).float().to(buffer.device)


def _tiles(section: StreamedSection) -> int:
    return int(section.with_tiles.sum())


def _blocks(values: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    return (np.asarray(values[start : start + size]) for start in range(0, len(values), size))


def trainable(info: EncoderInfo, module: nn.Module) -> nn.Module:
    """The module with gradients where its architecture has them: fixed position embeddings stay fixed.

    Parameters
    ----------
    info
        The tile encoder.
    module
        Its module, which loading has frozen as a whole.

    Raises
    ------
    ValueError
        If it has nothing to train, or could not be built again from what a run stores.
    """
    if info.architecture is None:
        msg = (
            f"train_tiles=true needs a tile encoder with weights whose network can be built again, and {info.name!r} "
            "has none; take one of storm.encoders.list(), 'timm:<model>', or register your own with architecture="
        )
        raise ValueError(msg)
    with torch.device("meta"):
        wants = {name: p.requires_grad for name, p in info.architecture().named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(wants[name])
    if not any(wants.values()):
        msg = f"train_tiles=true, and no parameter of tile encoder {info.name!r} can be trained"
        raise ValueError(msg)
    return module
