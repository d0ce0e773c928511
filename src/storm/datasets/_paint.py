"""Rendering of a drawn section as H&E: stain densities in µm space, then Beer-Lambert.

Any rectangle of the image can be painted alone; nothing is blurred or normalised over a rectangle, so rectangles join.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from storm.datasets._noise import Texture
from storm.datasets._nuclei import FIBRE_WARP, Nuclei, fibre_axes
from storm.datasets._structures import ACINUS, LUMEN, VESSEL
from storm.datasets._tissue import Section
from storm.datasets._types import CANCER, ERYTHROCYTE, FAT, GLANDS, IMMUNE, LOOKS, STROMA, TUMOUR

#: Optical density of a unit of haematoxylin and of eosin in red, green and blue (natural logarithm).
STAINS = np.array([[0.60, 0.72, 0.36], [0.19, 0.82, 0.50]], dtype=np.float32)

#: Colour of the empty slide.
GLASS = np.array([243.0, 242.0, 244.0], dtype=np.float32)

#: Larger features are computed on a grid of this step (µm) and interpolated.
_GRID = 2.0

_BAND = 128.0
_BATCH = 600_000


class Painter:
    """Paints rectangles of a section's image.

    Parameters
    ----------
    section, nuclei
        What to draw.
    um_per_px
        Resolution.
    """

    def __init__(self, section: Section, nuclei: Nuclei, *, um_per_px: float) -> None:
        self.section = section
        self.um_per_px = um_per_px
        rng = np.random.default_rng([section.seed, 7])
        self._fibre, self._grain, self._clump, self._cloud = (t.shifted(rng) for t in _textures())
        # every section is stained a little differently
        strength = np.exp(rng.normal(0, 0.10, 2))
        tint = np.exp(rng.normal(0, 0.05, (2, 3)))
        self._stains = (STAINS * strength[:, None] * tint).astype(np.float32)
        self._nuclei, self._bands = _banded(nuclei, section.extent[1])
        self._axes = fibre_axes(section.seed)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole image in pixels."""
        width, height = self.section.extent
        return round(height / self.um_per_px), round(width / self.um_per_px)

    def paint(self, y: int, x: int, shape: tuple[int, int]) -> np.ndarray:
        """Rectangle with its top left pixel at (y, x), uint8, shape (3, h, w)."""
        mpp = self.um_per_px
        x0, y0 = np.floor(x * mpp / _GRID) * _GRID - _GRID, np.floor(y * mpp / _GRID) * _GRID - _GRID
        ny, nx = (int(np.ceil(n * mpp / _GRID)) + 4 for n in shape)
        tissue = self.section.tissue_raster(x0, y0, _GRID, (ny, nx))
        if tissue.max() < 1e-3:
            return np.broadcast_to(GLASS.astype(np.uint8)[:, None, None], (3, *shape)).copy()
        px = x * mpp + mpp * (np.arange(shape[1], dtype=np.float32) + 0.5)
        py = y * mpp + mpp * (np.arange(shape[0], dtype=np.float32) + 0.5)
        grow = _Interpolation(((py - y0) / _GRID), ((px - x0) / _GRID))
        planes = self._planes(x0, y0, (ny, nx), tissue)

        eosin, basophil = grow(planes["eosin"]), grow(planes["haematoxylin"])
        fibrous = planes["fibrous"]
        if fibrous.max() > 0.02:
            weave = self._weave(px, py, grow, x0, y0, (ny, nx))
            dense = grow(planes["collagen"])
            # loose stroma splits between its fibres, dense collagen is felted
            fibres = 0.42 + 1.05 * weave
            fibres *= np.clip((weave - 0.30 * (1 - dense) ** 2) / 0.12, 0.22, 1)
            eosin *= 1 + grow(fibrous) * (fibres - 1)
        grain = self._grain.lookup(px[None, :], py[:, None])
        eosin *= 0.80 + 0.40 * grain
        basophil *= 0.65 + 0.70 * grain
        stain, cover, blood = self._stamp(y, x, shape)
        here = grow(tissue)
        eosin *= 1 - 0.55 * np.minimum(cover, 1)
        eosin += 1.5 * blood
        basophil += stain
        eosin *= here
        basophil *= here
        out = np.empty((3, *shape), dtype=np.uint8)
        for c in range(3):
            density = self._stains[0, c] * basophil + self._stains[1, c] * eosin
            out[c] = GLASS[c] * np.exp(-density) + 0.5
        return out

    # --------------------------------------------------------------------------------------------- larger features

    def _planes(self, x0: float, y0: float, shape: tuple[int, int], tissue: np.ndarray) -> dict[str, np.ndarray]:
        """Stain densities of everything that is larger than a nucleus, on the grid."""
        section = self.section
        x = (x0 + _GRID * np.arange(shape[1], dtype=np.float32))[None, :]
        y = (y0 + _GRID * np.arange(shape[0], dtype=np.float32))[:, None]
        w = section.weights_raster(x0, y0, _GRID, shape)
        nest = w[..., TUMOUR] * section.nest_raster(x0, y0, _GRID, shape)
        collagen = section.raster("collagen", x0, y0, _GRID, shape)
        stroma = w[..., STROMA] + (w[..., TUMOUR] - nest) + w[..., GLANDS] + w[..., FAT]
        cloud = self._cloud.lookup(x, y)
        eosin = nest * (0.42 + 0.10 * cloud) + stroma * (0.30 + 0.42 * collagen) + w[..., IMMUNE] * 0.20
        basophil = nest * (0.26 + 0.10 * cloud) + stroma * 0.04 + w[..., IMMUNE] * 0.16
        fibrous = stroma.copy()
        # tumour nests shrink away from the stroma around them
        cleft = np.exp(-(((nest - 0.30) / 0.13) ** 2)) * (w[..., TUMOUR] > 0.5) * (cloud > 0.35)
        for plane in (eosin, basophil):
            plane *= 1 - 0.85 * cleft
        if w[..., FAT].max() > 0.05:
            near = w[..., FAT] > 0.02
            depth = np.zeros(shape, dtype=np.float32)
            grid_x, grid_y = np.broadcast_to(x, shape)[near], np.broadcast_to(y, shape)[near]
            depth[near] = section.adipocytes.depth(grid_x, grid_y)
            vacuole = np.clip((depth - 0.8) / 1.6, 0, 1)
            for plane in (eosin, basophil):
                plane *= 1 - 0.985 * vacuole
            fibrous *= depth <= 0
        self._structures(x0, y0, shape, eosin, basophil, fibrous)
        return {"eosin": eosin, "haematoxylin": basophil, "fibrous": fibrous, "collagen": collagen}

    def _structures(
        self, x0: float, y0: float, shape: tuple[int, int], eosin: np.ndarray, basophil: np.ndarray, fibrous: np.ndarray
    ) -> None:
        """Draw acini, malignant glands and vessels into the planes."""
        s = self.section.structures
        reach = s.outer + 5
        x1, y1 = x0 + _GRID * shape[1], y0 + _GRID * shape[0]
        cx, cy = s.xy[:, 0], s.xy[:, 1]
        near = (cx + reach > x0) & (cx - reach < x1) & (cy + reach > y0) & (cy - reach < y1)
        for k in np.flatnonzero(near).tolist():
            rows = slice(max(0, int((cy[k] - reach[k] - y0) / _GRID)), int((cy[k] + reach[k] - y0) / _GRID) + 2)
            cols = slice(max(0, int((cx[k] - reach[k] - x0) / _GRID)), int((cx[k] + reach[k] - x0) / _GRID) + 2)
            box = eosin[rows, cols].shape
            gx = x0 + _GRID * (cols.start + np.arange(box[1]))
            gy = y0 + _GRID * (rows.start + np.arange(box[0]))
            depth = s.cavity(k, np.stack(np.broadcast_arrays(gx[None, :], gy[:, None]), axis=-1)).astype(np.float32)
            open_ = np.clip(0.5 - depth / 2.0, 0, 1)
            wall = np.clip(0.5 - (depth - s.wall[k]) / 2.0, 0, 1)
            e, h, membrane = _WALLS[int(s.kind[k])]
            edge = np.exp(-(((depth - s.wall[k]) / 2.2) ** 2))
            for plane, value, line in ((eosin, e, membrane), (basophil, h, 0.0)):
                view = plane[rows, cols]
                view += wall * (value - view)
                view += edge * np.maximum(line - view, 0)
                view *= 1 - open_
            if s.kind[k] == ACINUS and s.phase[k, 0] < 2.6:
                eosin[rows, cols] += 0.22 * open_  # secretion
            fibrous[rows, cols] *= 1 - wall

    def _weave(
        self, px: np.ndarray, py: np.ndarray, grow: _Interpolation, x0: float, y0: float, shape: tuple[int, int]
    ) -> np.ndarray:
        """Fibre pattern in [0, 1]: two systems of bent fibres that pass into each other."""
        fields = self.section.fields
        warp = grow(FIBRE_WARP * fields["warp"].raster(x0, y0, _GRID, shape))
        mix = np.clip(0.5 + 2.0 * fields["weave"].raster(x0, y0, _GRID, shape), 0, 1)
        systems = []
        for axis, other in zip(self._axes, (1 - mix, mix), strict=True):
            if other.max() < 0.01:
                systems.append(np.zeros((), dtype=np.float32))
                continue
            cos, sin = np.float32(np.cos(axis)), np.float32(np.sin(axis))
            along = px[None, :] * cos + py[:, None] * sin
            across = py[:, None] * cos - px[None, :] * sin + warp
            systems.append(self._fibre.lookup(along, across))
        return systems[0] + grow(mix) * (systems[1] - systems[0])

    # ------------------------------------------------------------------------------------------------------ nuclei

    def _near(self, y_um: float, x_um: float, height: float, width: float, margin: float) -> np.ndarray:
        """Indices of nuclei in a rectangle and a margin around it."""
        first = max(0, int((y_um - margin) / _BAND))
        last = min(len(self._bands) - 2, int((y_um + height + margin) / _BAND))
        parts = []
        for band in range(first, last + 1):
            start, stop = self._bands[band], self._bands[band + 1]
            x = self._nuclei.xy[start:stop, 0]
            low, high = np.searchsorted(x, (x_um - margin, x_um + width + margin))
            parts.append(np.arange(start + low, start + high))
        index = np.concatenate(parts) if parts else np.zeros(0, dtype=int)
        y = self._nuclei.xy[index, 1]
        return index[(y > y_um - margin) & (y < y_um + height + margin)]

    def _stamp(self, y: int, x: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Haematoxylin, cover and blood of the nuclei (and red cells) on a rectangle."""
        mpp = self.um_per_px
        margin = 20.0
        pad = 2 * int(np.ceil(margin / mpp)) + 2
        near = self._nuclei.take(self._near(y * mpp, x * mpp, shape[0] * mpp, shape[1] * mpp, margin))
        canvas = np.zeros((3, shape[0] + 2 * pad, shape[1] + 2 * pad), dtype=np.float32)
        reach = np.minimum(near.major * 1.3 + 0.5, margin) / mpp
        half = np.ceil(reach / 2).astype(int) * 2  # few sizes, each painted in batches
        for size in np.unique(half):
            same = np.flatnonzero(half == size)
            step = max(1, _BATCH // (2 * int(size)) ** 2)
            for start in range(0, len(same), step):
                batch = near.take(same[start : start + step])
                self._stamp_batch(canvas, batch, int(size), y - pad, x - pad)
        haematoxylin, cover, blood = canvas[:, pad : pad + shape[0], pad : pad + shape[1]]
        return haematoxylin, cover, blood

    def _stamp_batch(self, canvas: np.ndarray, n: Nuclei, half: int, y: int, x: int) -> None:
        mpp = np.float32(self.um_per_px)
        centre = n.xy / self.um_per_px - (x, y)
        corner = np.floor(centre).astype(np.int64) - half
        k = np.arange(2 * half + 1, dtype=np.float32)
        offset = ((corner - centre) + 0.5).astype(np.float32)
        u = (offset[:, :1] + k)[:, None, :] * mpp
        v = (offset[:, 1:] + k)[:, :, None] * mpp
        column = lambda a: np.asarray(a, dtype=np.float32)[:, None, None]  # noqa: E731
        cos, sin, major, minor = (column(a) for a in (np.cos(n.angle), np.sin(n.angle), n.major, n.minor))
        p = u * (cos / major) + v * (sin / major)
        q = v * (cos / minor) - u * (sin / minor)
        looks = np.array([(k.texture, k.rim, k.wobble) for k in LOOKS], dtype=np.float32)[n.kind]
        texture, rim, wobble = (column(a) for a in looks.T)
        square = p * p + q * q + np.float32(1e-6)
        radius = np.sqrt(square)
        c1, s1, c2 = (column(f(m * n.phase)) for f, m in ((np.cos, 1), (np.sin, 1), (np.cos, 5)))
        waves = (c1 * (p * p - q * q) + s1 * (2 * p * q) + c2 * p * (p * p - 3 * q * q) / radius) / square
        depth = (1 - radius / (1 + wobble * waves)) * np.sqrt(major * minor) * 0.85
        soft = np.float32(max(0.55, 0.6 * self.um_per_px))
        mask = np.clip(depth / soft + 0.5, 0, 1)
        clump = self._clump.lookup(p * major + column(40 * n.phase), q * minor + column(90 * n.phase)) - 0.5
        inside = 1 + texture * clump * 1.6
        vesicular = looks[:, 1].max() > 0.2
        if vesicular:
            near_rim = np.exp(-(((depth - 0.35) / 0.65) ** 2))
            inside += rim * (0.8 * near_rim - 0.45)
        stain = column(n.stain) * mask * np.maximum(inside, 0.15)
        cancer = n.kind == CANCER
        if cancer.any():
            size = column(0.07 * cancer + 1e-6)
            nucleolus = np.exp(-((p - 0.3 * c1) ** 2 + (q - 0.3 * s1) ** 2) / size)
            stain += 0.75 * column(cancer) * nucleolus * mask
        place = (corner[:, 1:, None] + np.arange(2 * half + 1)[:, None]) * canvas.shape[2]
        place = (place + corner[:, :1, None] + np.arange(2 * half + 1)).ravel()
        red = n.kind == ERYTHROCYTE
        np.add.at(canvas[0].reshape(-1), place, stain.ravel())
        np.add.at(canvas[1].reshape(-1), place, (mask * column(~red)).ravel())
        if red.any():
            blood = mask[red] * (0.75 + 0.25 * np.minimum(square[red], 1))
            np.add.at(canvas[2].reshape(-1), place.reshape(mask.shape)[red].ravel(), blood.ravel())


@cache
def _textures() -> tuple[Texture, ...]:
    """Collagen fibres, grain of the cytoplasm, clumps of chromatin, and a coarser cloudiness."""
    rng = np.random.default_rng(0)
    return (
        Texture.draw(rng, grain=(14.0, 0.7), coarse=2.6, step=0.5),
        Texture.draw(rng, grain=(0.9, 0.9), step=0.5),
        Texture.draw(rng, grain=(0.45, 0.45), step=0.25),
        Texture.draw(rng, grain=(4.0, 4.0), step=1.0),
    )


#: Eosin and haematoxylin of the wall of a structure, and eosin of the membrane around it.
_WALLS = {ACINUS: (0.40, 0.30, 0.80), LUMEN: (0.45, 0.30, 0.0), VESSEL: (0.70, 0.08, 0.75)}


class _Interpolation:
    """Bilinear interpolation from the grid to the pixels."""

    def __init__(self, rows: np.ndarray, cols: np.ndarray) -> None:
        self._rows, self._cols = rows.astype(np.int64), cols.astype(np.int64)
        self._row_part = (rows - self._rows).astype(np.float32)[:, None]
        self._col_part = (cols - self._cols).astype(np.float32)[None, :]

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        plane = np.ascontiguousarray(plane, dtype=np.float32)
        tall = plane[self._rows]
        tall += self._row_part * (plane[self._rows + 1] - tall)
        wide = np.take(tall, self._cols, axis=1)
        wide += self._col_part * (np.take(tall, self._cols + 1, axis=1) - wide)
        return wide


def _banded(nuclei: Nuclei, height: float) -> tuple[Nuclei, np.ndarray]:
    """Nuclei sorted by bands of their y, and by x in each, with the start of every band."""
    band = (nuclei.xy[:, 1] / _BAND).astype(int)
    order = np.lexsort((nuclei.xy[:, 0], band))
    return nuclei.take(order), np.searchsorted(band[order], np.arange(int(height / _BAND) + 3))
