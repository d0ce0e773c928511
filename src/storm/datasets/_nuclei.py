"""Nuclei of a drawn section: where they lie, of which type they are, and their shape and stain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import cKDTree

from storm.datasets._structures import ACINUS, LUMEN, VESSEL, Structures
from storm.datasets._tissue import Section
from storm.datasets._types import (
    ADIPOCYTE,
    B_CELL,
    CANCER,
    ENDOTHELIAL,
    ERYTHROCYTE,
    FAT,
    FIBROBLAST,
    GLANDS,
    IMMUNE,
    LOOKS,
    LUMINAL,
    MACROPHAGE,
    MYOEPITHELIAL,
    STROMA,
    T_CELL,
    TUMOUR,
)

#: Candidates are drawn in bands of this height (µm), each from its own generator.
_BAND = 1000.0


@dataclass(frozen=True)
class Nuclei:
    """Arrays of equal length: centre (µm), type, semi-axes (µm), direction, stain and a texture seed."""

    xy: np.ndarray
    kind: np.ndarray
    major: np.ndarray
    minor: np.ndarray
    angle: np.ndarray
    stain: np.ndarray
    phase: np.ndarray

    def __len__(self) -> int:
        return len(self.xy)

    def take(self, index: np.ndarray) -> Nuclei:
        return Nuclei(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts: list[Nuclei]) -> Nuclei:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def make_nuclei(section: Section) -> Nuclei:
    """Draw all nuclei of a section's frame (in tissue and, to be cut off later, outside of it)."""
    rng = np.random.default_rng([section.seed, 4])
    parts = [*_ring_nuclei(rng, section), _fat_nuclei(rng, section)]
    for stage, sow in enumerate((_sow_lymphocytes, _sow_cancer, _sow_fibroblasts, _sow_macrophages)):
        parts.extend(sow(section, stage))
    nuclei = Nuclei.concatenate(parts)
    inside = (nuclei.xy > 1).all(axis=1) & (nuclei.xy < np.array(section.extent) - 1).all(axis=1)
    nuclei = nuclei.take(np.flatnonzero(inside))
    return nuclei.take(_not_crowded(nuclei))


def _shaped(
    rng: np.random.Generator, xy: np.ndarray, kind: np.ndarray, angle: np.ndarray | None = None, scale=1.0
) -> Nuclei:
    n = len(xy)
    look = np.array([(k.major, k.ratio, k.spread, k.stain) for k in LOOKS])[kind].reshape(n, 4)
    major = look[:, 0] * scale * np.exp(look[:, 2] * rng.standard_normal(n))
    ratio = np.clip(look[:, 1] * np.exp(0.12 * rng.standard_normal(n)), 0.15, 1.0)
    stain = look[:, 3] * np.exp(0.13 * rng.standard_normal(n))
    if angle is None:
        angle = rng.uniform(0, np.pi, n)
    phase = rng.uniform(0, 2 * np.pi, n)
    columns = (major, major * ratio, angle, stain, phase)
    return Nuclei(
        np.asarray(xy, dtype=np.float64).reshape(n, 2), kind.astype(np.int8), *(c.astype(np.float32) for c in columns)
    )


# --------------------------------------------------------------------------------------------- around cavities


def _ring_nuclei(rng: np.random.Generator, section: Section) -> Iterator[Nuclei]:
    """Epithelium of acini and malignant glands, myoepithelium, endothelium, and the blood in vessels."""
    s = section.structures
    for kind, cell, depth, spacing, radial in (
        (ACINUS, LUMINAL, 7.0, 6.6, True),
        (ACINUS, MYOEPITHELIAL, 13.0, 11.0, False),
        (LUMEN, CANCER, 6.5, 9.0, True),
        (VESSEL, ENDOTHELIAL, 1.5, 9.5, False),
    ):
        index, angle = _around(s, kind, depth, spacing, rng)
        radius = s.radius(index, angle) + depth + 0.7 * rng.standard_normal(len(index))
        xy = s.xy[index] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        turn = angle + (0 if radial else np.pi / 2) + 0.25 * rng.standard_normal(len(index))
        scale = _cancer_scale(section, xy) if cell == CANCER else 1.0
        yield _shaped(rng, xy, np.full(len(xy), cell), turn, scale)
    yield _blood(rng, s)


def _around(
    s: Structures, kind: int, depth: float, spacing: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Structure index and direction of nuclei about ``spacing`` µm apart around all structures of a kind."""
    which = np.flatnonzero(s.kind == kind)
    count = np.maximum(4, 2 * np.pi * (s.inner[which] + depth) / spacing).astype(int)
    index = np.repeat(which, count)
    rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    start = np.repeat(rng.uniform(0, 2 * np.pi, len(which)), count)
    jitter = 0.2 * rng.standard_normal(len(index))
    return index, start + 2 * np.pi * (rank + jitter) / np.repeat(count, count)


def _blood(rng: np.random.Generator, s: Structures) -> Nuclei:
    """Red cells on a jittered lattice inside each vessel; some vessels are empty."""
    full = np.flatnonzero((s.kind == VESSEL) & (rng.random(len(s)) < 0.7))
    reach = 34.0
    lattice = np.stack(np.meshgrid(*(np.arange(-reach, reach + 1, 6.2),) * 2), axis=-1).reshape(-1, 2)
    index = np.repeat(full, len(lattice))
    offset = np.tile(lattice, (len(full), 1)) + rng.uniform(-1.6, 1.6, (len(index), 2))
    xy = s.xy[index] + offset
    kept = (s.cavity(index, xy) < -2.6) & (rng.random(len(index)) < 0.75)
    return _shaped(rng, xy[kept], np.full(int(kept.sum()), ERYTHROCYTE))


def _fat_nuclei(rng: np.random.Generator, section: Section) -> Nuclei:
    """One flat nucleus per fat cell, pressed against its border."""
    points, normals, _ = section.adipocytes.edges()
    side = rng.integers(0, 4, len(points))
    row = np.arange(len(points))
    normal = normals[row, side]
    along = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
    xy = points[row, side] + along * rng.uniform(-8, 8, (len(points), 1))
    return _shaped(rng, xy, np.full(len(xy), ADIPOCYTE), np.arctan2(along[:, 1], along[:, 0]))


# ------------------------------------------------------------------------------------------ sown over the tissue


def _candidates(
    section: Section, stage: int, pitch: float, jitter: float
) -> Iterator[tuple[np.random.Generator, np.ndarray]]:
    """Jittered lattice over the frame, band by band."""
    width, height = section.extent
    rows = np.arange(0, height, pitch)
    step = max(1, int(_BAND / pitch))
    x = np.arange(0, width, pitch)
    for band, start in enumerate(range(0, len(rows), step)):
        rng = np.random.default_rng([section.seed, 5, stage, band])
        here = np.arange(start, min(start + step, len(rows)))
        xy = np.stack(np.meshgrid(x, rows[here]), axis=-1)
        xy[..., 0] += (here % 2)[:, None] * pitch / 2  # every other row is shifted: closer to a hexagonal packing
        xy = xy.reshape(-1, 2)
        yield rng, xy + rng.uniform(-jitter, jitter, xy.shape) * pitch


def _free(section: Section, xy: np.ndarray) -> np.ndarray:
    """Points that lie neither in a fat vacuole nor in a structure."""
    free = section.adipocytes.depth(xy[:, 0], xy[:, 1]) < 1.0
    s = section.structures
    if len(s) == 0:
        return free
    distance, index = cKDTree(s.xy).query(xy, k=2, distance_upper_bound=float(s.outer.max()) + 4)
    for k in range(2):
        near = np.flatnonzero(np.isfinite(distance[:, k]))
        which = index[near, k]
        free[near[s.cavity(which, xy[near]) < s.wall[which] + 1.5]] = False
    return free


def _sow(section: Section, rng: np.random.Generator, xy: np.ndarray, chance: np.ndarray) -> np.ndarray:
    xy = xy[rng.random(len(xy)) < chance]
    return xy[_free(section, xy)]


def _cancer_scale(section: Section, xy: np.ndarray) -> np.ndarray:
    """High-grade nuclei are larger."""
    return 0.82 + 0.45 * section.local("grade", xy)


def _sow_cancer(section: Section, stage: int) -> Iterator[Nuclei]:
    for rng, xy in _candidates(section, stage, 10.2, 0.3):
        chance = section.weights(xy)[:, TUMOUR] * section.nest(xy) * (0.45 + 0.55 * section.local("cellularity", xy))
        xy = _sow(section, rng, xy, chance)
        grade = section.local("grade", xy)
        # pleomorphism: sizes vary more where the grade is high
        scale = _cancer_scale(section, xy) * np.exp(0.16 * grade * rng.standard_normal(len(xy)))
        yield _shaped(rng, xy, np.full(len(xy), CANCER), None, scale)


def _sow_fibroblasts(section: Section, stage: int) -> Iterator[Nuclei]:
    for rng, xy in _candidates(section, stage, 12.5, 0.42):
        w = section.weights(xy)
        stroma = (
            w[:, STROMA]
            + w[:, TUMOUR] * (1 - section.nest(xy))
            + 0.9 * w[:, GLANDS]
            + 0.3 * w[:, FAT]
            + 0.1 * w[:, IMMUNE]
        )
        xy = _sow(section, rng, xy, stroma * (0.12 + 0.5 * section.local("cellularity", xy)))
        angle = fibre_direction(section, xy) + 0.22 * rng.standard_normal(len(xy))
        yield _shaped(rng, xy, np.full(len(xy), FIBROBLAST), angle)


def _sow_lymphocytes(section: Section, stage: int) -> Iterator[Nuclei]:
    for rng, xy in _candidates(section, stage, 7.4, 0.26):
        w = section.weights(xy)
        infiltration = section.local("infiltration", xy) ** 2.5
        outside = 0.30 * (w[:, STROMA] + w[:, TUMOUR]) * (1.35 - section.nest(xy)) + 0.05 * w[:, GLANDS]
        crowd = 0.55 + 0.35 * section.local("cellularity", xy)
        chance = crowd * w[:, IMMUNE] + infiltration * outside
        xy = _sow(section, rng, xy, chance)
        immune = section.weights(xy)[:, IMMUNE]
        follicle = section.local("follicle", xy) > 0.5
        b_cell = rng.random(len(xy)) < np.where(follicle, 0.15 + 0.65 * immune, 0.12)
        yield _shaped(rng, xy, np.where(b_cell, B_CELL, T_CELL))


def _sow_macrophages(section: Section, stage: int) -> Iterator[Nuclei]:
    for rng, xy in _candidates(section, stage, 21.0, 0.4):
        w = section.weights(xy)
        chance = 0.5 * w[:, IMMUNE] + (0.05 + 0.4 * section.local("infiltration", xy)) * (w[:, STROMA] + w[:, TUMOUR])
        xy = _sow(section, rng, xy, chance)
        yield _shaped(rng, xy, np.full(len(xy), MACROPHAGE))


# ---------------------------------------------------------------------------------------------------- fibres


def fibre_axes(seed: int) -> np.ndarray:
    """Main directions (radians) of the two systems of collagen fibres of a section."""
    first = np.random.default_rng([seed, 6]).uniform(0, np.pi)
    return np.array([first, first + 1.3])


#: Fibres are bent by this many µm per unit of the warp field.
FIBRE_WARP = 26.0


def fibre_direction(section: Section, xy: np.ndarray) -> np.ndarray:
    """Direction (radians) of the collagen fibres at points, as they are drawn."""
    axes = fibre_axes(section.seed)
    axis = np.where(section.fields["weave"].at(xy) > 0, axes[1], axes[0])
    # fibres are lines of equal value of  v = -x sin + y cos + warp
    gradient = np.stack([-np.sin(axis), np.cos(axis)], axis=1) + FIBRE_WARP * section.fields["warp"].gradient(xy)
    return np.arctan2(-gradient[:, 0], gradient[:, 1])


def _not_crowded(nuclei: Nuclei) -> np.ndarray:
    """Indices of nuclei that do not lie in an earlier one."""
    pairs = cKDTree(nuclei.xy).query_pairs(9.0, output_type="ndarray")
    radius = np.sqrt(nuclei.major * nuclei.minor)
    gap = np.linalg.norm(nuclei.xy[pairs[:, 0]] - nuclei.xy[pairs[:, 1]], axis=1)
    close = gap < 0.88 * (radius[pairs[:, 0]] + radius[pairs[:, 1]])
    blood = nuclei.kind[pairs] == ERYTHROCYTE
    later = pairs[close & ~blood.all(axis=1)].max(axis=1)
    kept = np.ones(len(nuclei), dtype=bool)
    kept[later] = False
    return np.flatnonzero(kept)
