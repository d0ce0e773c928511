"""What is taken for a technical difference between the sections of a study, and removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storm._checks import check_extra
from storm.data.batch import Anchors, find_anchors
from storm.data.components import finite_rows


@dataclass(frozen=True)
class Alignment:
    """How sections were made comparable.

    Attributes
    ----------
    parts
        Per section the scores that were to be aligned, and are, float32, shape (n, p).
    anchors
        Pairs of alike spots by which other values of the same spots are shifted; ``None`` where the mean of a section
        is what is subtracted, or nothing.
    by_mean
        Whether other values of the spots are centred per section.
    """

    parts: list[np.ndarray]
    anchors: Anchors | None = None
    by_mean: bool = False

    @property
    def paired_rows(self) -> list[np.ndarray]:
        """Per section the rows of which values are needed to find their shift, ascending."""
        rows: list[list[np.ndarray]] = [[] for _ in self.parts]
        for (i, j), pairs in ({} if self.anchors is None else self.anchors.pairs).items():
            rows[i].append(pairs[0])
            rows[j].append(pairs[1])
        return [np.unique(np.concatenate(own)) if own else np.empty(0, dtype=np.int64) for own in rows]

    def shifts(self, means: np.ndarray, paired: Sequence[np.ndarray]) -> np.ndarray:
        """What to subtract from other values of the spots of each section.

        Parameters
        ----------
        means
            Mean of the values of each section, shape (sections, d).
        paired
            Per section the values of ``paired_rows``, shape (rows, d).

        Returns
        -------
        ndarray
            Shape (sections, d).
        """
        if self.anchors is None:
            return means if self.by_mean else np.zeros_like(means)
        at = [{int(row): k for k, row in enumerate(rows)} for rows in self.paired_rows]
        pairs = {
            (i, j): np.stack([[at[i][int(row)] for row in rows[0]], [at[j][int(row)] for row in rows[1]]]).astype(int)
            for (i, j), rows in self.anchors.pairs.items()
        }
        return Anchors(self.anchors.n_sections, pairs).shifts(paired)


def align(parts: Sequence[np.ndarray], *, batch: str, seed: int = 0) -> Alignment:
    """Make scores of sections on common axes comparable.

    Parameters
    ----------
    parts
        Per section, float32, shape (n, p); a row of NaN is not known.
    batch
        ``"none"``, ``"center"``, ``"anchors"`` or ``"harmony"``; see :func:`storm.tl.embed`.
    seed
        Random seed of ``"harmony"``.

    Returns
    -------
    Alignment

    Raises
    ------
    ImportError
        If ``"harmony"`` is asked for and harmony-pytorch is not installed.
    """
    if batch == "none":
        return Alignment(list(parts))
    if batch == "anchors":
        anchors = find_anchors(parts)
        shifts = anchors.shifts(parts)
        return Alignment([part - shift.astype(np.float32) for part, shift in zip(parts, shifts, strict=True)], anchors)
    if batch == "center":
        return Alignment([part - _mean(part) for part in parts], by_mean=True)
    return Alignment(_harmonised(parts, seed=seed), by_mean=True)


def _mean(part: np.ndarray) -> np.ndarray:
    known = part[finite_rows(part)]
    return known.mean(axis=0) if len(known) else np.zeros(part.shape[1], dtype=np.float32)


def _harmonised(parts: Sequence[np.ndarray], *, seed: int) -> list[np.ndarray]:
    """Scores after Harmony (Korsunsky et al. 2019, Nature Methods 16, 1289)."""
    check_extra("harmony", extra="harmony", purpose="batch='harmony'")
    import pandas as pd
    from harmony import harmonize

    known = [finite_rows(part) for part in parts]
    rows = np.concatenate([part[own] for part, own in zip(parts, known, strict=True)])
    section = np.repeat([str(k) for k in range(len(parts))], [int(own.sum()) for own in known])
    # On one thread: its k-means over few columns is slower on several.
    corrected = harmonize(
        rows.astype(np.float64),
        pd.DataFrame({"section": section}),
        "section",
        random_state=seed,
        n_jobs=1,
        verbose=False,
    )
    out, start = [], 0
    for part, own in zip(parts, known, strict=True):
        whole = np.full(part.shape, np.nan, dtype=np.float32)
        whole[own] = corrected[start : start + own.sum()]
        start += int(own.sum())
        out.append(whole)
    return out
