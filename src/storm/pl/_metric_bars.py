"""Scores of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._checks import check_choice, check_frame
from storm._palette import OKABE_ITO
from storm.pl._arguments import check_axes, check_colours

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["metric_bars"]

#: Axis label of each score.
_LABELS = {
    "ari": "ARI",
    "nmi": "NMI",
    "fmi": "FMI",
    "homogeneity": "homogeneity",
    "completeness": "completeness",
    "chaos": "CHAOS (lower is better)",
    "pas": "PAS (lower is better)",
    "asw": "ASW",
    "seconds": "seconds",
    "r": "median r of the genes",
    "spearman": "median Spearman correlation of the genes",
    "rmse": "median RMSE of the genes (lower is better)",
    "ssim": "median SSIM of the genes",
}
#: Of which a section may have one value in a figure, and what they are.
_ONE = {"n_domains": "numbers of domains", "split": "splits", "genes": "lists of genes"}
#: Bars of STORM, and of the others.
_STORM, _OTHER = OKABE_ITO[0], "#BDBDBD"


def metric_bars(
    table: pd.DataFrame,
    metric: str | None = None,
    *,
    methods: Sequence[str] | None = None,
    colours: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a score of several methods: a bar for the mean over sections, a dot for each section.

    A section counts once, by the mean over its seeds. Nothing else is computed: :func:`storm.benchmark.domains` or
    :func:`storm.benchmark.by_section` makes the table.

    Parameters
    ----------
    table
        A row per method, section and seed, with the columns ``method``, ``section`` and the score; of one number of
        domains (``n_domains``), or of one split and list of genes.
    metric
        ``"ari"``, ``"nmi"``, ``"fmi"``, ``"homogeneity"``, ``"completeness"``, ``"chaos"``, ``"pas"``, ``"asw"`` or
        ``"seconds"`` of domains; ``"r"``, ``"spearman"``, ``"rmse"`` or ``"ssim"`` of expression. The default is
        ``"ari"``, and ``"r"`` for a table of expression.
    methods
        Methods to draw, from left to right; ``None`` for all, in the order of the table.
    colours
        Colour of some methods; by default STORM's read-outs are blue and the others grey.
    ax
        Axes to draw into; ``None`` makes a figure.
    title
        Title of the axes.

    Returns
    -------
    Axes
        The axes.

    Raises
    ------
    KeyError
        If the table lacks a column.
    ValueError
        If the metric or a method is unknown, colours are none, or a section has several numbers of domains, splits or
        lists of genes.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sections = {str(seed): storm.datasets.toy("visium", n=200, seed=seed) for seed in range(2)}
        >>> methods = ["storm_st", "hvg_pca", "smoothing"]
        >>> table = storm.benchmark.domains(sections, truth="domain", methods=methods, seeds=[0])
        >>> ax = storm.pl.metric_bars(table, "ari")
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    check_axes(ax)
    source = (
        "what storm.benchmark.domains returns, or storm.benchmark.by_section of what storm.benchmark.expression returns"
    )
    check_frame(table, name="the table", source=source)
    of_genes = "n_genes" in table
    metric = metric or ("r" if of_genes else "ari")
    check_choice(metric, _LABELS, name="metric")
    needed = ("method", "section", metric, *(("encoder", "split", "genes") if of_genes else ("n_domains",)))
    check_frame(table, needed, name="the table", source=source)
    available = list(dict.fromkeys(table["method"]))
    for name in available if methods is None else methods:
        check_choice(name, available, name="methods")
    if methods is not None:
        table = pd.concat([table[table["method"] == name] for name in dict.fromkeys(methods)])
    bars = table["method"].astype(str)
    if of_genes:
        several = table["method"].map(table.groupby("method")["encoder"].nunique() > 1).to_numpy(bool)
        bars = bars.where(~several, bars + " (" + table["encoder"].astype(str) + ")")
    for column, what in _ONE.items():
        if column in needed and (table.groupby([bars, "section"])[column].nunique() > 1).any():
            values = sorted(set(table[column].tolist()))
            msg = f"the table holds several {what}, {values}; give the rows of one of them"
            raise ValueError(msg)
    names = list(dict.fromkeys(bars))
    given = dict(colours or {})
    check_colours(list(given.values()), name="colours")
    by_section = table.groupby([bars, "section"], sort=False)[metric].mean()
    if ax is None:
        ax = plt.subplots(figsize=(1.2 + 0.42 * len(names), 3.4), layout="constrained")[1]
    for place, name in enumerate(names):
        values = by_section[name].dropna().to_numpy()
        if not len(values):
            continue
        storms = name == "storm" or name.startswith("storm_")
        own = given.get(name, given.get(name.split(" (")[0], _STORM if storms else _OTHER))
        ax.bar(place, values.mean(), width=0.7, color=own, zorder=1)
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(place + spread, values, s=12, color="black", linewidths=0, zorder=2)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    ax.set_ylabel(_LABELS[metric])
    ax.axhline(0, color="black", linewidth=0.6)
    if title:
        ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
