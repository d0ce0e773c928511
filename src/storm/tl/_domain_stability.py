"""``storm.tl.domain_stability``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from storm import __version__, _keys
from storm._bridge.keys import Keys
from storm._bridge.pool import open_pool
from storm._checks import check_between, check_choice, check_whole
from storm._inference.clustering import repeat
from storm.data.components import finite_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def domain_stability(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    n_domains: Iterable[int] = range(3, 11),
    *,
    runs: int = 10,
    fraction: float = 0.9,
    method: Literal["kmeans", "gmm"] = "kmeans",
    truth: str | None = None,
    use_rep: str = _keys.X_STORM,
    table_key: str | None = None,
    seed: int = 0,
    key_added: str = _keys.STABILITY,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Find which numbers of domains come back when the clustering is repeated.

    Each run clusters a random part of the rows from other starts. Two runs agree by the adjusted Rand index over the
    rows that both have: 1 for the same domains, 0 on average for unrelated ones, at any number. What is stable need not
    be right, but what is not stable is an accident of the starts.

    Parameters
    ----------
    data
        Object whose table holds ``obsm[use_rep]``; see :func:`storm.tl.embed`. The rows of a list of objects are
        clustered together, as by :func:`storm.tl.domains`, and each table gets the same result.
    n_domains
        Numbers of domains.
    runs
        Number of runs at each, at least 2.
    fraction
        Share of the rows in each run.
    method
        ``"kmeans"`` or ``"gmm"``.
    truth
        Column of ``obs`` with labels to compare each run with.
    use_rep
        Key of the embedding.
    table_key
        The table; needed only where there are several.
    seed
        Random seed.
    key_added
        Key of the result.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets ``uns["storm"][key_added]`` with
        parameters and a data frame of one row per number and run, which :func:`storm.get.domain_stability` returns:

        - ``n_domains``, ``run``,
        - ``ari``: mean adjusted Rand index with the other runs at this number,
        - ``ari_next``: the same with the runs at one domain more; NaN where these were not asked for,
        - ``ari_truth``: adjusted Rand index with ``truth``, if it was given.

    Raises
    ------
    KeyError
        If the table has no such embedding or column.
    ValueError
        If a number is not a whole number from 2 on, an argument is out of range, there are fewer rows than domains, or
        ``key_added`` is taken by another result.
    TypeError
        If ``n_domains`` is one number instead of several.

    Notes
    -----
    Of more than 20,000 rows a seeded sample of that size is clustered.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.embed(sdata, modality="st")
    >>> storm.tl.domain_stability(sdata, range(3, 6), runs=3)
    >>> storm.get.domain_stability(sdata).shape[0]
    9
    """
    check_choice(method, ("kmeans", "gmm"), name="method")
    check_whole(runs, name="runs", least=2)
    check_between(fraction, name="fraction", low=0.1, high=1)
    check_whole(seed, name="seed", least=0)
    if isinstance(n_domains, str) or not isinstance(n_domains, Iterable):
        msg = f"n_domains={n_domains!r} is a {type(n_domains).__name__}; give several numbers, for example range(3, 11)"
        raise TypeError(msg)
    numbers = sorted({check_whole(k, name="n_domains", least=2) for k in n_domains})
    if not numbers:
        msg = "n_domains is empty; give numbers of domains, for example range(3, 11)"
        raise ValueError(msg)
    pool = open_pool(data, Keys(table_key=table_key), copy=copy)
    pool.check_record_added(key_added, made_by="storm.tl.domain_stability")
    embedding = pool.embedding(use_rep)
    labels = None if truth is None else pool.labels(truth).codes
    stability, to_truth, rows = repeat(
        embedding,
        finite_rows(embedding),
        numbers,
        method=method,
        runs=runs,
        fraction=fraction,
        seed=seed,
        truth=labels,
    )
    frame = pd.DataFrame(
        {
            "n_domains": np.repeat(numbers, runs),
            "run": np.tile(np.arange(runs), len(numbers)),
            "ari": np.concatenate([stability[k].ari for k in numbers]),
            "ari_next": np.concatenate([stability[k].ari_next for k in numbers]),
        }
    )
    if to_truth:
        frame["ari_truth"] = np.concatenate([to_truth[k] for k in numbers])
    facts = {
        "storm_version": __version__,
        _keys.MADE_BY: "storm.tl.domain_stability",
        "use_rep": use_rep,
        "method": method,
        "runs": runs,
        "fraction": fraction,
        "rows": rows,
        "truth": truth,
        "seed": seed,
        _keys.TABLE: frame,
    }
    pool.write(uns={key_added: facts | pool.facts})
    return pool.copies(data) if copy else None
