"""Predicted beside observed survival."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storm._checks import check_frame
from storm.pl._arguments import check_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["survival_calibration"]

_COLUMNS = ("predicted", "observed", "lower", "upper")


def survival_calibration(table: pd.DataFrame, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw predicted beside observed survival in groups of patients.

    Nothing is computed: run :func:`storm.metrics.calibration_table` first.

    Parameters
    ----------
    table
        A row for each group: ``predicted``, ``observed``, ``lower`` and ``upper``.
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
    TypeError
        If ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import numpy as np
        >>> import storm
        >>> rng = np.random.default_rng(0)
        >>> hazard = np.exp(rng.normal(size=500))
        >>> time = rng.exponential(1 / hazard)
        >>> table = storm.metrics.calibration_table(time, np.ones(500), np.exp(-hazard), horizon=1.0)
        >>> ax = storm.pl.survival_calibration(table)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    source = "report.calibration of storm.prognosis.evaluate(horizon=…), or storm.metrics.calibration_table(…)"
    check_frame(table, _COLUMNS, name="the table", source=source)
    ax = plt.subplots(figsize=(3.6, 3.4), layout="constrained")[1] if ax is None else ax
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", zorder=0)
    own = table[table["observed"].notna()]
    below, above = own["observed"] - own["lower"], own["upper"] - own["observed"]
    ax.errorbar(
        own["predicted"], own["observed"], yerr=[below.clip(lower=0), above.clip(lower=0)], fmt="o", color="black",
        markersize=4, linewidth=1.2, capsize=2,
    )  # fmt: skip
    ax.set(xlabel="predicted survival", ylabel="observed survival", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10)
    return ax
