"""``storm.benchmark.summary``."""

from __future__ import annotations

import pandas as pd

from storm.benchmark._expression_summary import summary_of_expression

#: The scores of :func:`storm.benchmark.domains`, in the order of the paper.
SCORES = ("ari", "nmi", "fmi", "homogeneity", "completeness", "chaos", "pas", "asw")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of each score by method, and its spread over sections.

    Parameters
    ----------
    table
        What :func:`storm.benchmark.domains` or :func:`storm.benchmark.expression` returns.

    Returns
    -------
    DataFrame
        Of domains a row per method, in the order of the table: ``sections``, and per score the mean over sections (each
        the mean over its seeds) and, as ``"<score>_sd"``, their standard deviation, NaN for a single section. Where
        each method was run at several numbers of domains in a section, there is a row per number, ``n_domains``.
        ``seconds`` is the mean over sections.

        Of expression a row per method, encoder, split and list of genes: ``sections``, ``n_genes``, ``r`` (the median
        over genes within each section, the mean over seeds and sections), ``r_sd`` (over sections) and ``r_seeds_sd``
        (over seeds), ``r_pooled`` (over the spots of all sections of the split, which a shift between sections alone
        can raise or lower), ``spearman``, ``rmse`` and ``ssim`` (as ``r``), ``seconds``, and ``top_50`` (see
        :func:`storm.benchmark.top_n`).

    Raises
    ------
    ValueError
        If the table lacks a column.

    Examples
    --------
    >>> import storm
    >>> sdata = storm.datasets.toy("visium", n=150)
    >>> methods = ["hvg_pca", "smoothing"]
    >>> table = storm.benchmark.domains({"toy": sdata}, truth="domain", methods=methods, seeds=[0])
    >>> storm.benchmark.summary(table)["method"].tolist()
    ['hvg_pca', 'smoothing']
    """
    if "gene" in table:
        return summary_of_expression(table)
    if lacking := [name for name in ("method", "section", "n_domains", "seconds", *SCORES) if name not in table]:
        msg = f"the table has no column {lacking}; give what storm.benchmark.domains returns"
        raise ValueError(msg)
    swept = (table.groupby(["method", "section"])["n_domains"].nunique() > 1).any()
    keys = ["method", "n_domains"] if swept else ["method"]
    columns = [*SCORES, "seconds"]
    sections = table.groupby([*keys, "section"], sort=False)[columns].mean()
    groups = sections.groupby(keys, sort=False)
    mean, spread = groups.mean(), groups[list(SCORES)].std()
    parts = [groups.size().rename("sections")]
    for name in SCORES:
        parts += [mean[name], spread[name].rename(f"{name}_sd")]
    return pd.concat([*parts, mean["seconds"]], axis=1).reset_index()
