"""Features of one slide's tiles on disk: a zarr group that is written whole and read by whole chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storm._files import full_disk_explained, replacing

#: Tiles of a chunk. Tiles lie in random order, so that a chunk is a random sample of the slide.
CHUNK = 512
#: Arrays that every slide has, or may have.
HE, ST, XY = "he", "st", "xy_um"
#: Largest number of float16.
_LARGEST = 65504.0


@dataclass(frozen=True, kw_only=True)
class TileFeatures:
    """Features of the tiles of one slide, checked.

    Attributes
    ----------
    he
        Embedding of each tile's H&E, float16, shape (n, d).
    st
        Expression of each tile, float16, shape (n, g); ``None`` without.
    xy_um
        Centres in µm of the slide, float32, shape (n, 2).
    per_tile
        Further values of each tile by name, first axis n.
    """

    he: np.ndarray
    st: np.ndarray | None
    xy_um: np.ndarray
    per_tile: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.he)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that is stored, by name."""
        return {HE: self.he, XY: self.xy_um, **({} if self.st is None else {ST: self.st}), **self.per_tile}

    def sha256(self) -> str:
        """Checksum of the features and places, for slides without a file."""
        digest = hashlib.sha256()
        for values in (self.he, self.st, self.xy_um):
            if values is not None:
                digest.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def checked(
    slide: str,
    *,
    he: Any,
    st: Any = None,
    xy_um: Any,
    per_tile: Mapping[str, Any] | None = None,
) -> TileFeatures:
    """Check the features of a slide, and bring them to the types in which they are stored.

    Raises
    ------
    ValueError
        If shapes do not fit each other, there is no tile, or a value is not finite or beyond float16.
    """
    arrays = {HE: np.asarray(he), XY: np.asarray(xy_um)} | ({} if st is None else {ST: np.asarray(st)})
    n = len(arrays[HE]) if arrays[HE].ndim else 0
    for name, values in arrays.items():
        width = 2 if name == XY else None
        if values.ndim != 2 or len(values) != n or not values.shape[1] or (width and values.shape[1] != width):
            expected = f"({n}, 2)" if width else f"({n}, number of features)"
            msg = f"slide {slide!r}: {name} has shape {values.shape}; expected {expected}, a row for each tile"
            raise ValueError(msg)
        if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
            msg = f"slide {slide!r}: {name} has dtype {values.dtype}; give real numbers"
            raise ValueError(msg)
    if not n:
        msg = f"slide {slide!r} has no tiles; leave it out, or check how its tissue was found"
        raise ValueError(msg)
    for name, values in arrays.items():
        wrong = ~np.isfinite(values).all(axis=1)
        if wrong.any():
            msg = f"slide {slide!r}: {name} is not finite for {wrong.sum()} of {n} tiles; leave these tiles out"
            raise ValueError(msg)
        if name != XY and (largest := float(np.abs(values).max())) > _LARGEST:
            msg = (
                f"slide {slide!r}: {name} reaches {largest:g}, and features are stored as float16, which ends at "
                f"{_LARGEST:g}; scale the features of all slides by one factor"
            )
            raise ValueError(msg)
    extra = {}
    for name, one in (per_tile or {}).items():
        values = np.asarray(one)
        if name in (HE, ST, XY) or values.ndim == 0 or len(values) != n or values.dtype.kind not in "biuf":
            msg = (
                f"slide {slide!r}: per_tile[{name!r}] has shape {values.shape} and dtype {values.dtype}; give numbers "
                f"with a row for each of {n} tiles, under another name than {HE!r}, {ST!r} and {XY!r}"
            )
            raise ValueError(msg)
        extra[str(name)] = values
    return TileFeatures(
        he=arrays[HE].astype(np.float16),
        st=arrays[ST].astype(np.float16) if ST in arrays else None,
        xy_um=arrays[XY].astype(np.float32),
        per_tile=extra,
    )


def write_features(path: Path, features: TileFeatures, attributes: Mapping[str, Any]) -> None:
    """Write the features of a slide; they appear whole, and replace earlier ones.

    Parameters
    ----------
    path
        Folder to write.
    features, attributes
        As in :func:`write_group`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(values.nbytes for values in features.arrays().values())
    with full_disk_explained(path, needed=needed), replacing(path) as scratch:
        write_group(scratch, features, attributes)


def write_group(path: Path, features: TileFeatures, attributes: Mapping[str, Any]) -> None:
    """Write the features of a slide straight to their place.

    Parameters
    ----------
    path
        Folder to write; what is there is replaced.
    features
        The features.
    attributes
        What belongs to the slide: its checksum, its tiles. ``sha256`` also decides the random order of the tiles, so
        that the same slide is stored in the same order.
    """
    import zarr

    order = np.random.default_rng(int(str(attributes["sha256"])[:16], 16)).permutation(len(features))
    group = zarr.create_group(path, attributes=dict(attributes), overwrite=True)
    for name, values in features.arrays().items():
        chunks = (min(CHUNK, len(values)), *values.shape[1:])
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values[order]


def read_attributes(path: Path) -> dict[str, Any] | None:
    """What is stored with the features of a slide; ``None`` if there are none, or they cannot be read."""
    import zarr

    if not path.is_dir():
        return None
    try:
        return dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError):
        return None
