"""A report of an evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import storm
from storm._report.page import Html, element, figure, table, write_page

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from storm.prognosis import Report


def write_report(report: Report, path: Path, *, title: str) -> None:
    """Write what :func:`storm.prognosis.evaluate` found, whole or not at all."""
    write_page(
        path,
        element("header", element("p", "STORM outcome report", class_="eyebrow"), element("h1", title)),
        element("main", *_sections(report)),
        title=title,
        footer="Intervals: 95 %, patients resampled within folds. Groups: frozen cut-offs of the models. Research use "
        "only: not for clinical decisions.",
    )


def _sections(report: Report) -> Iterator[Html]:
    yield _table(report.summary)
    if len(report.by_fold) > 1:
        yield element("h2", "By fold")
        yield _table(report.by_fold)
    if report.curves:
        p = None if report.test is None else report.test.p
        yield element("h2", "Risk groups")
        yield _figure(storm.pl.kaplan_meier(report.curves, p=p), "Kaplan-Meier curves of the risk groups")
    if report.multivariable is not None:
        frame = report.multivariable.table
        yield element("h2", "Beside covariates")
        yield _figure(storm.pl.forest(frame), "Hazard ratios beside covariates")
        yield _table(frame)
    for name, found in report.subgroups.items():
        yield element("h2", f"High against low risk by {name}")
        yield _figure(storm.pl.forest(found.table), f"Hazard ratios of high against low risk by {name}")
        if found.interaction is not None:
            yield element("p", f"Interaction: p = {found.interaction.p:.2g}")
        yield _table(found.table)
    if report.calibration is not None:
        yield element("h2", "Calibration")
        yield _figure(storm.pl.survival_calibration(report.calibration), "Expected and observed survival")
        yield _table(report.calibration)


def _table(frame: pd.DataFrame) -> Html:
    names = list(frame.index.names) if frame.index.nlevels > 1 else [frame.index.name]
    head = [*("" if name is None else name for name in names), *frame.columns]
    rows = [
        [*(index if isinstance(index, tuple) else (index,)), *map(_shown, row)]
        for index, row in zip(frame.index, frame.itertuples(index=False, name=None), strict=True)
    ]
    return table(head, rows)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"  # NaN is not itself
    return "–" if value is None else str(value)


def _figure(ax: Axes, alt: str) -> Html:
    drawn = ax.get_figure(root=True)
    assert drawn is not None
    return figure(drawn, alt=alt)
