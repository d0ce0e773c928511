"""Agreement of repeated runs by number of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm import _keys
from storm._bridge.results import result_table
from storm._palette import OKABE_ITO
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["stability"]

_LINES = {
    "ari": ("runs with each other", OKABE_ITO[0], "-"),
    "ari_next": ("with one domain more", OKABE_ITO[1], "--"),
    "ari_truth": ("with the annotation", OKABE_ITO[2], "-"),
}


def stability(
    data: SpatialData | AnnData,
    *,
    table_key: str | None = None,
    key_added: str = _keys.STABILITY,
    ax: Axes | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw how well each number of domains comes back: a dot per run, a line through the means.

    Nothing is computed: run :func:`storm.tl.domain_stability` first.

    Parameters
    ----------
    data
        The object.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.
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
        If there is no such result.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> storm.tl.embed(sdata, modality="st")
        >>> storm.tl.domain_stability(sdata, range(3, 8), runs=4)
        >>> ax = storm.pl.stability(sdata)
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    check_axes(ax)
    frame = result_table(data, key_added, table_key=table_key, made_by="storm.tl.domain_stability")
    ax = plt.subplots(figsize=(4.4, 3.2), layout="constrained")[1] if ax is None else ax
    for column, (label, colour, style) in _LINES.items():
        if column not in frame or frame[column].isna().all():
            continue
        own = frame[frame[column].notna()]
        mean = own.groupby("n_domains")[column].mean()
        ax.scatter(own["n_domains"], own[column], s=9, color=colour, alpha=0.35, linewidths=0)
        ax.plot(mean.index, mean, style, color=colour, marker="o", markersize=4, linewidth=1.4, label=label)
    ax.set(xlabel="number of domains", ylabel="adjusted Rand index", ylim=(min(0.0, ax.get_ylim()[0]), 1.03))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if title:
        ax.set_title(title, fontsize=10)
    if legend:
        ax.legend(fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
