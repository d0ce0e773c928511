"""The tile encoder inside the step: pixels of visible spots in, tokens out, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from storm.data.normalise import CLIP
from storm.encoders import EncoderInfo
from storm.pretraining.augment import sample
from storm.pretraining.moments import moments, pooled, standardisers
from storm.pretraining.stream import StreamedSection, Tiles

#: Tiles at once where no gradient is wanted.
_BATCH = 64


class TileTokens(nn.Module):
    """A tile encoder, and the statistics that turn its embeddings into tokens.

    The encoder stays in evaluation mode while its weights are trained: without dropout, and with the published
    statistics of a batch norm. Its embedding of a tile then depends on that tile alone, as at inference, and no masked
    spot can reach a visible one through a batch's statistics.

    Tokens are standardised by section, as inference does it with the finished encoder, or by the training sections'
    statistics. These numbers are constants to the gradient; those of sections follow the encoder, see :meth:`refresh`.

    Parameters
    ----------
    info
        Description of the tile encoder.
    module
        Its network, with its weights.
    names
        Names of the sections.
    mean, std
        Mean and standard deviation over the training sections, shape (dim,).
    chunk
        Number of tiles whose activations are held at a time, the others being computed again for the gradient; 0 for
        all.
    """

    channel_mean: Tensor
    channel_std: Tensor
    mean: Tensor
    std: Tensor
    centre: Tensor
    scale: Tensor

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
        """Set the mode as of any module, but leave the encoder itself in evaluation mode."""
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
        parts = [
            checkpoint(self.module, part, use_reentrant=False, preserve_rng_state=False).float()
            for part in x.split(self.chunk)
        ]
        return torch.cat(parts)

    def forward(self, tiles: Tiles, size: int, section: str) -> Tensor:
        """Compute tokens by row of a batch.

        Parameters
        ----------
        tiles
            Pixels of visible spots.
        size
            Spots of the batch.
        section
            Name of their section.

        Returns
        -------
        Tensor
            Shape (size, dim); zeros for spots that are not visible.
        """
        table = self.centre.new_zeros(size, self.dim)
        if not len(tiles.rows):
            return table
        at = self._at[section]
        tokens = (self.embed(tiles.pixels, tiles.maps) - self.centre[at]) / self.scale[at]
        return table.index_copy(0, tiles.rows.to(table.device), tokens.clamp(-CLIP, CLIP))

    def start(self, sections: Sequence[StreamedSection]) -> None:
        """Set the statistics of every section under the encoder as it starts, from the embeddings that were packed.

        Parameters
        ----------
        sections
            In the order of their names.
        """
        overall = self.mean.double().numpy(), self.std.double().numpy()
        for at, section in enumerate(sections):
            if section.shard.has("he"):
                n, own_mean, variance = moments(_blocks(section.shard.array("he")), self.dim)
                self._set([at], np.array([n]), own_mean[None], variance[None], overall=overall)

    def refresh(
        self,
        sections: Sequence[StreamedSection],
        *,
        number: int,
        seed: int,
        rank: int,
        world: int,
        total: Callable[[Tensor], Tensor],
    ) -> None:
        """Measure the statistics of every section under the encoder as it is now, on some of its tiles.

        Parameters
        ----------
        sections
            In the order of their names.
        number
            Number of tiles of each section that are embedded; they are the same every time.
        seed
            Random seed of their choice.
        rank, world
            This process, and the number of processes; each embeds the tiles of its share of the sections.
        total
            Function that sums a tensor over the processes.
        """
        size = np.array([_tiles(section) for section in sections])
        measured = torch.zeros(2, len(sections), self.dim)
        with torch.no_grad():
            for at in range(rank, len(sections), world):
                if size[at]:
                    blocks = self._look(sections[at], number, seed=[seed, at])
                    _, mean, variance = moments(blocks, self.dim)
                    measured[:, at] = torch.from_numpy(np.stack([mean, variance])).float()
        mean, variance = total(measured).cpu().double().numpy()
        trained = np.array([n > 0 and len(s.train) > 0 for n, s in zip(size, sections, strict=True)])
        overall = pooled(size[trained], mean[trained], variance[trained])
        self.mean.copy_(torch.from_numpy(overall[0]).float())
        self.std.copy_(torch.from_numpy(overall[1]).float())
        with_tiles = np.flatnonzero(size)
        self._set(with_tiles, size[with_tiles], mean[with_tiles], variance[with_tiles], overall=overall)

    def _look(self, section: StreamedSection, number: int, *, seed: list[int]) -> Iterator[np.ndarray]:
        rows = np.flatnonzero(section.with_tiles)
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:number])
        pixels = section.shard.array("patches")
        for start in range(0, len(rows), _BATCH):
            block = torch.from_numpy(np.asarray(pixels[rows[start : start + _BATCH]]))
            yield self.embed(block).cpu().numpy()

    def _set(
        self,
        at: Sequence[int] | np.ndarray,
        n: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        *,
        overall: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Set the statistics by which some sections are standardised."""
        centre, scale = standardisers(n, mean, variance, overall=overall)
        rows = torch.as_tensor(at, device=self.centre.device)
        for buffer, values in ((self.centre, centre), (self.scale, scale)):
            buffer[rows] = torch.from_numpy(values).float().to(buffer.device)


def _tiles(section: StreamedSection) -> int:
    return int(section.with_tiles.sum())


def _blocks(values: np.ndarray, size: int = 8192) -> Iterator[np.ndarray]:
    return (np.asarray(values[start : start + size]) for start in range(0, len(values), size))


def trainable(info: EncoderInfo, module: nn.Module) -> nn.Module:
    """Turn gradients on where the architecture has them: fixed position embeddings stay fixed.

    Parameters
    ----------
    info
        The tile encoder.
    module
        Its network, all of which is frozen after loading.

    Returns
    -------
    nn.Module
        The same network.

    Raises
    ------
    ValueError
        If it has no parameter to train, or could not be built again from a stored model.
    """
    if info.architecture is None:
        msg = (
            f"train_tiles=true needs a tile encoder with weights whose network can be built again, and {info.name!r} "
            "has none; take one of storm.encoders.list(), 'timm:<model>', or register your own with architecture="
        )
        raise ValueError(msg)
    with torch.device("meta"):
        trained = {name: p.requires_grad for name, p in info.architecture().named_parameters()}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained[name])
    if not any(trained.values()):
        msg = f"train_tiles=true, and no parameter of tile encoder {info.name!r} can be trained"
        raise ValueError(msg)
    return module
