"""Contacts between domains as a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from storm import _keys
from storm._bridge.results import result_table
from storm._checks import check_choice
from storm.pl._arguments import check_axes, check_cmap

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["contact"]

_LABELS = {
    "share": "share of outward edges",
    "log2_enrichment": "log2 share over random places",
    "z": "z against permuted labels",
    "edges": "edges",
}


def contact(
    data: SpatialData | AnnData,
    key: str = _keys.DOMAIN,
    *,
    value: Literal["share", "log2_enrichment", "z", "edges"] = "share",
    table_key: str | None = None,
    key_added: str | None = None,
    ax: Axes | None = None,
    cmap: Any = None,
    numbers: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw how much each domain touches the others; adjacent ones are framed.

    Nothing is computed: run :func:`storm.tl.adjacent_domains` first.

    Parameters
    ----------
    data
        The object.
    key
        The domains' column of ``obs``.
    value
        Column of the result that is drawn.
    table_key
        The table; needed only where there are several.
    key_added
        Key under which the result was stored, if one was given.
    ax
        Axes to draw into; ``None`` makes a figure.
    cmap
        Colour map; ``None`` is a sequential one for shares and edges, otherwise one that diverges from zero.
    numbers
        Whether to write the values into the fields.
    title
        Title of the axes; ``None`` is ``key``.

    Returns
    -------
    Axes
        The axes; a row is a domain, a column what it touches.

    Raises
    ------
    KeyError
        If there is no such result.
    ValueError
        If ``value`` is not one of its columns, or ``cmap`` no colour map.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> storm.tl.adjacent_domains(sdata, "domain")
        >>> ax = storm.pl.contact(sdata, "domain")
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    check_choice(value, list(_LABELS), name="value")
    check_axes(ax)
    if cmap is not None:
        check_cmap(cmap)
    name = _keys.adjacency(key) if key_added is None else key_added
    frame = result_table(data, name, table_key=table_key, made_by="storm.tl.adjacent_domains")
    domains = list(dict.fromkeys(frame["i"]))
    matrix = frame[value].to_numpy(dtype=float).reshape(len(domains), -1)
    diverging = value in ("log2_enrichment", "z")
    finite = matrix[np.isfinite(matrix)]
    most = float(abs(finite).max()) if finite.size else 1.0
    most = most or 1.0
    if ax is None:
        side = 1.6 + 0.42 * len(domains)
        ax = plt.subplots(figsize=(side + 1.2, side), layout="constrained")[1]
    shown = ax.imshow(
        np.ma.masked_invalid(matrix),
        cmap=cmap or ("RdBu_r" if diverging else "Blues"),
        vmin=-most if diverging else 0,
        vmax=most,
    )
    dark = 0.6 * most
    for row, column in np.ndindex(matrix.shape):
        number = matrix[row, column]
        if numbers and np.isfinite(number):
            text = f"{number:.0f}" if value == "edges" else f"{number:.2f}" if value == "share" else f"{number:.1f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color="w" if abs(number) > dark else "k")
    for row, column in np.argwhere(frame["adjacent"].to_numpy(dtype=bool).reshape(matrix.shape)):
        ax.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor="black", linewidth=1.3))
    ticks = np.arange(len(domains))
    ax.set(xlabel="touches", ylabel="domain")
    ax.set_xticks(ticks, domains, rotation=90 if max(map(len, domains)) > 3 else 0)
    ax.set_yticks(ticks, domains)
    ax.set_title(key if title is None else title, fontsize=10)
    ax.figure.colorbar(shown, ax=ax, label=_LABELS[value], shrink=0.8)
    return ax
