"""Run the spatial encoder over all windows of a section, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from storm._settings import settings
from storm.data.windows import Windows
from storm.model.batch import WindowBatch
from storm.model.readout import center, reconstruct_masked, reconstruction_basis, window
from storm.model.storm import Storm
from storm.tl._device import autocast

#: Random draws of visible spots that the ``"reconstruction"`` read-out averages over, and spots visible in each.
N_DRAWS, N_VISIBLE = 8, 5


def window_batches(
    tokens: dict[str, np.ndarray], windows: Windows, *, batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor, WindowBatch]]:
    """Batches of windows whose centre has a place.

    Parameters
    ----------
    tokens
        Per modality (``"he"``, ``"st"``): shape (n, d); a row of NaN has no token.
    windows
        Windows of the n spots.
    batch_size
        Windows per batch.
    device
        Where the batch goes.

    Yields
    ------
    rows
        Rows of the centres, shape (B,).
    members
        Rows of the members, shape (B, L), -1 where there is none, on the CPU.
    batch
        The windows.
    """
    values = {name: torch.from_numpy(array) for name, array in tokens.items()}
    exists = {name: torch.isfinite(array).all(dim=1) for name, array in values.items()}
    placed = np.flatnonzero(windows.index[:, 0] >= 0)
    for start in range(0, len(placed), batch_size):
        rows = placed[start : start + batch_size]
        members = torch.from_numpy(windows.index[rows]).long()
        at = members.clamp(min=0)
        parts = {}
        for name, array in values.items():
            parts[name] = array[at]
            parts[f"{name}_mask"] = exists[name][at] & (members >= 0)
        offsets = torch.from_numpy(windows.offsets_of(rows))
        yield rows, members, WindowBatch(offsets=offsets, **parts).to(device)


def run_windows(
    network: Storm,
    tokens: dict[str, np.ndarray],
    windows: Windows,
    *,
    readout: str,
    device: torch.device,
    precision: str,
    batch_size: int,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """One vector per spot and part.

    Parameters
    ----------
    network
        In evaluation mode.
    tokens, windows
        As in :func:`window_batches`.
    readout
        ``"center"``, ``"window"`` or ``"reconstruction"``; see :func:`storm.tl.embed`.
    device, precision, batch_size
        How to run.
    seed
        Of the draws of ``"reconstruction"``.

    Returns
    -------
    dict of str to ndarray
        The read-out's parts: ``"he"`` and ``"st"``, and with ``"window"`` also ``"he_input"`` and ``"st_input"``.
        Float32, shape (n, d); NaN where a spot has no place or nothing was known of it.
    """
    network = network.to(device).eval()
    if readout == "reconstruction":
        return _reconstructions(network, tokens, windows, device, precision, batch_size, seed)
    n, out = len(windows), {}
    bar = tqdm(total=n, desc="windows", unit="spot", disable=settings.verbosity == 0)
    with torch.inference_mode(), bar:
        for rows, _, batch in window_batches(tokens, windows, batch_size=batch_size, device=device):
            with autocast(device, precision):
                output = network(batch)
            vectors = center(output) if readout == "center" else window(output, batch)
            for name, vector in vectors.items():
                if name not in out:
                    out[name] = np.full((n, vector.shape[1]), np.nan, dtype=np.float32)
                out[name][rows] = vector.float().cpu().numpy()
            bar.update(len(rows))
    return out


def _reconstructions(network, tokens, windows, device, precision, batch_size, seed) -> dict[str, np.ndarray]:
    """Each spot's masked reconstruction, averaged over draws and over the windows that hold it."""
    n = len(windows)
    names = list(network.decoders)
    bases = {name: reconstruction_basis(network, name) for name in names}
    total = {name: torch.zeros(n, bases[name].shape[1], dtype=torch.float64) for name in names}
    count = torch.zeros(n)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=n * N_DRAWS, desc="windows", unit="spot", disable=settings.verbosity == 0)
    with torch.inference_mode(), bar:
        for rows, members, batch in window_batches(tokens, windows, batch_size=batch_size, device=device):
            for _ in range(N_DRAWS):
                with autocast(device, precision):
                    hidden, masked = reconstruct_masked(network, batch, n_visible=N_VISIBLE, generator=generator)
                masked = masked.cpu()
                targets = members[masked]
                for name in names:
                    states = (hidden[name].float() @ bases[name]).cpu()[masked]
                    total[name].index_add_(0, targets, states.double())
                count.index_add_(0, targets, torch.ones(len(targets)))
                bar.update(len(rows))
    # The mean over all spots goes: it is the read-out's bias seen through the basis, common to every spot.
    return {name: _centred((total[name] / torch.where(count > 0, count, torch.nan)[:, None]).numpy()) for name in names}


def _centred(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).all(axis=1)
    return (values - values[known].mean(axis=0)).astype(np.float32) if known.any() else values.astype(np.float32)
