"""``storm benchmark``: its tasks and their options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from storm.cli import _shared, _values
from storm.cli._derived import add_rest


def add_benchmark(benchmark: argparse.ArgumentParser, parents: Mapping[str, argparse.ArgumentParser]) -> None:
    """Add the tasks, whose common options are among ``parents``."""
    tasks = benchmark.add_subparsers(dest="compared", metavar="TASK", required=True)
    for name, summary, add in (
        ("domains", "compare methods for spatial domains on annotated sections", _domains),
        ("expression", "compare methods that predict genes from H&E on measured sections", _expression),
    ):
        using = [parents[p] for p in ("common", "model", "inputs")]
        task = tasks.add_parser(name, help=summary, description=f"{summary.capitalize()}.", parents=using)
        add(task)
        add_rest(task, "storm.benchmark", name, besides=["embeddings", "seeds"])


def _domains(domains: argparse.ArgumentParser) -> None:
    domains.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    domains.add_argument("--truth", required=True, metavar="COLUMN", help="column of obs with the annotation")
    domains.add_argument("--out", type=_values.table_file, required=True, metavar="FILE", help="table, .csv or .json")
    domains.add_argument(
        "--methods", nargs="*", metavar="METHOD", help="names in storm.benchmark.methods() (default: all but the slow)"
    )
    domains.add_argument(
        "--use-rep", nargs="+", default=[], metavar="KEY", help="embeddings of your own to compare: keys of obsm"
    )
    domains.add_argument(
        "--n-domains", type=_values.whole(2), nargs="+", metavar="K", help="numbers (default: that of the classes)"
    )
    domains.add_argument("--n-seeds", type=_values.whole(1), default=5, help="seeds of the clustering (default: 5)")
    domains.add_argument(
        "--unlabelled", nargs="+", default=[], metavar="LABEL", help="labels that mean that there is no annotation"
    )
    _shared.library_key(domains)
    _shared.layer(domains)
    _shared.batch_size(domains)


def _expression(expression: argparse.ArgumentParser) -> None:
    expression.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    expression.add_argument(
        "--out", type=_values.table_file, required=True, metavar="FILE", help="table, .csv or .json"
    )
    expression.add_argument(
        "--methods",
        nargs="*",
        metavar="METHOD",
        help="names in storm.benchmark.methods(task='expression') (default: those that need no GPU, but the slow)",
    )
    patients = expression.add_mutually_exclusive_group()
    patients.add_argument("--group-key", metavar="COLUMN", help="column of obs with the patient")
    patients.add_argument("--groups", nargs="+", metavar="PATIENT", help="patient of each store, in their order")
    expression.add_argument(
        "--splits",
        choices=("patients", "sections"),
        default="patients",
        help="hold out each patient, or each section from the others of its patient (default: patients)",
    )
    expression.add_argument("--train", nargs="+", default=[], metavar="NAME", help="stores to train on, with --test")
    expression.add_argument("--test", nargs="+", default=[], metavar="NAME", help="stores to judge, with --train")
    expression.add_argument(
        "--genes",
        nargs="+",
        default=["train"],
        metavar="GENE",
        help="names of genes, or train and test: the most variable of these sections (default: train)",
    )
    expression.add_argument(
        "--n-genes", type=_values.whole(1), default=500, help="length of these lists (default: 500)"
    )
    expression.add_argument(
        "--encoders", nargs="+", metavar="NAME", help="what the probes read: model, storm, or tile encoders (model)"
    )
    expression.add_argument(
        "--predictions", nargs="+", default=[], metavar="KEY", help="predictions of your own: tables of the stores"
    )
    expression.add_argument("--n-seeds", type=_values.whole(1), default=3, help="seeds of the methods (default: 3)")
    expression.add_argument("--backbone", metavar="NAME", help="network of the methods that are trained on images")
    expression.add_argument("--epochs", type=_values.whole(1), help="passes of the networks (default: each its own)")
    _shared.library_key(expression)
    _shared.layer(expression)
    _shared.field_um(expression, of="each encoder's")
    _shared.batch_size(expression)
