"""Options of ``storm report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from storm import _keys
from storm.cli import _values


def add_report(report: argparse.ArgumentParser) -> None:
    """Add the options."""
    report.add_argument(
        "paths", type=Path, nargs="+", metavar="STORE", help="SpatialData stores or .h5ad files, one or several"
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="OUT",
        help="a file .html for a single section (default: STORE.html here), else a folder, which also gets an "
        "index.html (default: storm-report)",
    )
    report.add_argument("--title", help="title of the report, or of the index (default: the name of the store)")
    report.add_argument(
        "--model", default="storm-mini", help="model that the section is checked for (default: storm-mini)"
    )
    report.add_argument("--key", default=_keys.DOMAIN, help=f"column of obs with domains (default: {_keys.DOMAIN})")
    report.add_argument(
        "--expression-key",
        default=_keys.EXPRESSION,
        help=f"key under which genes were predicted (default: {_keys.EXPRESSION})",
    )
    report.add_argument(
        "--n-genes", type=_values.whole(1), default=10, help="genes listed of each domain (default: 10)"
    )
    report.add_argument("--library-key", metavar="COLUMN", help="column of obs that names the section of each row")
    report.add_argument("--layer", help="layer with the raw counts (default: X)")
    report.add_argument("--estimate", action="store_true", help="also measure the time that embedding would take")
    report.add_argument("--overwrite", action="store_true", help="replace reports that exist")
