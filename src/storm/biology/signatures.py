"""One number for many genes: scores of a signature, and random signatures to compare it with."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix


def score_genes(
    values: csr_matrix | np.ndarray, genes: np.ndarray, *, n_bins: int = 25, ctrl_size: int = 50, seed: int = 0
) -> np.ndarray:
    """Mean of some genes minus the mean of others that are expressed alike, as scanpy and Seurat score them.

    Parameters
    ----------
    values
        log1p of normalised expression, shape (n, g).
    genes
        Columns of the signature, each once.
    n_bins
        Number of bins of mean expression.
    ctrl_size
        Genes of each bin of the signature that are drawn as its controls; the signature's own are taken out of them.
    seed
        Random seed of the draw; numpy's global one is left alone.

    Returns
    -------
    ndarray
        Shape (n,).

    Raises
    ------
    ValueError
        If no gene is left as a control.

    References
    ----------
    Tirosh et al., Dissecting the multicellular ecosystem of metastatic melanoma by single-cell RNA-seq, Science 2016.
    """
    columns = csc_matrix(values)
    g = columns.shape[1]
    genes = np.asarray(genes)
    # All means in double precision, so that the order of the spots does not matter.
    mean = np.ones(columns.shape[0]) @ columns / max(columns.shape[0], 1)
    per_bin = max(int(np.round(g / (n_bins - 1))), 1)
    order = np.argsort(mean, kind="stable")
    # Equal means share the lowest of their ranks.
    rank = np.empty(g, dtype=int)
    rank[order] = np.searchsorted(mean[order], mean[order]) + 1
    of_bin = rank // per_bin
    rng = np.random.default_rng(seed)
    controls = np.zeros(g, dtype=bool)
    for one in np.unique(of_bin[genes]):
        members = np.flatnonzero(of_bin == one)
        controls[members if len(members) <= ctrl_size else rng.choice(members, ctrl_size, replace=False)] = True
    controls[genes] = False
    if not controls.any():
        msg = (
            f"no gene is left as a control: the bins of mean expression hold nothing but the signature's {len(genes)} "
            f"genes; use fewer n_bins, or method='zscore'"
        )
        raise ValueError(msg)
    own, other = (columns[:, part] @ np.ones(len(part)) / len(part) for part in (genes, np.flatnonzero(controls)))
    return own - other


def zscore(values: csr_matrix | np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Mean over some genes of their standard scores; genes without spread count as 0.

    Parameters
    ----------
    values
        Expression on a log scale, shape (n, g); rows with a NaN in one of the genes use the others.
    genes
        Columns of the signature.
    """
    part = csc_matrix(values)[:, genes].toarray() if hasattr(values, "tocsc") else np.asarray(values)[:, genes]
    part = part.astype(np.float64)
    spread = np.nanstd(part, axis=0)
    scaled = (part - np.nanmean(part, axis=0)) / np.where(spread > 0, spread, 1)
    return np.nanmean(scaled, axis=1)


def random_sets(mean: np.ndarray, genes: np.ndarray, n: int, *, n_bins: int = 10, seed: int = 0) -> np.ndarray:
    """Random sets with as many genes from each bin of mean expression as a signature has.

    Parameters
    ----------
    mean
        Mean expression of each gene, shape (g,).
    genes
        Columns of the signature, each once, shape (k,).
    n
        Number of sets.
    n_bins
        Number of bins of equal size.
    seed
        Random seed.

    Returns
    -------
    ndarray
        Columns of each set, shape (n, k). The signature's own genes may be among them, as among all genes.
    """
    rank = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
    bins = np.minimum(rank * n_bins // len(mean), n_bins - 1)
    rng = np.random.default_rng(seed)
    parts = []
    for one, wanted in zip(*np.unique(bins[genes], return_counts=True), strict=True):
        members = np.flatnonzero(bins == one)
        draws = rng.random((n, len(members))).argpartition(min(wanted, len(members) - 1), axis=1)[:, :wanted]
        parts.append(members[draws])
    return np.concatenate(parts, axis=1)
