"""Tissue and haematoxylin of an H&E image: coarse maps of a whole section."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storm.data.patches import ImageLevel, PatchReader

#: Resolution at which tissue is told from glass, in µm per pixel.
_MASK_UM = 8.0
#: Saturation (0 to 1) above which a pixel is tissue: Otsu's threshold, kept within these limits so that an image that
#: is all tissue, or all glass, is not split in two.
_SATURATION = (0.05, 0.15)
#: Finest resolution of the map of nuclei, in µm per pixel.
_FINE_UM = 2.0
#: Pixels of that map, at most: beyond them its resolution is coarser.
_MOST_PX = 40_000_000
#: µm per pixel up to which nuclei are seen.
_NUCLEI_UM = 3.0
#: Pixels along an edge of the tiles in which a section is read.
_TILE_PX = 64
#: Pixels along an edge of the squares over which the coarse maps average.
_POOL = 4
#: Tiles that are read at a time.
_BATCH = 64
#: Size of a nucleus in µm (standard deviation of a Gaussian).
_NUCLEUS_UM = 3.0
#: Size of a nucleus' surroundings in µm (standard deviation of a Gaussian).
_AROUND_UM = 20.0
#: Haematoxylin is held in bytes: optical density of one step.
_BYTE = 0.01


def tissue_share(reader: PatchReader, centres: np.ndarray, *, field_um: float) -> np.ndarray:
    """Share of a field around each centre that is tissue.

    A pixel at 8 µm/px is tissue if its saturation (HSV) is above Otsu's threshold over all the fields, which is held
    between 0.05 and 0.15.

    Parameters
    ----------
    reader
        Reader of the image.
    centres
        x and y in µm, shape (n, 2).
    field_um
        Edge of the field in µm.

    Returns
    -------
    ndarray
        Shape (n,), 0 to 1; 0 for a centre outside the image.
    """
    out_px = max(2, round(field_um / _MASK_UM))
    values = np.zeros((len(centres), out_px, out_px), dtype=np.uint8)
    for index, patches in reader.iter_patches(centres, field_um=field_um, out_px=out_px):
        values[index] = saturation(patches)
    return (values > saturation_threshold(values)).mean(axis=(1, 2))


def saturation(pixels: np.ndarray) -> np.ndarray:
    """Saturation (HSV) of pixels (…, 3), uint8, as uint8 (…)."""
    high, low = pixels.max(axis=-1).astype(np.int32), pixels.min(axis=-1).astype(np.int32)
    return ((255 * (high - low)) // np.maximum(high, 1)).astype(np.uint8)


def saturation_threshold(values: np.ndarray) -> float:
    """Saturation (0 to 255) above which a pixel is tissue, from those of an image."""
    from skimage.filters import threshold_otsu

    flat = values.size == 0 or values.min() == values.max()
    return float(np.clip(0 if flat else threshold_otsu(values.ravel()), 255 * _SATURATION[0], 255 * _SATURATION[1]))


@dataclass(frozen=True, eq=False)
class SectionMaps:
    """Maps of a whole image, in its own frame: x along its columns, y along its rows, (0, 0) at its corner, in µm.

    Attributes
    ----------
    tissue
        1 on tissue, 0 on glass, float32 (h, w).
    haematoxylin
        Haematoxylin (optical density, in units of the stain), float32 (h, w).
    step_um
        Edge of a pixel of these two maps in µm.
    nuclei
        Haematoxylin averaged over the size of a nucleus, less the average around it, float32 (h', w'): above zero on a
        nucleus. ``None`` if it was not requested, or the image is too coarse to show nuclei.
    fine_um
        Edge of a pixel of the map of nuclei in µm.
    size_um
        Width and height of the image in µm.
    to_frame
        Affine map (2, 3) from the reader's µm into the frame.
    """

    tissue: np.ndarray
    haematoxylin: np.ndarray
    step_um: float
    nuclei: np.ndarray | None
    fine_um: float
    size_um: tuple[float, float]
    to_frame: np.ndarray

    def place(self, centres_um: np.ndarray) -> np.ndarray:
        """Map points (n, 2) from the reader's µm into the frame of the image."""
        return centres_um @ self.to_frame[:, :2].T + self.to_frame[:, 2]


def section_maps(reader: PatchReader, *, nuclei: bool = False) -> SectionMaps:
    """Maps of a whole image at a resolution at which a section takes seconds (about 8 µm; 2 µm for the nuclei).

    Parameters
    ----------
    reader
        Reader of the image.
    nuclei
        Also map single nuclei, if the image is fine enough (3 µm/px).

    Returns
    -------
    SectionMaps
        Maps of the whole image in its own frame.
    """
    import torch

    from storm.encoders.stain import StainTexture

    own, to_frame = _in_own_frame(reader)
    width, height = own.extent_um[2:]
    fine_um = max(_FINE_UM, own.um_per_px, float(np.sqrt(width * height / _MOST_PX)))
    step_um, tile_um = fine_um * _POOL, fine_um * _TILE_PX
    columns, rows = (int(np.ceil(length / step_um)) for length in (width, height))
    colour = np.full((rows, columns, 3), 255, dtype=np.uint8)
    stain = np.zeros((rows, columns), dtype=np.float32)
    fine = np.zeros((rows * _POOL, columns * _POOL), dtype=np.uint8) if nuclei and fine_um <= _NUCLEI_UM else None
    corners = np.stack(np.meshgrid(_starts(width, tile_um, step_um), _starts(height, tile_um, step_um)), axis=-1)
    corners = corners.reshape(-1, 2)
    texture, per_tile = StainTexture(fine_um), _TILE_PX // _POOL
    centres = (corners + 0.5 * _TILE_PX / _POOL) * step_um
    with torch.inference_mode():
        for index, tiles in own.iter_patches(centres, field_um=tile_um, out_px=_TILE_PX, batch_size=_BATCH):
            x = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
            density = texture.maps(x)[:, :1].clamp(min=0)
            pooled = torch.nn.functional.avg_pool2d(torch.cat([density, x * 255], dim=1), _POOL).numpy()
            # tiles may reach beyond the lower and right edge of the maps
            for k, (left, top) in zip(range(len(index)), corners[index], strict=True):
                part = np.s_[top : top + per_tile, left : left + per_tile]
                low, wide = colour[part].shape[:2]
                stain[part] = pooled[k, 0, :low, :wide]
                colour[part] = np.moveaxis(pooled[k, 1:, :low, :wide], 0, 2)
                if fine is not None:
                    box = np.s_[top * _POOL : (top + per_tile) * _POOL, left * _POOL : (left + per_tile) * _POOL]
                    low, wide = fine[box].shape
                    fine[box] = np.clip(density[k, 0, :low, :wide].numpy() / _BYTE, 0, 255)
    saturated = saturation(colour)
    tissue = (saturated > saturation_threshold(saturated)).astype(np.float32)
    contrast = None if fine is None else _contrast(fine, fine_um)
    return SectionMaps(tissue, stain, step_um, contrast, fine_um, (width, height), to_frame)


def _in_own_frame(reader: PatchReader) -> tuple[PatchReader, np.ndarray]:
    """The reader in the frame of its image's rows and columns, and the map from the reader's frame into that one."""
    finest = reader.levels[0]
    to_frame = finest.um_to_px * finest.um_per_px
    back = np.linalg.inv(np.vstack([to_frame, (0, 0, 1)]))
    levels = [ImageLevel(level.source, level.um_to_px @ back) for level in reader.levels]
    return PatchReader(levels, fill=reader.fill), to_frame


def _starts(length: float, tile_um: float, step_um: float) -> np.ndarray:
    """Starts of tiles that cover a length, in steps; the last tile ends with it."""
    last = max(0, int(np.floor((length - tile_um) / step_um)) + 1)
    return np.unique(np.minimum(np.arange(0, last + _TILE_PX // _POOL, _TILE_PX // _POOL), last))


def _contrast(fine: np.ndarray, fine_um: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    values = fine.astype(np.float32) * _BYTE
    return gaussian_filter(values, _NUCLEUS_UM / fine_um) - gaussian_filter(values, _AROUND_UM / fine_um)
