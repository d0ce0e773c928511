"""A tile encoder without learned weights: stain concentrations, their distributions and multi-scale texture.

Haematoxylin and eosin are separated in optical density (Ruifrok & Johnston 2001); nuclei, fibres, fat and glass then
show in the distribution of each stain and in Gaussian-derivative responses at the scale of a nucleus, a cell and a
gland. Everything is a convolution or a mean, so the encoder runs wherever torch does, with the same
result on every machine.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Optical density of haematoxylin and eosin in R, G, B, and of what neither explains (Ruifrok & Johnston 2001).
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
#: Scales of the derivative filters, in µm (standard deviation).
_SCALES_UM = (1.5, 3.0, 6.0, 12.0)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Optical density below which a pixel is glass or an emptied fat vacuole.
_GLASS = 0.12
#: Concentrations of haematoxylin above which a pixel belongs to a nucleus.
NUCLEAR = (0.3, 0.5, 0.8)


class StainTexture(nn.Module):
    """Stain and texture statistics of a tile.

    Parameters
    ----------
    um_per_px
        µm per pixel of the input tiles, which determines the size of the filters in pixels.
    """

    def __init__(self, um_per_px: float = 1.0) -> None:
        super().__init__()
        self.um_per_px = um_per_px
        self.unmix: Tensor
        self.quantiles: Tensor
        unmix = torch.linalg.inv(F.normalize(torch.tensor(_STAINS), dim=1))
        self.register_buffer("unmix", unmix, persistent=False)
        self.register_buffer("quantiles", torch.tensor(_QUANTILES), persistent=False)
        #: Vacuoles of fat are wide: what survives a mean filter of this size is not the cleft between two cells.
        self.vacuole_px = max(3, 2 * round(10 / um_per_px) // 2 + 1)
        self.sigmas = tuple(scale / um_per_px for scale in _SCALES_UM)
        for i, sigma in enumerate(self.sigmas):
            self.register_buffer(f"kernels_{i}", _derivatives(sigma), persistent=False)
        with torch.no_grad():
            self.dim = self(torch.full((1, 3, 64, 64), 0.5)).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Statistics of tiles (B, 3, H, W) with values in [0, 1]: shape (B, dim)."""
        maps = self.maps(x)
        stains, total = maps[:, :2], maps[:, 2:3]
        features = [*self._distribution(maps), *self._cells(stains, total)]
        for i, sigma in enumerate(self.sigmas):
            features += self._texture(stains, sigma, getattr(self, f"kernels_{i}"))
        return torch.cat(features, dim=1)

    def maps(self, x: Tensor) -> Tensor:
        """Features of each pixel by itself: haematoxylin, eosin, density, chroma, R, G, B; shape (B, 7, H, W)."""
        density = -torch.log((x.float() * 255 + 1) / 256)
        total = density.mean(dim=1, keepdim=True)
        stains = torch.einsum("bchw,cs->bshw", density, self.unmix)[:, :2]
        chroma = (x.amax(dim=1, keepdim=True) - x.amin(dim=1, keepdim=True)).float()
        return torch.cat([stains, total, chroma, x.float()], dim=1)

    def _distribution(self, maps: Tensor) -> list[Tensor]:
        smooth = F.avg_pool2d(maps, 2)
        flat = smooth.flatten(2)
        inner = smooth[
            ..., smooth.shape[-2] // 4 : -(smooth.shape[-2] // 4), smooth.shape[-1] // 4 : -(smooth.shape[-1] // 4)
        ]
        levels = flat[:, :3].sort(dim=-1).values
        at = (self.quantiles * (levels.shape[-1] - 1)).round().long()
        return [flat.mean(-1), flat.std(-1), levels[..., at].flatten(1), inner.mean((-1, -2))]

    def _cells(self, stains: Tensor, total: Tensor) -> list[Tensor]:
        haematoxylin = F.avg_pool2d(stains[:, :1], 3, stride=1, padding=1)
        nuclear = [above(haematoxylin, level).mean((-1, -2)) for level in NUCLEAR]
        glass = glassy(total)
        wide = vacuous(F.avg_pool2d(glass, self.vacuole_px, stride=self.vacuole_px // 2))
        return [*nuclear, glass.mean((-1, -2)), wide.mean((-1, -2))]

    def _texture(self, stains: Tensor, sigma: float, kernels: Tensor) -> list[Tensor]:
        step = step_px(sigma)
        batch, channels, height, width = stains.shape
        radius = kernels.shape[-1] // 2
        pad = min(radius, height - 1, width - 1)
        x = F.pad(stains.reshape(batch * channels, 1, height, width), (pad,) * 4, mode="reflect")
        gx, gy, gxx, gyy, gxy = F.conv2d(x, kernels, stride=step).unbind(1)
        blob = (gxx + gyy).view(batch, channels, -1)
        edge = (gx.square() + gy.square()).sqrt().view(batch, channels, -1)
        ridge = ((gxx - gyy).square() + 4 * gxy.square()).sqrt().view(batch, channels, -1)
        jxx, jyy, jxy = (v.view(batch, channels, -1).mean(-1) for v in (gx * gx, gy * gy, gx * gy))
        coherence = ((jxx - jyy).square() + 4 * jxy.square()).sqrt() / (jxx + jyy + 1e-6)
        return [F.relu(-blob).mean(-1), F.relu(blob).mean(-1), blob.std(-1), edge.mean(-1), ridge.mean(-1), coherence]


def above(haematoxylin: Tensor, level: float) -> Tensor:
    """Soft mask of nuclei: haematoxylin above a level."""
    return torch.sigmoid((haematoxylin - level) / 0.05)


def glassy(total: Tensor) -> Tensor:
    """Soft mask of glass and emptied vacuoles: low density."""
    return torch.sigmoid((_GLASS - total) / 0.02)


def vacuous(glass: Tensor) -> Tensor:
    """Soft mask of wide vacuoles: mostly glass around the place."""
    return torch.sigmoid((glass - 0.6) / 0.1)


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


def _derivatives(sigma: float) -> Tensor:
    """Scale-normalised Gaussian derivatives x, y, xx, yy, xy as convolution kernels, shape (5, 1, k, k)."""
    g, first, second = profiles(sigma)
    pairs = [(g, first), (first, g), (g, second), (second, g), (first, first)]
    return torch.stack([torch.outer(rows, columns) for rows, columns in pairs]).unsqueeze(1).float()
