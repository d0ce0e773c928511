"""Where and how precisely a network runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from storm._checks import check_choice
from storm._settings import settings

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_devices(device: str | torch.device | Sequence[str]) -> tuple[torch.device, ...]:
    """One device or several: ``"cuda:0,cuda:1"``, or a list of names; see :func:`resolve_device`."""
    names = device.split(",") if isinstance(device, str) else [device] if isinstance(device, torch.device) else device
    return tuple(resolve_device(name.strip() if isinstance(name, str) else name) for name in names)


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of a name, ready to run: on the CPU, with as many threads as ``storm.settings.n_threads`` says.

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
    found = _find(device)
    if found.type == "cpu" and settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    return found


def _find(device: str | torch.device) -> torch.device:
    there = ["cpu"]
    if torch.cuda.is_available():
        there += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        there.append("mps")
    if str(device) == "auto":
        return torch.device(there[1] if len(there) > 1 else "cpu")
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        msg = f"device={device!r} names no device; this machine has {there}, or say 'auto'"
        raise ValueError(msg) from error
    if wanted.type == "cuda" and wanted.index is None and len(there) > 1:
        return wanted
    if str(wanted) not in there:
        msg = f"device={str(device)!r} is not on this machine, which has {there}; say device='auto' to take the best"
        raise ValueError(msg)
    return wanted


def resolve_precision(precision: str, device: torch.device) -> str:
    """``"fp32"``, ``"bf16"`` or ``"fp16"``; ``"auto"`` is bf16 on a GPU that has it and fp32 elsewhere."""
    check_choice(precision, ("auto", *_DTYPES), name="precision")
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Context in which a network runs at a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])
