"""``storm.benchmark.summary``."""

from __future__ import annotations

import pandas as pd

#: The scores of :func:`storm.benchmark.domains`, in the order of the paper.
SCORES = ("ari", "nmi", "fmi", "homogeneity", "completeness", "chaos", "pas", "asw")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of each score by method and number of domains asked for, and its spread over sections.

    Parameters
    ----------
    table
        What :func:`storm.benchmark.domains` returns.

    Returns
    -------
    DataFrame
        A row per method, in the order of the table: ``sections``, and per score the mean over sections (each the mean
        over its seeds) and, as ``"<score>_sd"``, their standard deviation, NaN for a single section. Where each method
        was run at several numbers of domains in a section, there is a row per number, ``n_domains``. ``seconds`` is the
        mean over sections.

    Raises
    ------
    ValueError
        If the table lacks a column.
    """
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
