"""Highly variable genes: normalised dispersion within bins of mean expression (Satija et al. 2015)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

#: Number of bins of the mean within which dispersions are compared.
_BINS = 20
#: Smallest mean of a variable gene: scanpy's default.
_MIN_MEAN = 0.0125
#: Largest mean of a variable gene: scanpy's default.
_MAX_MEAN = 3.0
#: Smallest normalised dispersion of a variable gene: scanpy's default.
_MIN_DISPERSION = 0.5
#: Novae keeps every gene of a panel of up to this size, …
_SMALL_PANEL = 100
#: … and at least half of the genes where fewer than this many are variable.
_ENOUGH = 500


def normalised_dispersion(expression: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and normalised dispersion of each gene.

    Parameters
    ----------
    expression
        log1p-normalised expression, shape (n, g).

    Returns
    -------
    mean : ndarray
        log1p of the mean, shape (g,).
    dispersion : ndarray
        log dispersion, standardised within twenty bins of the mean, shape (g,); NaN for a gene without variance.
    """
    linear = csr_matrix(expression, dtype=np.float64, copy=True)
    linear.data = np.expm1(linear.data)
    n = linear.shape[0]
    mean = np.asarray(linear.mean(axis=0)).ravel()
    square = np.asarray(linear.multiply(linear).mean(axis=0)).ravel()
    variance = (square - mean**2) * (n / max(n - 1, 1))
    ratio = variance / np.where(mean == 0, 1e-12, mean)
    dispersion = np.log(ratio, out=np.full_like(ratio, np.nan), where=ratio > 0)
    mean = np.log1p(mean)
    low, high = mean.min(), mean.max()
    inner = low + (high - low) * np.arange(1, _BINS) / _BINS
    bins = np.searchsorted(inner, mean, side="left")
    out = np.full_like(dispersion, np.nan)
    for k in np.unique(bins):
        members = np.flatnonzero((bins == k) & np.isfinite(dispersion))
        if len(members) == 1:
            out[members] = 1.0
        elif len(members) > 1:
            values = dispersion[members]
            spread = values.std(ddof=1)
            out[members] = (values - values.mean()) / spread if spread > 0 else np.nan
    return mean, out


def variable_genes(expression: csr_matrix, *, n_top: int | None = None) -> np.ndarray:
    """Genes that vary more than others of similar expression.

    Parameters
    ----------
    expression
        log1p-normalised expression, shape (n, g).
    n_top
        Number of genes. ``None`` selects those with a normalised dispersion above 0.5 and a mean between 0.0125 and 3,
        the rule of scanpy and Novae.

    Returns
    -------
    ndarray
        bool, shape (g,).
    """
    mean, dispersion = normalised_dispersion(expression)
    if n_top is None:
        return (mean > _MIN_MEAN) & (mean < _MAX_MEAN) & (np.nan_to_num(dispersion) > _MIN_DISPERSION)
    known = np.sort(dispersion[np.isfinite(dispersion)])[::-1]
    if not len(known):
        return np.zeros(len(mean), dtype=bool)
    return np.nan_to_num(dispersion, nan=-np.inf) >= known[min(n_top, len(known)) - 1]


def novae_genes(expression: csr_matrix) -> np.ndarray:
    """Genes of a table that Novae keeps before it consults its vocabulary, bool, shape (g,)."""
    g = expression.shape[1]
    if g <= _SMALL_PANEL:
        return np.ones(g, dtype=bool)
    keep = variable_genes(expression)
    if keep.sum() < _ENOUGH and keep.sum() < g // 2:
        keep = variable_genes(expression, n_top=g // 2)
    return keep
