"""Encoders without a network, the baselines of the paper's ablation: variable genes as they are, and their PCA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from storm._checks import check_positive
from storm.data.genes import GeneMatch, Vocabulary, match_genes, require_shared
from storm.data.normalise import log_normalise
from storm.expression.interface import by_blocks, check_counts
from storm.expression.variable import variable_genes


class VariableGenes:
    """log1p-normalised expression of a fixed list of genes (paper, ablation: *raw HVG vector*).

    A gene of the list that a table lacks is 0; :meth:`match` tells which.

    Parameters
    ----------
    genes
        The list, in the order of the embedding; see :meth:`fit`.
    min_genes
        Fewer shared genes than this are an error.
    name
        Name for the provenance.
    """

    needs_centres = False
    kind = "genes"

    def __init__(self, genes: Sequence[str], *, min_genes: int = 1, name: str = "hvg") -> None:
        self.name = name
        self.vocabulary = Vocabulary(tuple(str(gene) for gene in genes))
        self.min_genes = min_genes

    @classmethod
    def fit(cls, counts: csr_matrix, genes: Sequence[str], *, n_top: int = 1000) -> VariableGenes:
        """The most variable genes of some spots, which may be stacked from several sections.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g).
        genes
            Name of each column, shape (g,).
        n_top
            How many; a table of fewer genes gives them all.

        Returns
        -------
        VariableGenes
        """
        check_positive(n_top, name="n_top", unit="genes")
        expression = log_normalise(check_counts(counts, genes))
        if expression.shape[1] <= n_top:
            return cls(genes)
        keep = variable_genes(expression, n_top=n_top)
        return cls([gene for gene, kept in zip(genes, keep, strict=True) if kept])

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> VariableGenes:
        """The encoder that :meth:`facts` and :meth:`state` describe."""
        return cls(vocabulary.symbols, **facts)

    def facts(self) -> dict[str, Any]:
        """What must be known to build it again, beside its genes."""
        return {"min_genes": self.min_genes, "name": self.name}

    def state(self) -> dict[str, Tensor]:
        """Its tensors: none."""
        return {}

    @property
    def dim(self) -> int:
        """Size of the embedding: the number of genes."""
        return len(self.vocabulary)

    def match(self, genes: Sequence[str]) -> GeneMatch:
        """How the table's genes meet the list."""
        return match_genes(genes, self.vocabulary)

    def encode(self, counts: csr_matrix, genes: Sequence[str], *, centres: np.ndarray | None = None) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        match = self.match(genes)
        require_shared(match, self.vocabulary, self.min_genes)
        columns = np.flatnonzero(match.index >= 0)

        def encode(block: csr_matrix) -> np.ndarray:
            out = np.zeros((block.shape[0], self.dim), dtype=np.float32)
            out[:, match.index[columns]] = block[:, columns].toarray()
            return out

        return by_blocks(counts, genes, encode, dim=self.dim)


class PCAEncoder:
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
        Fewer shared genes than this are an error.
    name
        Name for the provenance.
    """

    needs_centres = False
    kind = "pca"

    def __init__(
        self, genes: Sequence[str], mean: np.ndarray, loadings: np.ndarray, *, min_genes: int = 1, name: str = "pca"
    ) -> None:
        self.name = name
        self.vocabulary = Vocabulary(tuple(str(gene) for gene in genes))
        self.mean = np.asarray(mean, dtype=np.float32)
        self.loadings = np.asarray(loadings, dtype=np.float32)
        self.min_genes = min_genes
        if self.mean.shape != (len(self.vocabulary),) or self.loadings.shape[:1] != self.mean.shape:
            msg = f"mean {self.mean.shape} and loadings {self.loadings.shape} do not fit {len(self.vocabulary)} genes"
            raise ValueError(msg)

    @classmethod
    def fit(
        cls, counts: csr_matrix, genes: Sequence[str], *, n_components: int = 50, n_top: int | None = 2000
    ) -> PCAEncoder:
        """Components of some spots, which may be stacked from several sections.

        Parameters
        ----------
        counts
            Raw counts, shape (n, g).
        genes
            Name of each column, shape (g,).
        n_components
            Size of the embedding.
        n_top
            Most variable genes to read; ``None`` reads all.

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
        if n_top is not None and expression.shape[1] > n_top:
            keep = variable_genes(expression, n_top=n_top)
            expression, names = expression[:, np.flatnonzero(keep)], [names[i] for i in np.flatnonzero(keep)]
        n, g = expression.shape
        if not 0 < n_components < min(n, g):
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
        right = right[np.argsort(-size)]
        # The sign of a component is arbitrary: its largest loading is positive.
        sign = np.sign(right[np.arange(n_components), np.abs(right).argmax(axis=1)])
        return cls(names, mean, (right * sign[:, None]).T)

    @classmethod
    def restore(cls, facts: dict[str, Any], vocabulary: Vocabulary, state: dict[str, Tensor]) -> PCAEncoder:
        """The encoder that :meth:`facts` and :meth:`state` describe."""
        return cls(vocabulary.symbols, state["mean"].numpy(), state["loadings"].numpy(), **facts)

    def facts(self) -> dict[str, Any]:
        """What must be known to build it again, beside its genes and :meth:`state`."""
        return {"min_genes": self.min_genes, "name": self.name}

    def state(self) -> dict[str, Tensor]:
        """Its tensors."""
        return {"mean": torch.from_numpy(self.mean), "loadings": torch.from_numpy(self.loadings)}

    @property
    def dim(self) -> int:
        """Size of the embedding."""
        return self.loadings.shape[1]

    def match(self, genes: Sequence[str]) -> GeneMatch:
        """How the table's genes meet those of the loadings."""
        return match_genes(genes, self.vocabulary)

    def encode(self, counts: csr_matrix, genes: Sequence[str], *, centres: np.ndarray | None = None) -> np.ndarray:
        """Embed the spots of one section; see :class:`ExpressionEncoder`. Each spot depends on its own counts only."""
        match = self.match(genes)
        require_shared(match, self.vocabulary, self.min_genes)
        columns = np.flatnonzero(match.index >= 0)
        loadings = self.loadings[match.index[columns]]
        centre = self.mean[match.index[columns]] @ loadings
        return by_blocks(counts, genes, lambda block: block[:, columns] @ loadings - centre, dim=self.dim)
