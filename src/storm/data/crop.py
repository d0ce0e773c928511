"""Patches cut from a canvas on the device where they are needed, by the reader's own filter.

The counterpart of :meth:`storm.data.patches.PatchReader.iter_canvases`: a canvas travels to the device once, as bytes,
and all its patches are cut and resized there, by two batched matrix products. On a processor these take many times
longer than the reader's own filter; there :meth:`~storm.data.patches.PatchReader.iter_patches` is the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

#: Rounding errors of the transformations must not add a row or a column of pixels (as in the reader).
_FUZZ_PX = 1e-6


def crop_patches(
    pixels: torch.Tensor,
    boxes: np.ndarray,
    *,
    out_px: int,
    fill: int = 255,
    flip_x: bool = False,
    flip_y: bool = False,
    turned: bool = False,
) -> torch.Tensor:
    """Cut boxes out of a canvas and resize them with an antialiased bicubic filter.

    The filter is that of Pillow (Keys' cubic with a = -0.5, as wide as the reduction, weights that sum to one, first
    along x, then along y, rounded and clipped to 8 bits after either) and sees the pixels that a box touches and no
    others. In float32 a sum may fall on the other side of one half, so that a pixel differs by one from the reader's;
    one in some thousands does.

    Parameters
    ----------
    pixels
        The canvas, uint8 (3, h, w), on any device.
    boxes
        x0, y0, x1, y1 in pixels of the canvas (pixel i spans [i, i + 1)), float64 (b, 4), in main memory. They may hang
        over the canvas.
    out_px
        Edge of the patches.
    fill
        Grey value beyond the canvas.
    flip_x, flip_y, turned
        How patches get upright, as :class:`~storm.data.patches.PatchCanvas` says.

    Returns
    -------
    float32 (b, 3, out_px, out_px), whole numbers from 0 to 255, on the canvas's device; not contiguous.

    Raises
    ------
    TypeError
        If the canvas is not uint8.
    ValueError
        If a shape is wrong, or a box is empty or not finite.
    """
    import torch

    boxes = _checked(pixels, boxes)
    device, (_, height, width) = pixels.device, pixels.shape
    low = np.floor(boxes[:, :2] + _FUZZ_PX)
    size = np.maximum(np.ceil(boxes[:, 2:] - _FUZZ_PX) - low, 1)
    inner = np.clip(boxes - np.tile(low, 2), 0, np.tile(size, 2)).astype(np.float32)
    corner = torch.from_numpy(low.astype(np.int64)).to(device)
    ends, lengths = torch.from_numpy(inner).to(device), torch.from_numpy(size.astype(np.float32)).to(device)
    wide, high = (int(s) for s in size.max(axis=0, initial=1))
    x, beyond_x = _places(corner[:, 0], wide, width)
    y, beyond_y = _places(corner[:, 1], high, height)
    at = y[:, :, None] * width + x[:, None, :]
    crops = pixels.reshape(3, -1)[:, at.reshape(-1)].reshape(3, *at.shape)
    if low.min(initial=0) < 0 or ((low + size) > (width, height)).any():
        crops = crops.masked_fill_(beyond_y[:, :, None] | beyond_x[:, None, :], fill)
    across = _weights(ends[:, 0], ends[:, 2], lengths[:, 0], n=wide, out_px=out_px)
    down = _weights(ends[:, 1], ends[:, 3], lengths[:, 1], n=high, out_px=out_px)
    # channels between y and x: both products are plain ones of three-dimensional tensors
    crops = crops.permute(1, 2, 0, 3).to(torch.float32, memory_format=torch.contiguous_format)
    rows = _rounded(torch.bmm(crops.view(-1, high * 3, wide), across.mT))
    patches = _rounded(torch.bmm(down, rows.view(-1, high, 3 * out_px)))
    patches = patches.view(-1, out_px, 3, out_px).transpose(1, 2)
    flips = [axis for axis, flip in ((2, flip_y), (3, flip_x)) if flip]
    patches = patches.flip(flips) if flips else patches
    return patches.mT if turned else patches


def _checked(pixels: torch.Tensor, boxes: np.ndarray) -> np.ndarray:
    import torch

    if pixels.dtype != torch.uint8:
        msg = f"a canvas is uint8, got {pixels.dtype}"
        raise TypeError(msg)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not pixels.numel():
        msg = f"a canvas has shape (3, h, w), got {tuple(pixels.shape)}"
        raise ValueError(msg)
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        msg = f"boxes have shape (b, 4), got {boxes.shape}"
        raise ValueError(msg)
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
        bad = boxes[~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))][0]
        msg = f"a box is x0 < x1 and y0 < y1 in pixels, got {bad.tolist()}"
        raise ValueError(msg)
    return boxes


def _places(corner: torch.Tensor, n: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the ``n`` pixels from each corner on an axis of the canvas, clipped, and which lie beyond it."""
    import torch

    at = corner[:, None] + torch.arange(n, device=corner.device)
    return at.clamp(0, length - 1), (at < 0) | (at >= length)


def _weights(low: torch.Tensor, high: torch.Tensor, size: torch.Tensor, *, n: int, out_px: int) -> torch.Tensor:
    """What each of ``n`` pixels, of which the first ``size`` are there, adds to the pixels of a patch: (b, out, n)."""
    import torch

    scale = ((high - low) / out_px)[:, None, None]
    stretch = scale.clamp(min=1)
    centre = low[:, None, None] + (torch.arange(out_px, device=low.device)[:, None] + 0.5) * scale
    pixel = torch.arange(n, device=low.device)
    x = ((pixel + 0.5 - centre) / stretch).abs()
    near = ((1.5 * x - 2.5) * x).mul_(x).add_(1)
    far = (((x - 5) * x + 8) * x - 4).mul_(-0.5)
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    weights = weights.masked_fill_(pixel >= size[:, None, None], 0)
    return weights / weights.sum(dim=2, keepdim=True)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """To whole numbers from 0 to 255, halves upwards."""
    return values.add_(0.5).floor_().clamp_(0, 255)
