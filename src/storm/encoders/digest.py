"""Checksum of a network's weights, the same whatever file they came in."""

from __future__ import annotations

import hashlib

from torch import nn


def state_digest(module: nn.Module, *, also: str = "") -> str:
    """sha256 over names, shapes and float32 values of a module's state, in hexadecimal.

    Parameters
    ----------
    module
        The network.
    also
        Text that the checksum covers as well.

    Returns
    -------
    str
        64 characters.
    """
    digest = hashlib.sha256(also.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().reshape(-1).data)
    return digest.hexdigest()
