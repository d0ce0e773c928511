"""Cell types of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from storm import _keys
from storm._bridge.results import default_p, result_table
from storm._checks import check_between
from storm.pl._arguments import check_axes, check_cmap

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["composition"]


def composition(
    data: SpatialData | AnnData,
    *,
    max_p: float = 0.05,
    table_key: str | None = None,
    key_added: str = _keys.X_COMPOSITION,
    ax: Axes | None = None,
    cmap: Any = None,
    title: str | None = None,
) -> Axes:
    """Draw which cell types are more or less frequent in each domain.

    Nothing is computed: run :func:`storm.tl.composition` with ``key=`` first.

    Parameters
    ----------
    data
        The object.
    max_p
        Largest adjusted p-value of a field that gets a frame; that of the spatial test where it was computed.
    table_key
        The table; needed only where there are several.
    key_added
        Key of the result.
    ax
        Axes to draw into; ``None`` makes a figure.
    cmap
        Colour map; ``None`` is one that diverges from zero, or a sequential one for ``method="nusvr"``.
    title
        Title of the axes.

    Returns
    -------
    Axes
        The axes: a row is a type, a column a domain, the colour the rank-biserial correlation (the fraction for
        ``method="nusvr"``), the number the mean fraction or score of the domain.

    Raises
    ------
    KeyError
        If there is no such result, or it was made without domains.
    ValueError
        If ``max_p`` is no probability, or ``cmap`` no colour map.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sdata = storm.datasets.toy("visium", n=300)
        >>> markers = {
        ...     "B cells": ["MS4A1", "CD79A", "CD19"],
        ...     "adipocytes": ["ADIPOQ", "PLIN1", "FABP4"],
        ...     "epithelium": ["EPCAM", "KRT8", "KRT18"],
        ... }
        >>> storm.tl.composition(sdata, markers, method="markers", key="domain")
        >>> ax = storm.pl.composition(sdata)
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    check_axes(ax)
    check_between(max_p, name="max_p", low=0, high=1)
    if cmap is not None:
        check_cmap(cmap)
    frame = result_table(data, key_added, table_key=table_key, made_by="storm.tl.composition")
    domains, types = (list(dict.fromkeys(frame[column])) for column in ("group", "type"))

    def field(column: str) -> np.ndarray:
        return frame[column].to_numpy(dtype=float).reshape(len(domains), len(types)).T

    tested = "rank_biserial" in frame
    colour = field("rank_biserial" if tested else "mean")
    if ax is None:
        size = (2.6 + 0.5 * len(domains), 1.4 + 0.3 * len(types))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    shown = ax.imshow(
        np.ma.masked_invalid(colour),
        cmap=cmap or ("RdBu_r" if tested else "Blues"),
        vmin=-1 if tested else 0,
        vmax=1 if tested else None,
        aspect="auto",
    )
    mean = field("mean")
    most = float(np.nanmax(abs(colour), initial=0.0)) if not tested else 1.0
    for row, column in np.ndindex(mean.shape):
        if np.isfinite(mean[row, column]):
            dark = abs(colour[row, column]) > 0.6 * most
            text = f"{mean[row, column]:.2f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="w" if dark else "k")
    if tested:
        p = field(default_p(frame))
        for row, column in np.argwhere(p <= max_p):
            corner = (column - 0.46, row - 0.45)
            ax.add_patch(Rectangle(corner, 0.92, 0.9, fill=False, edgecolor="black", linewidth=1.2))
    ax.set_xticks(np.arange(len(domains)), domains, rotation=90 if max(map(len, domains)) > 3 else 0)
    ax.set_yticks(np.arange(len(types)), types, fontsize=8)
    if title:
        ax.set_title(title, fontsize=10)
    label = "rank-biserial correlation with the domain" if tested else "fraction"
    ax.figure.colorbar(shown, ax=ax, label=label, shrink=0.8)
    return ax
