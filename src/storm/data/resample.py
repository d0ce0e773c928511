"""From the pixels of one pyramid level to patches that are square and axis-aligned in µm."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

#: A transformation whose rotation or shear moves no pixel of a patch by more than this is taken as axis-aligned.
_STRAIGHT_PX = 0.02
#: Room around a rotated patch for the support of the cubic kernel.
_SUPPORT_PX = 2
#: Rounding errors of the transformations must not add a row or a column of pixels.
_FUZZ_PX = 1e-6


class Resampler:
    """Geometry and filter of the patches of one field and size on one pyramid level.

    Where the axes of the image and of the µm frame are parallel (scaling, shifts, flips, quarter turns) a patch is cut
    along its sub-pixel box and resized by Pillow's antialiased bicubic filter, which sees the pixels that the field
    touches and no others. Under rotation or shear the patch is first sampled on a grid in the µm frame, at most one
    pixel apart (so that nothing is skipped), and then brought to its size by the same antialiased filter.

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
            # lengths in pixels of the field's two edges: samples at most a pixel apart along each of them
            edges = np.hypot(*self.linear) * self.field_um
            self._samples = tuple(max(self.out_px, math.ceil(e - _FUZZ_PX)) for e in edges)

    def boxes(self, centres_um: np.ndarray) -> np.ndarray:
        """Box around each field in pixels: x0, y0, x1, y1; shape (n, 4), float64."""
        middle = centres_um @ self.linear.T + self.shift
        return np.hstack([middle - self.half, middle + self.half])

    def rects(self, boxes: np.ndarray) -> np.ndarray:
        """Whole pixels that each patch needs, in the order of ``boxes``; they may reach beyond the image."""
        pad = 0 if self.straight else _SUPPORT_PX
        low = np.floor(boxes[:, :2] + _FUZZ_PX) - pad
        high = np.maximum(np.ceil(boxes[:, 2:] - _FUZZ_PX) + pad, low + 1)
        return np.hstack([low, high]).astype(np.int64)

    def __call__(self, crop: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Make one patch.

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
            patch = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC, box=inner))
            patch = patch[:: -1 if self._flip_y else 1, :: -1 if self._flip_x else 1]
            return patch.swapaxes(0, 1) if self.turned else patch
        step = self.linear * (self.field_um / np.asarray(self._samples))
        corner = (box[:2] + box[2:]) / 2 - self.linear.sum(axis=1) * self.field_um / 2
        matrix = (*step[0], corner[0], *step[1], corner[1])
        # in float, because on uint8 this transform of Pillow cuts decimals off instead of rounding
        planes = [Image.fromarray(plane) for plane in np.moveaxis(crop, 2, 0).astype(np.float32)]
        planes = [p.transform(self._samples, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC) for p in planes]
        if self._samples != size:
            planes = [p.resize(size, Image.Resampling.BICUBIC) for p in planes]
        return np.stack(planes, axis=2).round().clip(0, 255).astype(np.uint8)
