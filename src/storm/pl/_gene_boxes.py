"""Scores of genes, by method or slide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storm._checks import check_choice, check_frame
from storm._palette import OKABE_ITO
from storm.pl._arguments import check_axes, check_colours

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["gene_boxes"]

#: Axis label of each score.
_LABELS = {
    "pearson": "Pearson's r",
    "pearson_pooled": "Pearson's r, pooled",
    "spearman": "Spearman's r",
    "rmse": "RMSE (lower is better)",
    "ssim": "SSIM",
    "coverage": "coverage of intervals",
}
#: Percentiles that the whiskers reach.
_WHISKERS = (10, 90)


def gene_boxes(
    table: pd.DataFrame,
    score: str = "pearson",
    *,
    by: str = "method",
    groups: Sequence[Any] | None = None,
    colours: Mapping[Any, Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a score of many genes as boxes: quartiles and median, with whiskers from the 10th to the 90th percentile.

    A gene counts once in each box, by the mean over its rows (slides, seeds). Nothing else is computed:
    :func:`storm.metrics.expression_report` and :func:`storm.benchmark.expression` make the table. Boxes of different
    lists of genes cannot be compared.

    Parameters
    ----------
    table
        A row per gene and slide (and seed) with the columns ``gene``, that of ``by``, and the score.
    score
        ``"pearson"``, ``"pearson_pooled"``, ``"spearman"``, ``"rmse"``, ``"ssim"`` or ``"coverage"``.
    by
        Column that divides the rows into boxes, such as ``"method"``, ``"slide"`` or ``"patient"``.
    groups
        Values of that column to draw, from left to right; ``None`` for all, in the order of the table.
    colours
        Colours of some boxes; by default all have the same.
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
        If the score or a group is unknown, colours are none, or the table holds several lists of genes.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import numpy as np
        >>> import pandas as pd
        >>> import storm
        >>> rng = np.random.default_rng(0)
        >>> genes = [f"gene{i}" for i in range(200)]
        >>> table = pd.DataFrame({"gene": genes * 2, "method": ["ridge"] * 200 + ["storm"] * 200})
        >>> table["pearson"] = np.clip(rng.normal(0.2, 0.15, 400), -1, 1)
        >>> ax = storm.pl.gene_boxes(table)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    check_choice(score, _LABELS, name="score")
    source = f"a row per gene, such as of storm.metrics.expression_report, with a column {by!r} of what is compared"
    check_frame(table, ("gene", by, score), name="the table", source=source)
    if "genes" in table and table["genes"].nunique() > 1:
        msg = f"the table holds several lists of genes, {list(table['genes'].unique())}; give the rows of one of them"
        raise ValueError(msg)
    available = list(dict.fromkeys(table[by].dropna()))
    names = available if groups is None else list(groups)
    for name in names:
        check_choice(name, available, name="groups")
    given = dict(colours or {})
    check_colours(list(given.values()), name="colours")
    by_gene = table.groupby([by, "gene"], sort=False, observed=True)[score].mean()
    values = [by_gene[name].dropna().to_numpy() for name in names]
    if ax is None:
        ax = plt.subplots(figsize=(1.4 + 0.5 * len(names), 3.4), layout="constrained")[1]
    boxes = ax.boxplot(
        values,
        positions=range(len(names)),
        widths=0.6,
        whis=_WHISKERS,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black", "linewidth": 1.4},
    )
    for name, box in zip(names, boxes["boxes"], strict=True):
        box.set(facecolor=given.get(name, OKABE_ITO[4]), linewidth=0.8)
    if score not in ("rmse", "coverage"):
        ax.axhline(0, color="0.5", linewidth=0.8, linestyle=":", zorder=0)
    labels = [f"{name}\n{len(own):,} genes" for name, own in zip(names, values, strict=True)]
    ax.set_xticks(range(len(names)), labels, rotation=90 if len(names) > 3 else 0, fontsize=8)
    ax.set_ylabel(_LABELS[score])
    ax.set_xlabel("whiskers: 10th to 90th percentile", fontsize=7, color="0.4")
    if title:
        ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
