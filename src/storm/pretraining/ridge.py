"""Linear heads at every strength of the penalty at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
    def fit(cls, features: np.ndarray, expression: np.ndarray) -> RidgePath:
        """Decompose the features once; the weights for every penalty follow from their singular values.

        Parameters
        ----------
        features
            Shape (n, f), finite.
        expression
            Shape (n, g); NaN marks a gene that was not measured, which is set to its mean.
        """
        x, y = (np.asarray(values, dtype=np.float64) for values in (features, expression))
        mean, std = x.mean(axis=0), x.std(axis=0)
        # A feature that hardly varies in training must not explode elsewhere.
        std = np.maximum(std, 1e-3 * std.max() + 1e-8)
        measured = ~np.isnan(y)
        offset = np.where(measured, y, 0).sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
        left, scale, axes = np.linalg.svd((x - mean) / std, full_matrices=False)
        return cls(mean, std, offset, axes, scale, left.T @ np.where(measured, y - offset, 0), len(x))

    def weights(self, penalty: float) -> np.ndarray:
        """Weights of the standardised features, shape (f, g)."""
        shrunk = self._scale / (self._scale**2 + penalty * self._n)
        return self._axes.T @ (shrunk[:, None] * self._scores)

    def predict(self, features: np.ndarray, penalty: float, *, scale: float = 1.0) -> np.ndarray:
        """Expression from features (n, f) by weights times ``scale``: shape (n, g)."""
        return (features - self.mean) / self.std @ (scale * self.weights(penalty)) + self.offset
