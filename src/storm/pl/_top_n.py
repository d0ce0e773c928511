"""Correlation of the best N genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storm._checks import check_choice, check_frame
from storm._palette import palette
from storm.pl._arguments import check_axes, check_colours

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["top_n"]

#: What each ranking is called on the axis.
_RANKED = {"training": "on held-out spots of training", "evaluated": "by the r that is shown, which flatters"}


def top_n(
    table: pd.DataFrame,
    *,
    methods: Sequence[str] | None = None,
    colours: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw the median r of the best N genes, a line for each method. The axis says by what genes were ranked.

    Nothing is computed: :func:`storm.benchmark.top_n` makes the table.

    Parameters
    ----------
    table
        Of one split and list of genes; solid lines for genes ranked on training, dashed ones for genes ranked by the
        result, where it holds both.
    methods
        Methods to draw; ``None`` for all, in the order of the table.
    colours
        Colour of some methods.
    ax
        Axes to draw into; ``None`` makes a figure.
    legend
        Whether to draw a legend.
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
        If a method is unknown, colours are none, or there are several splits or lists of genes.
    TypeError
        If ``ax`` is not a matplotlib axes.

    References
    ----------
    Xiang, Hou et al. (2026), arXiv:2604.03630, figure 3C.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sections = {"a": storm.datasets.toy("visium", n=150), "b": storm.datasets.toy("visium", n=150, seed=1)}
        >>> genes = {"all": sections["a"]["table"].var_names[:100].tolist()}
        >>> groups = {"a": "A", "b": "B"}
        >>> table = storm.benchmark.expression(sections, groups=groups, genes=genes, methods=["ridge", "knn"])
        >>> table = storm.benchmark.top_n(table.query("split == 'patient B'"), [10, 25, 50, 100])
        >>> ax = storm.pl.top_n(table)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    columns = ("method", "encoder", "split", "genes", "n", "r", "ranked_on")
    check_frame(table, columns, name="the table", source="what storm.benchmark.top_n returns")
    for column, what in {"split": "splits", "genes": "lists of genes"}.items():
        if table[column].nunique() > 1:
            msg = f"the table holds several {what}, {sorted(set(table[column]))}; give the rows of one of them"
            raise ValueError(msg)
    available = list(dict.fromkeys(table["method"]))
    wanted = available if methods is None else list(dict.fromkeys(methods))
    for name in wanted:
        check_choice(name, available, name="methods")
    given = dict(colours or {})
    check_colours(list(given.values()), name="colours")
    if ax is None:
        ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")[1]
    lines = table[table["method"].isin(wanted)].groupby(["method", "encoder"], sort=False, dropna=False)
    encoders = table.groupby("method")["encoder"].nunique().to_dict()
    for ((name, encoder), own), colour in zip(lines, palette(len(lines)), strict=True):
        label = f"{name} ({encoder})" if encoders[name] > 1 else str(name)
        for ranking, line in own.groupby("ranked_on", sort=False):
            style = "--" if ranking == "evaluated" and table["ranked_on"].nunique() > 1 else "-"
            named = label if style == "-" else None
            own_colour = given.get(str(name), colour)
            ax.plot(line["n"], line["r"], f"{style}o", color=own_colour, markersize=3.5, linewidth=1.4, label=named)
    rankings = list(dict.fromkeys(table["ranked_on"]))
    how = f"ranked {_RANKED[rankings[0]]}" if len(rankings) == 1 else "dashed: ranked by the r that is shown"
    ax.set(xscale="log", xlabel=f"genes, {how}", ylabel="median r")
    ticks = sorted(set(table["n"].tolist()))
    ax.set_xticks(ticks, [str(n) for n in ticks])
    ax.minorticks_off()
    ax.axhline(0, color="black", linewidth=0.6)
    if legend:
        ax.legend(fontsize=7, frameon=False)
    if title:
        ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
