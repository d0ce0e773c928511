"""Run the spatial encoder over all windows of a section, batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from storm._inference.device import Compute
from storm._inference.fallback import Halving
from storm._progress import progress
from storm.data.journal import Journal
from storm.data.windows import Windows
from storm.model.batch import SharedBatch, StormOutput
from storm.model.readout import center, window
from storm.model.storm import Storm

#: Windows whose spots are projected together. A patch of so many shares nearly all of its spots.
_BLOCK = 8192


def shared_batches(
    network: Storm,
    tokens: dict[str, np.ndarray],
    windows: Windows,
    compute: Compute,
    *,
    rows: np.ndarray | None = None,
    block: int = _BLOCK,
) -> Iterator[tuple[np.ndarray, np.ndarray, SharedBatch]]:
    """Batches of windows over spots that are projected once per patch of the section, not once per window.

    What is held does not grow with the section: one patch's spots and one batch of windows.

    Parameters
    ----------
    network
        On the first device, in evaluation mode.
    tokens
        Per modality (``"he"``, ``"st"``): shape (n, d); a row with a NaN has no token.
    windows
        Windows of the n spots.
    compute
        How to run.
    rows
        Centres in the order in which to go through them; by default all that have a place, in spatial order.
    block
        Windows per patch, rounded down to whole batches.

    Yields
    ------
    rows
        Rows of the centres, shape (B,).
    members
        Rows of the members, shape (B, L), -1 where there is none.
    batch
        The windows.
    """
    rows = windows.rows() if rows is None else rows
    device, batch_size = compute.device, compute.window_batch
    tokens = {name: tokens[name] for name in ("he", "st") if name in tokens}
    place = np.empty(len(windows) + 1, dtype=np.int32)
    step = block_step(batch_size, block)
    shared_offsets = torch.from_numpy(windows.offsets).to(device) if windows.offsets.ndim == 2 else None
    for first in range(0, len(rows), step):
        patch = rows[first : first + step]
        members = windows.index[patch]
        spots, at = _distinct(members, place)
        inputs, exists = {}, {}
        for name, array in tokens.items():
            inputs[name], exists[name] = (part.to(device) for part in _spots(array, spots))
        with compute.autocast():
            projected = network.share(inputs, exists)
        for start in range(0, len(patch), batch_size):
            part = slice(start, start + batch_size)
            if shared_offsets is None:
                offsets = torch.from_numpy(windows.offsets_of(patch[part])).to(device)
            else:
                offsets = shared_offsets
            batch = SharedBatch(
                at=torch.from_numpy(at[part]).to(device),
                offsets=offsets,
                inputs=inputs,
                exists=exists,
                projected=projected,
            )
            yield patch[part], members[part], batch


def block_step(batch_size: int, block: int = _BLOCK) -> int:
    """Windows whose spots are projected together, in whole batches."""
    return max(1, block // batch_size) * batch_size


def _distinct(members: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spots among the members, shape (m,), and where each member is among them (m: not there), int64.

    ``place`` is scratch memory for n + 1 numbers, whose content does not matter: without it, spots had to be sorted.
    """
    flat = members.ravel()
    place[flat] = np.arange(len(flat), dtype=np.int32)
    spots = flat[(place[flat] == np.arange(len(flat))) & (flat >= 0)]
    place[spots] = np.arange(len(spots), dtype=np.int32)
    place[-1] = len(spots)
    return spots, place[members].astype(np.int64)


def _spots(array: np.ndarray, spots: np.ndarray) -> tuple[Tensor, Tensor]:
    """Values of some spots, zero without a token, and a row of zeros behind them; and which rows have a token."""
    values = np.zeros((len(spots) + 1, array.shape[1]), dtype=array.dtype)
    np.take(array, spots, axis=0, out=values[:-1])
    exists = np.asarray(np.isfinite(values).all(axis=1))
    values[~exists] = 0
    exists[-1] = False
    return torch.from_numpy(values), torch.from_numpy(exists)


class Buffer:
    """Memory for the tokens of a batch, used again for the next."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def of(self, batch: SharedBatch) -> Tensor:
        """Rows for all tokens of a batch, shape (≥ B · T, width)."""
        size, like = batch.at.numel() * len(batch.exists), batch.projected
        if self._memory is None or len(self._memory) < size or self._memory.dtype != like.dtype:
            self._memory = like.new_empty(size, like.shape[1])
        return self._memory


def run_windows(
    network: Storm,
    tokens: dict[str, np.ndarray],
    windows: Windows,
    compute: Compute,
    *,
    readout: Literal["adaptive", "center", "window", "section"],
    journal: Journal | None = None,
    facts: dict[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """One vector per spot and part.

    Parameters
    ----------
    network
        In evaluation mode.
    tokens, windows, compute
        As in :func:`shared_batches`.
    readout
        How output tokens become vectors; see :func:`storm.tl.embed`. The fourth read-out is in
        :mod:`storm._inference.reconstruction`, because its sums end with the last window only.
    journal
        Where finished batches are kept for the next run, if this one is interrupted.
    facts
        Whatever the result depends on beside tokens, windows and the other arguments: the network's checksum.

    Returns
    -------
    dict of str to ndarray
        The read-out's parts: ``"he"`` and ``"st"``, and with ``"window"`` also ``"he_input"`` and ``"st_input"``, of
        which ``"adaptive"`` and ``"section"`` have the former.
        Float32, shape (n, d); NaN where a spot has no place or nothing was known of it.
    """
    network = network.to(compute.device).eval()
    names: list[str] = [name for name in ("he", "st") if name in tokens]
    width = network.config.width
    with_input = names if readout == "window" else ["he"] if readout in ("adaptive", "section") else []
    sizes: dict[str, int] = {}
    for name in names:
        sizes |= {name: width} | ({f"{name}_input": tokens[name].shape[1]} if name in with_input else {})

    def vectors(batch: SharedBatch, output: StormOutput) -> list[Tensor]:
        parts = center(output) if readout == "center" else window(output, batch)
        return [parts[name] for name in sizes]

    stage = Stage("windows", (facts or {}) | {"readout": readout}, journal or Journal())
    whole = stage.run(network, tokens, windows, vectors, compute, width=sum(sizes.values()))
    ends = np.cumsum(list(sizes.values()))
    return {name: whole[:, end - d : end] for (name, d), end in zip(sizes.items(), ends, strict=True)}


@dataclass(frozen=True)
class Stage:
    """A run of the network over all windows, which goes on where an earlier run of the same was interrupted.

    Attributes
    ----------
    name
        In the journal.
    facts
        All that decides about the result beside tokens and windows.
    journal
        Where finished batches are kept.
    """

    name: str
    facts: dict[str, Any]
    journal: Journal

    def run(
        self,
        network: Storm,
        tokens: dict[str, np.ndarray],
        windows: Windows,
        vectors: Callable[[SharedBatch, StormOutput], list[Tensor]],
        compute: Compute,
        *,
        width: int,
    ) -> np.ndarray:
        """Run the network over all windows, and put the tensors that ``vectors`` returns for a batch side by side.

        Returns
        -------
        ndarray
            Float32, shape (n, width); NaN where a spot has no place.
        """
        batch_size = compute.window_batch
        facts = self.facts | {
            "precision": compute.precision,
            "batch_size": batch_size,
            "device": compute.device.type,
        }
        if self.journal.folder is not None:
            facts |= {"inputs": _digest(tokens, windows), "n_threads": compute.threads}
        kept = self.journal.rows(self.name, (len(windows), width), facts=facts)
        order, step = windows.rows(), block_step(batch_size)
        # Spots are projected block by block, and the last bit of a product depends on how many there are: what is left
        # begins with the first block that is not whole.
        whole = [kept.done[order[first : first + step]].all() for first in range(0, len(order), step)]
        order = order[whole.index(False) * step if False in whole else len(order) :]
        buffer = Buffer()

        def forward(batch: SharedBatch) -> Tensor:
            with compute.autocast():
                parts = vectors(batch, network.forward_shared(batch, buffer=buffer.of(batch)))
            return torch.cat([part.float() for part in parts], dim=1)

        bar = progress(total=len(windows), initial=len(windows) - len(order), desc="windows", unit="spot")
        halving = Halving()
        with torch.inference_mode(), bar:
            for rows, _, batch in shared_batches(network, tokens, windows, compute, rows=order):
                kept.write(rows, halving(forward, batch).cpu().numpy())
                bar.update(len(rows))
        return kept.finish()


def _digest(tokens: dict[str, np.ndarray], windows: Windows) -> str:
    digest = hashlib.sha256()
    for name, array in (*tokens.items(), ("index", windows.index), ("offsets", windows.offsets)):
        digest.update(f"{name}{array.shape}".encode())
        for rows in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[rows : rows + 4096]).data)
    return digest.hexdigest()
