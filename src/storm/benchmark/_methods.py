"""The methods by name: what each makes of a section, and how that is clustered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from sklearn.mixture import GaussianMixture

from storm._checks import check_choice
from storm._inference.clustering import cluster_rows
from storm._types import Modality, Readout
from storm.benchmark._components import (
    aggregated,
    hvg,
    hvg_pca,
    neighbour_augmented,
    smoothing,
    smoothing_unit,
    svg_pca,
)
from storm.benchmark._tile_views import RANDOM_TILE, TILE

if TYPE_CHECKING:
    from storm.benchmark._section import CountedSection

#: Random starts of k-means.
_STARTS = 10


def k_means(values: np.ndarray, known: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Domains as :func:`storm.tl.domains` finds them, shape (n,); -1 in rows that are not known."""
    codes, _ = cluster_rows(
        values, known, k, method="kmeans", resolution=1.0, n_neighbors=15, n_init=_STARTS, seed=seed
    )
    return codes


def mixture(values: np.ndarray, known: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Domains by a mixture of Gaussians with full covariances, shape (n,); -1 in rows that are not known."""
    codes = np.full(len(values), -1)
    codes[known] = GaussianMixture(k, random_state=seed).fit_predict(values[known].astype(np.float64))
    return codes


def _graph_attention(section: CountedSection) -> np.ndarray:
    from storm.benchmark._graph_attention import graph_attention

    return graph_attention(section)


def _graph_convolution(section: CountedSection) -> np.ndarray:
    from storm.benchmark._graph_convolution import convolved

    return convolved(section)


def _embedded_clustering(values: np.ndarray, known: np.ndarray, k: int, seed: int) -> np.ndarray:
    from storm.benchmark._graph_convolution import embedded_clustering

    return embedded_clustering(values, known, k, seed)


@dataclass(frozen=True)
class Comparator:
    """A method that is made of a section's counts and places.

    Attributes
    ----------
    represent
        What it makes of the section, shape (n, d).
    cluster
        Domains of the rows of that.
    """

    represent: Callable[[CountedSection], np.ndarray]
    cluster: Callable[[np.ndarray, np.ndarray, int, int], np.ndarray] = k_means


COMPARATORS: dict[str, Comparator] = {
    "hvg": Comparator(hvg),
    "hvg_pca": Comparator(hvg_pca),
    "svg_pca": Comparator(svg_pca),
    "smoothing": Comparator(smoothing),
    "smoothing_unit": Comparator(smoothing_unit),
    "neighbour_augmented_0.2": Comparator(partial(neighbour_augmented, weight=0.2)),
    "neighbour_augmented_0.8": Comparator(partial(neighbour_augmented, weight=0.8)),
    "aggregated": Comparator(aggregated),
    "aggregated_mixture": Comparator(aggregated, mixture),
    "graph_convolution": Comparator(_graph_convolution, _embedded_clustering),
    "graph_attention": Comparator(_graph_attention),
}


@dataclass(frozen=True)
class ReadOut:
    """A read-out of STORM.

    Attributes
    ----------
    modality
        What it sees.
    readout
        How; ``None`` for the model's own.
    window_size
        Spots of a window; ``None`` for the usual one.
    trained
        Whether the network is the model's, and not one of random weights.
    """

    modality: Modality
    readout: Readout | None
    window_size: int | None = None
    trained: bool = True


#: What the ablations see.
_MODALITIES: tuple[Modality, ...] = ("st", "he", "both")
#: STORM's read-outs: of what an object has, and ablations.
READ_OUTS: dict[str, ReadOut] = {
    "storm": ReadOut("auto", None),
    **{f"storm_{modality}": ReadOut(modality, None) for modality in _MODALITIES},
    **{
        f"storm_{modality}_{readout}": ReadOut(modality, readout)
        for modality in _MODALITIES
        for readout in get_args(Readout)
    },
    **{f"storm_{modality}_window_1": ReadOut(modality, "window", window_size=1) for modality in _MODALITIES},
    **{f"storm_{modality}_untrained": ReadOut(modality, "window", trained=False) for modality in _MODALITIES},
}
#: Tiles without STORM: of the model's tile encoder, and of one of random weights.
TILES: dict[str, str] = {"storm_tile": TILE, "storm_random_tile": RANDOM_TILE}
#: Methods that run unless others are named: without the network that has to be fitted, and ablations.
DEFAULT = ("storm", *(name for name in COMPARATORS if name not in ("hvg", "graph_attention")))


def methods(
    kind: Literal["all", "default", "storm", "comparators", "images"] = "all",
    *,
    task: Literal["domains", "expression"] = "domains",
) -> list[str]:
    """Names of the methods of a comparison.

    Parameters
    ----------
    kind
        ``"all"``; ``"default"``: those that run unless others are named; ``"storm"``: STORM's and its ablations;
        ``"comparators"``: the others; of these, ``"images"``: those that are trained on images.
    task
        ``"domains"`` or ``"expression"``: for which function.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If ``kind`` or ``task`` is something else.

    Examples
    --------
    >>> import storm
    >>> storm.benchmark.methods("comparators")[:4]
    ['hvg', 'hvg_pca', 'svg_pca', 'smoothing']
    """
    from storm.benchmark import _expression_methods as expression

    kinds: dict[str, dict[str, Sequence[str]]] = {
        "domains": {
            "all": (*READ_OUTS, *TILES, *COMPARATORS),
            "default": DEFAULT,
            "storm": (*READ_OUTS, *TILES),
            "comparators": tuple(COMPARATORS),
            "images": (),
        },
        "expression": {
            "all": expression.ALL,
            "default": expression.DEFAULT,
            "storm": tuple(expression.STORMS),
            "comparators": (*expression.PROBES, *expression.IMAGES),
            "images": tuple(expression.IMAGES),
        },
    }
    check_choice(task, kinds, name="task")
    check_choice(kind, kinds[task], name="kind")
    return list(kinds[task][kind])
