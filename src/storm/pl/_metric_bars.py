"""Scores of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._checks import check_choice
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
}
#: Bars of STORM, and of the others.
_STORM, _OTHER = OKABE_ITO[0], "#BDBDBD"


def metric_bars(
    table: pd.DataFrame,
    metric: str = "ari",
    *,
    methods: Sequence[str] | None = None,
    colours: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a score of several methods: a bar for the mean over sections, a dot for each section.

    A section counts once, by the mean over its seeds. Nothing else is computed: :func:`storm.benchmark.domains` makes
    the table.

    Parameters
    ----------
    table
        A row per method, section and seed, with the columns ``method``, ``section``, ``n_domains`` and the score; of a
        sweep over numbers of domains, the rows of one number.
    metric
        ``"ari"``, ``"nmi"``, ``"fmi"``, ``"homogeneity"``, ``"completeness"``, ``"chaos"``, ``"pas"``, ``"asw"`` or
        ``"seconds"``.
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
        If the metric or a method is unknown, colours are none, or a section has several numbers of domains.
    TypeError
        If ``ax`` is not a matplotlib axes.
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    check_choice(metric, _LABELS, name="metric")
    if lacking := [name for name in ("method", "section", "n_domains", metric) if name not in table]:
        msg = f"the table has no column {lacking}; give what storm.benchmark.domains returns"
        raise KeyError(msg)
    available = list(dict.fromkeys(table["method"]))
    names = available if methods is None else list(methods)
    for name in names:
        check_choice(name, available, name="methods")
    swept = table.groupby(["method", "section"])["n_domains"].nunique()
    if (swept > 1).any():
        numbers = sorted(set(table["n_domains"].tolist()))
        msg = f"the table holds several numbers of domains, {numbers}; give the rows of one of them"
        raise ValueError(msg)
    given = dict(colours or {})
    check_colours(list(given.values()), name="colours")
    by_section = table.groupby(["method", "section"], sort=False)[metric].mean()
    if ax is None:
        ax = plt.subplots(figsize=(1.2 + 0.42 * len(names), 3.4), layout="constrained")[1]
    for place, name in enumerate(names):
        values = by_section[name].dropna().to_numpy()
        if not len(values):
            continue
        storms = name == "storm" or name.startswith("storm_")
        ax.bar(place, values.mean(), width=0.7, color=given.get(name, _STORM if storms else _OTHER), zorder=1)
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(place + spread, values, s=12, color="black", linewidths=0, zorder=2)
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    ax.set_ylabel(_LABELS[metric])
    ax.axhline(0, color="black", linewidth=0.6)
    if title:
        ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
