"""Rows of an embedding into clusters: the methods of :func:`storm.tl.domains`, and what large sections need."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from storm.biology.stability import Stability, agreement, mean_agreement, repeated_runs, stability
from storm.data.components import principal_components

#: Numbers of domains that ``"auto"`` tries, the paper's stability range.
_RANGE = range(3, 11)
#: Runs on nine tenths of the rows at each number that ``"auto"`` tries, and random starts of each.
_AUTO_RUNS, _AUTO_FRACTION, _RUN_STARTS = 6, 0.9, 3
#: How much less stable than the most stable number of domains a larger one may be: about the spread over runs.
_AS_STABLE = 0.05
#: Principal components in which mixtures are fitted: a covariance per domain needs few dimensions.
_GMM_DIM = 15
#: Rows × columns that are clustered as they are: a Visium section of 800 columns.
_SIZE = 4_000_000
#: Principal components of a larger embedding that are clustered at least.
_LEAST_DIM = 50
#: Columns by which rows are sorted before they are clustered, so that their order in the table does not matter.
_ORDER_COLUMNS = 8
#: Rows on which ``"auto"`` tries its numbers (and k-means then starts), from which k-means starts with a given number,
#: and to which a mixture is fitted.
_AUTO_ROWS, _START_ROWS, _GMM_ROWS = 20_000, 50_000, 100_000
#: Rows up to which the neighbours in the graph of ``"leiden"`` are searched exactly, which takes quadratic time.
_EXACT_ROWS = 150_000


def cluster_rows(
    embedding: Any, known: np.ndarray, n_domains: int | str, *, method: str, **options: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    """Clusters by falling size, whatever the order of the rows.

    Parameters
    ----------
    embedding
        Shape (n, d).
    known
        Rows that are clustered, bool, shape (n,); they are finite.
    n_domains
        Number of clusters, or ``"auto"``.
    method
        ``"kmeans"``, ``"leiden"`` or ``"gmm"``.
    **options
        The others of :func:`cluster`.

    Returns
    -------
    codes : ndarray
        Cluster of each row, 0 … K - 1, shape (n,); -1 in rows that are not clustered.
    facts : dict
        What was chosen on the way.

    Raises
    ------
    ValueError
        If ``n_domains`` is not a number from 2 to that of the known rows, or there are too few of them for ``"auto"``.
    """
    _check_number(n_domains, int(known.sum()), len(known))
    values, facts = _rows(embedding, known, method=method)
    order = np.lexsort(values.T[:_ORDER_COLUMNS])
    sorted_labels, choices = cluster(values[order], n_domains, method=method, **options)
    labels = np.empty_like(sorted_labels)
    labels[order] = sorted_labels
    sizes = np.bincount(labels)
    rank = np.empty(len(sizes), dtype=int)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    codes = np.full(len(known), -1)
    codes[known] = rank[labels]
    return codes, facts | choices


def _rows(embedding: Any, known: np.ndarray, *, method: str) -> tuple[np.ndarray, dict[str, Any]]:
    """What is clustered: the known rows, or their leading components; in double precision where all are fitted."""
    n, width = int(known.sum()), embedding.shape[1]
    dtype = np.float64 if n <= (_GMM_ROWS if method == "gmm" else _START_ROWS) else np.float32
    if n * width <= _SIZE or width <= _LEAST_DIM:
        return np.asarray(embedding, dtype=dtype)[known], {}
    # Nearly all components at first, and fewer the larger the embedding is: time does not jump where they begin.
    dim = _GMM_DIM if method == "gmm" else max(_LEAST_DIM, int(width * (_SIZE / (n * width)) ** 2))
    values, share = principal_components(embedding, known, dim)
    return values.astype(dtype, copy=False), {"n_components": dim, "variance_kept": share}


def _check_number(n_domains: int | str, n: int, n_obs: int) -> None:
    if n_domains == "auto":
        if n <= max(_RANGE):
            msg = (
                f"n_domains='auto' tries {_RANGE[0]} to {_RANGE[-1]} and needs more rows than that; only {n} of "
                f"{n_obs} are embedded; give a number"
            )
            raise ValueError(msg)
        return
    if isinstance(n_domains, bool) or not isinstance(n_domains, Real) or n_domains != n_domains // 1:
        msg = f"n_domains={n_domains!r} is neither a whole number nor 'auto'"
        raise ValueError(msg)
    if not 2 <= n_domains <= n:
        msg = f"n_domains={n_domains} must lie between 2 and {n}, the rows (of {n_obs}) that have an embedding"
        raise ValueError(msg)


def cluster(
    values: np.ndarray,
    n_domains: int | str,
    *,
    method: str,
    resolution: float,
    n_neighbors: int,
    n_init: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels 0 … K - 1 of rows, and what was chosen on the way."""
    if method == "leiden":
        return _leiden(values, n_domains, resolution=resolution, n_neighbors=n_neighbors, seed=seed)
    if method == "gmm" and values.shape[1] > _GMM_DIM:
        values = PCA(min(_GMM_DIM, len(values) - 1), random_state=seed).fit_transform(values)

    facts: dict[str, Any] = {"n_init": n_init}
    rng = np.random.default_rng(seed)

    def fit(k: int, sample: np.ndarray) -> np.ndarray:
        if method == "kmeans":
            best = KMeans(k, n_init=n_init, random_state=seed).fit(sample)
            if len(sample) < len(values):
                facts["start_rows"] = len(sample)
                best = KMeans(k, init=best.cluster_centers_, n_init=1).fit(values)
            return _dense(best.labels_)
        mixture = GaussianMixture(k, n_init=n_init, reg_covar=1e-4, random_state=seed)
        if len(sample) == len(values):
            return _dense(mixture.fit_predict(values))
        facts["fit_rows"] = len(sample)
        mixture.fit(sample)
        steps = range(0, len(values), _GMM_ROWS)
        return _dense(np.concatenate([mixture.predict(values[i : i + _GMM_ROWS]) for i in steps]))

    if n_domains == "auto":
        # Single precision takes half the time; the covariances of a mixture need double precision.
        trial = _sample(values, _AUTO_ROWS, rng, dtype=np.float32 if method == "kmeans" else np.float64)
        labels = _runs(trial, _RANGE, method=method, runs=_AUTO_RUNS, fraction=_AUTO_FRACTION, seed=seed)
        means = {k: mean_agreement(own) for k, own in labels.items()}
        n_domains = max(k for k, mean in means.items() if mean >= max(means.values()) - _AS_STABLE)
        facts["stability"] = {str(k): mean for k, mean in means.items()}
        if len(trial) < len(values):
            facts["auto_rows"] = len(trial)
        if method == "kmeans":
            return fit(n_domains, trial), facts
    return fit(int(n_domains), _sample(values, _START_ROWS if method == "kmeans" else _GMM_ROWS, rng)), facts


def _sample(rows: np.ndarray, size: int, rng: np.random.Generator, *, dtype: type = np.float64) -> np.ndarray:
    """All rows, or as many of them as are allowed, by default in double precision as smaller sections are."""
    return rows if len(rows) <= size else rows[np.sort(rng.choice(len(rows), size, replace=False))].astype(dtype)


def repeat(
    embedding: Any,
    known: np.ndarray,
    numbers: Iterable[int],
    *,
    method: str,
    runs: int,
    fraction: float,
    seed: int,
    truth: np.ndarray | None = None,
) -> tuple[dict[int, Stability], dict[int, np.ndarray], int]:
    """Cluster parts of the rows again and again, on a sample of a large section.

    Parameters
    ----------
    embedding
        Shape (n, d).
    known
        Rows that are clustered, bool, shape (n,); they are finite.
    numbers
        Numbers of clusters.
    method
        ``"kmeans"`` or ``"gmm"``.
    runs, fraction
        Number of runs at each number, and share of the rows in each.
    seed
        Random seed.
    truth
        Labels to compare with, whole numbers, shape (n,); -1 for none.

    Returns
    -------
    stability : dict
        Agreement of the runs by number of clusters.
    to_truth : dict
        Adjusted Rand index of each run with the labels, shape (runs,); empty without labels.
    rows : int
        Number of rows that the runs are parts of.

    Raises
    ------
    ValueError
        If there are fewer rows than clusters.
    """
    numbers = list(numbers)
    size = int(known.sum())
    if round(fraction * size) <= max(numbers):
        msg = (
            f"{size} of {len(known)} rows are embedded, of which each run takes {fraction:g}; that is too few for "
            f"{max(numbers)} domains"
        )
        raise ValueError(msg)
    values, _ = _rows(embedding, known, method=method)
    order = np.lexsort(values.T[:_ORDER_COLUMNS])
    if len(order) > _AUTO_ROWS:
        order = order[np.sort(np.random.default_rng(seed).choice(len(order), _AUTO_ROWS, replace=False))]
    labels = _runs(values[order], numbers, method=method, runs=runs, fraction=fraction, seed=seed)
    to_truth = {}
    if truth is not None:
        wanted = truth[np.flatnonzero(known)[order]]
        to_truth = {k: np.array([agreement(run, wanted) for run in own]) for k, own in labels.items()}
    return stability(labels), to_truth, len(order)


def _runs(
    rows: np.ndarray, numbers: Iterable[int], *, method: str, runs: int, fraction: float, seed: int
) -> dict[int, np.ndarray]:
    """Labels of repeated runs on parts of the rows, by number of clusters."""
    if method == "gmm" and rows.shape[1] > _GMM_DIM:
        rows = PCA(min(_GMM_DIM, len(rows) - 1), random_state=seed).fit_transform(rows)

    def one(part: np.ndarray, k: int, run_seed: int) -> np.ndarray:
        if method == "kmeans":
            return KMeans(k, n_init=_RUN_STARTS, random_state=run_seed).fit_predict(rows[part])
        mixture = GaussianMixture(k, n_init=_RUN_STARTS, reg_covar=1e-4, random_state=run_seed)
        return mixture.fit_predict(rows[part])

    return repeated_runs(one, len(rows), numbers, runs=runs, fraction=fraction, seed=seed)


def _dense(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


def _nearest(n_neighbors: int, seed: int) -> Any:
    """Approximate search for neighbours, as scanpy asks for one."""
    from pynndescent import PyNNDescentTransformer
    from scipy.sparse import csr_matrix

    class Search(PyNNDescentTransformer):
        def fit_transform(self, X, y=None, **kwargs):
            return csr_matrix(super().fit_transform(X, y, **kwargs))

    return Search(n_neighbors=n_neighbors, metric="euclidean", random_state=seed)


def _leiden(
    values: np.ndarray, n_domains: int | str, *, resolution: float, n_neighbors: int, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    import anndata
    import scanpy as sc

    graph = anndata.AnnData(obsm={"X": values.astype(np.float32)}, shape=(len(values), 0))
    n_neighbors = min(n_neighbors, len(values) - 1)
    # Exact while that takes no longer than the approximate search. Left to itself scanpy 1.11 searches from 8,192 rows
    # on, and cannot read what pynndescent 0.7 returns.
    search = "sklearn" if len(values) <= _EXACT_ROWS else _nearest(n_neighbors, seed)
    sc.pp.neighbors(graph, n_neighbors=n_neighbors, use_rep="X", random_state=seed, transformer=search)

    def at(value: float) -> np.ndarray:
        sc.tl.leiden(graph, resolution=value, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        return _dense(graph.obs["leiden"].to_numpy())

    if n_domains == "auto":
        return at(resolution), {"resolution": resolution, "n_neighbors": n_neighbors}
    low, high = 1e-3, 16.0
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        labels = at(middle)
        number = labels.max() + 1
        if number == n_domains:
            return labels, {"resolution": middle, "n_neighbors": n_neighbors}
        low, high = (middle, high) if number < n_domains else (low, middle)
    msg = f"no Leiden resolution gives {n_domains} domains (the nearest gave {number}); use method='kmeans'"
    raise ValueError(msg)
