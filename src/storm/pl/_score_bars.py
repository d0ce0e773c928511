"""Scores of outcome models with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storm._palette import OKABE_ITO
from storm.pl._arguments import check_axes, check_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from storm.prognosis import Report

__all__ = ["score_bars"]

#: Columns of ``Report.by_fold`` that hold a measure of the summary; the first measure that all reports have is drawn.
_BY_FOLD = {"Harrell C": "c", "AUROC": "auroc"}
#: What a score is without any skill.
_CHANCE = 0.5


def score_bars(
    reports: Mapping[str, Report],
    measure: str | None = None,
    *,
    names: Sequence[str] | None = None,
    colours: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a score of several outcome models as bars with their 95 % intervals, and a dot for each fold.

    Nothing is computed: bars and intervals are of the reports. Intervals of two models overlap more than their
    *difference* says, because both were judged on the same patients; ``storm.prognosis.evaluate(baseline=)`` has it.

    Parameters
    ----------
    reports
        What :func:`storm.prognosis.evaluate` returned, by the name of the model or cohort.
    measure
        A row of ``Report.summary``, such as ``"Harrell C"`` or ``"AUC at 1825"``. The default is ``"Harrell C"``, and
        ``"AUROC"`` for a response.
    names
        Bars to draw, from left to right; ``None`` for all.
    colours
        Colours of some bars.
    ax
        Axes to draw into; ``None`` makes a figure.
    title
        Title of the axes.

    Returns
    -------
    Axes
        The axes; the dotted line is a score of chance.

    Raises
    ------
    KeyError
        If a report has no such measure, or there is no such name.
    ValueError
        If there is no report, or colours are none.
    TypeError
        If something is no report, or ``ax`` is not a matplotlib axes.

    Examples
    --------
    .. plot::

        >>> import tempfile
        >>> import storm
        >>> cohort = storm.datasets.toy_cohort(tempfile.mkdtemp() + "/cohort", n_patients=60, n_tiles=(20, 40))
        >>> folds = storm.prognosis.split(cohort, endpoint="DSS", folds=3)
        >>> few = storm.prognosis.OutcomeFit(epochs=3)
        >>> risks = storm.prognosis.cross_validate(cohort, folds, networks=["abmil", "mean"], config=few)
        >>> reports = {
        ...     name: storm.prognosis.evaluate(own, cohort.patients, endpoint="DSS", n_boot=100)
        ...     for name, own in risks.groupby("network")
        ... }
        >>> ax = storm.pl.score_bars(reports)
    """
    import matplotlib.pyplot as plt

    check_axes(ax)
    given = dict(colours or {})
    check_colours(list(given.values()), name="colours")
    if not isinstance(reports, Mapping) or not all(hasattr(report, "summary") for report in reports.values()):
        msg = "reports is no dictionary of reports; give {'perceiver': storm.prognosis.evaluate(…), …}"
        raise TypeError(msg)
    shown = list(reports) if names is None else list(names)
    if unknown := [name for name in shown if name not in reports]:
        msg = f"there is no report of {unknown}; there are {list(reports)}"
        raise KeyError(msg)
    if not shown:
        msg = "there is no report to draw"
        raise ValueError(msg)
    if measure is None:
        available = [one for one in _BY_FOLD if all(one in reports[name].summary.index for name in shown)]
        measure = available[0] if available else next(iter(_BY_FOLD))
    for name in shown:
        if measure not in reports[name].summary.index:
            msg = f"the report of {name!r} has no measure {measure!r}; it has {list(reports[name].summary.index)}"
            raise KeyError(msg)
    columns = ["value", "lower", "upper"]
    rows = [reports[name].summary.loc[[measure], columns].to_numpy(dtype=float)[0] for name in shown]
    if ax is None:
        ax = plt.subplots(figsize=(1.2 + 0.75 * len(shown), 3.4), layout="constrained")[1]
    for place, (name, row) in enumerate(zip(shown, rows, strict=True)):
        value, lower, upper = row
        ax.bar(place, value, width=0.7, color=given.get(name, OKABE_ITO[4]), zorder=1)
        if np.isfinite([lower, upper]).all():
            ax.plot([place, place], [lower, upper], color="black", linewidth=1.4, zorder=3)
        column, folds = _BY_FOLD.get(measure), reports[name].by_fold
        if column in folds and len(folds) > 1:
            own = folds[column].dropna().to_numpy(dtype=float)
            ax.plot(place + np.linspace(-0.2, 0.2, len(own)), own, "o", color="0.25", markersize=3, zorder=2)
    ax.axhline(_CHANCE, color="0.5", linewidth=0.8, linestyle=":", zorder=4)
    ax.set_xticks(range(len(shown)), shown, rotation=90 if max(map(len, shown)) > 10 else 0)
    ax.set_ylabel(measure)
    if title:
        ax.set_title(title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
