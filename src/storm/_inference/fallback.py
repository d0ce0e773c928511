"""Running a frozen network: smaller batches where memory is short, and faster ways used only if results match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from storm._inference.device import autocast
from storm._logging import logger, warn

#: Cosine between two embeddings of one tile below which a faster way is not the same network any more.
BOUND = 0.999


def check_shape(embedding: Tensor, wanted: tuple[int, int], *, name: str) -> None:
    """Raise unless a tile encoder's output has the shape (tiles, dim) of its description."""
    if tuple(embedding.shape) != wanted:
        msg = f"tile encoder {name!r} gave shape {tuple(embedding.shape)} for {wanted[0]} tiles; dim is {wanted[1]}"
        raise ValueError(msg)


class Halving:
    """Runs a network on as much of a batch at a time as the memory of its device holds.

    After the first time that it does not suffice, batches are cut to what did.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def __call__(self, network: Callable[[Any], Tensor], x: Any) -> Tensor:
        """Output for a batch, which has a length and can be split, its parts one after the other.

        Raises
        ------
        torch.OutOfMemoryError
            If a single one does not fit.
        """
        while True:
            size = min(self.limit or len(x), len(x))
            try:
                return network(x) if size == len(x) else torch.cat([network(part) for part in x.split(size)])
            except torch.OutOfMemoryError:
                if size <= 1:
                    raise
                self.limit = size // 2
            torch.cuda.empty_cache()  # does nothing without a GPU
            logger.warning("the memory does not hold %d at a time: going on with %d", size, self.limit)


class Run:
    """A network on a device, at a precision.

    Parameters
    ----------
    network
        In evaluation mode, on ``device``.
    device, precision
        Where and how it runs.
    compiled
        Use :func:`torch.compile`.
    channels_last
        Use the memory layout that convolutions are often faster in.
    """

    def __init__(
        self, network: nn.Module, *, device: torch.device, precision: str, compiled: bool, channels_last: bool
    ) -> None:
        self.network = network
        self.device, self.precision = device, precision
        self.compiled, self.channels_last = compiled, channels_last
        self.halving = Halving()
        self._faster: Callable[[Tensor], Tensor] | None = None
        self._tried = not (compiled or channels_last)

    def __call__(self, x: Tensor) -> Tensor:
        """Output for a batch (B, 3, H, W); where the memory does not suffice, in halves, from then on."""
        with autocast(self.device, self.precision):
            if not self._tried:
                self._tried = True
                return self._try(x)
            return self.halving(self.network if self._faster is None else self._faster, x)

    def _try(self, x: Tensor) -> Tensor:
        plain = self.halving(self.network, x)
        network = torch.compile(self.network) if self.compiled else self.network
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        if self.channels_last:
            self.network.to(memory_format=layout)

        def faster(x: Tensor) -> Tensor:
            return network(x.contiguous(memory_format=layout))

        try:
            cosine = F.cosine_similarity(plain.float(), self.halving(faster, x).float(), dim=-1).min().item()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # torch.compile raises it too, without a compiler
            self._give_up(f"fails here ({str(error).splitlines()[0][:100]})")
        else:
            if cosine >= BOUND:
                self._faster = faster
            else:
                self._give_up(f"changes the embeddings (cosine {cosine:.5f}, bound {BOUND})")
        return plain

    def _give_up(self, why: str) -> None:
        names = " and ".join(n for n in ("compiled", "channels_last") if getattr(self, n))
        if self.channels_last:
            self.network.to(memory_format=torch.contiguous_format)
        warn(f"{names} {why}; running without")
