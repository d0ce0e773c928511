"""``storm.tl.enrich``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from storm import __version__, _keys
from storm._bridge.counts import named_elsewhere
from storm._bridge.keys import Keys
from storm._bridge.pool import open_pool
from storm._bridge.ranked import common_ranking
from storm._bridge.results import default_p
from storm._checks import check_between, check_choice, check_gene_lists, check_new_key, check_whole, domain_names
from storm._logging import logger, warn
from storm.biology.enrichment import over_representation, preranked_enrichment, read_gmt, sets_with_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def enrich(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    sets: Mapping[str, Iterable[str]] | str | Path,
    *,
    method: Literal["ora", "gsea"] = "ora",
    groups: Literal["all"] | str | Sequence[str] = "all",
    direction: Literal["up", "down"] = "up",
    p: Literal["p_spatial_adj", "pvals_adj"] | None = None,
    fdr: float = 0.05,
    min_lfc: float = 0.0,
    min_genes: int = 10,
    max_genes: int | None = None,
    seed: int = 0,
    key: str = _keys.RANKED_GENES,
    key_added: str = _keys.ENRICHMENT,
    table_key: str | None = None,
    copy: bool = False,
) -> SpatialData | AnnData | list[SpatialData | AnnData] | None:
    """Test which gene sets the genes of a domain belong to.

    Over-representation (``"ora"``, the paper's) asks whether a set holds more of a domain's genes than chance would put
    there, by Fisher's exact test. Its background are the genes that were tested, not all genes of the genome and not
    those of the sets. ``"gsea"`` needs no selection: it looks where the genes of a set stand in the ranking by score.
    False discovery rates are over all sets of the right size, also those without a selected gene.

    Both take genes for independent, which those of a set are not, and inherit what is said about the p-values of
    :func:`storm.tl.rank_domain_genes`: sets of genes that vary smoothly over the tissue are found too often.

    Parameters
    ----------
    data
        Object whose table holds the result of :func:`storm.tl.rank_domain_genes`; or the objects of a list that was
        ranked together, each of which gets the same result.
    sets
        Genes by set, such as :func:`storm.datasets.gene_sets` returns, or the path of a GMT file. The genes have the
        names that the table gives them.
    method
        ``"ora"`` or ``"gsea"``.
    groups
        Domains; ``"all"`` that were ranked, or names.
    direction
        Whether ``"ora"`` selects genes that are higher in the domain (``"up"``) or lower.
    p, fdr, min_lfc
        Genes that ``"ora"`` selects have at most ``fdr`` in the column ``p`` and a log2 fold change of at least
        ``min_lfc`` in the direction asked for. ``None`` is ``"p_spatial_adj"`` where it was computed, else
        ``"pvals_adj"``.
    min_genes, max_genes
        Least and largest number of tested genes of a set; sets of other sizes are left out and counted.
    seed
        Random seed of the random sets of ``"gsea"``.
    key
        Key of the ranking in ``uns``.
    key_added
        Key of the result.
    table_key
        The table; needed only where there are several.
    copy
        Return a changed copy and leave ``data`` alone.

    Returns
    -------
    SpatialData or AnnData or list of these or None
        The copy if ``copy``, a list for a list, else ``None``; the table gets ``uns["storm"][key_added]`` with
        parameters, the number of sets left out by reason, and a data frame of one row per domain and set by rising
        p-value, which :func:`storm.get.enrich` returns:

        - ``"ora"``: ``group``, ``set``, ``n_genes``, ``n_selected`` (of the domain), ``n_overlap``, ``expected``,
          ``odds_ratio``, ``pvals``, ``pvals_adj``, ``genes`` (the overlap),
        - ``"gsea"``: ``group``, ``set``, ``n_genes``, ``es``, ``nes``, ``pvals``, ``pvals_adj``, ``genes`` (the leading
          edge).

    Raises
    ------
    KeyError
        If there is no ranking, or no such domain in it.
    ValueError
        If no set has the right number of tested genes, an argument is out of range, or the objects of a list hold
        different rankings.
    TypeError
        If the genes of a set are no list, or text, of which each letter would be a gene.
    FileNotFoundError
        If there is no such GMT file.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Methods (over-representation of hallmark sets, FDR < .05); Subramanian
    et al., Gene set enrichment analysis, PNAS 2005.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=300)
    >>> storm.tl.rank_domain_genes(sdata, "domain")
    >>> sets = {"B cells": ["MS4A1", "CD79A", "CD19", "CD79B"], "fat": ["ADIPOQ", "PLIN1", "FABP4", "LEP"]}
    >>> storm.tl.enrich(sdata, sets, min_genes=2)
    >>> storm.get.enrich(sdata, "immune infiltrate")["set"].tolist()
    ['B cells', 'fat']
    """
    check_choice(method, ("ora", "gsea"), name="method")
    check_choice(direction, ("up", "down"), name="direction")
    check_choice(p, (None, "p_spatial_adj", "pvals_adj"), name="p")
    check_between(fdr, name="fdr", low=0, high=1)
    check_between(min_lfc, name="min_lfc", low=0, high=float("inf"))
    check_whole(min_genes, name="min_genes")
    check_whole(seed, name="seed", least=0)
    most: float = np.inf if max_genes is None else check_whole(max_genes, name="max_genes", least=min_genes)
    check_new_key(key_added)
    given = check_gene_lists(sets, name="sets") if isinstance(sets, Mapping) else read_gmt(sets)
    if not given:
        msg = "sets is empty; give genes by set, such as storm.datasets.gene_sets('hallmark')"
        raise ValueError(msg)
    pool = open_pool(data, Keys(table_key=table_key), copy=copy)
    pool.check_record_added(key_added, made_by="storm.tl.enrich")
    ranking = common_ranking(pool.tables, key)
    names = list(dict.fromkeys(ranking["group"]))
    wanted = domain_names(groups, name="groups")
    if wanted == ["all"]:
        wanted = names
    if not wanted:
        msg = f"groups is empty; name domains out of {names}, or leave it out for all of them"
        raise ValueError(msg)
    if unknown := [name for name in wanted if name not in names]:
        msg = f"groups names {unknown}, and the domains that were ranked are {names}"
        raise KeyError(msg)
    if p is None:
        p = default_p(ranking)

    frames, left_out, empty = [], Counter[str](), []
    for name in wanted:
        genes = ranking[(ranking["group"] == name) & ranking["scores"].notna()]
        tested = genes["names"].astype(str).tolist()
        kept, reasons = sets_with_genes(given, tested, min_genes=min_genes, max_genes=most)
        if not kept:
            _refuse(given, tested, min_genes, max_genes, pool.tables[0])
        left_out = max(left_out, Counter(reasons.values()), key=Counter.total)
        if method == "gsea":
            frame = preranked_enrichment(dict(zip(tested, genes["scores"], strict=True)), kept, seed=seed)
        else:
            sign = 1 if direction == "up" else -1
            fold = sign * genes["logfoldchanges"].to_numpy()
            called = (genes[p].to_numpy() <= fdr) & (sign * genes["scores"].to_numpy() > 0) & (fold >= min_lfc)
            selected = genes["names"].astype(str)[called]
            if not len(selected):
                empty.append(name)
            frame = over_representation(selected, tested, kept)
            frame.insert(2, "n_selected", len(selected))
        frame.insert(0, "group", name)
        strength = -frame["nes" if method == "gsea" else "odds_ratio"].abs().to_numpy(dtype=float)
        frames.append(frame.iloc[np.lexsort((strength, frame["pvals"]))])
    if empty:
        text = f"no gene of {', '.join(map(repr, empty))} has {p} <= {fdr:g} and a log2 fold change of {min_lfc:g}"
        advice = "so that no set is found; choose p=, fdr= or min_lfc=, or method='gsea'"
        warn(f"{text}, {advice}")
    if left_out:
        reasons_text = ", ".join(f"{number} with {reason}" for reason, number in left_out.items())
        logger.info("enrich: %d of %d gene sets are left out: %s", left_out.total(), len(given), reasons_text)

    facts: dict[str, Any] = {
        "storm_version": __version__,
        _keys.MADE_BY: "storm.tl.enrich",
        "method": method,
        "key": key,
        "n_sets": len(given),
        "left_out": dict(left_out),
        "min_genes": min_genes,
        "max_genes": max_genes,
    }
    facts |= {"seed": seed} if method == "gsea" else {"direction": direction, "p": p, "fdr": fdr, "min_lfc": min_lfc}
    pool.write(uns={key_added: {**facts, **pool.facts, _keys.TABLE: pd.concat(frames, ignore_index=True)}})
    return pool.copies(data) if copy else None


def _refuse(
    sets: Mapping[str, Iterable[str]], tested: list[str], min_genes: int, max_genes: int | None, table: AnnData
) -> None:
    """Raise: no set has the right number of tested genes."""
    size = f"min_genes={min_genes}" if max_genes is None else f"from min_genes={min_genes} to max_genes={max_genes}"
    known = set(tested)
    of_sets = {str(gene) for genes in sets.values() for gene in genes}
    shared = len(of_sets & known)
    msg = (
        f"none of the {len(sets)} gene sets has {size} of the genes that were tested; {shared} of their "
        f"{len(of_sets)} genes are among the {len(known)} tested. The sets name genes like {sorted(of_sets)[:3]}, the "
        f"table like {tested[:3]}: both need symbols of the same species"
    )
    if not shared and (elsewhere := named_elsewhere(table, of_sets)):
        msg = f"{msg}{elsewhere}, then rank the genes again"
    raise ValueError(msg)
