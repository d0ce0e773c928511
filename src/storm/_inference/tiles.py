"""The tile loop: a tile encoder run over the H&E around each centre."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from storm._inference.device import Compute
from storm._inference.fallback import Run, check_shape
from storm._inference.tile_input import TileInput
from storm._progress import progress
from storm.data.crop import crop_patches
from storm.data.rows import Rows
from storm.data.spots import Spots
from storm.encoders import EncoderInfo


def encode_tiles(
    spots: Spots,
    encoder: EncoderInfo,
    compute: Compute,
    *,
    field_um: float,
    tile_px: int | None = None,
    compiled: bool = False,
    channels_last: bool = False,
    rows: Rows | None = None,
) -> np.ndarray:
    """Tile embeddings, shape (n, dim), float32; NaN where the centre lies outside the image.

    Parameters
    ----------
    spots
        With a patch reader.
    encoder
        Tile encoder.
    compute
        How to run; each device takes a region of the section.
    field_um
        Edge of the field around each centre, in µm.
    tile_px
        Input size, the encoder's own by default.
    compiled, channels_last
        Ways to run faster, used only if the results of the first batch match.
    rows
        Where the embeddings go; what is done there already is not computed again.

    Raises
    ------
    ValueError
        If the encoder's output does not have the shape of its description.
    """
    rows = Rows((len(spots), encoder.dim)) if rows is None else rows
    inside = spots.reader.inside(spots.centres)
    if not (inside & ~rows.done).any():
        return rows.finish()
    devices = compute.devices
    module, lock = encoder.build(), Lock()
    copies = [copy.deepcopy(module) for _ in devices[1:]]  # moving one module would take it from the other device
    bar = progress(total=int(inside.sum()), initial=int(rows.done.sum()), desc="tiles", unit="tile")
    with bar:

        def work(region: np.ndarray, device: torch.device, network: nn.Module) -> None:
            # Batches are done in the reader's order, and whole ones only: those left are the same as in one go.
            centres = np.where((region & ~rows.done)[:, None], spots.centres, np.nan)
            run = Run(
                network.to(device).eval(),
                device=device,
                precision=compute.precision,
                compiled=compiled,
                channels_last=channels_last,
            )
            with torch.inference_mode():
                for index, x in tile_batches(
                    spots,
                    centres,
                    field_um=field_um,
                    out_px=tile_px or encoder.tile_px,
                    batch_size=compute.tile_batch(tile_px or encoder.tile_px),
                    encoder=encoder,
                    device=device,
                    threads=compute.decoding_threads,
                ):
                    embedding = run(x)
                    check_shape(embedding, (len(index), encoder.dim), name=encoder.name)
                    values = embedding.float().cpu().numpy()
                    with lock:
                        rows.write(index, values)
                        bar.update(len(index))

        regions = _regions(spots.centres, inside, len(devices))
        if len(devices) == 1:
            work(regions[0], devices[0], module)
        else:
            with ThreadPoolExecutor(len(devices)) as pool:
                list(pool.map(work, regions, devices, [module, *copies]))
    return rows.finish()


def _regions(centres: np.ndarray, inside: np.ndarray, n: int) -> list[np.ndarray]:
    """Which rows belong to each of n strips across the section's longer side, of equally many rows, bool (n_obs,)."""
    at = np.flatnonzero(inside)
    axis = int(np.argmax(np.ptp(centres[at], axis=0)))
    strips = np.array_split(at[np.argsort(centres[at, axis], kind="stable")], n)
    return [np.isin(np.arange(len(centres)), strip) for strip in strips]


def tile_batches(
    spots: Spots,
    centres: np.ndarray,
    *,
    field_um: float,
    out_px: int,
    batch_size: int,
    encoder: EncoderInfo,
    device: torch.device,
    threads: int = 1,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read tiles in batches, in the order of the reader, which decodes each chunk of the image once.

    An accelerator gets the pixels of many tiles at once, as bytes, and cuts and resizes them itself.

    Parameters
    ----------
    spots
        Section with a patch reader.
    centres
        x and y in µm, shape (n, 2); rows of NaN are left out.
    field_um
        Edge of a tile in µm.
    out_px
        Edge of a tile in pixels.
    batch_size
        Tiles per batch.
    encoder
        By whose mean and standard deviation they are normalised.
    device
        Where the tiles are needed.
    threads
        Number of threads that decode the image.

    Yields
    ------
    rows
        Rows of the centres, shape (b,).
    tiles
        float32, shape (b, 3, out_px, out_px), on the device; valid until the next batch is asked for.
    """
    if device.type != "cpu" and spots.reader.boxes_suffice(field_um, out_px):
        cut = _cut(
            spots, centres, field_um=field_um, out_px=out_px, batch_size=batch_size, device=device, threads=threads
        )
        yield from ((index, encoder.normalise(x)) for index, x in _rebatched(cut, batch_size))
        return
    prepare = TileInput(encoder, device)
    for index, patches in spots.reader.iter_patches(
        centres, field_um=field_um, out_px=out_px, batch_size=batch_size, threads=threads
    ):
        yield index, prepare(patches)


def _cut(
    spots: Spots,
    centres: np.ndarray,
    *,
    field_um: float,
    out_px: int,
    batch_size: int,
    device: torch.device,
    threads: int = 1,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """As many tiles at a time as lie on a canvas of the reader, cut on the device."""
    canvases = spots.reader.iter_canvases(
        centres, field_um=field_um, out_px=out_px, batch_size=batch_size, threads=threads
    )
    for canvas in canvases:
        pixels = torch.from_numpy(canvas.pixels)
        pixels = pixels.pin_memory() if device.type == "cuda" else pixels
        pixels = pixels.to(device, non_blocking=True)
        tiles = crop_patches(
            pixels,
            canvas.boxes,
            out_px=out_px,
            flip_x=canvas.flip_x,
            flip_y=canvas.flip_y,
            turned=canvas.turned,
        )
        yield canvas.index, tiles / 255


def _rebatched(parts: Iterator[tuple[np.ndarray, Tensor]], size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The same rows in the same order, ``size`` at a time."""
    held: list[tuple[np.ndarray, Tensor]] = []
    for part in parts:
        held.append(part)
        while (n := sum(len(index) for index, _ in held)) >= size:
            index, x = np.concatenate([i for i, _ in held]), torch.cat([x for _, x in held])
            yield index[:size], x[:size]
            held = [(index[size:], x[size:])] if n > size else []
    if held:
        yield np.concatenate([i for i, _ in held]), torch.cat([x for _, x in held])
