"""What differs between sections for technical reasons: one shift per section, from pairs of spots that are alike.

Stain, depth and day shift all spots of a section alike, and so does what a section is made of: a section of tumour
only has another mean than one that holds its margin too. Subtracting each section's mean removes both. Spots that are
mutual nearest neighbours between two sections are of one kind, so that what differs between them is the technical shift
alone (Haghverdi et al. 2018), whatever else the sections hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from storm._checks import check_whole

#: Neighbours in the other section among which a spot must be, in both directions; Haghverdi et al. 2018.
N_NEIGHBOURS = 20
#: Spots of a section, and of all of them together, that pairs are looked for among; more of them change little.
_SECTION_ROWS, _STUDY_ROWS = 2000, 20_000
#: Pairs further apart than so many times the nearest quarter of them are of two kinds, one of which a section lacks.
_FAR = 2.0
#: Times that sections are shifted and pairs looked for again.
_MAX_ROUNDS = 30


@dataclass(frozen=True)
class Anchors:
    """Pairs of spots of two sections each that are mutual nearest neighbours.

    Attributes
    ----------
    n_sections
        Number of sections.
    pairs
        Of two sections, the later one first, the rows of the pairs in each of them, shape (2, pairs).
    """

    n_sections: int
    pairs: dict[tuple[int, int], np.ndarray]

    @property
    def counts(self) -> np.ndarray:
        """Pairs of each two sections, shape (sections, sections), symmetrical."""
        counts = np.zeros((self.n_sections, self.n_sections), dtype=np.int64)
        for (i, j), rows in self.pairs.items():
            counts[i, j] = counts[j, i] = rows.shape[1]
        return counts

    def shifts(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """What to subtract from each section so that the spots of a pair agree best.

        The shifts minimise the sum over all pairs of the squared difference, and sum to zero over sections that are
        linked by pairs; a section without any pair is not shifted.

        Parameters
        ----------
        parts
            Any values of the spots, the same in all sections, each of shape (n_i, d). Pairs with a NaN do not count.

        Returns
        -------
        ndarray
            Float64, shape (sections, d).
        """
        n = self.n_sections
        laplacian, difference = np.zeros((n, n)), np.zeros((n, parts[0].shape[1]))
        for (i, j), rows in self.pairs.items():
            apart = parts[i][rows[0]].astype(np.float64) - parts[j][rows[1]]
            apart = apart[np.isfinite(apart).all(axis=1)]
            laplacian[[i, j], [i, j]] += len(apart)
            laplacian[[i, j], [j, i]] -= len(apart)
            difference[i] += apart.sum(axis=0)
            difference[j] -= apart.sum(axis=0)
        return np.linalg.pinv(laplacian, hermitian=True) @ difference


def find_anchors(sections: Sequence[np.ndarray], *, n_neighbours: int = N_NEIGHBOURS) -> Anchors:
    """Pairs of spots that are mutual nearest neighbours between sections that are shifted to meet.

    Sections that lie apart have few mutual neighbours, those on the sides that face each other: they are shifted by
    what these pairs say, and pairs are looked for again, for as long as there are more of them. Going on after that
    would fit the noise.

    Parameters
    ----------
    sections
        Scores of the spots on common axes, each of shape (n_i, d); a row of NaN takes no part. Of a large section
        some rows are used, evenly spaced in the order of their values, so that the order of rows changes nothing.
    n_neighbours
        Spots are a pair if each is among so many nearest of the other's section.

    Returns
    -------
    Anchors

    References
    ----------
    Haghverdi, Lun, Morgan & Marioni, Batch effects in single-cell RNA-sequencing data are corrected by matching mutual
    nearest neighbors, Nature Biotechnology 36, 421 (2018).
    """
    check_whole(n_neighbours, name="n_neighbours")
    limit = max(n_neighbours + 1, min(_SECTION_ROWS, _STUDY_ROWS // max(len(sections), 1)))
    rows = [_sample(values, limit) for values in sections]
    some = [values[kept].astype(np.float64) for values, kept in zip(sections, rows, strict=True)]
    best, most = Anchors(len(some), {}), 0
    shifts = np.zeros((len(some), some[0].shape[1]))
    for _ in range(_MAX_ROUNDS):
        shifted = [values - shift for values, shift in zip(some, shifts, strict=True)]
        pairs = {
            (i, j): _mutual(shifted[i], shifted[j], n_neighbours)
            for i in range(len(some))
            for j in range(i)
            if len(some[i]) and len(some[j])
        }
        found = sum(pair.shape[1] for pair in pairs.values())
        if found <= most:
            break
        best, most = Anchors(len(some), pairs), found
        shifts = best.shifts(some)
    whole = {(i, j): np.stack([rows[i][pair[0]], rows[j][pair[1]]]) for (i, j), pair in best.pairs.items()}
    return Anchors(len(some), whole)


def _sample(values: np.ndarray, limit: int) -> np.ndarray:
    known = np.flatnonzero(np.isfinite(values).all(axis=1))
    order = known[np.lexsort(values[known].T[::-1])]
    return order[np.linspace(0, len(order) - 1, min(limit, len(order))).round().astype(int)]


def _mutual(left: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Rows of mutual nearest neighbours, shape (2, pairs)."""
    distance = np.square(left).sum(axis=1)[:, None] - 2 * left @ right.T + np.square(right).sum(axis=1)
    pairs = np.stack(np.nonzero(_nearest(distance, k) & _nearest(distance.T, k).T))
    apart = np.sqrt(np.maximum(distance[pairs[0], pairs[1]], 0))
    return pairs[:, apart <= _FAR * np.quantile(apart, 0.25)] if len(apart) else pairs


def _nearest(distance: np.ndarray, k: int) -> np.ndarray:
    """Whether each column is among a row's k smallest, bool, shape of the distances."""
    k = min(k, distance.shape[1])
    return distance <= np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
