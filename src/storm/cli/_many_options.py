"""Options of commands that work on many sections or slides."""

from __future__ import annotations

import argparse

from storm.cli import _values


def add_many(parser: argparse.ArgumentParser, what: str, *, a: str) -> None:
    """Options of a command that works on many things: where, how often again, and the summary."""
    many = parser.add_argument_group(f"several {what}")
    place = many.add_mutually_exclusive_group()
    place.add_argument(
        "--workers",
        type=_values.whole(1),
        metavar="N",
        help="processes on this machine; 1: this process alone (default: one per GPU, otherwise one per core)",
    )
    place.add_argument("--scheduler", metavar="ADDRESS", help="run on this dask cluster (tcp://host:port, or its file)")
    many.add_argument(
        "--retries",
        type=_values.whole(0),
        default=1,
        metavar="N",
        help=f"how often a {a} is started again after its worker died (default: 1)",
    )
    many.add_argument(
        "--summary", type=_values.table_file, metavar="FILE", help="write the summary to FILE.csv or FILE.json"
    )
