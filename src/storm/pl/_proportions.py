"""Shares of the domains in each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm import _keys
from storm._bridge import select_table
from storm._bridge.select import records_of
from storm._bridge.study import given_once
from storm._checks import check_key
from storm.pl import _draw
from storm.pl._arguments import check_axes
from storm.pl._categories import colours_of

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["proportions"]

#: Height of a bar and of what surrounds them, and width of the axes, in inches.
_BAR, _AROUND, _WIDTH = 0.32, 0.9, 4.6


def proportions(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    key: str = _keys.DOMAIN,
    *,
    table_key: str | None = None,
    ax: Axes | None = None,
    palette: Sequence[str] | Mapping[str, str] | None = None,
    legend: bool = True,
    title: str | None = None,
) -> Axes:
    """Draw the share of each domain in each section as stacked bars.

    Nothing is computed: :func:`storm.tl.domains` stores the shares in ``uns["storm"][key]["proportions"]`` if it knows
    several sections. Colours are those of :func:`storm.pl.domains`.

    Parameters
    ----------
    data
        An object, or the list of objects that the domains were found in.
    key
        Column of ``obs`` with the domains.
    table_key
        The table; needed only where there are several.
    ax
        Axes to draw into; ``None`` makes a figure.
    palette
        Colours, as in :func:`storm.pl.domains`.
    legend
        Whether to draw a legend to the right of the axes.
    title
        Title of the axes; ``None`` is ``key``.

    Returns
    -------
    Axes
        One bar for each section, from top to bottom; the number of rows that have a domain stands at its right.

    Raises
    ------
    KeyError
        If ``obs`` has no such column, or no proportions were stored.
    ValueError
        If ``palette`` lacks colours.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import storm
        >>> sections = [storm.datasets.toy("visium", n=200, seed=seed) for seed in range(2)]
        >>> storm.tl.embed(sections, modality="st")
        >>> storm.tl.domains(sections, 5)
        >>> ax = storm.pl.proportions(sections)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    _, table = select_table(given_once(data)[0], table_key)
    check_key(key, list(table.obs.columns), name="key", where="obs (storm.tl.domains writes it)")
    stored = _stored(table, key)
    sections, names = [str(name) for name in stored["sections"]], [str(name) for name in stored["domains"]]
    colours = colours_of(palette, names=names, key=key, uns=table.uns)
    if ax is None:
        size = (_WIDTH + 1.4, _AROUND + _BAR * len(sections))
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    shares = np.nan_to_num(np.asarray(stored["shares"], dtype=np.float64))
    rows = np.arange(len(sections))
    starts = np.cumsum(shares, axis=1) - shares
    for k, colour in enumerate(colours):
        ax.barh(rows, shares[:, k], left=starts[:, k], height=0.8, color=colour, edgecolor="white", linewidth=0.5)
    ax.text(1.01, -0.75, "n", va="center", fontsize=8, color="0.4")
    for row, n in enumerate(stored["n"]):
        ax.text(1.01, row, f"{int(n):,}", va="center", fontsize=8, color="0.4")
    ax.set(xlim=(0, 1), ylim=(len(sections) - 0.5, -0.5), yticks=rows, xlabel="share of the rows with a domain")
    ax.set_yticklabels(sections, fontsize=8)
    ax.tick_params(length=0, labelsize=8)
    ax.xaxis.label.set_fontsize(8)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_title(key if title is None else title, fontsize=10)
    if legend:
        _draw.legend(ax, names, colours, title=key, offset=0.1)
    return ax


def _stored(table: AnnData, key: str) -> Mapping[str, Any]:
    record = records_of(table).get(key)
    stored = record.get("proportions") if isinstance(record, Mapping) else None
    if not isinstance(stored, Mapping):
        msg = (
            f"uns['storm'][{key!r}] holds no proportions: storm.tl.domains stores them if it knows several sections, "
            f"by library_key=, by the elements that the table annotates, or as a list of objects"
        )
        raise KeyError(msg)
    return stored
