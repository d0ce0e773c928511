"""The tiles of a patient: of all slides, or a random sample that lies in few chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from storm._bridge.cohort_features import CHUNK, HE, ST, XY
from storm._checks import check_whole

if TYPE_CHECKING:
    import zarr

    #: Arrays of a slide by name, on disk or in memory.
    Arrays = dict[str, zarr.Array | np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class Bag:
    """The tiles of a patient, of all slides one after the other.

    Attributes
    ----------
    he
        Embedding of each tile's H&E, float32, shape (n, d); ``None`` if the cohort has none.
    st
        Virtual expression of each tile, float32, shape (n, g); ``None`` if the cohort has none.
    xy_um
        Centres in µm of their own slide, float32, shape (n, 2).
    slide
        Which slide each tile is of: position in ``slides``, shape (n,).
    slides
        Names of the slides.
    """

    he: np.ndarray | None
    st: np.ndarray | None
    xy_um: np.ndarray
    slide: np.ndarray
    slides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.xy_um)


def read_bag(
    arrays: Sequence[Arrays], slides: tuple[str, ...], *, n_tiles: int | None, rng: np.random.Generator | None
) -> Bag:
    """Read all tiles of some slides, or a random sample.

    Parameters
    ----------
    arrays
        Arrays of each slide.
    slides
        Their names.
    n_tiles, rng
        As in :meth:`storm.prognosis.Cohort.bag`.

    Raises
    ------
    ValueError
        If ``n_tiles`` is given without ``rng``, or below 1.
    """
    if n_tiles is not None:
        check_whole(n_tiles, name="n_tiles")
        if not isinstance(rng, np.random.Generator):
            msg = f"n_tiles={n_tiles!r} draws at random; give rng=numpy.random.default_rng(seed), not {rng!r}"
            raise ValueError(msg)
    sizes = [int(one[XY].shape[0]) for one in arrays]
    draws: list[int] = sizes
    if n_tiles is not None and rng is not None and n_tiles < sum(sizes):
        draws = list(map(int, rng.multivariate_hypergeometric(sizes, n_tiles)))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in arrays[0]}
    for one, size, wanted in zip(arrays, sizes, draws, strict=True):
        runs, chosen = None, None
        if wanted < size and rng is not None:
            runs, chosen = _random_rows(size, wanted, rng)
        for name, values in parts.items():
            values.append(_read_rows(one[name], runs, chosen))
    joined = {name: np.concatenate(values) if len(values) > 1 else values[0] for name, values in parts.items()}
    return Bag(
        he=joined.get(HE),
        st=joined.get(ST),
        xy_um=joined[XY],
        slide=np.repeat(np.arange(len(slides)), draws),
        slides=slides,
    )


def _random_rows(n: int, wanted: int, rng: np.random.Generator) -> tuple[list[slice], np.ndarray]:
    """Rows of a random sample that lies in few chunks.

    A run of rows from a random place on, at the end of the slide continued at its beginning, and a random choice of
    these: every tile is as likely as every other, and the rows of a chunk are a random sample of the slide already.

    Parameters
    ----------
    n
        Number of tiles of the slide.
    wanted
        How many to draw, less than n.
    rng
        Random generator.

    Returns
    -------
    runs
        One slice of rows or two, to be read and laid end to end.
    chosen
        Positions in these, shape (wanted,).
    """
    length = min(n, CHUNK * -(-wanted // CHUNK))
    start = int(rng.integers(n)) if length < n else 0
    runs = [slice(start, min(start + length, n))]
    if start + length > n:
        runs.append(slice(0, start + length - n))
    return runs, np.sort(rng.choice(length, wanted, replace=False))


def _read_rows(array: zarr.Array | np.ndarray, runs: list[slice] | None, chosen: np.ndarray | None) -> np.ndarray:
    """Rows of an array as float32: all of them, or those that :func:`_random_rows` drew."""
    if runs is None:
        return np.array(array[...], dtype=np.float32)  # a copy: what is held in memory stays as it is
    parts = [np.asarray(array[rows]) for rows in runs]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts))[chosen].astype(np.float32)
