"""A tile encoder without learned weights: stain concentrations, their distributions and multi-scale texture.

Haematoxylin and eosin are separated in optical density (Ruifrok & Johnston 2001); nuclei, fibres, fat and glass then
show in the distribution of each stain and in Gaussian-derivative responses at the scale of a nucleus, a cell and a
gland. Everything is a convolution or a mean, so the encoder runs wherever torch does, with the same
result on every machine.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from storm.encoders.stain_filters import DerivativeFilters

#: Optical density of haematoxylin and eosin in R, G, B, and of what neither explains (Ruifrok & Johnston 2001).
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
#: Scales of the derivative filters, in µm (standard deviation).
_SCALES_UM = (1.5, 3.0, 6.0, 12.0)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Optical density below which a pixel is glass or an emptied fat vacuole.
_GLASS = 0.12
#: Concentrations of haematoxylin above which a pixel belongs to a nucleus.
NUCLEAR = (0.3, 0.5, 0.8)
#: Tiles that go through the processor together: as many as its cache holds.
_PIECE = 16


class StainTexture(nn.Module):
    """Stain and texture statistics of a tile; no gradients flow back to its pixels.

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
        self._filters: dict[tuple[int, int, torch.device], list[DerivativeFilters]] = {}
        with torch.no_grad():
            self.dim = self(torch.full((1, 3, 64, 64), 0.5)).shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Statistics of tiles (B, 3, H, W) with values in [0, 1]: shape (B, dim), float32 at any precision."""
        pieces = x.split(_PIECE) if x.device.type == "cpu" else (x,)
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([self._statistics(piece) for piece in pieces])

    def _statistics(self, x: Tensor) -> Tensor:
        maps = self.maps(x)
        stains, total = maps[:, :2], maps[:, 2:3]
        features = [*self._distribution(maps), *self._cells(stains[:, 0], total)]
        features += [filters(stains) for filters in self._filters_for(stains)]
        return torch.cat(features, dim=1)

    def maps(self, x: Tensor) -> Tensor:
        """Features of each pixel by itself: haematoxylin, eosin, density, chroma, R, G, B; shape (B, 7, H, W)."""
        x = x.float().contiguous()
        logarithm = (x * 255).add_(1).mul_(1 / 256).log_()
        # Optical density is minus the logarithm: both stains, and the mean over R, G and B.
        weights = -torch.cat([self.unmix[:, :2].mT, self.unmix.new_full((1, 3), 1 / 3)])
        densities = (weights @ logarithm.flatten(2)).unflatten(2, x.shape[2:])
        red, green, blue = x.unbind(1)
        chroma = torch.maximum(red, green).maximum(blue) - torch.minimum(red, green).minimum(blue)
        return torch.cat([densities, chroma.unsqueeze(1), x], dim=1)

    def _distribution(self, maps: Tensor) -> list[Tensor]:
        smooth = _halved(maps)
        height, width = (side // 4 for side in smooth.shape[-2:])
        inner = smooth[..., height:-height, width:-width]
        flat = smooth.flatten(2)
        levels = ordered(flat[:, :3])
        at = (self.quantiles * (levels.shape[-1] - 1)).round().long()
        mean = flat.mean(-1, keepdim=True)
        spread = ((flat - mean).square_().sum(-1) / (flat.shape[-1] - 1)).sqrt()
        return [mean.squeeze(-1), spread, levels[..., at].flatten(1), inner.mean((-1, -2))]

    def _cells(self, haematoxylin: Tensor, total: Tensor) -> list[Tensor]:
        # The mean over 3 × 3 pixels, zeros beyond the tile.
        padded = F.pad(haematoxylin, (1, 1, 1, 1))
        rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
        smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
        nuclear = [above(smooth, level).mean((-1, -2)).unsqueeze(1) for level in NUCLEAR]
        glass = glassy(total)
        wide = vacuous(F.avg_pool2d(glass, self.vacuole_px, stride=self.vacuole_px // 2))
        return [*nuclear, glass.mean((-1, -2)), wide.mean((-1, -2))]

    def _filters_for(self, maps: Tensor) -> list[DerivativeFilters]:
        """The filters of every scale for tiles of this size, made once."""
        height, width = maps.shape[-2:]
        key = height, width, maps.device
        if key not in self._filters:
            self._filters[key] = [DerivativeFilters(sigma, height, width, maps.device) for sigma in self.sigmas]
        return self._filters[key]


def above(haematoxylin: Tensor, level: float) -> Tensor:
    """Soft mask of nuclei: haematoxylin above a level."""
    return torch.sigmoid((haematoxylin - level) / 0.05)


def glassy(total: Tensor) -> Tensor:
    """Soft mask of glass and emptied vacuoles: low density."""
    return torch.sigmoid((_GLASS - total) / 0.02)


def vacuous(glass: Tensor) -> Tensor:
    """Soft mask of wide vacuoles: mostly glass around the place."""
    return torch.sigmoid((glass - 0.6) / 0.1)


def ordered(values: Tensor) -> Tensor:
    """Values sorted along the last axis."""
    if values.device.type == "cpu":  # numpy sorts several times faster here
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _halved(maps: Tensor) -> Tensor:
    """Means over 2 × 2 pixels, (B, C, H // 2, W // 2): along y as a sum of rows, along x as a product."""
    height, width = (side // 2 for side in maps.shape[-2:])
    rows = maps[..., : 2 * height, : 2 * width].unflatten(2, (height, 2))
    pairs = torch.eye(width, device=maps.device).repeat_interleave(2, dim=0) / 4
    return (rows[:, :, :, 0] + rows[:, :, :, 1]) @ pairs
