"""Linear heads at every strength of the penalty at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

#: Penalties that are tried, on squared weights of standardised features, per training spot; weak ones first.
PENALTIES = tuple(float(10.0**power) for power in np.arange(-2, 3.01, 0.5))


@dataclass(frozen=True)
class RidgePath:
    """Ridge regression of expression on features for any penalty (Hoerl & Kennard 1970).

    Attributes
    ----------
    mean, std
        Mean and standard deviation of the features, shape (f,).
    offset
        Mean expression, shape (g,).
    """

    mean: np.ndarray
    std: np.ndarray
    offset: np.ndarray
    _axes: np.ndarray
    _scale: np.ndarray
    _scores: np.ndarray
    _n: int

    @classmethod
    def fit(cls, features: np.ndarray, expression: np.ndarray | csr_matrix) -> RidgePath:
        """Decompose the features once; the weights for every penalty follow from their singular values.

        Parameters
        ----------
        features
            Shape (n, f), finite.
        expression
            Shape (n, g); a sparse one is never made dense.
        """
        x, y = np.asarray(features, dtype=np.float64), csr_matrix(expression)
        mean, std = x.mean(axis=0), x.std(axis=0)
        # A feature that hardly varies in training must not explode elsewhere.
        std = np.maximum(std, 1e-3 * std.max() + 1e-8)
        offset = np.asarray(y.sum(axis=0, dtype=np.float64)).ravel() / len(x)
        left, scale, axes = np.linalg.svd((x - mean) / std, full_matrices=False)
        scores = (y.T @ left).T - np.outer(left.sum(axis=0), offset)
        return cls(mean, std, offset, axes, scale, scores, len(x))

    def standardised(self, features: np.ndarray) -> np.ndarray:
        """Features (n, f) as the weights take them."""
        return (features - self.mean) / self.std

    def weights(self, penalty: float) -> np.ndarray:
        """Weights of the standardised features, shape (f, g)."""
        shrunk = self._scale / (self._scale**2 + penalty * self._n)
        return self._axes.T @ (shrunk[:, None] * self._scores)

    def predict(self, features: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Expression from features (n, f) by some weights: shape (n, g)."""
        out: np.ndarray = self.standardised(features) @ weights
        out += self.offset
        return out


class HeldOut:
    """How well any weights of a ridge path predict spots that it was not fitted on, without predicting them.

    With features Z and expression Y beyond the training mean, the squared error of weights W is
    |Y|² − 2 <ZᵀY, W> + |ZW|², and |ZW| = |RW| with R of the decomposition Z = QR: as many rows as there are features.

    Parameters
    ----------
    path
        The ridge path.
    features, expression
        Of the held-out spots, shapes (n, f) and (n, g).

    Attributes
    ----------
    total
        Squared error of the training mean.
    """

    def __init__(self, path: RidgePath, features: np.ndarray, expression: np.ndarray | csr_matrix) -> None:
        z, y = path.standardised(features), csr_matrix(expression)
        sums = np.asarray(y.sum(axis=0, dtype=np.float64)).ravel()
        squares = float(np.square(y.data, dtype=np.float64).sum())
        self.total = max(squares - 2 * float(sums @ path.offset) + len(z) * float(np.square(path.offset).sum()), 1e-12)
        self._cross = (y.T @ z).T - np.outer(z.sum(axis=0), path.offset)
        self._root = np.linalg.qr(z, mode="r") if len(z) > z.shape[1] else z

    def moments(self, weights: np.ndarray) -> tuple[float, float]:
        """<prediction, expression> and |prediction|² of some weights, both beyond the training mean, over the total."""
        along = float(np.einsum("fg,fg->", self._cross, weights))
        return along / self.total, float(np.square(self._root @ weights).sum()) / self.total
