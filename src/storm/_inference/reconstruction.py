"""The ``"reconstruction"`` read-out: each spot as its neighbourhood rebuilds it, averaged over random masks."""

from __future__ import annotations

import numpy as np
import torch

from storm._inference.device import Compute
from storm._inference.windows import shared_batches
from storm._progress import progress
from storm.data.windows import Windows
from storm.model.batch import SharedBatch, WindowBatch
from storm.model.masking import draw_visible
from storm.model.readout import present_spots, reconstruct_masked, reconstruction_basis
from storm.model.storm import Storm

#: Random draws of visible spots over which a reconstruction is averaged; more change it little.
N_DRAWS = 8
#: Spots that are visible in each draw, of 25: the paper's number.
N_VISIBLE = 5


def reconstructions(
    network: Storm, tokens: dict[str, np.ndarray], windows: Windows, compute: Compute, *, seed: int
) -> dict[str, np.ndarray]:
    """Each spot's masked reconstruction, averaged over draws and over the windows that hold it.

    Draws belong to spots: they depend on the seed and on the place of a spot in the section, not on the order of the
    rows, on batches or on patches.

    Parameters
    ----------
    network
        On the first device, in evaluation mode, with decoders.
    tokens, windows, compute
        As in :func:`~storm._inference.windows.shared_batches`.
    seed
        Random seed for the masks.

    Returns
    -------
    dict of str to ndarray
        Per modality of the decoders: float32, shape (n, d), centred over the section; NaN where no window could rebuild
        a spot.
    """
    n, rows = len(windows), windows.rows()
    place = np.full(n, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    names = list(network.decoders)
    bases = {name: reconstruction_basis(network, name) for name in names}
    total = {name: torch.zeros(n, bases[name].shape[1], dtype=torch.float64) for name in names}
    count = torch.zeros(n)
    bar = progress(total=len(rows) * N_DRAWS, desc="windows", unit="spot")
    with torch.inference_mode(), bar:
        for centres, index, batch in shared_batches(network, tokens, windows, compute, rows=rows):
            members = torch.from_numpy(index).long()
            whole = _projected_windows(batch)
            present = present_spots(whole)
            for draw in range(N_DRAWS):
                score = torch.from_numpy(uniforms(place[centres], index.shape[1], seed=seed, draw=draw))
                slots, shown = draw_visible(present, N_VISIBLE, score=score)
                with compute.autocast():
                    hidden, masked = reconstruct_masked(network, whole, slots, shown, projected=True)
                masked = masked.cpu()
                targets = members[masked]
                for name in names:
                    states = (hidden[name].float() @ bases[name]).cpu()[masked]
                    total[name].index_add_(0, targets, states.double())
                count.index_add_(0, targets, torch.ones(len(targets)))
                bar.update(len(centres))
    # The mean over all spots goes: it is the read-out's bias seen through the basis, common to every spot.
    return {name: _centred((total[name] / torch.where(count > 0, count, torch.nan)[:, None]).numpy()) for name in names}


def uniforms(spots: np.ndarray, width: int, *, seed: int, draw: int) -> np.ndarray:
    """Random numbers that belong to spots: the same for a spot whatever else is computed beside it.

    A counter goes through the finaliser of SplitMix64 (Steele, Lea & Flood 2014), whose outputs are independent of each
    other for all practical purposes.

    Parameters
    ----------
    spots
        Number of each spot, int64, shape (b,).
    width
        Numbers per spot.
    seed, draw
        Which of many independent sets.

    Returns
    -------
    ndarray
        Float32 in [0, 1), shape (b, width).
    """
    with np.errstate(over="ignore"):
        stream = _mixed(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(draw))
        counter = spots.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(width, dtype=np.uint64)
        bits = _mixed(_mixed(counter + stream) ^ stream)
    return np.asarray(bits >> np.uint64(40), dtype=np.float32) / np.float32(2**24)


def _mixed(x: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _projected_windows(batch: SharedBatch) -> WindowBatch:
    """The same windows with their members' input tokens side by side."""
    masks = batch.masks()
    parts = dict(zip(masks, batch.tokens().split(batch.at.shape[1], dim=1), strict=True))
    return WindowBatch(
        offsets=batch.offsets,
        he=parts.get("he"),
        st=parts.get("st"),
        he_mask=masks.get("he"),
        st_mask=masks.get("st"),
    )


def _centred(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values).all(axis=1)
    return (values - values[known].mean(axis=0)).astype(np.float32) if known.any() else values.astype(np.float32)
