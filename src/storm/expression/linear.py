"""Encoders without a network, the baselines of the paper's ablation: variable genes as they are, and their PCA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from storm._checks import check_whole
from storm.data.components import with_signs
from storm.data.genes import Vocabulary
from storm.data.normalise import log_normalise
from storm.expression.interface import by_blocks, check_counts
from storm.expression.known_genes import KnownGenes
from storm.expression.variable import variable_genes


class VariableGenes(KnownGenes):
    """log1p-normalised expression of a fixed list of genes (paper, ablation: *raw HVG vector*).

    A gene of the list that a table lacks is 0; see :meth:`match`.

    Parameters
    ----------
    genes
        The list, in the order of the embedding; see :meth:`fit`.
    min_genes
        Smallest number of genes that a table has to share with the encoder.
    name
        Name of the encoder in the provenance.
    """

    needs_centres = False
    kind = "genes"

    def __init__(self, genes: Sequence[str] | np.ndarray, *, min_genes: int = 1, name: str = "hvg") -> None:
        super().__init__(Vocabulary(tuple(str(gene) for gene in genes)), min_genes=min_genes, name=name)

    @classmethod
    def fit(cls, counts: csr_matrix, genes: Sequence[str] | np.ndarray, *, n_top: int = 1000) -> VariableGenes:
        """The most variable genes of some spots, which may be stacked from several sections.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g).
        genes
            Name of each column, shape (g,).
        n_top
            Number of genes; all genes of a smaller table.

        Returns
        -------
        VariableGenes
        """
        check_whole(n_top, name="n_top")
        expression = log_normalise(check_counts(counts, genes))
        if expression.shape[1] <= n_top:
            return cls(genes)
        keep = variable_genes(expression, n_top=n_top)
        return cls([gene for gene, kept in zip(genes, keep, strict=True) if kept])

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> VariableGenes:
        """Build the encoder from what :meth:`facts` and :meth:`state` returned."""
        return cls(vocabulary.symbols, min_genes=facts["min_genes"], name=facts["name"])

    def facts(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the genes, for JSON."""
        return {"min_genes": self.min_genes, "name": self.name}

    def state(self) -> dict[str, Tensor]:
        """Tensors by name: none."""
        return {}

    @property
    def dim(self) -> int:
        """Length of the embedding: the number of genes."""
        return len(self.vocabulary)

    def encode(
        self, counts: csr_matrix, genes: Sequence[str] | np.ndarray, *, centres: np.ndarray | None = None
    ) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        columns, places = self.shared(genes)

        def encode(block: csr_matrix) -> np.ndarray:
            out = np.zeros((block.shape[0], self.dim), dtype=np.float32)
            out[:, places] = block[:, columns].toarray()
            return out

        return by_blocks(counts, genes, encode, dim=self.dim)


class PCAEncoder(KnownGenes):
    """Principal components of log1p-normalised expression, fitted once.

    A gene that a table lacks counts as being at its training mean.

    Parameters
    ----------
    genes
        Genes of the loadings.
    mean
        Training mean of each gene, shape (g,).
    loadings
        Shape (g, d), orthonormal columns.
    min_genes
        Smallest number of genes that a table has to share with the encoder.
    name
        Name of the encoder in the provenance.
    """

    needs_centres = False
    kind = "pca"

    def __init__(
        self,
        genes: Sequence[str] | np.ndarray,
        mean: np.ndarray,
        loadings: np.ndarray,
        *,
        min_genes: int = 1,
        name: str = "pca",
    ) -> None:
        super().__init__(Vocabulary(tuple(str(gene) for gene in genes)), min_genes=min_genes, name=name)
        self.mean = np.asarray(mean, dtype=np.float32)
        self.loadings = np.asarray(loadings, dtype=np.float32)
        if self.mean.shape != (len(self.vocabulary),) or self.loadings.shape[:1] != self.mean.shape:
            msg = f"mean {self.mean.shape} and loadings {self.loadings.shape} do not fit {len(self.vocabulary)} genes"
            raise ValueError(msg)

    @classmethod
    def fit(
        cls, counts: csr_matrix, genes: Sequence[str] | np.ndarray, *, n_components: int = 50, n_top: int | None = 2000
    ) -> PCAEncoder:
        """Components of some spots, which may be stacked from several sections.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g).
        genes
            Name of each column, shape (g,).
        n_components
            Length of the embedding.
        n_top
            Number of the most variable genes that are read; ``None`` reads all genes.

        Returns
        -------
        PCAEncoder

        Raises
        ------
        ValueError
            If there are not more spots and genes than components.
        """
        counts = check_counts(counts, genes)
        expression = log_normalise(counts)[np.asarray(counts.sum(axis=1)).ravel() > 0]
        names = [str(gene) for gene in genes]
        if n_top is not None and expression.shape[1] > check_whole(n_top, name="n_top"):
            keep = variable_genes(expression, n_top=n_top)
            expression, names = expression[:, np.flatnonzero(keep)], [names[i] for i in np.flatnonzero(keep)]
        n, g = expression.shape
        if check_whole(n_components, name="n_components") >= min(n, g):
            msg = f"n_components={n_components} must lie between 1 and {min(n, g) - 1}: there are {n} spots, {g} genes"
            raise ValueError(msg)
        expression = expression.astype(np.float64)
        mean = np.asarray(expression.mean(axis=0)).ravel()
        # The centred matrix is never made.
        centred = LinearOperator(
            (n, g),
            matvec=lambda v: expression @ v.ravel() - mean @ v.ravel(),
            rmatvec=lambda v: expression.T @ v.ravel() - mean * v.sum(),
            matmat=lambda v: expression @ v - mean @ v,
            rmatmat=lambda v: expression.T @ v - np.outer(mean, v.sum(axis=0)),
            dtype=np.float64,
        )
        start = np.random.default_rng(0).normal(size=min(n, g))
        _, size, right = svds(centred, k=n_components, v0=start)
        return cls(names, mean, with_signs(right[np.argsort(-size)].T))

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> PCAEncoder:
        """Build the encoder from what :meth:`facts` and :meth:`state` returned."""
        return cls(
            vocabulary.symbols,
            state["mean"].numpy(),
            state["loadings"].numpy(),
            min_genes=facts["min_genes"],
            name=facts["name"],
        )

    def facts(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the genes and :meth:`state`, for JSON."""
        return {"min_genes": self.min_genes, "name": self.name}

    def state(self) -> dict[str, Tensor]:
        """Tensors by name."""
        return {"mean": torch.from_numpy(self.mean), "loadings": torch.from_numpy(self.loadings)}

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.loadings.shape[1]

    def encode(
        self, counts: csr_matrix, genes: Sequence[str] | np.ndarray, *, centres: np.ndarray | None = None
    ) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        columns, places = self.shared(genes)
        loadings = self.loadings[places]
        centre = self.mean[places] @ loadings
        return by_blocks(counts, genes, lambda block: block[:, columns] @ loadings - centre, dim=self.dim)
