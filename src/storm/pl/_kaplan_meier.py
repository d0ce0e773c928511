"""Survival curves of groups of patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from storm._palette import palette
from storm.pl._arguments import check_axes, check_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from storm.metrics import KaplanMeier

__all__ = ["kaplan_meier"]

#: Points below the axes of the first row of patients at risk, and from row to row.
_FIRST_ROW, _ROW = 42, 10


def kaplan_meier(
    curves: Mapping[str, KaplanMeier],
    *,
    p: float | None = None,
    colours: Sequence[str] | None = None,
    at_risk: bool = True,
    xlabel: str = "time",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw survival curves with their confidence intervals and the patients at risk.

    Nothing is computed: :func:`storm.metrics.kaplan_meier` makes the curves.

    Parameters
    ----------
    curves
        A curve per group, by its name.
    p
        p-value to write into the axes, such as that of :func:`storm.metrics.log_rank`.
    colours
        A colour per group.
    at_risk
        Whether to write the numbers of patients at risk below the axes.
    xlabel
        What the times are, and their unit.
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
        If there is no curve, or colours are lacking or are none.
    TypeError
        If ``ax`` is not a matplotlib axes, or a curve is something else.

    Examples
    --------
    .. plot::

        >>> import numpy as np
        >>> import storm
        >>> rng = np.random.default_rng(0)
        >>> high = rng.integers(2, size=120).astype(bool)
        >>> time, follow_up = rng.exponential(np.where(high, 2.0, 5.0)), rng.uniform(1, 8, size=120)
        >>> event, time = time <= follow_up, np.minimum(time, follow_up)
        >>> curves = {
        ...     "low risk": storm.metrics.kaplan_meier(time[~high], event[~high]),
        ...     "high risk": storm.metrics.kaplan_meier(time[high], event[high]),
        ... }
        >>> test = storm.metrics.log_rank(time, event, high)
        >>> ax = storm.pl.kaplan_meier(curves, p=test.p, xlabel="years")
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    source = "report.curves of storm.prognosis.evaluate, or storm.metrics.kaplan_meier(…) by the name of each group"
    if not isinstance(curves, Mapping):
        msg = f"curves is a {type(curves).__name__}, not a dictionary; give {source}"
        raise TypeError(msg)
    if not curves:
        msg = f"curves is empty; give {source}"
        raise ValueError(msg)
    for name, curve in curves.items():
        if not hasattr(curve, "survival"):
            msg = f"curves[{name!r}] is a {type(curve).__name__}; give what storm.metrics.kaplan_meier returns"
            raise TypeError(msg)
    colours = palette(len(curves)) if colours is None else list(colours)
    if len(colours) < len(curves):
        msg = f"colours has {len(colours)} colours for {len(curves)} groups"
        raise ValueError(msg)
    check_colours(colours, name="colours")
    if ax is None:
        ax = plt.subplots(figsize=(4.6, 3.6 + 0.2 * at_risk * len(curves)), layout="constrained")[1]
    for (name, curve), colour in zip(curves.items(), colours, strict=False):
        ax.step(
            curve.time,
            curve.survival,
            where="post",
            color=colour,
            linewidth=1.5,
            label=f"{name} (n = {curve.at_risk[0]})",
        )
        ax.fill_between(curve.time, curve.lower, curve.upper, step="post", color=colour, alpha=0.15, linewidth=0)
    end = max(float(curve.time[-1]) for curve in curves.values())
    ax.set(xlabel=xlabel, ylabel="survival", xlim=(0, end), ylim=(0, 1.02))
    ax.legend(fontsize=8, frameon=False, loc="best")
    ax.spines[["top", "right"]].set_visible(False)
    if p is not None:
        text = f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"
        ax.text(0.03, 0.05, text, transform=ax.transAxes, fontsize=9)
    if title:
        ax.set_title(title, fontsize=10)
    if at_risk:
        ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= end]
        for row, ((name, curve), colour) in enumerate(zip(curves.items(), colours, strict=False)):
            place = np.searchsorted(curve.time, ticks)
            numbers = np.where(place < len(curve.time), curve.at_risk[np.minimum(place, len(curve.time) - 1)], 0)
            lower = _FIRST_ROW + _ROW * row
            for tick, number in zip(ticks, numbers, strict=True):
                _below(ax, tick, (0, -lower), f"{number}", colour, align="center")
            _below(ax, 0, (-16, -lower), str(name), colour, align="right")
    return ax


def _below(ax: Axes, x: float, points: tuple[float, float], text: str, colour: str, *, align: str) -> None:
    """Write below the axes, so many points away from a time on them."""
    ax.annotate(
        text,
        (x, 0),
        points,
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        color=colour,
        fontsize=7,
        ha=align,
        va="center",
        annotation_clip=False,
    )
