"""``storm.tl.subcluster``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from storm import __version__, _keys
from storm._bridge.colours import own_colours
from storm._bridge.keys import Keys
from storm._bridge.pool import open_pool
from storm._checks import check_choice, check_positive, check_whole, domain_names
from storm._inference.clustering import cluster_rows
from storm._logging import warn
from storm._palette import kept_colours
from storm.data.components import finite_rows

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def subcluster(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    domain: str | Sequence[str],
    n_domains: int | Literal["auto"] = "auto",
    *,
    key: str = _keys.DOMAIN,
    method: Literal["kmeans", "leiden", "gmm"] = "kmeans",
    use_rep: str = _keys.X_STORM,
    table_key: str | None = None,
    resolution: float = 1.0,
    n_neighbors: int = 15,
    n_init: int = 10,
    seed: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Divide a domain, or the union of several, into smaller ones; the other domains keep their names.

    Parameters
    ----------
    data
        Object whose table holds ``obs[key]`` and ``obsm[use_rep]``. In a list of objects, the rows of the domain in
        all of them are divided together.
    domain
        Name of the domain, or of several that are divided together.
    n_domains
        Number of parts, or ``"auto"``, as in :func:`storm.tl.domains`.
    key
        Column of ``obs`` with the domains; it stays as it is.
    method, use_rep, resolution, n_neighbors, n_init, seed
        As in :func:`storm.tl.domains`.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result; ``None`` is ``"<key>_sub"``.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets

        - ``obs[key_added]``: categorical, with ``"2.0"``, ``"2.1"``, … by falling size in the place of ``"2"`` (or
          ``"2+3.0"``, …); NaN where the embedding of a row of the domain is NaN,
        - ``uns["storm"][key_added]``: parameters, and how the number was chosen,
        - ``uns["<key_added>_colors"]``: one colour per category; domains that stay keep theirs.

    Raises
    ------
    KeyError
        If there is no such column or embedding.
    ValueError
        If there is no such domain, or it has fewer rows than parts.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.embed(sdata, modality="st")
    >>> storm.tl.domains(sdata, 3)
    >>> storm.tl.subcluster(sdata, "0", 2)
    >>> sdata["table"].obs["storm_domain_sub"].cat.categories.tolist()
    ['0.0', '0.1', '1', '2']
    """
    check_choice(method, ("kmeans", "leiden", "gmm"), name="method")
    check_whole(seed, name="seed", least=0)
    check_whole(n_init, name="n_init")
    check_whole(n_neighbors, name="n_neighbors", least=2)
    check_positive(resolution, name="resolution")
    key_added = f"{key}_sub" if key_added is None else key_added
    pool = open_pool(data, Keys(table_key=table_key), copy=copy, keys_added={"obs": [key_added]})
    labels = pool.labels(key)
    wanted = domain_names(domain, name="domain")
    if not wanted or (unknown := [name for name in wanted if name not in labels.names]):
        listed = ", ".join(map(repr, unknown)) if wanted else "nothing"
        msg = f"domain names {listed}, and obs[{key!r}] holds {', '.join(map(repr, labels.names))}"
        raise ValueError(msg)
    chosen = np.isin(labels.codes, [labels.names.index(name) for name in wanted])
    embedding = pool.embedding(use_rep)
    known = finite_rows(embedding) & chosen
    parts, facts = cluster_rows(
        embedding, known, n_domains, method=method, resolution=resolution, n_neighbors=n_neighbors, n_init=n_init,
        seed=seed,
    )  # fmt: skip
    if (lost := int((chosen & ~known).sum())) > 0:
        text = f"{lost} of {int(chosen.sum())} rows of the domain have no embedding and get no domain"
        warn(text)
    fresh = [f"{'+'.join(wanted)}.{part}" for part in range(parts.max() + 1)]
    names: list[str] = []
    for name in labels.names:
        names += fresh if name == wanted[0] else [] if name in wanted else [name]
    if clash := sorted(set(fresh) & set(labels.names)):
        msg = f"obs[{key!r}] holds {clash} already, the names that the parts would get; rename these domains first"
        raise ValueError(msg)
    place = {name: at for at, name in enumerate(names)}
    of_kept = np.array([place.get(name, -1) for name in labels.names])
    codes = np.where(labels.codes >= 0, of_kept[labels.codes], -1)
    codes[known] = np.array([place[name] for name in fresh])[parts[known]]
    facts |= {
        "storm_version": __version__,
        "key": key,
        "domain": wanted,
        "use_rep": use_rep,
        "method": method,
        "n_domains": len(fresh),
        "seed": seed,
    }
    column = pd.Categorical.from_codes(codes, categories=pd.Index(names))
    stored = own_colours(pool.tables, key, labels.names) | own_colours(pool.tables, key_added, names)
    colours = kept_colours(stored, list(dict.fromkeys([*labels.names, *stored])), names)
    pool.write(obs={key_added: column}, uns={key_added: facts | pool.facts}, colours={key_added: colours})
    return pool.copies(data) if copy else None
