"""A section as the comparators see it: counts and places, never labels nor the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay, cKDTree

from storm.data.spots import Spots
from storm.data.windows import make_windows

#: Genes that most comparators read, by scanpy's dispersion, and those of largest variance.
N_GENES, N_STRONGEST = 2000, 300
#: Spots within so many pitches are neighbours in a graph: the 8 around a spot of a square lattice.
_REACH = 1.5
#: Longest Delaunay edges that do not make neighbours, as a share of all.
_LONG_EDGES = 0.01


@dataclass(frozen=True, eq=False)
class CountedSection:
    """The spots of a section that have a place.

    Attributes
    ----------
    values
        Log-normalised counts of the most variable genes, shape (n, ≤ 2000), float32.
    strongest
        The same of the genes of largest variance, shape (n, ≤ 300).
    centres
        x and y of the spots, shape (n, 2).
    pitch
        Distance of neighbouring spots, in the unit of ``centres``.
    lattice
        Whether they lie on a lattice.
    """

    values: np.ndarray
    strongest: np.ndarray
    centres: np.ndarray
    pitch: float
    lattice: bool

    @classmethod
    def of(cls, spots: Spots) -> CountedSection:
        """Prepare the spots that have a place: counts normalised to 10,000 and logged, genes chosen."""
        counts, genes = spots.expression
        placed = spots.placed
        own = counts if placed.all() else counts[placed]
        adata = AnnData(own.astype(np.float32))
        adata.var_names = np.arange(len(genes)).astype(str)
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.highly_variable_genes(adata, n_top_genes=min(N_GENES, adata.n_vars))
        logged = csr_matrix(adata.X)
        variance = logged.power(2).mean(axis=0).A1 - np.square(logged.mean(axis=0).A1)
        strongest = np.sort(np.argsort(-variance)[:N_STRONGEST])
        centres = spots.centres[placed]
        windows = make_windows(centres)
        return cls(
            logged[:, np.flatnonzero(adata.var["highly_variable"])].toarray(),
            logged[:, strongest].toarray(),
            centres,
            windows.pitch,
            windows.kind != "knn",
        )

    def neighbours(self) -> csr_matrix:
        """Which spots are next to which, without themselves, bool, shape (n, n).

        On a lattice those within 1.5 pitches; for cells those of a Delaunay triangulation but for its longest 1 % of
        edges.
        """
        n = len(self.centres)
        if self.lattice:
            pairs = cKDTree(self.centres).query_pairs(_REACH * self.pitch, output_type="ndarray")
        else:
            corners = Delaunay(self.centres).simplices
            pairs = np.unique(np.sort(np.vstack([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])), axis=0)
            length = np.linalg.norm(self.centres[pairs[:, 0]] - self.centres[pairs[:, 1]], axis=1)
            pairs = pairs[length <= np.quantile(length, 1 - _LONG_EDGES)]
        rows, columns = np.vstack([pairs, pairs[:, ::-1]]).T
        return csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n))


def identity(n: int) -> csr_matrix:
    """The sparse identity, float32, shape (n, n)."""
    return csr_matrix((np.ones(n, dtype=np.float32), (np.arange(n), np.arange(n))), shape=(n, n))
