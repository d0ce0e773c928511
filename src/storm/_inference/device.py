"""Where, how precisely and on how much at a time a network runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import get_args

import torch

from storm._checks import check_choice, check_whole
from storm._settings import settings
from storm._types import Precision

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: Windows per batch where the user gives no number: enough to keep a GPU busy, and a few MB of tokens.
WINDOWS_PER_BATCH = 512
#: Tiles per batch where the user gives no number, at most.
TILES_PER_BATCH = 256
#: Bytes of a batch's pixels on the CPU, as float32: what a network makes of more of them is taken from the system and
#: given back with every batch, which costs a fast network half of its time; fewer do not make it faster.
_CPU_BYTES = 5_000_000


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How a frozen network is run.

    Attributes
    ----------
    devices
        Where: each takes a region of the section through the tile encoder, the first does the rest.
    precision
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    any_precision
        Whether the user left the precision open, so that stored results of any precision may be reused.
    batch_size
        Tiles and windows per batch; ``None`` for the defaults of each.
    """

    devices: tuple[torch.device, ...]
    precision: str = "fp32"
    any_precision: bool = False
    batch_size: int | None = None

    @classmethod
    def of(
        cls,
        device: str | torch.device | Sequence[str] = "auto",
        *,
        precision: Precision = "auto",
        batch_size: int | None = None,
    ) -> Compute:
        """Resolve what the user gave; see :func:`storm.tl.embed`.

        Raises
        ------
        ValueError
            If there is no such device on this machine or no such precision, or the batch size is not a whole number of
            at least 1.
        TypeError
            If the device is neither text nor a list of texts.
        """
        devices = resolve_devices(device)
        return cls(
            devices=devices,
            precision=resolve_precision(precision, devices[0]),
            any_precision=precision == "auto",
            batch_size=None if batch_size is None else check_whole(batch_size, name="batch_size"),
        )

    @property
    def device(self) -> torch.device:
        """The first device."""
        return self.devices[0]

    @property
    def window_batch(self) -> int:
        """Windows per batch."""
        return self.batch_size or WINDOWS_PER_BATCH

    @property
    def threads(self) -> int:
        """Threads that torch uses on the CPU, on which the last bit of a sum depends."""
        return torch.get_num_threads()

    @property
    def decoding_threads(self) -> int:
        """Threads that decode the image for each device: one beside a network on the CPU, else the cores' share.

        ``storm.settings.n_threads`` takes the place of the number of cores that this process may use.
        """
        if self.device.type == "cpu":
            return 1
        affinity = getattr(os, "sched_getaffinity", None)
        cores = settings.n_threads or (len(affinity(0)) if affinity else os.cpu_count() or 1)
        return max(1, cores // len(self.devices))

    def tile_batch(self, tile_px: int) -> int:
        """Tiles of ``tile_px`` pixels a side per batch: by default 256, on the CPU as many as take 5 MB as floats."""
        if self.batch_size is not None or self.device.type != "cpu":
            return self.batch_size or TILES_PER_BATCH
        return min(max(_CPU_BYTES // (12 * tile_px**2), 1), TILES_PER_BATCH)

    def autocast(self) -> AbstractContextManager:
        """Context in which a network runs at this precision on the first device."""
        return autocast(self.device, self.precision)


def resolve_devices(device: str | torch.device | Sequence[str]) -> tuple[torch.device, ...]:
    """One device or several: ``"cuda:0,cuda:1"``, or a list of names; see :func:`resolve_device`."""
    if isinstance(device, torch.device):
        device = str(device)
    names = device.split(",") if isinstance(device, str) else device
    if not isinstance(names, list | tuple) or not names:
        msg = f"device={device!r} is not a device; give 'auto', a name such as 'cuda:0', or a list of names"
        raise TypeError(msg)
    return tuple(resolve_device(name.strip() if isinstance(name, str) else name) for name in names)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of a name, ready to run: on the CPU, with ``storm.settings.n_threads`` threads.

    Torch has one number of threads for the whole process. ``n_threads=None`` leaves it as it is, be it torch's own or
    the one that was set last; it does not bring back an earlier one, which somebody else may have changed since.

    Parameters
    ----------
    device
        ``"auto"`` (CUDA if there is a GPU, Apple's MPS, else CPU), or anything that names a torch device.

    Raises
    ------
    ValueError
        If there is no such device on this machine.
    """
    chosen = _find(device)
    if chosen.type == "cpu" and settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    return chosen


def _find(device: str | torch.device) -> torch.device:
    available = ["cpu"]
    if torch.cuda.is_available():
        available += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        available.append("mps")
    if str(device) == "auto":
        return torch.device(available[1] if len(available) > 1 else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        msg = f"device={device!r} is not the name of a device; this machine has {available}; 'auto' takes the best"
        raise ValueError(msg) from error
    if chosen.type == "cuda" and chosen.index is None and len(available) > 1:
        return chosen
    if str(chosen) not in available:
        msg = f"device={str(device)!r} is not on this machine, which has {available}; device='auto' takes the best"
        raise ValueError(msg)
    return chosen


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """``"fp32"``, ``"bf16"`` or ``"fp16"``; ``"auto"`` is bf16 on a GPU that has it and fp32 elsewhere."""
    check_choice(precision, get_args(Precision), name="precision")
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Context in which a network runs at a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])
