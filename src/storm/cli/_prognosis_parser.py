"""``storm prognosis``: its tasks and their options."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from storm.cli import _values
from storm.cli._derived import add_rest


def add_prognosis(prognosis: argparse.ArgumentParser, parents: Mapping[str, argparse.ArgumentParser]) -> None:
    """Add the tasks, whose common options are among ``parents``."""
    tasks = prognosis.add_subparsers(dest="task", metavar="TASK", required=True)

    def task(name: str, summary: str, *using: str) -> argparse.ArgumentParser:
        return tasks.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", parents=[parents[p] for p in using]
        )

    _fit(task("fit", "train an outcome network on a cohort, or one for each fold", "common", "device"))
    _predict(task("predict", "predict the risks of patients", "common", "device"))
    _evaluate(task("evaluate", "judge predicted risks, with a report", "common"))
    _explain(task("explain", "contributions of tiles and genes to the risks of patients", "common", "device"))


def _fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("folder", type=Path, metavar="COHORT", help="folder of the cohort")
    fit.add_argument("--endpoint", required=True, metavar="NAME", help="for columns NAME_time and NAME_event")
    fit.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the run, and of the model")
    fit.add_argument("--split", type=Path, metavar="FILE", help="folds of storm cohort split, .csv")
    fit.add_argument(
        "--fold", metavar="K", help="leave this fold out (default with --split: each in turn, which predicts everybody)"
    )
    fit.add_argument("--modality", choices=("both", "he", "st"), default="both", help="default: both")
    fit.add_argument(
        "--network", choices=("perceiver", "abmil", "mean"), default="perceiver", help="default: perceiver"
    )
    fit.add_argument("--loss", choices=("cox", "nll", "bce"), default="cox", help="bce: a response (default: cox)")
    fit.add_argument("--no-baselines", action="store_true", help="do not train the simpler networks beside it")
    fit.add_argument("--times", type=_values.positive, nargs="+", default=[], help="predict survival then")
    fit.add_argument(
        "--validation",
        nargs="+",
        metavar="SHARE",
        help="share of the patients, or their names, who are held out of the training and give the cut-off "
        "(default: 0.2)",
    )
    fit.add_argument("--seed", type=_values.seed, default=0, help="random seed (default: 0)")
    add_rest(fit, "storm.prognosis", "fit", besides=["patients", "baselines", "config"])
    add_rest(fit, "storm.prognosis", "OutcomeFit")


def _predict(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("folder", type=Path, metavar="COHORT", help="folder of the cohort")
    predict.add_argument("--model", type=Path, required=True, help="folder of a fitted model")
    predict.add_argument("--patients", nargs="+", metavar="NAME", help="default: all whom it was not trained on")
    predict.add_argument(
        "--times", type=_values.positive, nargs="+", default=[], help="predict survival at these times"
    )
    predict.add_argument(
        "--allow-seen", action="store_true", help="also patients whom the model was trained on; their risks flatter"
    )
    predict.add_argument("--out", type=_values.table_file, required=True, metavar="FILE", help="table, .csv or .json")


def _evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("risks", type=Path, metavar="RISKS", help="table of storm prognosis fit or predict, .csv")
    evaluate.add_argument("--cohort", type=Path, required=True, help="folder of the cohort, whose patients they are")
    evaluate.add_argument("--endpoint", required=True, metavar="NAME", help="for columns NAME_time and NAME_event")
    evaluate.add_argument("--network", help="which, if the table is of several")
    evaluate.add_argument("--baseline", metavar="NETWORK", help="another network of the table to compare with")
    evaluate.add_argument("--covariates", nargs="+", default=[], metavar="COLUMN", help="columns of the patients")
    evaluate.add_argument("--subgroups", nargs="+", default=[], metavar="COLUMN", help="columns of the patients")
    evaluate.add_argument("--horizon", type=_values.positive, help="time for the measures at a time")
    evaluate.add_argument("--missing", choices=("error", "drop"), default="error", help="covariates (default: error)")
    evaluate.add_argument("--n-boot", type=_values.whole(1), default=1000, help="resamples (default: 1000)")
    evaluate.add_argument("--seed", type=_values.seed, default=0, help="random seed (default: 0)")
    evaluate.add_argument("--out", type=Path, required=True, metavar="FILE", help="report, .html")


def _explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("folder", type=Path, metavar="COHORT", help="folder of the cohort")
    explain.add_argument("--model", type=Path, required=True, help="folder of a fitted model")
    explain.add_argument("--patients", nargs="+", metavar="NAME", help="default: all whom it was not trained on")
    explain.add_argument("--reference", choices=("mean", "zero"), default="mean", help="default: mean")
    explain.add_argument("--steps", type=_values.whole(2), default=32, help="points of the path (default: 32)")
    explain.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="new folder: an .h5ad per patient")
