"""Vocabulary and expression encoder of a training corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd

from storm.model.expression import FactorEncoder


@dataclass(frozen=True)
class Panel:
    """Normalised expression of one section under its own gene names.

    Attributes
    ----------
    expression
        log1p of counts per 10,000, shape (n, g).
    genes
        Symbols, shape (g,).
    """

    expression: csr_matrix
    genes: np.ndarray

    def variance(self) -> dict[str, float]:
        """Variance of each gene over the section's spots, under its upper-case symbol."""
        mean = np.asarray(self.expression.mean(axis=0)).ravel()
        square = np.asarray(self.expression.multiply(self.expression).mean(axis=0)).ravel()
        result: dict[str, float] = {}
        for gene, value in zip(self.genes, square - mean**2, strict=True):
            result.setdefault(str(gene).upper(), float(value))
        return result

    def over(self, symbols: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Expression over a vocabulary.

        Letter case is ignored: a mouse symbol matches that of its human orthologue.

        Returns
        -------
        values : ndarray
            float32, shape (n, len(symbols)); 0 for genes that were not measured.
        measured : ndarray
            Which genes were measured, bool, shape (len(symbols),).
        """
        at = {symbol.upper(): i for i, symbol in enumerate(symbols)}
        source, target = [], []
        for column, gene in enumerate(self.genes):
            position = at.pop(str(gene).upper(), None)
            if position is not None:
                source.append(column)
                target.append(position)
        values = np.zeros((self.expression.shape[0], len(symbols)), dtype=np.float32)
        values[:, target] = self.expression[:, source].toarray()
        measured = np.zeros(len(symbols), dtype=bool)
        measured[target] = True
        return values, measured


def choose_genes(groups: Sequence[tuple[Sequence[Panel], int]]) -> list[str]:
    """Choose the most variable genes of several groups of sections.

    Parameters
    ----------
    groups
        Sections of one tissue, and the number of genes that they contribute, by their summed variance.

    Returns
    -------
    list of str
        Union of the groups' genes, sorted.
    """
    chosen: set[str] = set()
    for panels, number in groups:
        total: dict[str, float] = {}
        for panel in panels:
            for gene, value in panel.variance().items():
                total[gene] = total.get(gene, 0.0) + value
        chosen.update(sorted(total, key=lambda gene: (-total[gene], gene))[:number])
    return sorted(chosen)


def fit_factors(sections: Sequence[tuple[np.ndarray, np.ndarray]], dim: int, *, seed: int = 0) -> FactorEncoder:
    """Fit the expression encoder: principal components of what varies *within* sections, each weighing the same.

    Parameters
    ----------
    sections
        Per section: log1p-normalised expression over the vocabulary (n, g), and which genes it measures (g,).
    dim
        Number of factors.
    seed
        Random seed of the decomposition.

    Returns
    -------
    FactorEncoder
    """
    n_genes = sections[0][0].shape[1]
    within, total, spots = [], np.zeros(n_genes), np.zeros(n_genes)
    for values, measured in sections:
        mean = values.mean(axis=0)
        within.append(np.where(measured, values - mean, 0) / np.sqrt(len(values) * len(sections)))
        total += values.sum(axis=0)
        spots += measured * len(values)
    # Rows are scaled so that the Gram matrix of all rows is the mean of the sections' covariances.
    rows = np.concatenate(within)
    _, singular, loadings = randomized_svd(rows, dim, n_iter=4, random_state=seed)
    variance = np.square(singular)
    encoder = FactorEncoder(n_genes, dim)
    encoder.loadings.copy_(torch.from_numpy(np.ascontiguousarray(loadings.T)))
    encoder.variance.copy_(torch.from_numpy(variance))
    encoder.noise.fill_(float((np.square(rows).sum() - variance.sum()) / max(n_genes - dim, 1)))
    encoder.mean.copy_(torch.from_numpy(total / np.maximum(spots, 1)))
    return encoder.eval()


def spread_within(sections: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean and the standard deviation within sections, each section weighing the same.

    Parameters
    ----------
    sections
        Embeddings of each section's spots, shape (n, d); rows with a NaN do not count.

    Returns
    -------
    mean, std : ndarray
        Shape (d,).
    """
    known = [values[np.isfinite(values).all(axis=1)] for values in sections]
    mean = np.mean([values.mean(axis=0) for values in known], axis=0)
    return mean, np.sqrt(np.mean([values.var(axis=0) for values in known], axis=0))
