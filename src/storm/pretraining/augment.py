"""Augmentation of H&E (paper, Methods: *Pretraining settings*): random resized crops and flips, none for expression."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """Random resized crops and flips of every tile by itself; its place in the window stays the same.

    A map of coordinates is drawn for each tile, on the CPU, so that it is the same on every device; the pixels are then
    sampled on the network's device. A crop is never larger than the tile and is resized to the tile's size, so it
    is only ever enlarged, and bilinear sampling has nothing to alias.

    Attributes
    ----------
    area
        Smallest share of the tile's area that a crop keeps; 1 for no crops. The paper does not state it.
    ratio
        Largest ratio of a crop's sides; a side that would be longer than the tile's is the tile's.
    flips
        Mirror tiles left to right and top to bottom, each with probability one half.
    """

    area: float = 0.5
    ratio: float = 4 / 3
    flips: bool = True

    @property
    def changes(self) -> bool:
        """Whether a tile can change at all."""
        return self.flips or self.area < 1

    def draw(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw the maps of n tiles.

        Parameters
        ----------
        n
            Number of tiles.
        generator
            Source of randomness, on the CPU.

        Returns
        -------
        Tensor
            Maps from places in the result to places in the tile, both in [-1, 1], shape (n, 2, 3).
        """
        u = torch.rand(6, n, generator=generator)
        width, height = torch.ones(n), torch.ones(n)
        if self.area < 1:
            area = self.area + (1 - self.area) * u[0]
            ratio = torch.exp(math.log(self.ratio) * (2 * u[1] - 1))
            width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        maps = torch.zeros(n, 2, 3)
        for axis, side in enumerate((width, height)):
            sign = torch.where(u[4 + axis] < 0.5, -1.0, 1.0) if self.flips else torch.ones(n)
            maps[:, axis, axis] = side * sign
            maps[:, axis, 2] = (1 - side) * (2 * u[2 + axis] - 1)
        return maps


def sample(tiles: Tensor, maps: Tensor) -> Tensor:
    """Sample tiles by the maps of :meth:`Augmentation.draw`.

    Parameters
    ----------
    tiles
        Values in [0, 1], shape (n, 3, p, p).
    maps
        Shape (n, 2, 3).

    Returns
    -------
    Tensor
        Shape (n, 3, p, p).
    """
    # In half precision a coordinate would be off by a pixel.
    with torch.autocast(tiles.device.type, enabled=False):
        grid = F.affine_grid(maps.to(tiles.device), list(tiles.shape), align_corners=False)
        return F.grid_sample(tiles, grid, mode="bilinear", padding_mode="border", align_corners=False)
