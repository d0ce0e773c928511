"""``storm.tl.domains``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture

from storm import __version__
from storm._bridge.keys import Keys
from storm._bridge.study import given_once
from storm._bridge.workspace import open_workspace, write_all
from storm._checks import check_choice, check_key, check_positive, check_whole
from storm._keys import DOMAIN, X_STORM
from storm.data.components import finite_rows, principal_components
from storm.metrics import silhouette

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Numbers of domains that ``"auto"`` tries, the paper's stability range.
_RANGE = range(3, 11)
#: Rows above which the silhouette is taken on a sample.
_SILHOUETTE_ROWS = 5000
#: Principal components in which mixtures are fitted: a covariance per domain needs few dimensions.
_GMM_DIM = 15
#: A section of more rows than this is large: what is quadratic, or repeated over numbers of domains, works on a sample.
_LARGE = 50_000
#: Principal components in which the rows of a large section are clustered.
_LARGE_DIM = 50
#: Columns by which rows are sorted before they are clustered, so that their order in the table does not matter.
_ORDER_COLUMNS = 8
#: Rows of a large section on which ``"auto"`` tries its numbers, and on which a mixture is fitted.
_AUTO_ROWS, _GMM_ROWS = 20_000, 100_000


def domains(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    n_domains: int | Literal["auto"] = "auto",
    *,
    method: Literal["kmeans", "leiden", "gmm"] = "kmeans",
    use_rep: str = X_STORM,
    table_key: str | None = None,
    key_added: str = DOMAIN,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    n_init: int = 10,
    seed: int = 0,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Find spatial domains by clustering an embedding.

    Parameters
    ----------
    data
        Object whose table holds ``obsm[use_rep]``; see :func:`storm.tl.embed`. The rows of a list of objects are
        clustered together, so that a domain has the same name in all of them.
    n_domains
        Number of domains, or ``"auto"``: the number from 3 to 10 with the best silhouette. With ``"leiden"``,
        ``"auto"`` takes ``resolution`` as it is and a number searches the resolution that gives it, by up to 30 runs.
    method
        ``"kmeans"`` (the paper's), ``"leiden"`` or ``"gmm"``.
    use_rep
        Key of the embedding.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.
    resolution, n_neighbors
        Resolution of ``"leiden"``, and the number of neighbours in its graph.
    n_init
        Number of random starts of ``"kmeans"`` and ``"gmm"``; the best is kept.
    seed
        Random seed of the clustering.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets

        - ``obs[key_added]``: categorical with categories ``"0"``, ``"1"``, … by falling size; NaN where the embedding
          is NaN,
        - ``uns["storm"][key_added]``: method, number and how it was chosen, parameters.

    Raises
    ------
    KeyError
        If the table has no such embedding.
    ValueError
        If ``n_domains`` is not a number from 2 to the number of embedded rows, the method is unknown, or ``key_added``
        cannot be stored or is taken.

    Notes
    -----
    Sections of more than 50,000 embedded rows are clustered in the 50 leading principal components (where the embedding
    has more columns), ``"auto"`` tries its numbers on 20,000 seeded rows before all rows are clustered into the best of
    them, and a mixture is fitted to 100,000 seeded rows at most. The provenance in ``uns`` records this
    (``n_components``, ``auto_rows``, ``fit_rows``). Up to 50,000 rows everything is done on all rows as they are.
    ``"leiden"`` needs a graph of neighbours, exact up to 50,000 rows and searched approximately beyond, which takes
    minutes.

    Rows are sorted by their values before they are clustered, so that their order in the table does not matter.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *spatial domain discovery*.
    """
    several = isinstance(data, list | tuple)
    check_choice(method, ("kmeans", "leiden", "gmm"), name="method")
    check_whole(seed, name="seed", least=0)
    check_whole(n_init, name="n_init")
    check_whole(n_neighbors, name="n_neighbors", least=2)
    check_positive(resolution, name="resolution")
    objects = given_once(data)
    works = [
        open_workspace(one, Keys(table_key=table_key), image=False, copy=copy, keys_added={"obs": [key_added]})
        for one in objects
    ]
    embedding, ends = _together([_embedding(work.table, use_rep) for work in works], name=use_rep)
    known = finite_rows(embedding)
    n = int(known.sum())
    _check_number(n_domains, n, len(known))
    values, facts = _rows(embedding, known, dim=_GMM_DIM if method == "gmm" else _LARGE_DIM)
    order = np.lexsort(values.T[:_ORDER_COLUMNS])
    sorted_labels, choices = cluster(
        values[order],
        n_domains,
        method=method,
        resolution=resolution,
        n_neighbors=n_neighbors,
        n_init=n_init,
        seed=seed,
    )
    labels = np.empty_like(sorted_labels)
    labels[order] = sorted_labels
    facts |= choices
    if not known.all():
        text = f"{(~known).sum()} of {len(known)} rows of {use_rep!r} are NaN and get no domain"
        warnings.warn(text, UserWarning, stacklevel=2)
    number = len(np.unique(labels))
    by_size = np.argsort(-np.bincount(labels, minlength=number), kind="stable")
    rank = np.empty(number, dtype=int)
    rank[by_size] = np.arange(number)
    codes = np.full(len(known), -1)
    codes[known] = rank[labels]
    names = pd.Index([str(i) for i in range(number)])
    facts |= {"storm_version": __version__, "use_rep": use_rep, "method": method, "n_domains": number, "seed": seed}
    columns = [pd.Categorical.from_codes(part, categories=names) for part in np.split(codes, ends)]
    write_all(
        [
            (work, {"obs": {key_added: column}, "uns": {key_added: facts}})
            for work, column in zip(works, columns, strict=True)
        ]
    )
    if not copy:
        return None
    return [work.owner for work in works] if several else works[0].owner


def _embedding(table: AnnData, use_rep: str) -> Any:
    """The embedding that a table holds.

    Raises
    ------
    KeyError
        If it holds none of that name.
    """
    if use_rep not in table.obsm and use_rep == X_STORM:
        available = sorted(table.obsm) or "nothing"
        msg = f"use_rep={use_rep!r} is not in obsm, which holds {available}; run storm.tl.embed first"
        raise KeyError(msg)
    check_key(use_rep, sorted(table.obsm), name="use_rep", where="obsm")
    return _as_matrix(table.obsm[use_rep], name=f"obsm[{use_rep!r}]")


def _together(embeddings: list[Any], *, name: str) -> tuple[Any, np.ndarray]:
    """Embeddings of several objects below each other, and where one ends and the next begins."""
    if len(embeddings) == 1:
        return embeddings[0], np.empty(0, dtype=int)
    widths = [embedding.shape[1] for embedding in embeddings]
    if len(set(widths)) > 1:
        msg = (
            f"obsm[{name!r}] has {widths} columns in the {len(widths)} objects, so that they cannot be clustered "
            f"together; embed them together: storm.tl.embed([...])"
        )
        raise ValueError(msg)
    rows = [np.asarray(embedding, dtype=np.float32) for embedding in embeddings]
    return np.concatenate(rows), np.cumsum([len(part) for part in rows])[:-1]


def _as_matrix(values: Any, *, name: str) -> Any:
    """An embedding with rows and columns of real numbers; a sparse one as a dense array.

    Raises
    ------
    ValueError
        If it has another number of axes, no columns, or something else than real numbers.
    """
    if sparse.issparse(values):
        values = values.toarray()
    if values.ndim != 2 or values.shape[1] == 0:
        msg = f"{name} has shape {tuple(values.shape)}; an embedding has the shape (n_obs, d) with d of at least 1"
        raise ValueError(msg)
    kinds = values.dtypes if isinstance(values, pd.DataFrame) else [values.dtype]
    if any(np.dtype(kind).kind not in "biuf" for kind in kinds):
        msg = f"{name} holds {', '.join(sorted({str(kind) for kind in kinds}))}; an embedding holds real numbers"
        raise ValueError(msg)
    return values


def _rows(embedding: Any, known: np.ndarray, *, dim: int) -> tuple[np.ndarray, dict[str, Any]]:
    """What is clustered: the known rows in double precision, or, of a large section, their principal components."""
    n, width = int(known.sum()), embedding.shape[1]
    if n <= _LARGE:
        return np.asarray(embedding, dtype=np.float64)[known], {}
    if width <= dim:
        return np.asarray(embedding, dtype=np.float32)[known], {}
    values, share = principal_components(embedding, known, dim)
    return values, {"n_components": dim, "variance_kept": share}


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

    n = len(values)
    facts: dict[str, Any] = {"n_init": n_init}
    rng = np.random.default_rng(seed)

    def fit(k: int, rows: np.ndarray) -> np.ndarray:
        if method == "kmeans":
            return _dense(KMeans(k, n_init=n_init, random_state=seed).fit_predict(rows))
        mixture = GaussianMixture(k, n_init=n_init, reg_covar=1e-4, random_state=seed)
        if len(rows) <= _GMM_ROWS:
            return _dense(mixture.fit_predict(rows))
        sample = _sample(rows, _GMM_ROWS, rng)
        facts["fit_rows"] = len(sample)
        mixture.fit(sample)
        steps = range(0, len(rows), _GMM_ROWS)
        return _dense(np.concatenate([mixture.predict(rows[i : i + _GMM_ROWS]) for i in steps]))

    if n_domains != "auto":
        return fit(int(n_domains), values), facts
    large = n > _LARGE
    trial = _sample(values, _AUTO_ROWS, rng) if large else values
    tried = {k: fit(k, trial) for k in _RANGE}
    scores = {
        k: _width(trial, labels, estimate=large, seed=seed) if labels.max() else -1.0 for k, labels in tried.items()
    }
    best = max(scores, key=lambda k: scores[k])
    facts["silhouette"] = {str(k): float(score) for k, score in scores.items()}
    if not large:
        return tried[best], facts
    facts["auto_rows"] = len(trial)
    if method == "gmm":
        return fit(best, values), facts
    # From the domains whose silhouette was the best one: other starts may end elsewhere.
    start = np.stack([trial[tried[best] == label].mean(axis=0) for label in range(tried[best].max() + 1)])
    return _dense(KMeans(len(start), init=start, n_init=1, random_state=seed).fit_predict(values)), facts


def _sample(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= size else rows[np.sort(rng.choice(len(rows), size, replace=False))]


def _width(rows: np.ndarray, labels: np.ndarray, *, estimate: bool, seed: int) -> float:
    """Mean silhouette width, above some size by a few rows."""
    if estimate:
        return silhouette(rows, labels, max_n=_SILHOUETTE_ROWS, seed=seed).value
    sample = min(len(rows), _SILHOUETTE_ROWS)
    return silhouette_score(rows, labels, sample_size=sample, random_state=seed)


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
    # Exact while that takes seconds. Left to itself scanpy 1.11 searches from 8,192 rows on, and cannot read what
    # pynndescent 0.7 returns.
    search = "sklearn" if len(values) <= _LARGE else _nearest(n_neighbors, seed)
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
