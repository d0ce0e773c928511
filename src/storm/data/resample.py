"""From the pixels of one pyramid level to patches that are square and axis-aligned in µm."""

from __future__ import annotations

import math
import sys
from functools import cache

import numpy as np
from PIL import Image

from storm._logging import logger

#: Largest shift of a pixel by rotation or shear, in pixels, up to which a transformation counts as axis-aligned.
_STRAIGHT_PX = 0.02
#: Margin around a rotated patch for the support of the cubic kernel, in pixels.
_SUPPORT_PX = 2
#: Rounding errors of transformations, in pixels, which must not add a row or a column of pixels.
_FUZZ_PX = 1e-6
#: Time that Pillow takes for a patch, in seconds, apart from its pixels.
_PATCH_S = 5e-5
#: Time that Pillow takes for each pixel of a patch, in seconds.
_PIXEL_S = 2e-8
#: Time of Pillow above which the compiled filter is loaded, which takes a second (four if it must be compiled first).
_WORTH_S = 2.0


class Resampler:
    """Geometry and filter of the patches of one field and size on one pyramid level.

    Where the axes of the image and of the µm frame are parallel (scaling, shifts, flips, quarter turns) a patch is cut
    along its sub-pixel box and resized by Pillow's antialiased bicubic filter, along the image's x first and then along
    its y; it sees the pixels that the field touches and no others. Under rotation or shear the patch is first sampled
    on a grid in the µm frame, at most one pixel apart (so that nothing is skipped), and then brought to its size by the
    same antialiased filter.

    Parameters
    ----------
    um_to_px
        Affine map from µm to pixel *edges* of the level, shape (2, 3): pixel i spans [i, i + 1).
    field_um
        Edge of the square field, in µm.
    out_px
        Edge of the patch, in pixels.
    """

    def __init__(self, um_to_px: np.ndarray, *, field_um: float, out_px: int) -> None:
        self.linear, self.shift = um_to_px[:, :2], um_to_px[:, 2]
        self.field_um, self.out_px = float(field_um), int(out_px)
        #: Half the size, in pixels along x and y, of the box around the field.
        self.half = np.abs(self.linear).sum(axis=1) * self.field_um / 2
        reach = np.abs(self.linear) * self.field_um
        self.turned = bool(max(reach[0, 0], reach[1, 1]) < _STRAIGHT_PX)
        off_axis = (reach[0, 0], reach[1, 1]) if self.turned else (reach[0, 1], reach[1, 0])
        self.straight = bool(max(off_axis) < _STRAIGHT_PX)
        if self.straight:
            main = (self.linear[0, 1], self.linear[1, 0]) if self.turned else (self.linear[0, 0], self.linear[1, 1])
            self.half = np.abs(main) * self.field_um / 2
            self._flip_x, self._flip_y = main[0] < 0, main[1] < 0
        else:
            # Lengths of the field's two edges in pixels, so that samples are at most a pixel apart along each of them.
            edges = np.hypot(*self.linear) * self.field_um
            self._samples = tuple(max(self.out_px, math.ceil(e - _FUZZ_PX)) for e in edges)

    def boxes(self, centres_um: np.ndarray) -> np.ndarray:
        """Box around each field in pixels: x0, y0, x1, y1; shape (n, 4), float64."""
        middle = centres_um @ self.linear.T + self.shift
        return np.hstack([middle - self.half, middle + self.half])

    def rects(self, boxes: np.ndarray) -> np.ndarray:
        """Whole pixels that each patch needs, int64, shape (n, 4); they may reach beyond the image."""
        pad = 0 if self.straight else _SUPPORT_PX
        low = np.floor(boxes[:, :2] + _FUZZ_PX) - pad
        high = np.maximum(np.ceil(boxes[:, 2:] - _FUZZ_PX) + pad, low + 1)
        return np.hstack([low, high]).astype(np.int64)

    @property
    def turn(self) -> dict[str, bool]:
        """Steps that bring a straight patch upright: flips along the image's x and y, then a swap of its axes."""
        return {"flip_x": bool(self._flip_x), "flip_y": bool(self._flip_y), "turned": self.turned}

    def compiles(self, n: int) -> bool:
        """Whether to use the compiled filter for ``n`` patches: the same pixels in a fifth of the time, once loaded."""
        loaded = _compiled.cache_info().currsize > 0
        worth = loaded or n * (_PATCH_S + _PIXEL_S * self.out_px**2) > _WORTH_S
        return self.straight and worth and _compiled() is not None

    def many(
        self, pixels: np.ndarray, rects: np.ndarray, *, boxes: np.ndarray, out: np.ndarray, compiled: bool = False
    ) -> None:
        """Make patches from one canvas.

        Parameters
        ----------
        pixels
            The canvas, uint8 (3, h, w), contiguous.
        rects
            Rectangles of the patches, in whole pixels of the canvas, (n, 4).
        boxes
            Their boxes, in pixels of the canvas, (n, 4).
        out
            uint8 (n, out_px, out_px, 3); written.
        compiled
            Whether to use the compiled filter, see :meth:`compiles`.
        """
        boxes = boxes - np.tile(rects[:, :2], 2)
        if not compiled:
            for k, (x0, y0, x1, y1) in enumerate(rects.tolist()):
                out[k] = self(np.ascontiguousarray(np.moveaxis(pixels[:, y0:y1, x0:x1], 0, 2)), boxes[k])
            return
        size = np.tile(rects[:, 2:] - rects[:, :2], 2)
        inner = np.clip(boxes, 0, size).astype(np.float32)  # Pillow's precision
        upright = not (self._flip_x or self._flip_y or self.turned) and out.flags.c_contiguous
        made = out if upright else np.empty(out.shape, dtype=np.uint8)
        _compiled()(pixels, np.ascontiguousarray(rects), inner, made)
        if not upright:
            out[...] = self._upright(made)

    def __call__(self, crop: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Make one patch: the reference for everything else.

        Parameters
        ----------
        crop
            Pixels of the patch's rectangle, uint8 (h, w, 3).
        box
            The patch's box in pixels of the crop.

        Returns
        -------
        uint8 (out_px, out_px, 3), rows along y and columns along x of the µm frame.
        """
        size = (self.out_px, self.out_px)
        if self.straight:
            height, width = crop.shape[:2]
            inner = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
            # Along x, then y: in a single call the order of the two would depend on sizes and on Pillow's version.
            wide = (self.out_px, height)
            image = Image.fromarray(crop).resize(wide, Image.Resampling.BICUBIC, box=(inner[0], 0, inner[2], height))
            image = image.resize(size, Image.Resampling.BICUBIC, box=(0, inner[1], self.out_px, inner[3]))
            return self._upright(np.asarray(image))
        step = self.linear * (self.field_um / np.asarray(self._samples))
        corner = (box[:2] + box[2:]) / 2 - self.linear.sum(axis=1) * self.field_um / 2
        matrix = (*step[0], corner[0], *step[1], corner[1])
        # In float, because Pillow's transform of uint8 truncates instead of rounding.
        planes = [Image.fromarray(plane) for plane in np.moveaxis(crop, 2, 0).astype(np.float32)]
        planes = [p.transform(self._samples, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC) for p in planes]
        if self._samples != size:
            planes = [p.resize(size, Image.Resampling.BICUBIC) for p in planes]
        return np.stack([np.asarray(plane) for plane in planes], axis=2).round().clip(0, 255).astype(np.uint8)

    def _upright(self, patches: np.ndarray) -> np.ndarray:
        """From the image's axes to those of the µm frame: (..., out_px, out_px, 3)."""
        patches = patches[..., :: -1 if self._flip_y else 1, :: -1 if self._flip_x else 1, :]
        return patches.swapaxes(-3, -2) if self.turned else patches


@cache
def _compiled():
    """Return the compiled filter, or ``None`` where numba is missing or has no folder to keep what it compiled."""
    if sys.byteorder != "little":
        return None
    try:
        from storm.data._resize import resize_boxes
    except (ImportError, RuntimeError) as error:
        logger.info("patches are resized by Pillow, the compiled filter cannot be loaded: %s", error)
        return None
    return resize_boxes
