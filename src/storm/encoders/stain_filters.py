"""Gaussian derivatives of the stains as separable matrices, and what is counted of their responses.

A filter with a reflecting border and a stride is one matrix along y and one along x. The five derivatives of a scale
share the Gaussian and its two derivatives along the first axis, so that nothing is filtered twice.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

#: Sums over the responses of a field: negative and positive blobs, their square, edge, ridge, the gradient's moments.
N_SUMS = 8
#: Places that are filtered by one matrix product, which spares it the pixels that none of them sees.
_PLACES = 28


class DerivativeFilters:
    """Gaussian derivatives of one scale on tiles of one size.

    Parameters
    ----------
    sigma
        Standard deviation of the Gaussian, in pixels.
    height, width
        Of the tiles, in pixels.
    device
        Where the tiles are.
    """

    def __init__(self, sigma: float, height: int, width: int, device: torch.device) -> None:
        radius = profiles(sigma).shape[1] // 2
        pad = min(radius, height - 1, width - 1)
        self._down, self._across = (_parts(folded(sigma, n, pad), device) for n in (height, width))
        self._shape = self._down[-1][0].stop, self._across[-1][0].stop

    def __call__(self, maps: Tensor) -> Tensor:
        """Statistics of the responses to maps (B, C, height, width): shape (B, 6 · C)."""
        batch, channels, height, width = maps.shape
        rows, columns = self._shape
        # Along x first. Pixels are kept in the order x, tile, y, so that every product reads whole lines.
        lines = maps.reshape(-1, width)
        along = maps.new_empty(3, columns, len(lines))
        for places, pixels, matrices in self._across:
            for out, matrix in zip(along, matrices, strict=True):
                out[places] = matrix @ lines[:, pixels].T
        gauss, first, second = along.view(3, -1, height)
        sums = maps.new_zeros(N_SUMS, batch * channels)
        for _, pixels, (g, d, dd) in self._down:
            pairs = (g, first), (d, gauss), (g, second), (dd, gauss), (d, first)
            responses = ((m @ values[:, pixels].T).float().view(-1, batch * channels) for m, values in pairs)
            sums += response_sums((*responses,), dim=0)
        return response_statistics(sums.T.unflatten(0, (batch, channels)), rows * columns)


def step_px(sigma: float) -> int:
    """Stride of a filter, in pixels: larger scales need fewer places, because the response is smooth at that scale."""
    return max(1, round(sigma / 2))


def profiles(sigma: float) -> Tensor:
    """A Gaussian and its scale-normalised first and second derivative, float64 (3, k)."""
    radius = max(1, math.ceil(3 * sigma))
    t = torch.arange(-radius, radius + 1, dtype=torch.float64)
    g = torch.exp(-t.square() / (2 * sigma**2))
    g = g / g.sum()
    first = -t / sigma**2 * g * sigma
    second = (t.square() / sigma**4 - 1 / sigma**2) * g * sigma**2
    return torch.stack([g, first, second - second.mean()])


def folded(sigma: float, n: int, pad: int) -> Tensor:
    """Matrices that filter a line of n pixels with the three profiles, float64 (3, places, n).

    The line is reflected at both ends over ``pad`` pixels. The response to each single pixel gives its column.
    """
    eye = F.pad(torch.eye(n, dtype=torch.float64)[:, None], (pad, pad), mode="reflect")
    return F.conv1d(eye, profiles(sigma)[:, None], stride=step_px(sigma)).permute(1, 2, 0)


def response_sums(derivatives: tuple[Tensor, ...], *, dim: int | tuple[int, ...]) -> Tensor:
    """The eight sums over some axes of the derivatives x, y, xx, yy, xy, whose memory is used up: (8, …)."""
    gx, gy, gxx, gyy, gxy = derivatives
    blob = gxx + gyy
    ridge = gxx.sub_(gyy).square_().add_(gxy.square_(), alpha=4).sqrt_().sum(dim)
    moment = (gx * gy).sum(dim)
    xx, yy = gx.square_(), gy.square_()
    own = xx.sum(dim), yy.sum(dim), moment
    edge = xx.add_(yy).sqrt_().sum(dim)
    light = F.relu(blob).sum(dim)
    dark = light - blob.sum(dim)
    return torch.stack([dark, light, blob.square_().sum(dim), edge, ridge, *own])


def response_statistics(sums: Tensor, n: int) -> Tensor:
    """Features of fields from their sums (b, stains, 8) over n places: shape (b, 6 · stains)."""
    dark, light, square, edge, ridge, jxx, jyy, jxy = (sums / n).unbind(-1)
    # The mean response is light - dark, so that this is the unbiased standard deviation.
    spread = ((square - (light - dark).square()) * (n / (n - 1))).clamp_min(0).sqrt()
    coherence = ((jxx - jyy).square() + 4 * jxy.square()).sqrt() / (jxx + jyy + 1e-6)
    return torch.cat([dark, light, spread, edge, ridge, coherence], dim=1)


def _parts(matrices: Tensor, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
    """Places filtered together, the pixels that they see, and the matrices (3, places, pixels) between them."""
    parts, n = [], matrices.shape[1]
    count = math.ceil(n / _PLACES)
    bounds = [round(k * n / count) for k in range(count + 1)]
    for start, stop in pairwise(bounds):
        own = matrices[:, start:stop]
        seen = torch.nonzero(own.abs().amax(dim=(0, 1))).flatten()
        pixels = slice(int(seen[0]), int(seen[-1]) + 1)
        parts.append((slice(start, stop), pixels, own[..., pixels].float().contiguous().to(device)))
    return parts
