"""Principal axes of log1p-normalised expression, of one section or of several that are read one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix

from storm._checks import check_choice, check_whole
from storm._types import Over
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
    return _median(_totals_of(counts, rows) for counts, rows in sections)


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
    return fit_axes_over(
        over_counts(sections),
        target_sum=target_sum,
        n_genes=n_genes,
        n_components=n_components,
        centre=centre,
        max_rows=max_rows,
    )


def over_counts(sections: Iterable[tuple[csr_matrix, np.ndarray]]) -> Over:
    """Sums over sections, read one after the other; see :func:`fit_axes_over`."""

    def over(function: Callable[..., Any], *each: Sequence[Any], **shared: Any) -> list[Any]:
        return [
            function(counts, rows, *(values[k] for values in each), **shared)
            for k, (counts, rows) in enumerate(sections)
        ]

    return over


def fit_axes_over(
    over: Over,
    *,
    target_sum: float | None = None,
    n_genes: int = N_GENES,
    n_components: int = N_COMPONENTS,
    centre: Literal["each", "together"] = "each",
    max_rows: int = _MAX_ROWS,
) -> ExpressionAxes:
    """:func:`fit_axes` of sections that lie anywhere: only sums of theirs come here.

    Parameters
    ----------
    over
        ``over(function, *each, **shared)`` returns ``function(counts, rows, *own, **shared)`` of each section, where
        ``own`` are the section's entries of ``each``.
    target_sum, n_genes, n_components, centre, max_rows
        As in :func:`fit_axes`.
    """
    check_choice(centre, ("each", "together"), name="centre")
    check_whole(n_genes, name="n_genes")
    check_whole(n_components, name="n_components")
    target = _median(over(_totals_of)) if target_sum is None else float(target_sum)
    counted, means, variances = zip(*over(_gene_moments, target=target, max_rows=max_rows), strict=True)
    # An empty section says nothing about which genes vary.
    some = [variance for variance, n in zip(variances, counted, strict=True) if n] or variances
    genes = np.sort(np.argsort(-np.mean(some, axis=0), kind="stable")[:n_genes])
    section_means = np.stack(means)[:, genes]
    mean = np.average(section_means, axis=0, weights=np.maximum(counted, 1e-9))
    around = section_means if centre == "each" else np.broadcast_to(mean, section_means.shape)
    products = np.sum(over(_products, list(around), genes=genes, target=target, max_rows=max_rows), axis=0)
    _, axes = np.linalg.eigh(products)
    loadings = with_signs(axes[:, ::-1][:, :n_components])
    return ExpressionAxes(genes, mean, section_means, loadings, target, centre)


def _totals_of(counts: csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Counts of the spots that have any, shape (≤ rows,)."""
    totals = _totals(counts)[rows]
    return totals[totals > 0]


def _median(totals: Iterable[np.ndarray]) -> float:
    whole = np.concatenate([np.empty(0), *totals])
    return float(np.median(whole)) if len(whole) else 1.0


def _gene_moments(
    counts: csr_matrix, rows: np.ndarray, *, target: float, max_rows: int
) -> tuple[int, np.ndarray, np.ndarray]:
    """Number of spots, and mean and variance of each gene over them."""
    sample = _sample(counts, rows, max_rows)
    n, total, square = max(len(sample), 1), np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    for part in _blocks(sample):
        block = log_normalise(counts[part], target_sum=target).astype(np.float64)
        total += np.asarray(block.sum(axis=0)).ravel()
        square += np.asarray(block.multiply(block).sum(axis=0)).ravel()
    return len(sample), total / n, square / n - np.square(total / n)


def _products(
    counts: csr_matrix, rows: np.ndarray, around: np.ndarray, *, genes: np.ndarray, target: float, max_rows: int
) -> np.ndarray:
    """Sums of products of some genes around a point, shape (g, g)."""
    products = np.zeros((len(genes), len(genes)))
    for part in _blocks(_sample(counts, rows, max_rows)):
        block = log_normalise(counts[part], target_sum=target)[:, genes].toarray() - around
        products += block.T @ block
    return products


def _sample(counts: csr_matrix, rows: np.ndarray, max_rows: int) -> np.ndarray:
    rows = rows[_totals(counts)[rows] > 0]  # zeros may be stored
    return rows[:: max(1, -(-len(rows) // max_rows))]


def _totals(counts: csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel()


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))
