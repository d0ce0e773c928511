"""Compiled antialiased bicubic resizing of many boxes of one canvas: Pillow's filter, digit by digit.

Imported where there is enough to resize to pay for it, see :mod:`storm.data.resample`. Pillow resizes in two passes,
along x and then along y, each with weights of 22 binary digits and a result that is rounded to 8 bits. Integer sums in
the same digits are equal, in whatever order they are taken, so that the pixels are Pillow's own.

The order that a processor likes is along contiguous memory with one weight at a time. The first pass therefore works on
the crop's columns (a transposed copy), the second on the rows of the outcome (transposed back). Bytes are transposed
eight at a time, as one number whose lowest byte comes first in memory, which is how little-endian machines store it.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_DIGITS = 22
_HALF = 1 << (_DIGITS - 1)
#: Boxes nearer to whole pixels than this are copied: no weight would differ from 0 and 1 in its digits.
_WHOLE_PX = 1e-7


@numba.njit(cache=True, nogil=True)
def _weights(size, low, high, out, first, count, weights):
    """Which pixels of a line of ``size`` enter each of ``out`` pixels of the box from ``low`` to ``high``, and how."""
    scale = np.float64(np.float32(high - low)) / out
    stretch = max(scale, 1.0)
    for o in range(out):
        centre = np.float64(low) + (o + 0.5) * scale
        a = max(int(centre - 2.0 * stretch + 0.5), 0)
        b = min(int(centre + 2.0 * stretch + 0.5), size)
        total = 0.0
        for t in range(b - a):
            total += _bicubic((a + t - centre + 0.5) * (1.0 / stretch))
        for t in range(b - a):
            w = _bicubic((a + t - centre + 0.5) * (1.0 / stretch))
            if total != 0.0:
                w /= total
            weights[o, t] = int(w * (1 << _DIGITS) + (0.5 if w >= 0 else -0.5))
        first[o], count[o] = a, b - a


@numba.njit(cache=True, nogil=True)
def _bicubic(x):
    """Keys' cubic with a = -0.5."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0


@numba.njit(cache=True, nogil=True)
def _blend(lines, first, count, weights, out, sums):
    """Sum lines (w, at least m) by weight into lines (out, m), rounded to 8 bits."""
    m = out.shape[1]
    for o in range(out.shape[0]):
        for i in range(m):
            sums[i] = _HALF
        for t in range(count[o]):
            k = weights[o, t]
            line = lines[first[o] + t]
            for i in range(m):
                sums[i] += k * np.int32(line[i])
        done = out[o]
        for i in range(m):
            done[i] = np.uint8(min(max(sums[i] >> _DIGITS, 0), 255))


@numba.njit(cache=True, nogil=True)
def _transpose(rows, columns):
    """Transpose bytes (r, c) into (c, r / 8) numbers of eight bytes; beyond r the last row is repeated."""
    last = rows.shape[0] - 1
    for block in range(columns.shape[1]):
        r = 8 * block
        r0, r1, r2, r3 = rows[r], rows[min(r + 1, last)], rows[min(r + 2, last)], rows[min(r + 3, last)]
        r4, r5, r6 = rows[min(r + 4, last)], rows[min(r + 5, last)], rows[min(r + 6, last)]
        r7 = rows[min(r + 7, last)]
        for c in range(rows.shape[1]):
            columns[c, block] = (
                np.uint64(r0[c])
                | (np.uint64(r1[c]) << np.uint64(8))
                | (np.uint64(r2[c]) << np.uint64(16))
                | (np.uint64(r3[c]) << np.uint64(24))
                | (np.uint64(r4[c]) << np.uint64(32))
                | (np.uint64(r5[c]) << np.uint64(40))
                | (np.uint64(r6[c]) << np.uint64(48))
                | (np.uint64(r7[c]) << np.uint64(56))
            )


# with its types, so that it is compiled (or found in the cache) when the module is imported: not later in a thread,
# whose lock a forked process would inherit
@numba.njit("(uint8[:, :, ::1], int64[:, ::1], float32[:, ::1], uint8[:, :, :, ::1])", cache=True, nogil=True)
def resize_boxes(canvas, rects, boxes, out):
    """Resize boxes of a canvas, each seeing the pixels of its rectangle and no others.

    Parameters
    ----------
    canvas
        uint8 (3, h, w), contiguous.
    rects
        x0, y0, x1, y1 of the rectangles in pixels of the canvas, int64 (n, 4).
    boxes
        x0, y0, x1, y1 of the boxes in pixels of their rectangles and within them, float32 (n, 4).
    out
        uint8 (n, s, s, 3), contiguous; written.
    """
    n, s = out.shape[0], out.shape[1]
    h_max, w_max = 1, 1
    for p in range(n):
        w_max = max(w_max, rects[p, 2] - rects[p, 0])
        h_max = max(h_max, rects[p, 3] - rects[p, 1])
    taps = 2 * math.ceil(2.0 * max(max(h_max, w_max) / s, 1.0)) + 1
    first, count, weights = np.empty(s, np.int64), np.empty(s, np.int64), np.empty((s, taps), np.int32)
    high, across = (h_max + 7) // 8, (3 * s + 7) // 8
    columns, wide = np.empty(w_max * 3 * high, np.uint64), np.empty(s * 3 * 8 * high, np.uint8)
    rows, sums = np.empty(h_max * across, np.uint64), np.empty(24 * max(high, across), np.int32)
    for p in range(n):
        x0, y0, w, h = rects[p, 0], rects[p, 1], rects[p, 2] - rects[p, 0], rects[p, 3] - rects[p, 1]
        low_x, low_y, high_x, high_y = boxes[p]
        if (
            w == s == h
            and max(abs(low_x), abs(low_y)) < _WHOLE_PX
            and max(abs(high_x - s), abs(high_y - s)) < _WHOLE_PX
        ):
            for y in range(s):
                red, green, blue = canvas[0, y0 + y], canvas[1, y0 + y], canvas[2, y0 + y]
                for x in range(s):
                    out[p, y, x, 0] = red[x0 + x]
                    out[p, y, x, 1] = green[x0 + x]
                    out[p, y, x, 2] = blue[x0 + x]
            continue
        _weights(w, low_x, high_x, s, first, count, weights)
        high = (h + 7) // 8
        by_column = columns[: w * 3 * high].reshape((w, 3, high))
        for c in range(3):
            _transpose(canvas[c, y0 : y0 + h, x0 : x0 + w], by_column[:, c])
        lines = columns[: w * 3 * high].view(np.uint8).reshape((w, 3 * 8 * high))
        resized = wide[: s * 3 * 8 * high].reshape((s, 3 * 8 * high))
        _blend(lines, first, count, weights, resized, sums)
        _weights(h, low_y, high_y, s, first, count, weights)
        by_row = rows[: h * across].reshape((h, across))
        _transpose(resized.reshape((s * 3, 8 * high))[:, :h], by_row)
        lines = rows[: h * across].view(np.uint8).reshape((h, 8 * across))
        _blend(lines, first, count, weights, out[p].reshape((s, s * 3)), sums)
