"""``storm cohort``: its tasks and their options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from storm._types import Field
from storm.cli import _values
from storm.cli._derived import add_rest
from storm.cli._many_options import add_many


def add_cohort(cohort: argparse.ArgumentParser, parents: Mapping[str, argparse.ArgumentParser]) -> None:
    """Add the tasks of a cohort, whose common options are among ``parents``."""
    tasks = cohort.add_subparsers(dest="task", metavar="TASK", required=True)

    def task(name: str, summary: str, *using: str) -> argparse.ArgumentParser:
        parser = tasks.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[parents[p] for p in using]
        )
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the cohort")
        return parser

    _add(task("add", "read slides, and store the H&E embedding and virtual genes of their tiles", "common", "model"))
    task("check", "list what is wrong or missing in a cohort", "common")
    _split(task("split", "divide the patients into folds", "common"))


def _add(add: argparse.ArgumentParser) -> None:
    add.add_argument(
        "paths", type=Path, nargs="*", metavar="SLIDE", help="image files (default: all slides that have a path)"
    )
    add.add_argument("--patients", type=Path, metavar="TABLE", help="patients, .csv or .parquet; makes the cohort")
    add.add_argument(
        "--slides", type=Path, metavar="TABLE", help="slides (columns slide, patient, path), .csv or .parquet"
    )
    add.add_argument("--modality", choices=("both", "he"), default="both", help="he: no virtual genes (default: both)")
    add.add_argument("--head", type=Path, help="folder of a fitted expression head (default: the model's own)")
    add.add_argument("--genes", nargs="+", metavar="GENE", help="genes (default: all better than chance)")
    add.add_argument("--readout", choices=("window", "center"), default="window", help="default: window")
    add.add_argument("--field-um", type=_values.positive, help="edge of a tile in µm (default: the head's)")
    add.add_argument("--field", choices=get_args(Field), default="exact", help="default: exact")
    add.add_argument("--stride-um", type=_values.positive, help="distance between tiles in µm (default: the field)")
    add.add_argument("--um-per-px", type=_values.positive, help="µm per pixel of slides that do not say it")
    add.add_argument("--batch-size", type=_values.whole(1), help="tiles or windows per batch")
    add_rest(add, "storm.prognosis", "add_slides")
    add_many(add, "slides", a="slide")


def _split(split: argparse.ArgumentParser) -> None:
    split.add_argument("--endpoint", required=True, metavar="NAME", help="for columns NAME_time and NAME_event")
    split.add_argument("--folds", type=_values.whole(2), default=5, help="default: 5")
    split.add_argument("--patients", nargs="+", metavar="NAME", help="only these (default: all)")
    split.add_argument("--group", choices=("patient", "site"), default="patient", help="default: patient")
    split.add_argument("--seed", type=_values.seed, default=0, help="random seed (default: 0)")
    split.add_argument("--out", type=_values.table_file, required=True, metavar="FILE", help="table, .csv or .json")
