"""How far to believe each predicted gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm import _keys
from storm._checks import check_frame, check_whole
from storm._palette import OKABE_ITO
from storm.pl._arguments import check_axes
from storm.pl._genes import measured_on, prediction_table

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["reliability"]


def reliability(
    data: SpatialData | AnnData,
    key: str = _keys.EXPRESSION,
    *,
    report: pd.DataFrame | None = None,
    table_key: str | None = None,
    label: int = 6,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw what is known of each predicted gene: its correlation on held-out spots, and the lowest in a section.

    Genes from the best to the worst, each with a line down to its worst section. With a ``report`` of other slides, the
    correlation that was measured there against the one that the head expected: what was learned on some patients often
    does not hold for the next. Nothing is computed: run :func:`storm.tl.predict_expression`, and
    :func:`storm.metrics.expression_report` for the report.

    Parameters
    ----------
    data
        A SpatialData or AnnData with a prediction.
    key
        Its key.
    report
        A row per gene and slide with the columns ``gene`` and ``pearson``; a gene of several slides is drawn at the
        mean of them. Genes that the prediction lacks are left out.
    table_key
        As in :func:`storm.pl.expression`.
    label
        Number of genes that are named, the most believable ones.
    ax
        Axes to draw into; ``None`` makes a figure.
    title
        Title of the axes; ``None`` says on what the correlation was measured.

    Returns
    -------
    Axes
        The axes.

    Raises
    ------
    KeyError
        If there is no such prediction, or the report lacks a column.
    ValueError
        If no gene has a correlation, or none of the report's is among the predicted ones.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=200)
        >>> train, test = storm.pp.split_along_x(sdata)
        >>> head = storm.tl.fit_expression(sdata, n_genes=60, train=train)
        >>> storm.tl.predict_expression(sdata, head=head)
        >>> ax = storm.pl.reliability(sdata)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    label = check_whole(label, name="label", least=0)
    table = prediction_table(data, table_key=table_key, key=key)
    held_out = table.var[_keys.reliability(key)].astype(float).dropna().sort_values(ascending=False, kind="stable")
    if not len(held_out):
        msg = f"none of the {table.n_vars} genes that are predicted under {key!r} has a held-out correlation"
        raise ValueError(msg)
    measured = None if report is None else _measured(report, held_out.index)
    ax = plt.subplots(figsize=(4.8, 3.6), layout="constrained")[1] if ax is None else ax
    if measured is None:
        lowest = table.var.get(f"{key}_r_min")
        places = np.arange(1, len(held_out) + 1)
        if lowest is not None:
            floor = lowest.astype(float)[held_out.index].to_numpy()
            ax.vlines(places, floor, held_out, color=OKABE_ITO[4], linewidth=0.8, label="down to the worst section")
        ax.plot(places, held_out, ".", color=OKABE_ITO[0], markersize=3, label="held-out r")
        ax.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
        ax.set(xlabel="genes, best first", ylabel="held-out r", xlim=(0, len(held_out) + 1))
        ax.legend(fontsize=8, frameon=False, loc="upper right")
        points = zip(held_out.index[:label], places, held_out, strict=False)
    else:
        expected = held_out[measured.index]
        ax.axline((0, 0), slope=1, color="0.5", linewidth=0.8, linestyle="--", label="as expected")
        ax.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
        ax.plot(expected, measured, ".", color=OKABE_ITO[0], markersize=4, alpha=0.7)
        ax.set(xlabel="held-out r of the head", ylabel="r measured here")
        ax.legend(fontsize=8, frameon=False, loc="upper left")
        points = zip(measured.index[:label], expected, measured, strict=False)
    if measured is None and label:
        names = "\n".join(["from the best on:", *(str(name) for name, *_ in points)])
        ax.text(
            0.97, 0.8, names, transform=ax.transAxes, ha="right", va="top", fontsize=6.5,
            fontstyle="italic", color="0.25",
        )  # fmt: skip
    else:
        for name, x, y in points:
            ax.annotate(str(name), (x, y), xytext=(3, 2), textcoords="offset points", fontsize=6.5, fontstyle="italic")
    where = measured_on(table, key)
    heading = f"{len(held_out):,} genes" + (f", measured on {where}" if where else "")
    ax.set_title(heading if title is None else title, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _measured(report: pd.DataFrame, genes: pd.Index) -> pd.Series:
    """The correlation of each predicted gene in a report, in the order of the genes."""
    check_frame(
        report, ("gene", "pearson"), name="the report", source="what storm.metrics.expression_report returns"
    )  # fmt: skip
    by_gene = report.groupby("gene", observed=True)["pearson"].mean().dropna()
    known = genes[genes.isin(by_gene.index)]
    if not len(known):
        msg = f"none of the report's {report['gene'].nunique()} genes is among the {len(genes)} predicted ones"
        raise ValueError(msg)
    return by_gene[known]
