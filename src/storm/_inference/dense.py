"""Tile embeddings for places that lie closer than a tile is wide, bins and cells, from one pass over the tissue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from storm._checks import check_positive
from storm._inference.device import Compute
from storm._inference.fallback import check_shape
from storm._inference.tile_input import TileInput, as_input
from storm._progress import progress
from storm.data.patches import PatchReader
from storm.data.spots import Spots
from storm.encoders import EncoderInfo
from storm.encoders.dense import TokenGrid

#: Edge of the part of a block that holds centres, in pixels of the tile: the block is wider by one tile. Wider blocks
#: read fewer pixels twice; narrower ones hold less.
_BLOCK_PX = 512
#: Fields of a block that are embedded together.
_FIELDS = 4096


def encode_dense(
    spots: Spots,
    encoder: EncoderInfo,
    compute: Compute,
    *,
    field_um: float,
    tile_px: int | None = None,
    local_um: float | None = None,
    overlap: int = 1,
    patch_tokens: bool = False,
) -> np.ndarray:
    """Tile embeddings of centres that lie close together, each pixel of tissue encoded once.

    An encoder with a dense side of its own (``"stain-texture"``) gets blocks of tissue and embeds all their fields at
    once; the numbers are those of tile by tile but for two things. Each field is moved by at most half a pixel of the
    tile to the block's pixels (not at all where centres are whole pixels apart, as bins mostly are); and where the
    image has to be resized, the outermost pixels of a field see beyond it. It pays where many centres share a field:
    bins, less so cells; spots as far apart as a field is wide are embedded faster tile by tile.

    A transformer runs once over tiles that do not overlap, those that hold a centre. Each centre takes the tokens of
    the tiles around it, as :mod:`storm.encoders.dense` explains: class tokens interpolated between the middles of the
    tiles, and the mean of patch tokens in a window around it, weighted by area. Tiles that hold no centre are not there
    and the others count for them. This is another embedding than the exact one, made to be read by the same model:
    the same in the middle of a tile, near it elsewhere, and the nearer the more tiles there are.

    Memory: the output, and one block or one batch of tiles; nothing grows with the image.

    Parameters
    ----------
    spots
        With a patch reader.
    encoder
        Tile encoder.
    compute
        How to run, on the first device. Blocks are run in single precision with sums in double, on the CPU where the
        device (Apple's) has no double precision.
    field_um
        Edge of the field around each centre, in µm; also that of the tiles.
    tile_px
        Side of the tiles in pixels, the encoder's own by default.
    local_um
        Edge of the window over which a transformer's patch tokens are averaged, in µm, at most ``field_um``, which is
        the default. The edge of one patch makes it bilinear interpolation of the tokens; at least that is taken. Less
        than the field goes with ``overlap=1`` only.
    overlap
        Transformers: tiles stand ``field_um / overlap`` apart, so that ``overlap`` squared as many are encoded; where
        they overlap, a tile counts the more the nearer its middle is.
    patch_tokens
        Transformers whose embedding is the class token: take the mean of patch tokens in its place. They say more of a
        place by itself, but a model trained on class tokens cannot read them.

    Returns
    -------
    ndarray
        Float32, shape (n, dim), in the order of the table; NaN where the centre lies outside the image.

    Raises
    ------
    ValueError
        If the encoder has no dense side (the text lists those that have), its output does not have the shape of its
        description, or ``local_um``, ``overlap`` or ``patch_tokens`` is not possible with it.
    """
    tile_px = encoder.tile_px if tile_px is None else tile_px
    local_um = field_um if local_um is None else local_um
    check_positive(local_um, name="local_um", unit="µm")
    if local_um > field_um:
        msg = f"local_um={local_um} is wider than the field, field_um={field_um}; give at most that"
        raise ValueError(msg)
    if overlap not in range(1, 9):
        msg = f"overlap={overlap!r} is how many tiles stand on one tile's edge; give 1 (side by side) to 8"
        raise ValueError(msg)
    if overlap > 1 and local_um < field_um:
        msg = f"local_um={local_um}, less than the field, goes with tiles side by side; give overlap=1 or no local_um"
        raise ValueError(msg)
    out = np.full((len(spots), encoder.dim), np.nan, dtype=np.float32)
    rows = np.flatnonzero(spots.reader.inside(spots.centres))
    if not len(rows):
        return out
    device = compute.device
    if encoder.dense is not None and device.type == "mps":
        device = torch.device("cpu")
    network = encoder.build().to(device).eval()
    tissue = _Tissue(spots.reader, spots.centres[rows], field_um=field_um, tile_px=tile_px)
    bar = progress(total=len(rows), desc="dense tiles", unit="spot")
    with torch.inference_mode(), bar:
        if encoder.dense is not None:
            for members, embedding in _by_blocks(tissue, encoder.dense(network, tile_px), device):
                check_shape(embedding, (len(members), encoder.dim), name=encoder.name)
                out[rows[members]] = embedding.cpu().numpy()
                bar.update(len(members))
        else:
            grid = TokenGrid(encoder, network, patch_tokens=patch_tokens)
            prepare = TileInput(encoder, device)

            def run(patches: np.ndarray, check: bool) -> tuple[Tensor | None, Tensor]:
                x = prepare(patches)
                with compute.autocast():
                    if check:
                        grid.check(x[:1])
                    return grid(x)

            out[rows] = 0
            parts = _by_tokens(
                tissue,
                run,
                grid.join,
                local_um=local_um,
                overlap=overlap,
                batch_size=compute.tile_batch(tile_px),
            )
            for members, share, done in parts:
                check_shape(share, (len(members), encoder.dim), name=encoder.name)
                out[rows[members]] += share.cpu().numpy()
                bar.update(done)
            for part in np.array_split(rows, -(-len(rows) // _FIELDS)):
                out[part] = grid.finished(torch.from_numpy(out[part]).to(device)).cpu().numpy()
    return out


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Tiles in the middles of the squares of a grid, those that hold a centre.

    Attributes
    ----------
    middles
        x and y of their middles in µm, (t, 2).
    place
        Centres in units of a square's edge, from the corner of the grid, (n, 2).
    cells
        Column and row of each tile's square, (t, 2), sorted by row.
    tile_of
        Tile in whose square a centre lies, (n,).
    """

    middles: np.ndarray
    place: np.ndarray
    cells: np.ndarray
    tile_of: np.ndarray

    @classmethod
    def make(cls, centres: np.ndarray, pitch_um: float) -> TilePlan:
        """Cover centres (n, 2), in µm, n > 0, with a grid of a pitch in µm, in the middle of their extent."""
        low, high = centres.min(axis=0), centres.max(axis=0)
        shape = np.maximum(np.ceil((high - low) / pitch_um), 1)
        corner = (low + high - shape * pitch_um) / 2
        place = (centres - corner) / pitch_um
        cell = np.clip(np.floor(place), 0, shape - 1).astype(np.int64)
        number = cell[:, 1] * int(shape[0]) + cell[:, 0]
        used, tile_of = np.unique(number, return_inverse=True)
        cells = np.column_stack([used % int(shape[0]), used // int(shape[0])])
        return cls(corner + (cells + 0.5) * pitch_um, place, cells, tile_of)


class _Overhanging(PatchReader):
    """A reader of whatever touches the image: tiles at its border hold centres, but their own may lie outside."""

    def inside(self, centres_um: np.ndarray) -> np.ndarray:
        return np.isfinite(centres_um).all(axis=1)


class _Tissue:
    """What is read: an image, and centres on it in µm."""

    def __init__(self, patches: PatchReader, centres: np.ndarray, *, field_um: float, tile_px: int) -> None:
        self.reader = _Overhanging(patches.levels, fill=patches.fill)
        self.centres, self.field_um, self.tile_px = centres, field_um, tile_px

    @property
    def um_per_px(self) -> float:
        """µm per pixel of a tile."""
        return self.field_um / self.tile_px


def _by_blocks(
    tissue: _Tissue, embed: Callable[[Tensor, np.ndarray], Tensor], device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Embed all fields of a block at once: rows of centres, and their embeddings."""
    um, centres = tissue.um_per_px, tissue.centres
    plan = TilePlan.make(centres, _BLOCK_PX * um)
    order = np.argsort(plan.tile_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(plan.tile_of))[:-1])
    middles = np.stack([_aligned(centres[rows], um) for rows in members])
    # a pixel more on either side, because middles and fields are rounded
    reach = 1 + max(int(np.ceil(np.ptp(centres[rows], axis=0).max() / um / 2)) for rows in members)
    size = tissue.tile_px + 2 * reach
    blocks = tissue.reader.iter_patches(middles, field_um=size * um, out_px=size, batch_size=1)
    for (block,), pixels in blocks:
        rows = members[block]
        corners = np.round((centres[rows] - middles[block]) / um).astype(np.int64) + reach
        by_row = np.lexsort((corners[:, 0], corners[:, 1]))
        x = as_input(pixels, device)[0]
        for start in range(0, len(rows), _FIELDS):
            part = by_row[start : start + _FIELDS]
            yield rows[part], embed(x, corners[part])


def _aligned(centres: np.ndarray, um: float) -> np.ndarray:
    """The middle of some centres, moved so that it is whole pixels away from the centre next to it."""
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    nearest = centres[np.square(centres - middle).sum(axis=1).argmin()]
    return nearest + np.round((middle - nearest) / um) * um


def _by_tokens(
    tissue: _Tissue,
    run: Callable[[np.ndarray, bool], tuple[Tensor | None, Tensor]],
    join: Callable[[Tensor | None, Tensor], Tensor],
    *,
    local_um: float,
    overlap: int,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, Tensor, int]]:
    """Encode tile by tile: rows of centres, what they get from a tile, and how many have their middle there.

    The shares of all tiles add up to the embedding, so that no tile's tokens are kept.
    """
    plan = TilePlan.make(tissue.centres, tissue.field_um / overlap)
    near, norms = _neighbours(plan), None
    batches = tissue.reader.iter_patches(
        plan.middles, field_um=tissue.field_um, out_px=tissue.tile_px, batch_size=batch_size
    )
    for tiles, pixels in batches:
        classes, patches = run(pixels, norms is None)
        side = patches.shape[1]
        window = max(local_um / tissue.field_um, 1 / side)
        if norms is None:
            norms = _norms(plan, window)
        for k, tile in enumerate(tiles.tolist()):
            nearby = near(tile)
            away = plan.place[nearby] - plan.cells[tile] - 0.5
            touched = np.abs(away).max(axis=1) < 1
            nearby, away = nearby[touched], away[touched]
            done = int((plan.tile_of[nearby] == tile).sum())
            for start in range(0, len(nearby), _FIELDS):
                rows, at = nearby[start : start + _FIELDS], away[start : start + _FIELDS]
                across, down = (_overlap(at[:, axis] / overlap, window, side) for axis in (0, 1))
                hat = _hat(at[:, 0]) * _hat(at[:, 1]) / norms[1][rows]
                # Side by side, all tokens in the window count alike. Where tiles overlap, a tile counts the more the
                # nearer its middle is: in the middle of a tile, only that one.
                area = down.sum(axis=1) * across.sum(axis=1)
                share = 1 / norms[0][rows] if overlap == 1 else hat / area
                weights = (down * share[:, None])[:, :, None] * across[:, None, :]
                means = _to(weights, patches).flatten(1) @ patches[k].flatten(0, 1)
                yield rows, join(None if classes is None else _to(hat[:, None], patches) * classes[k], means), done
                done = 0


def _overlap(at: np.ndarray, window: float, side: int) -> np.ndarray:
    """Share of a window around ``at`` that lies over each of ``side`` equal parts of [-1/2, 1/2]: (b, side)."""
    edges = np.arange(side) / side - 0.5
    low, high = (at + s * window / 2 for s in (-1, 1))
    common = np.minimum(high[:, None], edges + 1 / side) - np.maximum(low[:, None], edges)
    return np.clip(common, 0, None) / window


def _hat(at: np.ndarray) -> np.ndarray:
    """Weight of a tile, whose middle is at 0, in linear interpolation between middles."""
    return np.clip(1 - np.abs(at), 0, None)


def _norms(plan: TilePlan, window: float) -> tuple[np.ndarray, np.ndarray]:
    """What a window and the weights of interpolation come to over the tiles that there are, side by side."""
    area, hats = np.zeros(len(plan.place)), np.zeros(len(plan.place))
    own = plan.cells[plan.tile_of]
    occupied = np.zeros(plan.cells.max(axis=0) + 3, dtype=bool)
    occupied[tuple((plan.cells + 1).T)] = True
    for step in np.ndindex(3, 3):
        cell = own + np.array(step) - 1
        at = plan.place - cell - 0.5
        here = occupied[tuple((cell + 1).T)]
        area += here * _overlap(at[:, 0], window, 1)[:, 0] * _overlap(at[:, 1], window, 1)[:, 0]
        hats += here * _hat(at[:, 0]) * _hat(at[:, 1])
    return area, hats


def _neighbours(plan: TilePlan) -> Callable[[int], np.ndarray]:
    """Of a tile, the rows of the centres in its square and in the eight around it."""
    order = np.argsort(plan.tile_of, kind="stable")
    stops = np.cumsum(np.bincount(plan.tile_of)).tolist()
    number = {tuple(cell): k for k, cell in enumerate(plan.cells.tolist())}

    def near(tile: int) -> np.ndarray:
        column, row = plan.cells[tile].tolist()
        around = [(column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        tiles = [number[cell] for cell in around if cell in number]
        return np.concatenate([order[stops[k - 1] if k else 0 : stops[k]] for k in tiles])

    return near


def _to(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)
