"""A report of an evaluation as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import storm
from storm._files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from storm.prognosis import Report

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ border-bottom: 1px solid #ddd; padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top }}
td {{ font-variant-numeric: tabular-nums }} img {{ max-width: 100% }} footer {{ color: #777; margin-top: 3rem }}
</style></head><body>
<h1>{title}</h1>
{body}
<footer>storm {version}. Intervals: 95 %, patients resampled within folds.
Groups: frozen cut-offs of the models.</footer>
</body></html>
"""


def write_report(report: Report, path: Path, *, title: str) -> None:
    """Write what :func:`storm.prognosis.evaluate` found, whole or not at all."""
    body = "\n".join(_sections(report))
    page = _PAGE.format(title=html.escape(title), body=body, version=html.escape(storm.__version__))
    with replacing(path) as scratch:
        scratch.write_text(page, encoding="utf-8")


def _sections(report: Report) -> Iterator[str]:
    yield _table(report.summary)
    if len(report.by_fold) > 1:
        yield "<h2>By fold</h2>" + _table(report.by_fold)
    if report.curves:
        p = None if report.test is None else report.test.p
        yield "<h2>Risk groups</h2>" + _figure(storm.pl.kaplan_meier(report.curves, p=p))
    if report.multivariable is not None:
        table = report.multivariable.table
        yield "<h2>Beside covariates</h2>" + _figure(storm.pl.forest(table)) + _table(table)
    for name, found in report.subgroups.items():
        test = "" if found.interaction is None else f"<p>Interaction: p = {found.interaction.p:.2g}</p>"
        title = f"<h2>{html.escape(f'High against low risk by {name}')}</h2>"
        yield title + _figure(storm.pl.forest(found.table)) + test + _table(found.table)
    if report.calibration is not None:
        figure = _figure(storm.pl.survival_calibration(report.calibration))
        yield "<h2>Calibration</h2>" + figure + _table(report.calibration)


def _table(table: pd.DataFrame) -> str:
    # pandas escapes names and text.
    return table.to_html(float_format=lambda value: f"{value:.3g}", na_rep="–", border=0, escape=True)


def _figure(ax: Axes) -> str:
    import matplotlib.pyplot as plt

    figure = ax.get_figure(root=True)
    assert figure is not None
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
        data = base64.b64encode(file.getvalue()).decode()
    plt.close(figure)
    return f'<p><img alt="" src="data:image/png;base64,{data}"></p>'
