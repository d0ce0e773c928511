"""``storm.benchmark.by_section`` and ``storm.benchmark.top_n``, and the summary of a comparison of expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from storm._checks import check_choice
from storm.metrics.expression import top_n_curve

#: What makes a row of a summary.
KEYS = ("method", "encoder", "split", "same_patient", "genes")
#: Scores of a gene, and their names for a section.
_SCORES = {"pearson": "r", "spearman": "spearman", "rmse": "rmse", "ssim": "ssim"}
#: Genes of the summary's top.
_TOP = 50
_NEEDED = (*KEYS, "section", "seed", "gene", "pearson_pooled", "train_r", "seconds", *_SCORES)


def by_section(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each section over its genes, for :func:`storm.pl.metric_bars`.

    Parameters
    ----------
    table
        What :func:`storm.benchmark.expression` returns.

    Returns
    -------
    DataFrame
        A row per method, encoder, split, list of genes, section and seed: ``r``, ``spearman``, ``rmse`` and ``ssim``,
        each the median over genes, and ``n_genes``, those with an r.

    Raises
    ------
    ValueError
        If the table lacks a column.

    Examples
    --------
    >>> import storm
    >>> sections = {"a": storm.datasets.toy("visium", n=150), "b": storm.datasets.toy("visium", n=150, seed=1)}
    >>> options = {"groups": {"a": "A", "b": "B"}, "genes": {"mine": ["EPCAM", "COL1A1"]}}
    >>> table = storm.benchmark.expression(sections, methods=["mean", "ridge"], **options)
    >>> storm.benchmark.by_section(table)[["method", "section", "n_genes"]]
      method section  n_genes
    0   mean       a        0
    1  ridge       a        2
    2   mean       b        0
    3  ridge       b        2
    """
    _check(table)
    groups = table.groupby([*KEYS, "section", "seed"], sort=False, dropna=False)
    scores = groups[list(_SCORES)].median().rename(columns=_SCORES)
    return scores.assign(n_genes=groups["pearson"].count()).reset_index()


def top_n(
    table: pd.DataFrame,
    ns: Sequence[int] = (10, 25, 50, 100, 200, 500),
    *,
    ranked_on: Literal["training", "evaluated"] = "training",
) -> pd.DataFrame:
    """Median r of the N genes that are predicted best, for :func:`storm.pl.top_n`.

    Parameters
    ----------
    table
        What :func:`storm.benchmark.expression` returns.
    ns
        Numbers of genes; those beyond the list are left out.
    ranked_on
        ``"training"``: genes are ranked by their r on spots held out of training (``train_r``), the same for all
        methods. ``"evaluated"``: by the very r that is reported, for each method its own, as many papers do, which
        flatters.

    Returns
    -------
    DataFrame
        A row per method, encoder, split, list of genes and number: ``n``, ``r`` (of each gene the mean over sections,
        the median over genes, the mean over seeds) and ``ranked_on``.

    Raises
    ------
    ValueError
        If the table lacks a column, a number is not positive, or there is no such ranking.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, figure 3C.

    Examples
    --------
    >>> import storm
    >>> sections = {"a": storm.datasets.toy("visium", n=150), "b": storm.datasets.toy("visium", n=150, seed=1)}
    >>> options = {"groups": {"a": "A", "b": "B"}, "genes": {"mine": ["EPCAM", "COL1A1"]}}
    >>> table = storm.benchmark.expression(sections, methods=["ridge"], **options)
    >>> storm.benchmark.top_n(table, [1, 2])[["split", "n"]]
           split  n
    0  patient A  1
    1  patient A  2
    2  patient B  1
    3  patient B  2
    """
    _check(table)
    check_choice(ranked_on, ("training", "evaluated"), name="ranked_on")
    rows = []
    for key, own in table.groupby(list(KEYS), sort=False, dropna=False):
        curves = []
        for _, run in own.groupby("seed", sort=False):
            genes = run.groupby("gene", sort=False)[["pearson", "train_r"]].mean()
            rank = genes["train_r"].to_numpy() if ranked_on == "training" else None
            curves.append(top_n_curve(genes["pearson"].to_numpy(), ns=list(ns), rank_by=rank))
        for n in sorted({n for curve in curves for n in curve}):
            r = float(np.mean([curve[n] for curve in curves if n in curve]))
            rows.append({**dict(zip(KEYS, key, strict=True)), "n": n, "r": r, "ranked_on": ranked_on})
    return pd.DataFrame(rows, columns=[*KEYS, "n", "r", "ranked_on"])


def summary_of_expression(table: pd.DataFrame) -> pd.DataFrame:
    """See :func:`storm.benchmark.summary`."""
    keys = list(KEYS)
    scored = by_section(table)
    scores = list(_SCORES.values())
    sections = scored.groupby([*keys, "section"], sort=False, dropna=False)[scores].mean()
    groups = sections.groupby(keys, sort=False, dropna=False)
    seeds = scored.groupby([*keys, "seed"], sort=False, dropna=False)["r"].mean()
    runs = table.groupby([*keys, "seed"], sort=False, dropna=False)
    # the pooled r of a gene stands in the rows of all its sections
    pooled = table.groupby([*keys, "seed", "gene"], sort=False, dropna=False)["pearson_pooled"].first()
    pooled = pooled.groupby([*keys, "seed"], sort=False, dropna=False).median()

    def over_seeds(values: pd.Series) -> pd.Series:
        return values.groupby(keys, sort=False, dropna=False).mean()

    mean = groups.mean()
    parts = [
        groups.size().rename("sections"),
        table.groupby(keys, sort=False, dropna=False)["gene"].nunique().rename("n_genes"),
        mean["r"],
        groups["r"].std().rename("r_sd"),
        seeds.groupby(keys, sort=False, dropna=False).std().rename("r_seeds_sd"),
        over_seeds(pooled).rename("r_pooled"),
    ]
    top = top_n(table, [_TOP]).rename(columns={"r": f"top_{_TOP}"})
    parts += [mean[name] for name in scores[1:]]
    result = pd.concat([*parts, over_seeds(runs["seconds"].first())], axis=1).reset_index()
    return result.merge(top[[*keys, f"top_{_TOP}"]].astype({f"top_{_TOP}": float}), on=keys, how="left")


def _check(table: pd.DataFrame) -> None:
    if lacking := [name for name in _NEEDED if name not in table]:
        msg = f"the table has no column {lacking}; give what storm.benchmark.expression returns"
        raise ValueError(msg)
