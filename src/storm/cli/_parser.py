"""Commands and their options; parsing them imports no large package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from storm import _keys
from storm._types import Batch, Precision
from storm.cli import _shared, _values
from storm.cli._benchmark_parser import add_benchmark
from storm.cli._cohort_parser import add_cohort
from storm.cli._command import Command
from storm.cli._completion import SHELLS
from storm.cli._derived import add_rest
from storm.cli._export_parser import add_export
from storm.cli._prognosis_parser import add_prognosis
from storm.cli._read_parser import add_read
from storm.cli._report_parser import add_report


def make_parser() -> Command:
    """Return the parser of the whole command line."""
    from storm import __version__

    parser = Command(prog="storm", description="Spatial transcriptomics and H&E histology in one model.")
    parser.add_argument("--version", action="version", version=f"storm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = Command(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    common.add_argument("--log", type=Path, metavar="FILE", help="add all that is printed to FILE, with times")
    device = Command(add_help=False)
    device.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parents = {
        "common": common,
        "model": _shared.model_options(device),
        "device": device,
        "stores": _shared.store_options(),
        "inputs": _shared.input_options(),
    }

    def command(name: str, summary: str, using: str, *fill: Callable[[Command], None]) -> None:
        about = summary[0].upper() + summary[1:] + "."
        own = [parents[one] for one in using.split()]
        commands.add_parser(name, help=summary, description=about, parents=own, fill=fill)

    read = "make a store of what a vendor's software wrote, of an .h5ad or of a slide"
    command(
        "demo", "embed a section, find its domains, predict genes, write results and figures", "common model", _demo
    )
    command("read", read, "", lambda parser: add_read(parser, common))
    command("check", "check sections before anything long is computed", "common model inputs", _check)
    command("encode", "run a tile encoder over sections", "common device stores inputs", _encode)
    command("embed", "embed the spots of sections", "common model stores inputs", _embed)
    command("domains", "find spatial domains in embedded sections", "common stores", _domains)
    command("predict", "predict gene expression from H&E", "common model stores inputs", _predict)
    command("adapt", "fit a model on sections of your own, without labels", "common model inputs", _adapt)
    command("pretrain", "train a model on many sections, as configured in a TOML file", "common", _pretrain)
    benchmark = "compare methods on annotated or measured sections"
    command("benchmark", benchmark, "", lambda parser: add_benchmark(parser, parents))
    cohort = "collect the slides of patients, with the features of their tiles"
    command("cohort", cohort, "", lambda parser: add_cohort(parser, parents))
    prognosis = "train, apply, judge and explain outcome networks on a cohort"
    command("prognosis", prognosis, "", lambda parser: add_prognosis(parser, parents))
    command("report", "write what is known of sections as HTML pages to hand on", "common inputs", add_report)
    export = "write domains and scores for Loupe Browser, Xenium Explorer or QuPath"
    command("export", export, "", lambda parser: add_export(parser, common))
    command("models", "list the packaged models and the tile encoders", "common")
    command("completion", "print what lets a shell complete commands, options and their values", "", _completion)
    return parser


def _completion(completion: argparse.ArgumentParser) -> None:
    completion.add_argument("shell", choices=SHELLS, help="the shell; docs/cli.md says where its lines belong")


def _demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument(
        "--dataset", default="toy", help="toy, toy:visium_hd, toy:xenium, her2st:C2, … (default: toy, a Visium section)"
    )
    demo.add_argument("--out", type=Path, default=Path("storm-demo"), help="folder to write (default: storm-demo)")
    demo.add_argument("--n", type=_values.whole(1), help="number of spots of the toy section")
    _shared.seed(demo)
    demo.add_argument("--each-modality", action="store_true", help="also score the domains of H&E alone and ST alone")
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo")


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, one or several")
    _shared.library_key(check)
    _shared.layer(check)
    _shared.field_um(check, of="the model's")
    check.add_argument("--no-estimate", dest="estimate", action="store_false", help="do not measure the time")
    check.add_argument("--figures", type=Path, metavar="FOLDER", help="also draw each section and twelve patches there")
    check.add_argument("--strict", action="store_true", help="exit with 1 also on a warning, not only if a check fails")
    check.add_argument(
        "--store", action="store_true", help="also write the report into the store, as uns['storm']['check']"
    )
    add_rest(check, "storm.pp", "check")


def _encode(encode: argparse.ArgumentParser) -> None:
    encode.add_argument("--encoder", required=True, help="one of the names in `storm models`, or timm:<model>")
    encode.add_argument("--weights", type=Path, help="file or folder of its weights (default: the hub's cache)")
    _shared.library_key(encode)
    _shared.field_um(encode, of="the encoder's")
    _shared.field(encode)
    encode.add_argument("--tile-px", type=_values.tile_px, help="side of the encoder's input in pixels, or native")
    encode.add_argument(
        "--precision", choices=get_args(Precision), default="auto", help="number format (default: auto)"
    )
    _shared.batch_size(encode)
    encode.add_argument("--recompute", action="store_true", help="compute even if the result exists already")
    encode.add_argument(
        "--key-added", type=_values.new_key("spatial"), help="key of the result in obsm (default: X_<encoder>)"
    )

    add_rest(encode, "storm.tl", "encode_tiles")


def _embed(embed: argparse.ArgumentParser) -> None:
    _shared.modality(embed)
    _shared.layer(embed)
    _shared.field_um(embed, of="the model's")
    _shared.field(embed)
    _shared.readout(embed)
    _shared.library_key(embed)
    embed.add_argument(
        "--joint",
        action=argparse.BooleanOptionalAction,
        help="embed all stores on axes that mean the same in all of them; workers take one store each, step by step, "
        "and nothing is stored before all are computed. --no-joint: the sections of one table, too, each as if alone",
    )
    embed.add_argument(
        "--batch",
        choices=get_args(Batch),
        default="anchors",
        help="what is technical between sections on shared axes, and removed (default: anchors)",
    )
    _shared.batch_size(embed)
    _shared.seed(embed)
    embed.add_argument(
        "--key-added",
        type=_values.new_key("spatial"),
        default=_keys.X_STORM,
        help=f"key of the result in obsm (default: {_keys.X_STORM})",
    )
    add_rest(embed, "storm.tl", "embed")


def _domains(domains: argparse.ArgumentParser) -> None:
    _shared.library_key(domains)
    domains.add_argument("--n-domains", type=_values.n_domains, default="auto", help="a number, or auto (default)")
    domains.add_argument("--method", choices=["kmeans", "leiden", "gmm"], default="kmeans", help="default: kmeans")
    domains.add_argument(
        "--use-rep", default=_keys.X_STORM, help=f"key of the embedding in obsm (default: {_keys.X_STORM})"
    )
    domains.add_argument(
        "--joint",
        action="store_true",
        help="find one set of domains in all stores, which were embedded with --joint; it is one clustering, in one "
        "process",
    )
    domains.add_argument("--table-key", help="the table, if there are several")
    _shared.seed(domains)
    domains.add_argument(
        "--key-added",
        type=_values.new_key(),
        default=_keys.DOMAIN,
        help=f"key of the result in obs (default: {_keys.DOMAIN})",
    )
    add_rest(domains, "storm.tl", "domains")


def _predict(predict: argparse.ArgumentParser) -> None:
    _shared.library_key(predict)
    predict.add_argument("--genes", nargs="+", metavar="GENE", help="genes (default: all that the head predicts)")
    predict.add_argument("--head", type=Path, help="folder of a fitted expression head (default: the model's own)")
    predict.add_argument(
        "--keep",
        choices=("useful", "all"),
        default="useful",
        help="useful: without genes no better than chance on held-out spots (default); all: with them",
    )
    predict.add_argument(
        "--table-out",
        type=Path,
        metavar="TABLE.zarr",
        help="write the predicted genes block by block into a new AnnData store, or a folder of these for several "
        "sections, and nothing into IN.zarr: for more genes and spots than memory holds",
    )
    predict.add_argument("--intervals", action="store_true", help="also write the limits of prediction intervals")
    predict.add_argument(
        "--depth",
        type=_values.positive,
        metavar="COUNTS",
        help="counts per spot of the measurements that the intervals are for (default: as in training)",
    )
    _shared.field(predict)
    _shared.batch_size(predict)
    predict.add_argument(
        "--key-added",
        type=_values.new_key(),
        default=_keys.EXPRESSION,
        help=f"key of the result in layers (default: {_keys.EXPRESSION})",
    )
    add_rest(predict, "storm.tl", "predict_expression", besides=["out"])


def _adapt(adapt: argparse.ArgumentParser) -> None:
    adapt.add_argument("paths", type=Path, nargs="+", metavar="IN.zarr", help="SpatialData stores, fitted jointly")
    _shared.library_key(adapt)
    adapt.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the adapted model")
    adapt.add_argument("--from-scratch", action="store_true", help="start from random weights instead of --model")
    adapt.add_argument("--expression", choices=["auto", "keep", "refit"], default="auto", help="default: auto")
    _shared.modality(adapt)
    adapt.add_argument(
        "--batch",
        choices=["section", "none"],
        default="section",
        help="standardise each section by itself, or all together (default: section)",
    )
    adapt.add_argument(
        "--epochs", type=_values.whole(1), help="largest number of epochs (default: 10 to 60, for about 1,000 steps)"
    )
    adapt.add_argument(
        "--patience",
        type=_values.whole(0),
        default=15,
        help="stop after so many epochs without improvement (default: 15; 0: never)",
    )
    adapt.add_argument(
        "--held-out", type=_values.share(0.5), default=0.15, help="share of spots not trained on (default: 0.15)"
    )
    _shared.layer(adapt)
    _shared.field_um(adapt, of="the model's")
    _shared.readout(adapt)
    _shared.seed(adapt)
    add_rest(adapt, "storm.tl", "adapt")


def _pretrain(pretrain: argparse.ArgumentParser) -> None:
    pretrain.add_argument("config", type=Path, metavar="CONFIG", help="TOML file of the run")
    pretrain.add_argument("--seed", type=_values.seed, help="random seed of the run (default: the file's)")
    pretrain.add_argument("--prepare-only", action="store_true", help="pack and prepare the sections, do not train")
