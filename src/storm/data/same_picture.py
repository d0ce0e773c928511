"""Whether two pictures are one and the same at different resolutions."""

from __future__ import annotations

import numpy as np

#: Blocks along an edge in which pictures are compared: coarser than the pixels of any picture of a section.
_BLOCKS = 32
#: Share of the variance of each channel that two reductions of one picture have in common. The resampling of one is not
#: quite that of the other; another stain, and even another normalisation of one stain, shares less.
_IN_COMMON = 0.97


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures of the same extent show the same, whatever their resolutions.

    Parameters
    ----------
    one, other
        Pixels, shape (height, width, channels).

    Returns
    -------
    bool
        Whether, by the mean colours of 32 × 32 blocks, each channel of either explains 97 % of the variance of that of
        the other.
    """
    sides = np.minimum(np.minimum(one.shape[:2], other.shape[:2]), _BLOCKS)
    left, right = (_block_means(pixels, sides) for pixels in (one, other))
    axes = (0, 1)
    different = np.square(left - right).sum(axis=axes)
    spread = np.minimum(*(np.square(means - means.mean(axis=axes)).sum(axis=axes) for means in (left, right)))
    return bool((different <= (1 - _IN_COMMON) * spread).all())


def _block_means(pixels: np.ndarray, sides: np.ndarray) -> np.ndarray:
    means = pixels.astype(np.float64)
    for axis, blocks in enumerate(sides):
        edges = np.linspace(0, means.shape[axis], blocks + 1).round().astype(int)
        sums = np.add.reduceat(means, edges[:-1], axis=axis)
        means = sums / np.expand_dims(np.diff(edges), tuple({0, 1, 2} - {axis}))
    return means
