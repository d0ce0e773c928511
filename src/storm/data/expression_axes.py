"""Principal axes of log1p-normalised expression, of one section or of several that are read one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from storm._checks import check_choice, check_whole
from storm.data.components import with_signs
from storm.data.normalise import log_normalise

#: Most variable genes that the axes are of, and number of axes.
N_GENES, N_COMPONENTS = 300, 30
#: Spots of a section on which genes are chosen and axes fitted; more of them change little.
_MAX_ROWS = 50_000
#: Spots whose normalised counts are held at once.
_BLOCK = 8192


@dataclass(frozen=True)
class ExpressionAxes:
    """Principal axes, and what is needed to find a spot's place on them.

    Attributes
    ----------
    genes
        Columns of the counts that the axes are of, ascending, shape (g,).
    mean
        Mean of these genes over the spots of all sections, shape (g,).
    section_means
        Mean of each section, shape (sections, g).
    loadings
        Orthonormal axes, shape (g, p); the largest loading of each is positive.
    target_sum
        Counts of a spot after normalisation, before log1p.
    centre
        ``"each"``: scores are around the mean of their own section. ``"together"``: around the mean of all.
    """

    genes: np.ndarray
    mean: np.ndarray
    section_means: np.ndarray
    loadings: np.ndarray
    target_sum: float
    centre: Literal["each", "together"]

    def scores(self, counts: csr_matrix, *, section: int = 0) -> np.ndarray:
        """Places of spots on the axes.

        Parameters
        ----------
        counts
            Raw counts with the columns of the fit, shape (n, all genes).
        section
            Which of the sections of the fit they belong to; it matters with ``centre="each"`` only.

        Returns
        -------
        ndarray
            Float32, shape (n, p); NaN for a spot without counts.
        """
        mean = self.section_means[section] if self.centre == "each" else self.mean
        scores = np.empty((counts.shape[0], self.loadings.shape[1]), dtype=np.float32)
        for rows in _blocks(np.arange(counts.shape[0])):
            block = counts[rows]
            scores[rows] = log_normalise(block, target_sum=self.target_sum)[:, self.genes] @ self.loadings
            scores[rows] -= mean @ self.loadings
            scores[rows[_totals(block) == 0]] = np.nan
        return scores


def median_counts(sections: Iterable[tuple[csr_matrix, np.ndarray]]) -> float:
    """Median counts of the spots that have any, of all sections together; 1 where none has.

    Parameters
    ----------
    sections
        As in :func:`fit_axes`.
    """
    totals = np.concatenate([np.empty(0), *(_totals(counts)[rows] for counts, rows in sections)])
    totals = totals[totals > 0]
    return float(np.median(totals)) if len(totals) else 1.0


def fit_axes(
    sections: Iterable[tuple[csr_matrix, np.ndarray]],
    *,
    target_sum: float | None = None,
    n_genes: int = N_GENES,
    n_components: int = N_COMPONENTS,
    centre: Literal["each", "together"] = "each",
    max_rows: int = _MAX_ROWS,
) -> ExpressionAxes:
    """Principal axes of the most variable genes of some sections.

    The sections are gone through two times, three without a ``target_sum``; nothing of a section is kept but sums.
    The order of the rows changes nothing beyond rounding if it is a spatial one.

    Parameters
    ----------
    sections
        Of each section the raw counts, shape (n, all genes), with the same columns in all; and the rows that belong to
        it, in spatial order (:func:`~storm.data.order.spatial_order`), shape (m,). Rows without counts take no part.
        It is iterated over several times: a list, or an object whose ``__iter__`` reads one section after the other.
    target_sum
        Counts of a spot after normalisation; by default :func:`median_counts`.
    n_genes
        Genes with the largest variance within a section, in the mean over the sections; at most all.
    n_components
        Number of axes, at most that of genes.
    centre
        ``"each"``: the axes of what varies within sections, so that a shift between two of them is no axis.
        ``"together"``: the axes of all spots around their common mean.
    max_rows
        Of a section with more spots, every k-th takes part.

    Returns
    -------
    ExpressionAxes
    """
    check_choice(centre, ("each", "together"), name="centre")
    check_whole(n_genes, name="n_genes")
    check_whole(n_components, name="n_components")
    target = median_counts(sections) if target_sum is None else float(target_sum)
    counted, means, variances = [], [], []
    for counts, rows in sections:
        sample = _sample(counts, rows, max_rows)
        n, total, square = max(len(sample), 1), np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
        for part in _blocks(sample):
            block = log_normalise(counts[part], target_sum=target).astype(np.float64)
            total += np.asarray(block.sum(axis=0)).ravel()
            square += np.asarray(block.multiply(block).sum(axis=0)).ravel()
        counted.append(len(sample))
        means.append(total / n)
        variances.append(square / n - np.square(total / n))
    # An empty section says nothing about which genes vary.
    some = [variance for variance, n in zip(variances, counted, strict=True) if n] or variances
    genes = np.sort(np.argsort(-np.mean(some, axis=0), kind="stable")[:n_genes])
    section_means = np.stack(means)[:, genes]
    mean = np.average(section_means, axis=0, weights=np.maximum(counted, 1e-9))
    products = np.zeros((len(genes), len(genes)))
    for i, (counts, rows) in enumerate(sections):
        for part in _blocks(_sample(counts, rows, max_rows)):
            block = log_normalise(counts[part], target_sum=target)[:, genes].toarray()
            block = block - (section_means[i] if centre == "each" else mean)
            products += block.T @ block
    _, axes = np.linalg.eigh(products)
    loadings = with_signs(axes[:, ::-1][:, :n_components])
    return ExpressionAxes(genes, mean, section_means, loadings, target, centre)


def _sample(counts: csr_matrix, rows: np.ndarray, max_rows: int) -> np.ndarray:
    rows = rows[_totals(counts)[rows] > 0]  # zeros may be stored
    return rows[:: max(1, -(-len(rows) // max_rows))]


def _totals(counts: csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel()


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
