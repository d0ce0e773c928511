"""``storm.tl.domains``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm import __version__
from storm._bridge.colours import own_colours
from storm._bridge.embedding import read_embedding, stack_embeddings
from storm._bridge.keys import Keys
from storm._bridge.select import records_of
from storm._bridge.study import Study, open_study
from storm._bridge.workspace import write_all
from storm._checks import check_choice, check_key, check_positive, check_whole
from storm._inference.clustering import cluster_rows
from storm._inference.record import warn_own_axes
from storm._keys import DOMAIN, X_STORM
from storm._logging import warn
from storm._palette import kept_colours, stored_colours
from storm.data.components import finite_rows
from storm.data.naming import keep_names
from storm.data.proportions import proportions

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def domains(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    n_domains: int | Literal["auto"] = "auto",
    *,
    method: Literal["kmeans", "leiden", "gmm"] = "kmeans",
    use_rep: str = X_STORM,
    table_key: str | None = None,
    library_key: str | None = None,
    key_added: str = DOMAIN,
    align_to: str | None = None,
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
        Number of domains, or ``"auto"``: the largest number from 3 to 10 that repeated runs agree on as well
        as on the best one, up to .05 (see :func:`storm.tl.domain_stability`). With ``"leiden"``,
        ``"auto"`` takes ``resolution`` as it is and a number searches the resolution that gives it, by up to 30 runs.
    method
        ``"kmeans"`` (the paper's), ``"leiden"`` or ``"gmm"``.
    use_rep
        Key of the embedding.
    table_key
        The table; needed only where there are several.
    library_key
        Column of ``obs`` that names the section of each row, for the table of proportions. The sections of a list, and
        the elements that a table annotates, are known without it. It does not change the domains.
    key_added
        Key of the result.
    align_to
        Column of ``obs`` with earlier domains, such as ``"storm_domain"`` before it is written again: each domain gets
        the name and the colour of the earlier one with which it shares its rows, by the assignment that lets most rows
        keep their name. Domains left over get numbers that were no names before. Rows without an earlier label have no
        say.
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

        - ``obs[key_added]``: categorical with categories ``"0"``, ``"1"``, … by falling size, or with the names of
          ``align_to``; NaN where the embedding is NaN,
        - ``uns["storm"][key_added]``: method, number and how it was chosen, parameters; of several sections, also
          ``"proportions"``: ``sections``, ``domains``, ``shares`` (sections × domains) and ``n`` (rows with a domain),
          which :func:`storm.pl.proportions` draws,
        - ``uns["<key_added>_colors"]``: one colour per category, where scanpy, squidpy and spatialdata-plot look for
          them. Colours that are there already keep their categories; new ones differ in all common forms of colour
          vision.

    Raises
    ------
    KeyError
        If the table has no such embedding, or no column ``library_key`` or ``align_to``.
    ValueError
        If ``n_domains`` is not a number from 2 to the number of embedded rows, the method is unknown, or ``key_added``
        cannot be stored or is taken, ``align_to`` holds measurements, or rows have no library.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> storm.tl.embed(sdata, modality="st")
    >>> storm.tl.domains(sdata, 4)
    >>> storm.tl.domains(sdata, 5, align_to="storm_domain")  # four of the names stay where they are

    Notes
    -----
    What takes time is bounded, without a jump at any size. Up to 4 million numbers (rows × columns: a Visium section of
    800 columns) the embedding is clustered as it is. Of a larger one, principal components are clustered: at first
    nearly all, fewer the larger it is, and at least 50. ``"auto"`` tries its numbers on 20,000 seeded rows at most.
    Beyond 50,000 rows, k-means runs its random starts on 50,000 seeded rows (with ``"auto"`` on those 20,000) and goes
    on from the best of them on all rows; a mixture is fitted to 100,000 seeded rows at most. The provenance in ``uns``
    records this (``n_components``, ``variance_kept``, ``auto_rows``, ``start_rows``, ``fit_rows``). ``"leiden"`` needs
    a graph of neighbours, exact up to 150,000 rows and searched approximately beyond.

    Rows are sorted by their values before they are clustered, so that their order in the table does not matter.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods: *spatial domain discovery*.
    """
    check_choice(method, ("kmeans", "leiden", "gmm"), name="method")
    check_whole(seed, name="seed", least=0)
    check_whole(n_init, name="n_init")
    check_whole(n_neighbors, name="n_neighbors", least=2)
    check_positive(resolution, name="resolution")
    study = open_study(
        data, Keys(table_key=table_key), library_key=library_key, image=False, copy=copy,
        keys_added={"obs": [key_added]},
    )  # fmt: skip
    tables = [work.table for work in study.works]
    earlier = None if align_to is None else _earlier(tables, align_to)
    embedding, ends = stack_embeddings([read_embedding(table, use_rep) for table in tables], name=use_rep)
    warn_own_axes([records_of(table).get(use_rep) for table in tables], name=use_rep)
    known = finite_rows(embedding)
    codes, facts = cluster_rows(
        embedding, known, n_domains, method=method, resolution=resolution, n_neighbors=n_neighbors, n_init=n_init,
        seed=seed,
    )  # fmt: skip
    if not known.all():
        text = f"{(~known).sum()} of {len(known)} rows of {use_rep!r} are NaN and get no domain"
        warn(text)
    names = [str(k) for k in range(codes.max() + 1)]
    if align_to is not None and earlier is not None:
        labels, before, stored = earlier
        names, codes = keep_names(codes, labels, before)
        facts |= {"align_to": align_to, "new_names": [name for name in names if name not in before]}
    else:
        stored = own_colours(tables, key_added, names)
        before = list(stored)
    colours = kept_colours(stored, before, names)
    facts |= {"storm_version": __version__, "use_rep": use_rep, "method": method, "n_domains": len(names), "seed": seed}
    if any(section.name for section in study):
        facts["proportions"] = _shares(study, codes, names)
    columns = [pd.Categorical.from_codes(part, categories=pd.Index(names)) for part in np.split(codes, ends)]
    slots = {"uns": {key_added: facts}, "colours": {key_added: colours}}
    results = [{"obs": {key_added: column}, **slots} for column in columns]
    write_all(list(zip(study.works, results, strict=True)))
    return study.copies(data) if copy else None


def _earlier(tables: Sequence[AnnData], key: str) -> tuple[np.ndarray, list[str], dict[str, str]]:
    """Earlier labels of all rows as positions in their names, -1 for none, the names, and colours that tables keep.

    The first table that keeps a name's colour decides about it.

    Raises
    ------
    KeyError
        If a table has no such column.
    ValueError
        If it holds measurements.
    """
    columns, names, colours = [], dict[str, None](), dict[str, str]()
    for table in tables:
        check_key(key, list(table.obs.columns), name="align_to", where="obs")
        column = table.obs[key]
        if not isinstance(column.dtype, pd.CategoricalDtype):
            if pd.api.types.is_float_dtype(column) and not (column.dropna() % 1 == 0).all():
                msg = f"align_to={key!r} holds measurements, not labels; name a column of earlier domains"
                raise ValueError(msg)
            column = (column.astype("Int64") if pd.api.types.is_float_dtype(column) else column).astype("category")
        columns.append(column.cat.rename_categories([str(name) for name in column.cat.categories]))
        own = list(columns[-1].cat.categories)
        kept = stored_colours(table.uns.get(f"{key}_colors"), len(own)) or []
        names |= dict.fromkeys(own)
        colours = dict(zip(own, kept, strict=False)) | colours
    order = list(names)
    codes = np.concatenate([pd.Index(order).get_indexer(column.astype(object)) for column in columns])
    return codes, order, colours


def _shares(study: Study, codes: np.ndarray, names: list[str]) -> dict[str, Any]:
    """The table of proportions, for the provenance."""
    starts = dict(zip(map(id, study.works), np.cumsum([0, *(work.table.n_obs for work in study.works)]), strict=False))
    rows = [
        starts[id(section.work)]
        + (np.arange(section.work.table.n_obs) if section.member is None else section.member.rows)
        for section in study
    ]
    sections = [section.name for section in study]
    return {"sections": sections, "domains": names, **proportions(codes, rows, len(names))}
