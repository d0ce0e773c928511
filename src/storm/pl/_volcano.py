"""Genes of a domain by fold change and p-value."""

from __future__ import annotations

from numbers import Integral
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

import numpy as np

from storm import _keys
from storm._bridge.ranked import ranked_genes
from storm._bridge.results import default_p
from storm._bridge.select import select_table
from storm._checks import check_between, check_choice, check_genes, check_whole
from storm._palette import OKABE_ITO
from storm.pl import _draw
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["volcano"]

#: p-values below this are drawn at it: smaller ones differ by rounding only.
_SMALLEST = 1e-300
_UP, _DOWN = OKABE_ITO[5], OKABE_ITO[0]
_AXIS = {
    "p_spatial_adj": "spatial test, adjusted",
    "p_spatial": "spatial test",
    "pvals_adj": "adjusted",
    "pvals": "unadjusted",
}


def volcano(
    data: SpatialData | AnnData,
    group: str,
    *,
    p: Literal["p_spatial_adj", "p_spatial", "pvals_adj", "pvals"] | None = None,
    max_p: float = 0.05,
    min_lfc: float = 1.0,
    genes: str | Sequence[str] | None = None,
    n_genes: int = 10,
    table_key: str | None = None,
    key_added: str = _keys.RANKED_GENES,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the genes of a domain by fold change and p-value.

    Nothing is computed: run :func:`storm.tl.rank_domain_genes` first.

    Parameters
    ----------
    data
        The object.
    group
        The domain.
    p
        p-value that is drawn; ``None`` is ``"p_spatial_adj"`` where there is one, else ``"pvals_adj"``.
    max_p, min_lfc
        Largest p-value and least absolute log2 fold change of genes that are coloured; lines are drawn at both.
    genes
        Genes to name; ``None`` names the coloured ones with the highest and lowest scores.
    n_genes
        Number of genes that are named on either side.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result in ``uns``.
    ax
        Axes to draw into; ``None`` makes a figure.
    title
        Title of the axes; ``None`` names the domain and its reference.

    Returns
    -------
    Axes
        The axes. Genes without a count on one side have no finite fold change (±30 in the table): they are drawn as
        triangles at the edge.

    Raises
    ------
    KeyError
        If there is no such result or domain, or a gene is not in it.
    ValueError
        If an argument is out of range, or no p-value of that kind was computed.
    TypeError
        If ``ax`` is not a matplotlib axes, or a gene is not text.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> storm.tl.rank_domain_genes(sdata, "domain")
        >>> ax = storm.pl.volcano(sdata, "immune infiltrate", n_genes=5)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    check_between(max_p, name="max_p", low=0, high=1)
    check_between(min_lfc, name="min_lfc", low=0, high=float("inf"))
    check_whole(n_genes, name="n_genes", least=0)
    _, table = select_table(data, table_key)
    if not isinstance(group, str | Integral):
        msg = f"group={group!r} is a {type(group).__name__}; name one domain as text"
        raise TypeError(msg)
    frame = ranked_genes(table, key_added, group)
    if p is None:
        p = default_p(frame)
    check_choice(p, list(_AXIS), name="p")
    frame = frame[frame[p].notna()]
    if frame.empty:
        msg = f"p={p!r} was not computed; draw p='pvals_adj', or run storm.tl.rank_domain_genes with spatial=True"
        raise ValueError(msg)
    fold = frame["logfoldchanges"].to_numpy(dtype=float)
    height = -np.log10(np.maximum(frame[p].to_numpy(dtype=float), _SMALLEST))
    absent = abs(fold) > 15
    edge = 1.1 * max(float(abs(fold[~absent]).max(initial=0)), min_lfc, 1.0)
    x = np.clip(fold, -edge, edge)
    called = (frame[p].to_numpy() <= max_p) & (abs(fold) >= min_lfc)
    ax = plt.subplots(figsize=(4.6, 4.0), layout="constrained")[1] if ax is None else ax
    for rows, colour, size in (
        (~called, _draw.MISSING, 5),
        (called & (fold < 0), _DOWN, 10),
        (called & (fold > 0), _UP, 10),
    ):
        for shape, part in (("o", rows & ~absent), ("^", rows & absent)):
            many = part.sum() > 3000
            ax.scatter(x[part], height[part], s=size, color=colour, marker=shape, linewidths=0, rasterized=many)
    ax.axhline(-np.log10(max(max_p, _SMALLEST)), color="0.6", linewidth=0.6, linestyle="--", zorder=0)
    for side in (-min_lfc, min_lfc):
        ax.axvline(side, color="0.6", linewidth=0.6, linestyle="--", zorder=0)
    names = frame["names"].astype(str).tolist()
    if genes is not None:
        wanted = check_genes(genes)
        if unknown := [gene for gene in wanted if gene not in names]:
            msg = f"genes {unknown} are not in the result for domain {group!r}"
            raise KeyError(msg)
        named = [names.index(gene) for gene in wanted]
    else:
        up = np.flatnonzero(called & (fold > 0))[:n_genes]
        down = np.flatnonzero(called & (fold < 0))[::-1][:n_genes]
        named = [*up, *down]
    _name_points(ax, [(x[i], height[i], names[i]) for i in named])
    references = table.uns.get(_keys.UNS, {}).get(key_added, {}).get("references")
    against = [] if references is None else references.loc[references["group"] == group, "reference"].astype(str)
    ax.set(xlabel="log2 fold change", ylabel=f"−log10 p ({_AXIS[p]})", xlim=(-1.08 * edge, 1.08 * edge))
    ax.set_title(
        "\n".join(wrap(f"{group} against {', '.join(against) or 'the others'}", 50)) if title is None else title,
        fontsize=9,
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _name_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points, moved apart upwards where they would lie on each other."""
    low, high = ax.get_ylim()
    step = (high - low) * 0.038
    for side in (-1, 1):
        own = sorted((p for p in points if (p[0] < 0) == (side < 0)), key=lambda p: p[1])
        last = -np.inf
        for x, y, name in own:
            at = max(y, last + step)
            last = at
            ax.annotate(
                name,
                (x, y),
                (x - side * 0.02 * abs(x), at),
                fontsize=7,
                ha="right" if side > 0 else "left",
                va="center",
                arrowprops={"arrowstyle": "-", "linewidth": 0.3, "color": "0.5"} if at > y + step / 2 else None,
            )
        if last > high:
            ax.set_ylim(low, last + step)
            high = last + step
