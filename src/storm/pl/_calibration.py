"""Coverage of prediction intervals by sequencing depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from storm._checks import check_between, check_frame
from storm._palette import OKABE_ITO
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["calibration"]

_COLUMNS = ("depth_from", "depth_to", "n_spots", "coverage")


def calibration(
    coverage: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    nominal: float = 0.9,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how many measurements prediction intervals cover, by the depth of the spots, beside how many they promise.

    A line over each bin of depth, with dots between its limits. Nothing is computed: run
    :func:`storm.metrics.coverage_by_depth` first, on spots that the head was not trained on.

    Parameters
    ----------
    coverage
        What :func:`storm.metrics.coverage_by_depth` returns, or several by name, such as sections or methods.
    nominal
        The level of the intervals, 1 − ``alpha``.
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
        If a table lacks a column.
    ValueError
        If there is no table, more than there are colours, or the level is not from 0 to 1.
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import numpy as np
        >>> import storm
        >>> rng = np.random.default_rng(0)
        >>> depth = rng.uniform(500, 5000, size=400)
        >>> truth = rng.normal(size=(400, 50))
        >>> limit = np.full_like(truth, 1.645)
        >>> table = storm.metrics.coverage_by_depth(truth, -limit, limit, depth=depth)
        >>> ax = storm.pl.calibration({"drawn": table})
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    check_axes(ax)
    check_between(nominal, name="nominal", low=0, high=1)
    source = "what storm.metrics.coverage_by_depth returns, or a dictionary of such tables"
    if not isinstance(coverage, Mapping):
        check_frame(coverage, name="coverage", source=source)
    tables = {None: coverage} if isinstance(coverage, pd.DataFrame) else dict(coverage)
    if not 0 < len(tables) <= len(OKABE_ITO):
        msg = f"{len(tables)} tables of coverage; give 1 to {len(OKABE_ITO)}, which colours can tell apart"
        raise ValueError(msg)
    for name, table in tables.items():
        of = "" if name is None else f" of {name!r}"
        check_frame(table, _COLUMNS, name=f"the table{of}", source=source)
    ax = plt.subplots(figsize=(4.6, 3.2), layout="constrained")[1] if ax is None else ax
    lowest = nominal
    for (name, table), colour in zip(tables.items(), OKABE_ITO, strict=False):
        own = table[table["coverage"].notna()]
        # A bin that starts at 0 has no place on a logarithmic axis.
        start, end = (np.maximum(own[side].to_numpy(dtype=float), 1.0) for side in ("depth_from", "depth_to"))
        ax.hlines(own["coverage"], start, end, color=colour, linewidth=1.2, alpha=0.5)
        label = None if name is None else f"{name} ({int(table['n_spots'].sum()):,} spots)"
        ax.plot(np.sqrt(start * end), own["coverage"], "o-", color=colour, markersize=4, linewidth=1.4, label=label)
        lowest = min(lowest, own["coverage"].min())
    ax.axhline(nominal, color="0.35", linestyle="--", linewidth=1, zorder=0)
    # Beside the axes, where no line can run through it.
    ax.annotate(
        f"nominal\n{nominal:.0%}",
        (1.01, nominal),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        color="0.35",
    )
    ax.set(
        xscale="log", xlabel="counts of the spot", ylabel="measurements covered", ylim=(max(lowest - 0.1, -0.02), 1.02)
    )
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if title:
        ax.set_title(title, fontsize=10)
    if None not in tables:
        ax.legend(fontsize=8, frameon=False, loc="lower left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
