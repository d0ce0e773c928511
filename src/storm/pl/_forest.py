"""Hazard ratios with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from storm._checks import check_frame
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["forest"]

_COLUMNS = ("hr", "hr_lower", "hr_upper")


def forest(
    table: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None, xlabel: str = "hazard ratio"
) -> Axes:
    """Draw hazard ratios and their intervals, a line for each, on a logarithmic axis.

    Nothing is computed: the table is that of :func:`storm.metrics.cox` or :func:`storm.metrics.subgroup_hazards`.

    Parameters
    ----------
    table
        A row for each ratio, by name: ``hr``, ``hr_lower``, ``hr_upper``, and ``p`` if it is to be written. A row of
        NaN is listed without a line, with its ``remark``.
    ax
        Axes to draw into; ``None`` makes a figure.
    title
        Title of the axes.
    xlabel
        What the ratio is.

    Returns
    -------
    Axes
        The axes.

    Raises
    ------
    KeyError
        If the table lacks a column.
    ValueError
        If it has no row.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import numpy as np
        >>> import pandas as pd
        >>> import storm
        >>> rng = np.random.default_rng(0)
        >>> covariates = pd.DataFrame({"risk": rng.normal(size=200), "age": rng.normal(60, 10, size=200)})
        >>> time = rng.exponential(np.exp(-covariates["risk"]))
        >>> model = storm.metrics.cox(time, np.ones(200), covariates)
        >>> ax = storm.pl.forest(model.table)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    source = "report.multivariable.table of storm.prognosis.evaluate, or storm.metrics.cox(…).table"
    check_frame(table, _COLUMNS, name="the table", source=source)
    if not len(table):
        msg = "the table has no rows"
        raise ValueError(msg)
    if ax is None:
        ax = plt.subplots(figsize=(5.2, 0.9 + 0.34 * len(table)), layout="constrained")[1]
    ratio, lower, upper = (table[column].to_numpy(dtype=float) for column in _COLUMNS)
    rows = np.arange(len(table))
    known = np.isfinite(ratio)
    ax.axvline(1, color="0.6", linewidth=1, linestyle="--", zorder=0)
    ax.hlines(rows[known], lower[known], upper[known], color="0.25", linewidth=1.4)
    ax.plot(ratio[known], rows[known], "s", color="black", markersize=5)
    for row in rows:
        text = str(table["remark"].iloc[row]) if not known[row] and "remark" in table else "–"
        if known[row]:
            text = f"{ratio[row]:.2f} ({lower[row]:.2f}–{upper[row]:.2f})"
            p = float(table["p"].iloc[row]) if "p" in table else np.nan
            text += "" if np.isnan(p) else f"  p = {p:.2g}" if p >= 1e-4 else "  p < 0.0001"
        ax.annotate(
            text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, annotation_clip=False
        )
    ax.set_yticks(rows, [str(name) for name in table.index])
    ax.set(xscale="log", xlabel=xlabel, ylim=(len(table) - 0.5, -0.5))
    ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8, 16]
    low, high = ax.get_xlim()
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) > 1:
        ax.set_xticks(inside, [f"{tick:g}" for tick in inside])
        ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)
    return ax
