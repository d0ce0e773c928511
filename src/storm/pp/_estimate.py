"""How long ``storm.tl.embed`` will take here, and how much memory: measured on a few spots, and extrapolated."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from storm._inference.device import Compute
from storm._inference.fallback import Run
from storm._inference.tile_input import TileInput
from storm._inference.windows import shared_batches
from storm._loading import StormModel
from storm.data.scratch import ScratchSource
from storm.data.sources import Source
from storm.data.spots import Spots
from storm.data.windows import Windows
from storm.pp._image import chunks_needed
from storm.pp._reading import text_of
from storm.pp._report import Row

#: Tiles, windows and rows of counts that are measured, in batches of so many; chunks that are decoded.
_TILES, _WINDOWS, _ROWS, _CHUNKS = 64, 256, 256, 3
#: Share of the machine's free memory beyond which one is warned.
_MEMORY = 0.8


def estimate_rows(
    spots: Spots,
    windows: Windows,
    model: StormModel,
    compute: Compute,
    *,
    field_um: float,
    st_tokens: bool = True,
) -> list[Row]:
    """Rows about time and memory.

    Parameters
    ----------
    spots
        The section.
    windows
        Its neighbourhoods.
    model
        The model that would run.
    compute
        How it would run.
    field_um
        Edge of the H&E field, in µm.
    st_tokens
        Whether the network reads tokens of expression; see :mod:`storm._inference.adaptive`.

    Returns
    -------
    list of Row
        ``time`` and ``memory``; none where there is nothing to embed.
    """
    seconds: dict[str, float] = {}
    tokens: dict[str, int] = {}
    try:
        with torch.inference_mode():
            if spots.patches is not None and spots.scale is not None and spots.reader.inside(spots.centres).any():
                tokens["he"] = model.tile_encoder.dim
                seconds |= _tiles(spots, model, compute, field_um=field_um)
            if spots.counts is not None and spots.counts.nnz:
                tokens["st"] = model.expression.dim
                seconds["expression"] = _expression(spots, windows, model)
            read = {name: dim for name, dim in tokens.items() if st_tokens or name != "st"}
            if read:
                seconds["windows"] = _network(windows, model, read, compute)
    except (ValueError, OSError, RuntimeError) as error:
        # Gated weights that are not here, too few genes, pixels that cannot be decoded: other rows, or embed, say so.
        return [Row("time", "cannot be measured", "info", text_of(error))]
    if not tokens:
        return []
    total = sum(seconds.values())
    devices = ", ".join(map(str, compute.devices))
    parts = ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())
    text = (
        f"an estimate for storm.tl.embed with {model.name!r} on {devices}, from a few hundred spots: right to a factor "
        "of two, less where other work runs beside it"
    )
    if compute.device.type == "cpu" and seconds.get("tile encoder", 0) > 600:
        text += "; field='dense' or a GPU is several times faster"
    rows = [Row("time", f"about {duration(total)} ({parts})", "info", text, {"seconds": total})]
    return [*rows, _memory(spots, windows, model, tokens, field_um=field_um)]


def duration(seconds: float) -> str:
    """A time in words."""
    for limit, unit, length in ((1, "ms", 1e-3), (90, "s", 1), (5400, "min", 60)):
        if seconds < limit:
            return f"{_two(seconds / length)} {unit}"
    return f"{_two(seconds / 3600)} h"


def _two(value: float) -> str:
    """Two figures, without an exponent."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def size_of(n: float) -> str:
    """A number of bytes in words."""
    return f"{_two(n / 1e9)} GB" if n >= 1e9 else f"{_two(n / 1e6)} MB"


def _tiles(spots: Spots, model: StormModel, compute: Compute, *, field_um: float) -> dict[str, float]:
    reader, encoder = spots.reader, model.tile_encoder
    centres = spots.centres[reader.inside(spots.centres)]
    level = reader.levels[reader.level_for(field_um, model.tile_px)]
    needed, _ = chunks_needed(level.source, reader, centres, field_um=field_um, tile_px=model.tile_px)
    per_chunk = _per_chunk(level.source)
    batches = []
    before = time.perf_counter()
    # The first batches of all, in the reader's order: the way that the whole section would be read.
    first = reader.iter_patches(centres, field_um=field_um, out_px=model.tile_px, batch_size=_TILES, prefetch=0)
    for index, tile in islice(first, 5):
        now, last = time.perf_counter(), tile
        batches.append((now - before) / len(index))
        before = now
    # Decoding comes in lumps, with the first patch that needs a chunk; the fastest batch is nearly free of it.
    per_patch = min(batches)
    run = Run(
        encoder.build().to(compute.device).eval(),
        device=compute.device,
        precision=compute.precision,
        compiled=False,
        channels_last=False,
    )
    prepare = TileInput(encoder, compute.device)

    def encode() -> Tensor:
        return run(prepare(last)).float().cpu()

    per_tile = _second_time(encode) / len(last)
    return {
        "decoding": needed * per_chunk,
        "cutting patches": len(centres) * per_patch,
        "tile encoder": len(centres) * per_tile / len(compute.devices),
    }


def _per_chunk(source: Source) -> float:
    """Seconds to decode a chunk, in the median of a few from the middle."""
    if source.in_memory or isinstance(source, ScratchSource):
        return 0.0
    taken = []
    for k in range(_CHUNKS):
        start = time.perf_counter()
        source.read_chunk(source.grid[0] // 2, min(source.grid[1] // 2 + k, source.grid[1] - 1))
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def _expression(spots: Spots, windows: Windows, model: StormModel) -> float:
    rows = windows.rows()
    middle = rows[max(0, len(rows) // 2 - _ROWS // 2) :][:_ROWS]
    counts, genes = spots.expression
    part, centres = counts[middle], spots.centres[middle]
    taken = _second_time(lambda: model.expression.encode(part, genes, centres=centres))
    return taken * len(rows) / len(middle)


def _network(windows: Windows, model: StormModel, dims: dict[str, int], compute: Compute) -> float:
    rows = windows.rows()
    middle = rows[max(0, len(rows) // 2 - _WINDOWS // 2) :][:_WINDOWS]
    network = model.network.to(compute.device).eval()
    # Time does not depend on the values: one row of zeros stands for every spot.
    tokens = {name: np.broadcast_to(np.zeros(dim, dtype=np.float32), (len(windows), dim)) for name, dim in dims.items()}

    def run() -> None:
        for _, _, batch in shared_batches(network, tokens, windows, compute, rows=middle):
            with compute.autocast():
                network.forward_shared(batch).window().float().cpu()

    return _second_time(run) * len(rows) / len(middle)


def _second_time(run: Callable[[], Any]) -> float:
    """Seconds that something takes when it is warm."""
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _memory(spots: Spots, windows: Windows, model: StormModel, tokens: dict[str, int], *, field_um: float) -> Row:
    n, width = len(spots), model.config.width
    # Raw and standardised tokens, the network's vectors, and the result, all of them float32.
    size = 4 * n * sum(2 * dim + 2 * (width + dim) for dim in tokens.values())
    size += windows.index.nbytes + windows.offsets.nbytes
    size += sum(p.numel() * p.element_size() for p in model.network.parameters())
    if "he" in tokens:
        reader = spots.reader
        source = reader.levels[reader.level_for(field_um, model.tile_px)].source
        if not source.in_memory:
            size += 6 * source.chunks_yx[0] * source.chunks_yx[1] * min(source.grid)
    # What can be had, the system's cache of files included.
    free = psutil.virtual_memory().available
    facts = {"bytes": size, "free": free}
    value = f"about {size_of(size)} beside the object; {size_of(free)} are free"
    if size > _MEMORY * free:
        text = "more than this machine has left: embed in parts, or on a larger machine"
        return Row("memory", value, "warn", text, facts)
    return Row("memory", value, "info", "arrays of storm.tl.embed, by their sizes; an estimate", facts)
