"""The stain-texture encoder for fields that overlap: what they share is computed once, with the same result.

Means over a field are differences of running sums, order statistics are sorted field by field. Filters reflect the
tissue at the edge of their tile, so a response near an edge belongs to one tile alone: fields in one row share what is
filtered along y, and along x everything but the responses near their left and right edges. Nothing is approximated.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from storm.encoders.stain import NUCLEAR, StainTexture, above, glassy, ordered, vacuous
from storm.encoders.stain_filters import N_SUMS, folded, profiles, response_statistics, response_sums, step_px

#: Number of fields whose pixels are sorted together: as many as stay in the processor's cache.
_SORTED = 64
#: Number of columns that are filtered together, which bounds the memory.
_FILTERED = 2_000
#: Columns that one matrix product filters.
_COLUMNS = 16


class DenseStain:
    """Stain and texture statistics of many fields of one block of tissue.

    Parameters
    ----------
    module
        The encoder.
    tile_px
        Side of the fields, in pixels.
    """

    def __init__(self, module: StainTexture, tile_px: int) -> None:
        self.module, self.tile_px = module, tile_px
        device = module.unmix.device
        self._scales = [_Scale(sigma, tile_px, device) for sigma in module.sigmas]

    def __call__(self, block: Tensor, corners: np.ndarray) -> Tensor:
        """Embeddings of fields.

        Parameters
        ----------
        block
            Values in [0, 1], shape (3, H, W).
        corners
            x and y of the upper left pixel of each field, int (b, 2); the fields lie within the block.

        Returns
        -------
        Tensor
            Float32, shape (b, dim): the encoder's embedding of the tile at each corner, to float rounding.
        """
        maps = self.module.maps(block[None])[0]
        x, y = torch.from_numpy(np.ascontiguousarray(corners.T, dtype=np.int64)).to(block.device)
        parts = [*self._distribution(maps, x, y), *self._cells(maps, x, y), *self._texture(maps[:2], corners)]
        return torch.cat([part.float() for part in parts], dim=1)

    def _distribution(self, maps: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
        smooth = F.avg_pool2d(maps, 2, stride=1)
        side = self.tile_px // 2
        n, quarter = side * side, side // 4
        inner = side - 2 * quarter
        # Sums over every second pixel of the smoothed maps and of their squares, for mean and spread of each field.
        moments = torch.cat([smooth, smooth.double().square()])
        sums, squares = window_sums(moments, x, y, shape=(side, side), step=2).chunk(2, dim=1)
        # The same mean over the middle half of the field.
        within = window_sums(smooth, x + 2 * quarter, y + 2 * quarter, shape=(inner, inner), step=2)
        spread = ((squares - sums.square() / n) / (n - 1)).clamp_min(0).sqrt()
        return [sums / n, spread, self._quantiles(smooth[:3], x, y), within / inner**2]

    def _quantiles(self, smooth: Tensor, x: Tensor, y: Tensor) -> Tensor:
        side = self.tile_px // 2
        at = (self.module.quantiles * (side * side - 1)).round().long()
        # Fields take every second pixel: four grids, by the parity of the corner, make each field a contiguous block.
        grids = [[smooth[:, i::2, j::2].contiguous() for j in range(2)] for i in range(2)]
        out = smooth.new_empty(len(x), len(smooth), len(at))
        places = list(zip(y.tolist(), x.tolist(), strict=True))
        for start in range(0, len(places), _SORTED):
            fields = torch.stack(
                [
                    grids[i % 2][j % 2][:, i // 2 : i // 2 + side, j // 2 : j // 2 + side]
                    for i, j in places[start : start + _SORTED]
                ]
            ).flatten(2)
            out[start : start + _SORTED] = ordered(fields)[..., at]
        return out.flatten(1)

    def _cells(self, maps: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
        n, width = self.tile_px, self.module.vacuole_px
        glass = glassy(maps[2:3])
        # A square of glass is a vacuole: means over width × width pixels, along y and then along x.
        wide = F.avg_pool2d(F.avg_pool2d(glass, (width, 1), stride=1), (1, width), stride=1)
        step = width // 2
        count = (n - width) // step + 1
        return [
            self._nuclear(maps[:1], x, y) / n**2,
            window_sums(glass, x, y, shape=(n, n)) / n**2,
            window_sums(vacuous(wide), x, y, shape=(count, count), step=step) / count**2,
        ]

    def _nuclear(self, haematoxylin: Tensor, x: Tensor, y: Tensor) -> Tensor:
        # The encoder pads tiles with zeros before its mean over 3 × 3 pixels, so that the outermost pixels average over
        # fewer rows or columns: nine parts of the tile, each with a kernel of its own.
        n, sums = self.tile_px, []
        rows = ((0, 1, (0, 1, 1)), (1, n - 2, (1, 1, 1)), (n - 1, 1, (1, 1, 0)))
        for top, height, down in rows:
            for left, width, across in rows:
                kernel = torch.outer(haematoxylin.new_tensor(down), haematoxylin.new_tensor(across)) / 9
                mean = F.conv2d(haematoxylin[None], kernel[None, None], padding=1)[0]
                masks = torch.cat([above(mean, level) for level in NUCLEAR])
                sums.append(window_sums(masks, x + left, y + top, shape=(height, width)))
        return reduce(torch.add, sums)

    def _texture(self, stains: Tensor, corners: np.ndarray) -> list[Tensor]:
        n, device = self.tile_px, stains.device
        order, run, first, length = _runs(corners, n)
        sums = stains.new_zeros(len(self._scales), len(corners), 2, N_SUMS, dtype=torch.float64)
        for low, high in _chunks(length, _FILTERED):
            # The rows of pixels that these runs need, of both stains, one after the other: a line of columns.
            pieces = zip(first[low:high].tolist(), length[low:high].tolist(), strict=True)
            strips = [stains[:, y : y + n, x : x + width] for (x, y), width in pieces]
            line = torch.cat([strip.permute(0, 2, 1).flatten(0, 1) for strip in strips])
            # Where each run begins in the line (both stains), and from there the first column of each of its fields.
            begin = 2 * (np.cumsum(length[low:high]) - length[low:high])
            members = slice(*np.searchsorted(run, (low, high)))
            rows, own = order[members], run[members]
            at = begin[own - low] + corners[rows, 0] - first[own, 0]
            at = torch.from_numpy(np.stack([at, at + length[own]], axis=1)).to(device)
            for scale, total in zip(self._scales, sums, strict=True):
                total[torch.from_numpy(rows).to(device)] = scale.sums(line, at)
        return [scale.statistics(total) for scale, total in zip(self._scales, sums, strict=True)]


class _Scale:
    """The derivative filters of one scale on tiles of ``n`` pixels, as matrices.

    A line of a tile is filtered with a Gaussian, its first and its second derivative, reflected at both ends. Responses
    near the ends see a reflection; those in between do not, whatever tile they belong to.
    """

    def __init__(self, sigma: float, n: int, device: torch.device) -> None:
        lines = profiles(sigma)
        self.radius, self.step = lines.shape[1] // 2, step_px(sigma)
        pad = min(self.radius, n - 1)
        whole = folded(sigma, n, pad)  # profile, place, pixel
        self.n_out = whole.shape[1]
        self._down = whole.flatten(0, 1).T.float().to(device)
        # Places whose filter reaches over the left or the right end of the tile see a reflection.
        at = torch.arange(self.n_out) * self.step + self.radius - pad
        left, right = at < self.radius, at > n - 1 - self.radius
        inner = torch.nonzero(~left & ~right).flatten()
        #: Number of places without a reflection, and the first column that the first of them sees.
        self.n_inner, self.inner_at = len(inner), int(at[inner[0]]) - self.radius if len(inner) else 0
        # The inner places: the same weights shifted from column to column, for blocks of columns in one product.
        sliding = torch.zeros(3, _COLUMNS, _COLUMNS + 2 * self.radius, dtype=torch.float64)
        for column in range(_COLUMNS):
            sliding[:, column, column : column + lines.shape[1]] = lines
        self._sliding = _pairs(sliding.float().to(device))
        # The places near either end: their own weights, over the columns that they see.
        self._edges = []
        for side in (left, right & ~left):
            if side.any():
                weights = whole[:, side]
                used = torch.nonzero(weights.abs().amax(dim=(0, 1))).flatten()
                low, high = int(used[0]), int(used[-1]) + 1
                self._edges.append((low, high - low, _pairs(weights[..., low:high].float().to(device))))

    def sums(self, line: Tensor, at: Tensor) -> Tensor:
        """Sums over the responses of fields, float64 (b, 2, 8).

        Parameters
        ----------
        line
            Columns of ``n`` pixels of several runs of fields, one after the other, (columns, n).
        at
            First column of each field for haematoxylin and for eosin, (b, 2).
        """
        filtered = line @ self._down
        total = line.new_zeros(*at.shape, N_SUMS, dtype=torch.float64)
        if self.n_inner:
            # Windows across the border of two runs are filtered too; they belong to no field and are never used.
            windows = _windows(filtered, _COLUMNS + 2 * self.radius, _COLUMNS)
            along = response_sums(_respond(windows, self._sliding, self.n_out), dim=2).flatten(1)
            table = _running(along.double(), self.step)
            low = at + self.inner_at
            total += (table[:, low + self.n_inner * self.step] - table[:, low]).permute(1, 2, 0)
        for begin, width, matrices in self._edges:
            windows = filtered.unfold(0, width, 1).mT[(at + begin).flatten()]
            total += response_sums(_respond(windows, matrices, self.n_out), dim=(1, 2)).T.unflatten(0, at.shape)
        return total

    def statistics(self, sums: Tensor) -> Tensor:
        """Features of fields from their sums: (b, 12)."""
        return response_statistics(sums, self.n_out**2)


def window_sums(maps: Tensor, x: Tensor, y: Tensor, *, shape: tuple[int, int], step: int = 1) -> Tensor:
    """Sums of maps (C, H, W) over a grid of ``shape`` places, ``step`` apart, from each corner: float64 (b, C)."""
    bottom, right = y + shape[0] * step, x + shape[1] * step
    sums = []
    for values in maps:
        table = _running(_running(values.double(), step).mT, step).mT
        sums.append(table[bottom, right] - table[y, right] - table[bottom, x] + table[y, x])
    return torch.stack(sums, dim=1)


def _running(values: Tensor, step: int) -> Tensor:
    """Running sums along the last axis: place i holds the sum over i − step, i − 2 · step and so on."""
    padded = F.pad(values, (step, -values.shape[-1] % step))
    return padded.unflatten(-1, (-1, step)).cumsum(dim=-2).flatten(-2)


def _runs(corners: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of overlapping fields in one row: order of the fields, run of each, first corner and width of each run."""
    order = np.lexsort((corners[:, 0], corners[:, 1]))
    x, y = corners[order].T
    new = np.r_[True, (np.diff(y) != 0) | (np.diff(x) > n)]
    starts = np.flatnonzero(new)
    last = np.r_[starts[1:], len(order)] - 1
    return order, np.cumsum(new) - 1, corners[order[starts]], x[last] - x[starts] + n


def _chunks(length: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Begin and end of groups of runs that have at most ``most`` columns together, or are one run."""
    bounds, held = [0], 0
    for k, columns in enumerate(length.tolist()):
        if held and held + columns > most:
            bounds.append(k)
            held = 0
        held += columns
    return list(pairwise([*bounds, len(length)]))


def _windows(filtered: Tensor, size: int, step: int) -> Tensor:
    """Overlapping windows of columns, (windows, size, values), without a copy; zeros beyond the last column."""
    count = -(-len(filtered) // step)
    padded = F.pad(filtered, (0, 0, 0, count * step + size - len(filtered)))
    return padded.as_strided((count, size, padded.shape[1]), (step * padded.shape[1], padded.shape[1], 1))


def _pairs(across: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices (places, columns) that follow the Gaussian, the first and the second derivative along y."""
    g, first, second = across
    return torch.cat([first, second]), torch.cat([g, first]), g


def _respond(windows: Tensor, across: tuple[Tensor, Tensor, Tensor], n: int) -> tuple[Tensor, ...]:
    """Derivatives x, y, xx, yy, xy (windows, places, n) of what is filtered along y, (windows, columns, 3 n)."""
    gauss, first, second = windows.split(n, dim=2)
    (gx, gxx), (gy, gxy) = ((across[k] @ part).chunk(2, dim=1) for k, part in enumerate((gauss, first)))
    return gx, gy, gxx, across[2] @ second, gxy
