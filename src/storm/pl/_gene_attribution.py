"""Genes that raise and lower the risk of a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm._checks import check_whole
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["gene_attribution"]

_RAISES, _LOWERS = "#b2182b", "#2166ac"


def gene_attribution(totals: pd.Series, *, n_genes: int = 10, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the genes that raise and those that lower a risk most, as signed bars.

    Parameters
    ----------
    totals
        Signed contribution of each gene, such as ``Explanation.gene_totals``, or its mean over patients.
    n_genes
        Genes of either sign.
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
    ValueError
        If there is no gene, a value is missing, or ``n_genes`` is not a whole number of at least 1.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import tempfile
        >>> import storm
        >>> cohort = storm.datasets.toy_cohort(tempfile.mkdtemp() + "/cohort", n_patients=40, n_tiles=(100, 200))
        >>> config = storm.prognosis.OutcomeFit(epochs=5)
        >>> model = storm.prognosis.fit(cohort, "DSS", network="mean", baselines=False, config=config)
        >>> explanation = storm.prognosis.explain(model, cohort, "P0001")
        >>> ax = storm.pl.gene_attribution(explanation.gene_totals)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    check_whole(n_genes, name="n_genes")
    if not hasattr(totals, "isna") or not hasattr(totals, "sort_values") or getattr(totals, "ndim", 0) != 1:
        msg = f"totals is a {type(totals).__name__}, not a series; give explanation.gene_totals"
        raise TypeError(msg)
    if not len(totals) or totals.isna().any():
        msg = f"totals has {len(totals)} genes, {int(totals.isna().sum())} of them missing; give a number for each"
        raise ValueError(msg)
    ordered = totals.sort_values(ascending=False, kind="stable")
    up = ordered[ordered > 0].iloc[:n_genes]
    down = ordered[ordered < 0].iloc[-n_genes:]
    names = [*up.index, *down.index]
    values = [*up, *down]
    if ax is None:
        ax = plt.subplots(figsize=(4.2, 0.8 + 0.2 * max(len(names), 1)), layout="constrained")[1]
    ax.barh(range(len(names)), values, color=[_RAISES if value > 0 else _LOWERS for value in values])
    ax.set_yticks(range(len(names)), [str(name) for name in names], fontsize=8)
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.set(xlabel="contribution to the risk", ylim=(len(names) - 0.5, -0.5))
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)
    return ax
