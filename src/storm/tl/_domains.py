"""``storm.tl.domains``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.mixture import GaussianMixture

from storm import __version__
from storm._bridge.select import check_container, select_table
from storm._bridge.workspace import open_workspace
from storm._bridge.write import write_results
from storm._checks import check_choice, check_key
from storm._keys import DOMAIN, X_STORM

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Numbers of domains that ``"auto"`` tries, the paper's stability range.
_RANGE = range(3, 11)
#: Rows above which the silhouette is taken on a sample.
_SILHOUETTE_ROWS = 5000
#: Principal components in which mixtures are fitted: a covariance per domain needs few dimensions.
_GMM_DIM = 15


def domains(
    data: SpatialData | AnnData,
    n_domains: int | str = "auto",
    *,
    method: str = "kmeans",
    use_rep: str = X_STORM,
    table_key: str | None = None,
    key_added: str = DOMAIN,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    n_init: int = 10,
    seed: int = 0,
    copy: bool = False,
) -> SpatialData | AnnData | None:
    """Find spatial domains by clustering an embedding.

    Parameters
    ----------
    data
        Object whose table holds ``obsm[use_rep]``; see :func:`storm.tl.embed`.
    n_domains
        Number of domains, or ``"auto"``: the number from 3 to 10 with the best silhouette. With ``"leiden"``,
        ``"auto"`` takes ``resolution`` as it is and a number searches the resolution that gives it.
    method
        ``"kmeans"`` (the paper's), ``"leiden"`` or ``"gmm"``.
    use_rep
        Key of the embedding.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.
    resolution, n_neighbors
        Of ``"leiden"``.
    n_init
        Starts of ``"kmeans"`` and ``"gmm"``.
    seed
        Of all methods.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or None
        The copy if ``copy``, else ``None``; the table gets

        - ``obs[key_added]``: categorical with categories ``"0"``, ``"1"``, … by falling size; NaN where the embedding
          is NaN,
        - ``uns["storm"][key_added]``: method, number and how it was chosen, parameters.

    Raises
    ------
    KeyError
        If the table has no such embedding.
    ValueError
        If ``n_domains`` is no number from 2 to the number of embedded rows, or the method is unknown.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *spatial domain discovery*.
    """
    check_choice(method, ("kmeans", "leiden", "gmm"), name="method")
    check_container(data)
    work = open_workspace(data, table_key=table_key, copy=copy)
    _, table = select_table(work.data, work.table_key)
    if use_rep not in table.obsm and use_rep == X_STORM:
        there = sorted(table.obsm) or "nothing"
        msg = f"use_rep={use_rep!r} is not in obsm, which holds {there}; run storm.tl.embed first"
        raise KeyError(msg)
    check_key(use_rep, sorted(table.obsm), name="use_rep", where="obsm")
    values = np.asarray(table.obsm[use_rep], dtype=np.float64)
    known = np.isfinite(values).all(axis=1)
    _check_number(n_domains, int(known.sum()), table.n_obs)
    labels, facts = cluster(
        values[known],
        n_domains,
        method=method,
        resolution=resolution,
        n_neighbors=n_neighbors,
        n_init=n_init,
        seed=seed,
    )
    if not known.all():
        text = f"{(~known).sum()} of {len(known)} rows of {use_rep!r} are NaN and get no domain"
        warnings.warn(text, UserWarning, stacklevel=2)
    number = len(np.unique(labels))
    order = np.argsort(-np.bincount(labels, minlength=number), kind="stable")
    rank = np.empty(number, dtype=int)
    rank[order] = np.arange(number)
    codes = np.full(len(known), -1)
    codes[known] = rank[labels]
    column = pd.Categorical.from_codes(codes, categories=[str(i) for i in range(number)])
    facts |= {"storm_version": __version__, "use_rep": use_rep, "method": method, "n_domains": number, "seed": seed}
    write_results(work.data, work.table_key, obs={key_added: column}, uns={key_added: facts})
    return work.owner if copy else None


def _check_number(n_domains: int | str, n: int, n_obs: int) -> None:
    if n_domains == "auto":
        if n <= max(_RANGE):
            msg = (
                f"n_domains='auto' tries {_RANGE[0]} to {_RANGE[-1]} and needs more rows than that; only {n} of "
                f"{n_obs} are embedded; give a number"
            )
            raise ValueError(msg)
        return
    if isinstance(n_domains, (bool, str)) or int(n_domains) != n_domains:
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

    def fit(k: int) -> np.ndarray:
        if method == "kmeans":
            return KMeans(k, n_init=n_init, random_state=seed).fit_predict(values)
        return GaussianMixture(k, n_init=n_init, reg_covar=1e-4, random_state=seed).fit_predict(values)

    if n_domains != "auto":
        return _dense(fit(int(n_domains))), {"n_init": n_init}
    sample = min(len(values), _SILHOUETTE_ROWS)
    tried = {k: _dense(fit(k)) for k in _RANGE}
    scores = {
        k: silhouette_score(values, labels, sample_size=sample, random_state=seed) if labels.max() else -1.0
        for k, labels in tried.items()
    }
    best = max(scores, key=scores.get)
    return tried[best], {"n_init": n_init, "silhouette": {str(k): float(score) for k, score in scores.items()}}


def _dense(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


def _leiden(
    values: np.ndarray, n_domains: int | str, *, resolution: float, n_neighbors: int, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    import anndata
    import scanpy as sc

    graph = anndata.AnnData(obsm={"X": values.astype(np.float32)}, shape=(len(values), 0))
    sc.pp.neighbors(graph, n_neighbors=min(n_neighbors, len(values) - 1), use_rep="X", random_state=seed)

    def at(value: float) -> np.ndarray:
        sc.tl.leiden(graph, resolution=value, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        return _dense(graph.obs["leiden"].to_numpy())

    if n_domains == "auto":
        return at(resolution), {"resolution": resolution, "n_neighbors": n_neighbors}
    low, high = 1e-3, 16.0
    for _ in range(30):
        middle = float(np.sqrt(low * high))
        labels = at(middle)
        found = labels.max() + 1
        if found == n_domains:
            return labels, {"resolution": middle, "n_neighbors": n_neighbors}
        low, high = (middle, high) if found < n_domains else (low, middle)
    msg = f"no Leiden resolution gives {n_domains} domains (the nearest gave {found}); use method='kmeans'"
    raise ValueError(msg)
