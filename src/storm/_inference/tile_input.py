"""Pixels of tiles as a network reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from storm.encoders import EncoderInfo


def as_input(patches: np.ndarray, device: torch.device) -> Tensor:
    """Patches (b, height, width, 3), uint8, as a network reads them: (b, 3, height, width), float32 in [0, 1]."""
    return torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float().div_(255)


class TileInput:
    """Patches as floats, normalised for an encoder.

    On the CPU all batches are written into the same memory: fresh memory for each of them costs more than the numbers
    do, because the system hands it out page by page. A batch is therefore valid until the next one is made.

    Parameters
    ----------
    encoder
        Its mean and standard deviation are used.
    device
        Where the tiles are needed.
    """

    def __init__(self, encoder: EncoderInfo, device: torch.device) -> None:
        self.encoder, self.device = encoder, device
        self._memory = torch.empty(0, 0, 0)
        # The channels' numbers along a whole line of pixels, so that lines are computed in one go.
        self._mean: Tensor | None = None
        self._std: Tensor | None = None

    def __call__(self, patches: np.ndarray) -> Tensor:
        """Patches (b, height, width, 3), uint8, as :meth:`EncoderInfo.normalise` makes them: the very same bits.

        Returns
        -------
        Tensor
            float32, shape (b, 3, height, width), with the channels of a pixel side by side in memory.
        """
        if self.device.type != "cpu":
            return self.encoder.normalise(as_input(patches, self.device))
        n, height, width, _ = patches.shape
        if self._memory.shape[1:] != (height, 3 * width) or len(self._memory) < n:
            self._memory = torch.empty(n, height, 3 * width)
            self._mean, self._std = (
                None if values is None else torch.tensor(values, dtype=torch.float32).repeat(width)
                for values in (self.encoder.mean, self.encoder.std)
            )
        memory = self._memory[:n]
        # Tile by tile, which stay in the processor's cache from one step to the next.
        for out, tile in zip(memory, torch.from_numpy(patches).view(n, height, 3 * width), strict=True):
            out.copy_(tile).div_(255)
            if self._mean is not None:
                out.sub_(self._mean)
            if self._std is not None:
                out.div_(self._std)
        return memory.view(n, height, width, 3).permute(0, 3, 1, 2)
