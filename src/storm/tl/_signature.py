"""``storm.tl.signature``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from storm import __version__, _keys
from storm._bridge.counts import named_elsewhere
from storm._bridge.keys import Keys
from storm._bridge.pool import open_pool
from storm._bridge.ranked import common_ranking
from storm._bridge.results import default_p
from storm._checks import check_between, check_choice, check_genes, check_whole
from storm._logging import warn
from storm.biology.signatures import score_genes, zscore

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

#: Share of a signature's genes below which its score is hardly what it is called after.
_HALF = 0.5


def signature(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    genes: str | Sequence[str] | None = None,
    *,
    domain: str | None = None,
    top: float = 0.1,
    p: Literal["p_spatial_adj", "pvals_adj"] | None = None,
    fdr: float = 0.05,
    min_lfc: float = 0.0,
    key: str = _keys.RANKED_GENES,
    method: Literal["score_genes", "zscore"] = "score_genes",
    n_bins: int = 25,
    ctrl_size: int = 50,
    layer: str | None = None,
    normalise: bool | Literal["auto"] = "auto",
    table_key: str | None = None,
    seed: int = 0,
    key_added: str = _keys.SIGNATURE,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Score each spot by the genes of a domain, or by a list of genes.

    Parameters
    ----------
    data
        Object with expression. A list of objects is scored by the same genes, those that all of them have, with the
        same controls or means, so that scores can be compared between them.
    genes
        Genes of the signature; or give ``domain``.
    domain
        A domain that :func:`storm.tl.rank_domain_genes` ranked: its signature is the ``top`` share, by score, of the
        genes that are significantly higher in it (the paper's: "the top 10 % of the differential genes"). Of a list,
        it is enough that one object holds the ranking.
    top
        That share, above 0 and up to 1; at least one gene.
    p, fdr, min_lfc
        What is significantly higher, as in :func:`storm.tl.enrich`.
    key
        Key of the ranking in ``uns``.
    method
        ``"score_genes"``: mean of the genes minus that of control genes that are expressed alike; ``"zscore"``: mean of
        standard scores. Controls come from the bins of the signature's own genes: on a small panel, in which the
        domain's other genes fill these bins, use fewer ``n_bins``, or ``"zscore"``.
    n_bins, ctrl_size, seed
        Bins of mean expression, controls drawn from each, and the random seed of the draw, of ``"score_genes"``.
    layer, normalise
        Expression to read, as in :func:`storm.tl.rank_domain_genes`.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets

        - ``obs[key_added]``: the score of each spot,
        - ``uns["storm"][key_added]``: parameters, and the ``genes``, which :func:`storm.get.signature` returns.

    Raises
    ------
    KeyError
        If there is no ranking, domain or layer.
    ValueError
        If both or none of ``genes`` and ``domain`` are given, the objects of a list hold different rankings, no gene is
        selected, none is in the table or was seen in any spot, or no control is left.

    Warns
    -----
    UserWarning
        If genes of the list are not in the table, or fractions are taken for values on the log scale.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.signature(sdata, ["MS4A1", "CD79A", "CD19"], method="zscore", key_added="b_cells")
    >>> sdata["table"].obs["b_cells"].shape
    (300,)
    """
    check_choice(method, ("score_genes", "zscore"), name="method")
    check_choice(p, (None, "p_spatial_adj", "pvals_adj"), name="p")
    check_between(fdr, name="fdr", low=0, high=1)
    check_between(min_lfc, name="min_lfc", low=0, high=float("inf"))
    check_whole(n_bins, name="n_bins", least=2)
    check_whole(ctrl_size, name="ctrl_size")
    check_whole(seed, name="seed", least=0)
    if not check_between(top, name="top", low=0, high=1) > 0:
        msg = f"top={top!r} selects no gene; give a share above 0 and up to 1"
        raise ValueError(msg)
    if (genes is None) == (domain is None):
        msg = "give either genes, a list of names, or domain, one that storm.tl.rank_domain_genes ranked"
        raise ValueError(msg)
    pool = open_pool(data, Keys(table_key=table_key), copy=copy, keys_added={"obs": [key_added]})
    facts: dict[str, Any] = {"storm_version": __version__, "method": method}
    if domain is not None:
        domain = str(domain)
        wanted = _of_domain(pool.tables, key, domain, top=top, p=p, fdr=fdr, min_lfc=min_lfc)
        facts |= {"domain": domain, "top": top, "fdr": fdr, "min_lfc": min_lfc}
    else:
        wanted = check_genes(genes if genes is not None else [])
    values, names, normalised = pool.log_values(layer, normalise=normalise)
    place = {name: at for at, name in enumerate(names)}
    found = [gene for gene in wanted if gene in place]
    if not found:
        msg = (
            f"none of the {len(wanted)} genes is in the table, e.g. {wanted[:3]}; it names genes like "
            f"{list(map(str, names[:3]))}{named_elsewhere(pool.tables[0], wanted)}"
        )
        raise ValueError(msg)
    if len(found) < len(wanted):
        missing = [gene for gene in wanted if gene not in place]
        half = ", less than half: the score is hardly that of the signature" if len(found) < _HALF * len(wanted) else ""
        text = f"{len(found)} of the signature's {len(wanted)} genes are in the table{half}; missing: {missing[:10]}"
        warn(text)
    columns = np.array([place[gene] for gene in found])
    if not (values[:, columns].data > 0).any():
        msg = f"none of the {len(found)} genes that are in the table was seen in any spot, e.g. {found[:3]}"
        raise ValueError(msg)
    if method == "zscore":
        score = zscore(values, columns)
    else:
        score = score_genes(values, columns, n_bins=n_bins, ctrl_size=ctrl_size, seed=seed)
        facts |= {"n_bins": n_bins, "ctrl_size": ctrl_size, "seed": seed}
    facts |= {"genes": found, "n_genes": len(wanted), "normalised": normalised}
    pool.write(obs={key_added: score}, uns={key_added: facts | pool.facts})
    return pool.copies(data) if copy else None


def _of_domain(
    tables: Sequence[AnnData], key: str, domain: str, *, top: float, p: str | None, fdr: float, min_lfc: float
) -> list[str]:
    """The top share of the genes that are significantly higher in a domain."""
    frame = common_ranking(tables, key, domain)
    if p is None:
        p = default_p(frame)
    called = frame[(frame[p] <= fdr) & (frame["scores"] > 0) & (frame["logfoldchanges"] >= min_lfc)]
    if called.empty:
        msg = (
            f"no gene of domain {domain!r} has {p} <= {fdr:g} and a log2 fold change of at least {min_lfc:g}; choose "
            f"p=, fdr= or min_lfc=, or give genes"
        )
        raise ValueError(msg)
    number = max(1, round(top * len(called)))
    return called["names"].astype(str).tolist()[:number]
