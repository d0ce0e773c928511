"""Cell types of spots: non-negative least squares, support vector regression, marker scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, issparse

#: Rows that are solved at a time.
_BLOCK = 20_000
#: Rounds of exchanges, for each cell type, after which a solution is taken as it is.
_ROUNDS = 20
#: Values of ν that CIBERSORT tries.
_NU = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Mixture:
    """Cell types in n mixtures.

    Attributes
    ----------
    weights
        Contribution of each type, at least 0, shape (n, t).
    fractions
        The same, of sum 1; NaN where all weights are 0, shape (n, t).
    residual
        Euclidean distance of the mixture from what the weights explain, shape (n,).
    explained
        1 - (residual / norm of the mixture)², shape (n,); NaN for a mixture of zeros.
    """

    weights: np.ndarray
    fractions: np.ndarray
    residual: np.ndarray
    explained: np.ndarray


def nnls(signature: np.ndarray, mixtures: np.ndarray | csr_matrix) -> Mixture:
    """Non-negative least squares of many mixtures at once.

    All rows with the same types above zero are solved together, and types are exchanged between zero and above until
    the conditions of Karush, Kuhn and Tucker hold (block principal pivoting).

    Parameters
    ----------
    signature
        Expression of each gene in each type, on a linear scale, shape (g, t).
    mixtures
        Expression of the same genes, on a linear scale, shape (n, g).

    References
    ----------
    Kim and Park, Fast nonnegative matrix factorization: an active-set-like method and comparisons, SIAM J. Sci. Comput.
    2011.
    """
    signature = np.asarray(signature, dtype=np.float64)
    gram = signature.T @ signature
    n = mixtures.shape[0]
    weights, residual, norm = np.zeros((n, signature.shape[1])), np.zeros(n), np.zeros(n)
    for start in range(0, n, _BLOCK):
        part = slice(start, start + _BLOCK)
        block = mixtures[part]
        dense = csr_matrix(block).toarray() if issparse(block) else block
        values = np.asarray(dense, dtype=np.float64)
        weights[part] = _solve(gram, values @ signature)
        residual[part] = np.linalg.norm(values - weights[part] @ signature.T, axis=1)
        norm[part] = np.linalg.norm(values, axis=1)
    return _mixture(weights, residual, norm)


def nusvr(signature: np.ndarray, mixtures: np.ndarray) -> Mixture:
    """ν-support vector regression, CIBERSORT's method: linear kernel, the best of three ν, negative weights set to 0.

    It takes milliseconds a mixture: for domains as a whole rather than for spots.

    Parameters
    ----------
    signature
        Expression of each gene in each type, on a linear scale, shape (g, t).
    mixtures
        Expression of the same genes, on a linear scale, shape (n, g).

    References
    ----------
    Newman et al., Robust enumeration of cell subsets from tissue expression profiles, Nature Methods 2015.
    """
    from sklearn.svm import NuSVR

    signature = np.asarray(signature, dtype=np.float64)
    mixtures = np.asarray(mixtures, dtype=np.float64)
    scaled = (signature - signature.mean()) / (signature.std() or 1.0)
    weights = np.zeros((len(mixtures), signature.shape[1]))
    residual = np.linalg.norm(mixtures, axis=1)
    for row, mixture in enumerate(mixtures):
        if not mixture.std():
            continue
        target = (mixture - mixture.mean()) / mixture.std()
        fits = []
        for nu in _NU:
            weight = np.maximum(NuSVR(nu=nu, kernel="linear").fit(scaled, target).coef_.ravel(), 0)
            if weight.sum():
                fits.append((float(np.sqrt(((scaled @ (weight / weight.sum()) - target) ** 2).mean())), weight))
        if fits:
            share = min(fits, key=lambda fit: fit[0])[1]
            share = share / share.sum()
            # On the scale of the mixture, so that residuals are comparable with those of least squares.
            explained = signature @ share
            scale = max(float(explained @ mixture), 0.0) / float(explained @ explained)
            weights[row] = scale * share
            residual[row] = np.linalg.norm(mixture - scale * explained)
    return _mixture(weights, residual, np.linalg.norm(mixtures, axis=1))


def marker_scores(values: csr_matrix, markers: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mean expression of the markers of each type, as MCP-counter scores them: comparable within a type only.

    Parameters
    ----------
    values
        log1p of normalised expression, shape (n, g).
    markers
        Columns of each type's markers.

    Returns
    -------
    ndarray
        Shape (n, t); NaN for a type without a marker.

    References
    ----------
    Becht et al., Estimating the population abundance of tissue-infiltrating immune and stromal cell populations using
    gene expression, Genome Biology 2016.
    """
    columns = csr_matrix(values).tocsc()
    scores = np.full((values.shape[0], len(markers)), np.nan)
    for place, genes in enumerate(markers.values()):
        if len(genes):
            scores[:, place] = np.asarray(columns[:, genes].mean(axis=1), dtype=np.float64).ravel()
    return scores


def _mixture(weights: np.ndarray, residual: np.ndarray, norm: np.ndarray) -> Mixture:
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        fractions = np.where(total > 0, weights / total, np.nan)
        explained = np.where(norm > 0, 1 - (residual / norm) ** 2, np.nan)
    return Mixture(weights, fractions, residual, explained)


def _solve(gram: np.ndarray, projected: np.ndarray) -> np.ndarray:
    """Weights x >= 0 that minimise x G x / 2 - x b for every row b, shape (n, t)."""
    n, t = projected.shape
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    gram, projected = gram / np.outer(scale, scale), projected / scale
    tolerance = 1e-12 * np.maximum(abs(projected).max(axis=1, keepdims=True), np.finfo(float).tiny)
    above = np.zeros((n, t), dtype=bool)
    x, gradient = np.zeros((n, t)), -projected
    # A row gets a few tries in which all types are exchanged at once; if they do not help it, one type at a time does.
    fewest, tries = np.full(n, t + 1), np.full(n, 3)
    bits = 1 << np.arange(t, dtype=np.int64) if t <= 62 else None
    open_rows = np.arange(n)
    for _ in range(_ROUNDS * t):
        wrong = (above[open_rows] & (x[open_rows] < -tolerance[open_rows])) | (
            ~above[open_rows] & (gradient[open_rows] < -tolerance[open_rows])
        )
        still = wrong.any(axis=1)
        open_rows, wrong = open_rows[still], wrong[still]
        if not len(open_rows):
            break
        number = wrong.sum(axis=1)
        better = number < fewest[open_rows]
        fewest[open_rows] = np.where(better, number, fewest[open_rows])
        tries[open_rows] = np.where(better, 3, tries[open_rows] - 1)
        one = ~better & (tries[open_rows] < 0)
        last = t - 1 - np.argmax(wrong[:, ::-1], axis=1)
        single = np.zeros_like(wrong)
        single[np.arange(len(wrong)), last] = True
        above[open_rows] ^= np.where(one[:, None], single, wrong)
        pattern = above[open_rows]
        keys = pattern @ bits if bits is not None else np.unique(pattern, axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(keys, kind="stable")
        for rows in np.split(open_rows[order], np.flatnonzero(np.diff(keys[order])) + 1):
            used = np.flatnonzero(above[rows[0]])
            x[rows] = 0
            if len(used):
                x[np.ix_(rows, used)] = np.linalg.lstsq(
                    gram[np.ix_(used, used)], projected[np.ix_(rows, used)].T, rcond=None
                )[0].T
            gradient[rows] = x[rows] @ gram - projected[rows]
    return np.maximum(x, 0) / scale
