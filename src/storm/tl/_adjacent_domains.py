"""``storm.tl.adjacent_domains``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm import __version__, _keys
from storm._bridge.keys import Keys
from storm._bridge.pool import open_pool
from storm._checks import check_between, check_whole
from storm.biology.contacts import Contacts, count_contacts
from storm.data.contacts import contact_edges

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def adjacent_domains(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    key: str = _keys.DOMAIN,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    min_share: float = 0.05,
    min_edges: int = 3,
    key_added: str | None = None,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Find which domains lie beside each other.

    Two spots touch if they are neighbours on the lattice (four on a square one, six on a hexagonal one); where there is
    no lattice, if an edge of the Delaunay triangulation joins them that is at most three times as long as the median
    edge. A domain is adjacent to another one if enough of its *outward* edges lead there. That is not symmetric: a
    small domain inside a large one touches nothing else, but is little of what the large one touches.

    A score against labels in random places stands beside it, and does not decide: domains are contiguous, so that even
    touching ones have fewer contacts than random labels, and their scores are negative.

    Parameters
    ----------
    data
        Object whose table holds ``obs[key]``. The edges of a list of objects are counted together, and each table gets
        the same result.
    key
        Column of ``obs`` with the domains; rows without one do not count.
    library_key
        Column of ``obs`` that names the section of each row; no edge leaves a section. In a SpatialData whose table
        annotates several elements, each of them is a section.
    table_key, shapes_key, coordinate_system
        Elements to read, as in :func:`storm.tl.embed`; needed only if there are several.
    min_share, min_edges
        Least share of a domain's outward edges, and least number of edges, of an adjacent domain.
    key_added
        Key of the result; ``None`` is ``"<key>_adjacency"``.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets ``uns["storm"][key_added]`` with the
        parameters and a data frame, which :func:`storm.get.adjacent_domains` returns. It has a row for each ordered
        pair of domains ``i`` and ``j``:

        - ``edges``: number of edges between them (within the domain where ``i`` is ``j``),
        - ``share``: share of the outward edges of ``i`` that lead to ``j``; NaN where ``i`` is ``j``,
        - ``log2_enrichment``: log2 of these edges over what they are if the share that leads to ``j`` in each section
          is that of ``j`` among its spots outside of ``i``,
        - ``z``: standard score of ``edges`` if the labels of each section are permuted (exact moments),
        - ``adjacent``: whether ``j`` is adjacent to ``i``.

    Raises
    ------
    KeyError
        If there is no such column or element.
    ValueError
        If the column holds no domains, a section is ambiguous, no spot has a place, or ``key_added`` is taken by
        another result.

    Examples
    --------
    Which planted domains touch the immune infiltrate:

    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.adjacent_domains(sdata, "domain")
    >>> frame = storm.get.adjacent_domains(sdata, "domain")
    >>> frame.loc[frame["adjacent"] & (frame["i"] == "immune infiltrate"), "j"].tolist()
    ['invasive cancer', 'connective tissue', 'breast glands']
    """
    check_between(min_share, name="min_share", low=0, high=1)
    check_whole(min_edges, name="min_edges")
    key_added = _keys.adjacency(key) if key_added is None else key_added
    keys = Keys(table_key=table_key, shapes_key=shapes_key, coordinate_system=coordinate_system)
    pool = open_pool(data, keys, library_key=library_key, copy=copy)
    pool.check_record_added(key_added, made_by="storm.tl.adjacent_domains")
    labels = pool.labels(key)
    places = pool.places()
    edges = contact_edges(places.centres, places.sections)
    contacts = count_contacts(edges, labels.codes, len(labels.names), sections=places.sections)
    frame = _frame(contacts, labels.names, min_share=min_share, min_edges=min_edges)
    facts = {
        "storm_version": __version__,
        _keys.MADE_BY: "storm.tl.adjacent_domains",
        "key": key,
        "library_key": pool.library_key,
        "n_edges": len(edges),
        "n_sections": max(len(places.names), 1),
        "min_share": min_share,
        "min_edges": min_edges,
        _keys.TABLE: frame,
    }
    pool.write(uns={key_added: facts | pool.facts})
    return pool.copies(data) if copy else None


def _frame(contacts: Contacts, names: list[str], *, min_share: float, min_edges: int) -> pd.DataFrame:
    one, other = (axis.ravel() for axis in np.indices(contacts.edges.shape))
    return pd.DataFrame(
        {
            "i": np.array(names, dtype=object)[one],
            "j": np.array(names, dtype=object)[other],
            "edges": contacts.edges.ravel(),
            "share": contacts.share.ravel(),
            "log2_enrichment": contacts.log2_enrichment.ravel(),
            "z": contacts.z.ravel(),
            "adjacent": contacts.adjacent(min_share=min_share, min_edges=min_edges).ravel(),
        }
    )
