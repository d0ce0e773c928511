"""Ground of a drawn section: outline, domains and local morphology (all in µm), on which structures and cells lie.

Everything here is a function of position, so that any part of a section can be asked for alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from storm.datasets._noise import Field
from storm.datasets._types import DOMAINS, FAT, GLANDS, IMMUNE, STROMA, TUMOUR

#: Share of the tissue area of every domain but the connective tissue, which is the rest.
SHARES = {IMMUNE: 0.13, TUMOUR: 0.32, FAT: 0.18, GLANDS: 0.15}

#: Part of the frame that is covered by tissue when domains are calibrated.
COVERAGE = 0.72

#: Fields that decide between domains and fields of the local morphology; µm of the latter's wavelength.
_DOMAIN_FIELDS = ("tumour", "fat", "immune", "glands")
_LOCAL_FIELDS = {
    "infiltration": 240.0,  # lymphocytes in tumour and stroma
    "grade": 420.0,  # size and pleomorphism of tumour nuclei, proliferation
    "cellularity": 260.0,  # nuclei per area
    "collagen": 230.0,  # dense or loose stroma
    "vessels": 330.0,
    "follicle": 160.0,  # B cell follicles of the lymphoid aggregates
    "nest": 110.0,  # tumour nests and the strands of stroma between them
    "hidden": 450.0,  # an interferon response, which is not to be seen in the image
}


@dataclass(frozen=True)
class Ground:
    """Outline, domains and local morphology of a drawn section.

    Attributes
    ----------
    seed, extent
        Seed, and width and height of the frame in µm.
    level
        The tissue is where :meth:`outline` is above it.
    """

    seed: int
    extent: tuple[float, float]
    level: float
    fields: dict[str, Field]
    thresholds: dict[str, float]
    softness: float

    def outline(self, xy: np.ndarray) -> np.ndarray:
        """Height of the tissue's outline function at points, shape (n,)."""
        ring = self.fields["outline"].at(xy)
        return _outline(xy[:, 0], xy[:, 1], self.extent, ring, self.fields["edge"].at(xy))

    def local(self, name: str, xy: np.ndarray) -> np.ndarray:
        """A field of the local morphology at points, uniformly distributed in (0, 1)."""
        return ndtr(self.fields[name].at(xy))

    def weights(self, xy: np.ndarray) -> np.ndarray:
        """Soft membership of points in the domains, shape (n, 5), float32, rows sum to 1."""
        return _weights({k: self.fields[k].at(xy) for k in _DOMAIN_FIELDS}, self.thresholds, self.softness)

    def domain(self, xy: np.ndarray) -> np.ndarray:
        """Code of the domain at points, shape (n,)."""
        return self.weights(xy).argmax(axis=1)

    def nest(self, xy: np.ndarray) -> np.ndarray:
        """How much a point of the tumour domain belongs to a tumour nest, shape (n,)."""
        return _nest(self.fields["nest"].at(xy))

    # ------------------------------------------------------------------------------------------------ rasters

    def raster(self, name: str, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        """A field of the local morphology as a raster, uniformly distributed in (0, 1)."""
        return ndtr(self.fields[name].raster(x0, y0, step, shape))

    def tissue_raster(self, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        """Tissue (1) or glass (0), with a border as steep as the outline allows."""
        x = (x0 + step * np.arange(shape[1]))[None, :]
        y = (y0 + step * np.arange(shape[0]))[:, None]
        ring, edge = (self.fields[k].raster(x0, y0, step, shape) for k in ("outline", "edge"))
        height = _outline(x, y, self.extent, ring, edge) - self.level
        return expit(height * (min(self.extent) / 1.5)).astype(np.float32)

    def weights_raster(self, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        """Soft membership in the domains, shape (y, x, 5)."""
        values = {k: self.fields[k].raster(x0, y0, step, shape) for k in _DOMAIN_FIELDS}
        return _weights(values, self.thresholds, self.softness)

    def nest_raster(self, x0: float, y0: float, step: float, shape: tuple[int, int]) -> np.ndarray:
        """Soft membership in a tumour nest, shape (y, x)."""
        return _nest(self.fields["nest"].raster(x0, y0, step, shape))


def frame_side(area: float) -> float:
    """Side of the square frame (µm) for a tissue of ``area`` µm²."""
    return float(np.sqrt(area / COVERAGE))


def draw_ground(*, seed: int, side: float) -> Ground:
    """Draw the ground of a section in a square frame of ``side`` µm."""
    extent = (side, side)
    scale = float(np.clip(side / 2.6, 140.0, 1300.0))
    fields = _draw_fields(seed, extent, scale)
    rows, cols = np.meshgrid(*(np.linspace(0, side, 192),) * 2, indexing="ij")
    xy = np.stack([cols.ravel(), rows.ravel()], axis=1)
    height = _outline(xy[:, 0], xy[:, 1], extent, fields["outline"].at(xy), fields["edge"].at(xy))
    level = float(np.quantile(height, 1 - COVERAGE))
    thresholds = _calibrate({k: fields[k].at(xy[height > level]) for k in _DOMAIN_FIELDS})
    return Ground(seed=seed, extent=extent, level=level, fields=fields, thresholds=thresholds, softness=10.0 / scale)


def _draw_fields(seed: int, extent: tuple[float, float], scale: float) -> dict[str, Field]:
    def draw(k: int, *, wavelength: float, octaves: int, fade: float = 0.5) -> Field:
        rng = np.random.default_rng([seed, 1, k])
        return Field.draw(rng, extent=extent, wavelength=wavelength, octaves=octaves, fade=fade)

    fields = {
        "outline": draw(0, wavelength=max(extent) / 2.2, octaves=4, fade=0.45),
        "edge": draw(1, wavelength=70.0, octaves=2),
        "warp": draw(2, wavelength=170.0, octaves=3, fade=0.3),
        "weave": draw(3, wavelength=260.0, octaves=2),
    }
    for k, name in enumerate(_DOMAIN_FIELDS):
        fields[name] = draw(10 + k, wavelength=scale * (0.75 if name == "immune" else 1.0), octaves=3, fade=0.26)
    # a small section keeps several wavelengths of its local morphology
    shrink = float(np.clip(max(extent) / 1500.0, 0.3, 1.0))
    for k, (name, wavelength) in enumerate(_LOCAL_FIELDS.items()):
        fields[name] = draw(20 + k, wavelength=wavelength * shrink, octaves=2)
    return fields


def _outline(
    x: np.ndarray, y: np.ndarray, extent: tuple[float, float], ring: np.ndarray, edge: np.ndarray
) -> np.ndarray:
    """A superellipse (high in the middle) with an irregular, slightly frayed border."""
    u = np.abs(2 * x / extent[0] - 1) ** 3
    v = np.abs(2 * y / extent[1] - 1) ** 3
    return (1 - (u + v) ** (1 / 3) + 0.055 * ring + 9.0 / max(extent) * edge).astype(np.float32)


def _affinities(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Lymphocytes gather at the tumour's border, fat and glands keep away from the tumour."""
    tumour = values["tumour"]
    return {
        "tumour": tumour,
        "fat": values["fat"] - 0.5 * tumour,
        "glands": values["glands"] - 0.3 * values["fat"],
        "immune": values["immune"] - 0.8 * np.abs(tumour - 0.35),
    }


_ORDER = (("immune", IMMUNE), ("tumour", TUMOUR), ("fat", FAT), ("glands", GLANDS))


def _calibrate(values: dict[str, np.ndarray]) -> dict[str, float]:
    """Thresholds with which every domain gets its share: each takes the highest of what the earlier ones left."""
    affinity = _affinities(values)
    left = np.ones(len(values["tumour"]), dtype=bool)
    thresholds = {}
    for name, code in _ORDER:
        wanted = SHARES[code] / left.mean()
        thresholds[name] = float(np.quantile(affinity[name][left], 1 - min(wanted, 0.95)))
        left &= affinity[name] <= thresholds[name]
    return thresholds


def _weights(values: dict[str, np.ndarray], thresholds: dict[str, float], softness: float) -> np.ndarray:
    affinity = _affinities(values)
    weights = np.empty((*values["tumour"].shape, len(DOMAINS)), dtype=np.float32)
    left = np.ones(values["tumour"].shape, dtype=np.float32)
    for name, code in _ORDER:
        weights[..., code] = left * expit((affinity[name] - thresholds[name]) / softness)
        left = left - weights[..., code]
    weights[..., STROMA] = left
    return weights


def _nest(value: np.ndarray) -> np.ndarray:
    return expit((value + 0.95) / 0.1).astype(np.float32)
