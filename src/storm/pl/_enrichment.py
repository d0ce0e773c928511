"""Gene sets of a domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from storm import _keys
from storm._bridge.results import result_table
from storm._checks import check_between, check_whole
from storm.pl._arguments import check_axes, check_cmap

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["enrichment"]

#: p-values below this are drawn at it.
_SMALLEST = 1e-30
#: Longest name of a set that is written in full.
_LONGEST = 45


def enrichment(
    data: SpatialData | AnnData,
    group: str,
    *,
    n_sets: int = 15,
    max_p: float = 1.0,
    table_key: str | None = None,
    key_added: str = _keys.ENRICHMENT,
    ax: Axes | None = None,
    cmap: Any = "viridis_r",
    title: str | None = None,
) -> Axes:
    """Draw the gene sets of a domain with the smallest p-values.

    Nothing is computed: run :func:`storm.tl.enrich` first.

    Parameters
    ----------
    data
        The object.
    group
        The domain.
    n_sets
        Number of sets, at most.
    max_p
        Largest adjusted p-value of a set that is drawn.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.
    ax
        Axes to draw into; ``None`` makes a figure.
    cmap
        Colour map of the adjusted p-values.
    title
        Title of the axes; ``None`` is the domain.

    Returns
    -------
    Axes
        The axes. A dot is a set; its place is the number of its genes over the expected one for over-representation,
        and the normalised score for ``"gsea"``; its size the number of genes in the overlap or in the set; its colour
        the adjusted p-value.

    Raises
    ------
    KeyError
        If there is no such result or domain.
    ValueError
        If an argument is out of range, or no set is left to draw.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> storm.tl.rank_domain_genes(sdata, "domain")
        >>> sets = {
        ...     "B cells": ["MS4A1", "CD79A", "CD19", "CD79B"],
        ...     "T cells": ["CD3D", "CD3E", "CD2", "TRAC"],
        ...     "fat": ["ADIPOQ", "PLIN1", "FABP4", "LEP"],
        ... }
        >>> storm.tl.enrich(sdata, sets, min_genes=2)
        >>> ax = storm.pl.enrichment(sdata, "immune infiltrate")
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    check_cmap(cmap)
    check_whole(n_sets, name="n_sets")
    check_between(max_p, name="max_p", low=0, high=1)
    frame = result_table(data, key_added, table_key=table_key, made_by="storm.tl.enrich", group=str(group))
    by_score = "nes" in frame
    frame = frame[frame["pvals_adj"] <= max_p]
    frame = (frame if by_score else frame[frame["n_overlap"] > 0]).head(n_sets).iloc[::-1]
    if frame.empty:
        msg = f"no gene set of {group!r} has a selected gene and an adjusted p-value of at most {max_p:g}; raise max_p"
        raise ValueError(msg)
    value = frame["nes"] if by_score else frame["n_overlap"] / frame["expected"].where(frame["expected"] > 0)
    number = frame["n_genes" if by_score else "n_overlap"].to_numpy()
    colour = -np.log10(np.maximum(frame["pvals_adj"].to_numpy(dtype=float), _SMALLEST))
    if ax is None:
        ax = plt.subplots(figsize=(6.4, 1.3 + 0.25 * len(frame)), layout="constrained")[1]
    place = np.arange(len(frame))
    x = value.fillna(0).to_numpy()
    size = 15 + 120 * number / number.max()
    ax.hlines(place, 0 if by_score else min(1.0, *x), x, color="0.85", linewidth=1, zorder=1)
    dots = ax.scatter(x, place, s=size, c=colour, cmap=cmap, vmin=0, zorder=2, linewidths=0)
    ax.axvline(0 if by_score else 1, color="0.6", linewidth=0.6, linestyle="--", zorder=0)
    names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in frame["set"].astype(str)]
    ax.set_yticks(place, names, fontsize=8)
    ax.set(xlabel="normalised enrichment score" if by_score else "genes over expected", ylim=(-0.7, len(frame) - 0.3))
    ax.set_title(group if title is None else title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.figure.colorbar(dots, ax=ax, label="−log10 adjusted p", shrink=0.8)
    for genes in dict.fromkeys((1 + int(number.max()) // 2, int(number.max()))):
        ax.scatter([], [], s=15 + 120 * genes / number.max(), color="0.5", linewidths=0, label=f"{genes}")
    ax.legend(title="genes", fontsize=7, title_fontsize=7, frameon=False, loc="lower right")
    return ax
