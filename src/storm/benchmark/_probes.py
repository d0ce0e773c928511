"""Expression from the features of tiles by what needs no network: means, neighbours, ridge regression, STORM's head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from storm.pretraining.head import HeadConfig, apply_head, fit_head
from storm.pretraining.head_sections import HeadSection, choose_recipe

if TYPE_CHECKING:
    import torch

    from storm.encoders import EncoderInfo

#: Components of HEST's probe.
_COMPONENTS = 256
#: Penalty of the ridge regression, per spot on standardised features.
_PENALTY = 31.6
#: Neighbours whose expression is averaged.
_NEIGHBOURS = 50


@dataclass(frozen=True, eq=False)
class Part:
    """A section as a method for expression sees it.

    Attributes
    ----------
    x
        Features, shape (n, d), or patches, uint8, shape (n, px, px, 3).
    y
        log1p-normalised expression, shape (n, g), of a section to train on; of one to predict there is none.
    steps
        Column and row of each spot in units of their pitch, from 0, int, shape (n, 2).
    section
        Places of these spots, and, of a section to train on, their counts.
    patient
        Whose section it is; ``None`` if nobody said.
    """

    x: np.ndarray
    y: np.ndarray | None
    steps: np.ndarray
    section: HeadSection
    patient: str | None

    @property
    def expression(self) -> np.ndarray:
        """``y`` of a section to train on."""
        assert self.y is not None
        return self.y


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a method is trained.

    Attributes
    ----------
    seed
        Of everything random.
    device
        Where networks are trained.
    epochs
        Passes over the training spots; ``None`` for the method's own number.
    backbone
        Network that reads patches, and is trained with the rest.
    """

    seed: int
    device: torch.device
    epochs: int | None = None
    backbone: EncoderInfo | None = None


def pooled(train: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Features and expression of all training spots, shapes (n, …) and (n, g)."""
    return np.concatenate([part.x for part in train]), np.concatenate([part.expression for part in train])


def scaled(train: Sequence[Part], test: Sequence[Part]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Features standardised by those of the training spots, the training expression, and the features to predict."""
    x, y = pooled(train)
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), y, [scaler.transform(part.x) for part in test]


def mean(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """Mean of the training spots: within a section it has no r, only an error to beat."""
    offset = np.concatenate([part.expression for part in train]).mean(axis=0)
    return [np.tile(offset, (len(part.x), 1)) for part in test]


def ridge(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """Ridge regression with a penalty of 31.6 per spot on standardised features."""
    x, y, new = scaled(train, test)
    fitted = Ridge(alpha=_PENALTY * len(x)).fit(x, y)
    return [fitted.predict(one) for one in new]


def hest(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """HEST's probe: standardised features, 256 principal components, ridge regression with 100 / (components · genes).

    As there without intercept; the target there is log1p of counts, here that of all methods, centred.

    References
    ----------
    Jaume et al., HEST-1k: a dataset for spatial transcriptomics and histology image analysis, NeurIPS 2024.
    """
    x, y, new = scaled(train, test)
    pca = PCA(min(_COMPONENTS, *x.shape), random_state=how.seed).fit(x)
    z, offset = pca.transform(x), y.mean(axis=0)
    penalty = 100 / (z.shape[1] * y.shape[1])
    fitted = Ridge(alpha=penalty, fit_intercept=False, solver="lsqr").fit(z, y - offset)
    return [fitted.predict(pca.transform(one)) + offset for one in new]


def neighbours(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """Mean expression of the 50 training spots with the nearest standardised features."""
    x, y, new = scaled(train, test)
    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(x))).fit(x)
    return [y[near.kneighbors(one, return_distance=False)].mean(axis=1) for one in new]


def head(train: Sequence[Part], test: Sequence[Part], how: Training) -> list[np.ndarray]:
    """STORM's expression head, chosen and trained as :func:`storm.tl.fit_expression` does."""
    return head_and_reliability(train, test, HeadConfig(seed=how.seed))[0]


def training_reliability(train: Sequence[Part]) -> np.ndarray:
    """Correlation of each gene on spots held out of *training*, by ridge regression, shape (g,): what ranks genes."""
    return head_and_reliability(train, [], HeadConfig(epochs=0))[1]


def head_and_reliability(
    train: Sequence[Part], test: Sequence[Part], config: HeadConfig
) -> tuple[list[np.ndarray], np.ndarray]:
    """Predictions of a head, and the correlation of each gene on spots held out while it was chosen, shape (g,)."""
    patients = [part.patient for part in train]
    recipe = choose_recipe(
        [part.section for part in train],
        [csr_matrix(part.expression) for part in train],
        config,
        groups=None if None in patients else [str(name) for name in patients],
    )
    if not test:
        return [], recipe.reliability
    fitted = fit_head(*pooled(train), recipe.config)
    return [apply_head(fitted, part.x) for part in test], recipe.reliability
