"""``storm.prognosis.enrich_genes``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from storm._checks import check_choice, check_gene_lists, check_whole
from storm._logging import logger
from storm.biology.enrichment import over_representation, read_gmt, sets_with_genes


def enrich_genes(
    ranked: pd.DataFrame,
    sets: Mapping[str, Iterable[str]] | str | Path,
    *,
    n_genes: int = 50,
    direction: Literal["up", "down"] | None = None,
    min_genes: int = 10,
    max_genes: int | None = None,
) -> pd.DataFrame:
    """Test which gene sets hold more of the first genes of a ranking than chance would put there.

    The background are the genes of the ranking, all of which could have been among the first: not those of the genome,
    and not those of the sets. A ranking of a few hundred genes that were chosen for a cancer says little about sets.

    Parameters
    ----------
    ranked
        What :func:`rank_genes` or :func:`gene_importance` returned: all genes, best first.
    sets
        Genes by set, such as :func:`storm.datasets.gene_sets` returns, or the path of a GMT file.
    n_genes
        How many genes are first; the paper's 50.
    direction
        Take only genes that are higher (``"up"``) or lower in the high-risk zones; ``None`` for both together.
    min_genes, max_genes
        Least and largest number of ranked genes of a set; sets of other sizes are left out and counted in the log.

    Returns
    -------
    DataFrame
        By set, the smallest p-value first: ``n_genes``, ``n_overlap``, ``expected``, ``odds_ratio``, ``pvals``
        (Fisher's exact test, one-sided), ``pvals_adj`` (Benjamini–Hochberg over all sets), ``genes`` (the overlap).
        ``attrs["selected"]`` has the names of the first genes.

    Raises
    ------
    KeyError
        If a direction is asked for, and the ranking has none.
    ValueError
        If no gene is selected, all are, or no set has the right number of ranked genes.
    TypeError, FileNotFoundError
        As :func:`storm.tl.enrich`.

    Examples
    --------
    A ranking of 100 genes, as :func:`rank_genes` and :func:`gene_importance` return it:

    >>> import pandas as pd
    >>> import storm
    >>> names = [f"gene{k}" for k in range(100)]
    >>> ranked = pd.DataFrame({"direction": ["up", "down"] * 50}, index=names)
    >>> found = storm.prognosis.enrich_genes(ranked, {"first": names[:20], "last": names[-20:]}, n_genes=10)
    >>> found["n_overlap"].to_dict()
    {'first': 10, 'last': 0}

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, Fig. 5C.
    """
    check_choice(direction, (None, "up", "down"), name="direction")
    check_whole(n_genes, name="n_genes")
    check_whole(min_genes, name="min_genes")
    most = float("inf") if max_genes is None else check_whole(max_genes, name="max_genes", least=min_genes)
    given = check_gene_lists(sets, name="sets") if isinstance(sets, Mapping) else read_gmt(sets)
    if not isinstance(ranked, pd.DataFrame):
        msg = f"ranked is a {type(ranked).__name__}; give what storm.prognosis.rank_genes or gene_importance returned"
        raise TypeError(msg)
    tested = [str(gene) for gene in ranked.index]
    chosen = ranked
    if direction is not None:
        if "direction" not in ranked:
            msg = (
                f"ranked has no column 'direction', only {list(ranked)}; give what storm.prognosis.rank_genes returned"
            )
            raise KeyError(msg)
        chosen = ranked[ranked["direction"] == direction]
    selected = [str(gene) for gene in chosen.index[:n_genes]]
    if not 0 < len(selected) < len(tested):
        msg = (
            f"{len(selected)} of {len(tested)} ranked genes are selected (n_genes={n_genes}, direction={direction!r}); "
            f"over-representation compares some of the genes with the others: choose a smaller n_genes"
        )
        raise ValueError(msg)
    kept, left_out = sets_with_genes(given, tested, min_genes=min_genes, max_genes=most)
    if not kept:
        shared = len({gene for genes in given.values() for gene in genes} & set(tested))
        msg = (
            f"none of {len(given)} sets has min_genes={min_genes} of the {len(tested)} ranked genes, of which {shared} "
            f"are in any set; the ranking names genes like {tested[:3]}"
        )
        raise ValueError(msg)
    if left_out:
        logger.info("%d of %d gene sets have other sizes and are left out", len(left_out), len(given))
    table = over_representation(selected, tested, kept).set_index("set")
    table = table.sort_values(["pvals", "odds_ratio"], ascending=[True, False], kind="stable")
    table.attrs["selected"] = selected
    return table
